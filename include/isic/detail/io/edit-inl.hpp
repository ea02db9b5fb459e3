#pragma once

#include <isic/io/edit.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <isic/io/safetensors.hpp>
#include <isic/matrix.hpp>
#include <isic/rank.hpp>

#include <isic/detail/edit.hpp>
#include <isic/detail/byte_hash.hpp>
#include <isic/detail/io/record_reader.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

inline constexpr std::string_view edit_format = "isic.edit";
inline constexpr std::string_view edit_version = "1";

/// Every number an edit reports, by the name of its tensor; `E` is const when saving.
template <class E, class Visit>
void visit_numbers(E& e, Visit visit) {
    visit("summary.moved", e.summary.moved);
    visit("summary.near_zero", e.summary.near_zero);
    visit("summary.relative_change", e.summary.relative_change);
    visit("summary.before.total", e.summary.before.total);
    visit("summary.before.largest", e.summary.before.largest);
    visit("summary.after.total", e.summary.after.total);
    visit("summary.after.largest", e.summary.after.largest);
    visit("removed.energy", e.removed.energy);
    visit("removed.rank", e.removed.chosen.rank);
}

/// A hash of all tensors and metadata but the checksum itself: any byte that changed on the way shows.
inline std::uint64_t checksum(const tensor_file& file) {
    byte_hash hash;
    const auto add_text = [&](const std::string& text) {
        const auto length = static_cast<std::uint64_t>(text.size());  // so that neighbours cannot trade letters
        hash.add(std::as_bytes(std::span(&length, 1)));
        hash.add(std::as_bytes(std::span(text)));
    };
    for (const auto& [key, value] : file.metadata) {
        if (key != "checksum") {
            add_text(key);
            add_text(value);
        }
    }
    for (const auto& [name, t] : file.tensors) {
        add_text(fmt::format("{} {} [{}]", name, entry_of(t.type).safetensors, fmt::join(t.shape, ", ")));
        hash.add(t.bytes);
    }
    return hash.value();
}

inline dtype storage_dtype(const std::filesystem::path& path, std::string_view name) {
    for (const auto& [stored, type] : {std::pair{dtype::f32, dtype::f32}, std::pair{dtype::f64, dtype::f64},
                                       std::pair{dtype::f16, dtype::f16}, std::pair{dtype::bf16, dtype::bf16}}) {
        if (name == name_of(stored)) {
            return type;
        }
    }
    fail_file(path, fmt::format("storage: expected f32, f64, f16 or bf16, got '{}'", name));
}

ISIC_INLINE tensor_file file_of_edit(const std::filesystem::path& path, const edit& e) {
    const dtype type = storage_dtype(path, e.storage());
    const auto moved = static_cast<index_t>(e.ids().size());
    const auto list = [](const auto& values) {
        return tensor::of(std::span(values.data(), values.size()), {static_cast<index_t>(values.size())});
    };
    const auto rows = [&](const raw_bytes& values) { return tensor{type, {moved, e.cols()}, {values.begin(), values.end()}}; };
    const matrix<double>& basis = e.removed.basis;
    tensor_file out;
    out.tensors = {{"ids", list(e.ids())},
                   {"before", rows(edit_access::before(e))},
                   {"after", rows(edit_access::after(e))},
                   {"removed.basis", tensor::of(std::span(basis.data(), static_cast<std::size_t>(basis.rows() * basis.cols())),
                                                {basis.rows(), basis.cols()})},
                   {"removed.singular_values", list(e.removed.singular_values)},
                   {"center", list(e.center)}};
    visit_numbers(e, [&](const char* name, const auto& value) { out.tensors[name] = tensor::of(std::span(&value, 1), {}); });
    out.metadata = {{"format", std::string(edit_format)},
                    {"version", std::string(edit_version)},
                    {"storage", e.storage()},
                    {"codes", fmt::format("{}", e.rows())},
                    {"width", fmt::format("{}", e.cols())},
                    {"fingerprint_before", fmt::format("{:016x}", e.fingerprint_before())},
                    {"fingerprint_after", fmt::format("{:016x}", e.fingerprint_after())},
                    {"rank_rule", std::string(to_string(e.removed.chosen.decided_by))}};
    out.metadata["checksum"] = fmt::format("{:016x}", checksum(out));
    return out;
}

/// Makes an edit of what a file holds, or says what is wrong with it.
class edit_reader : file_reader {
public:
    edit_reader(const std::filesystem::path& path, const tensor_file& file) : file_reader(path, file, "an edit") {}

    edit run() const {
        require_text("format", edit_format);
        require_text("version", edit_version);
        edit out;
        read_rows_of(out);
        read_removed(out);
        visit_numbers(out, [&]<class T>(const char* name, T& value) { value = list_of<T>(name, {}).front(); });
        edit_access::fingerprint_before(out) = hex("fingerprint_before");
        edit_access::fingerprint_after(out) = hex("fingerprint_after");
        const std::uint64_t expected = hex("checksum");
        require("checksum", checksum(file()) == expected, fmt::format("{:016x}", expected), fmt::format("{:016x}", checksum(file())));
        return out;
    }

private:
    void read_rows_of(edit& out) const {
        const std::string& storage = text("storage");
        const dtype type = storage_dtype(path(), storage);
        edit_access::storage(out) = storage;
        edit_access::rows(out) = size("codes");
        edit_access::cols(out) = size("width");
        edit_access::ids(out) = list_of<index_t>("ids", {any});
        index_t least = 0;
        for (const index_t id : out.ids()) {
            require("ids", id >= least && id < out.rows(), fmt::format("ascending ids below {}", out.rows()), fmt::format("{}", id));
            least = id + 1;
        }
        const std::vector<index_t> shape{static_cast<index_t>(out.ids().size()), out.cols()};
        const std::vector<std::byte>& before = tensor_of("before", type, shape).bytes;
        const std::vector<std::byte>& after = tensor_of("after", type, shape).bytes;
        edit_access::before(out).assign(before.begin(), before.end());
        edit_access::after(out).assign(after.begin(), after.end());
    }

    void read_removed(edit& out) const {
        out.removed.basis = matrix_of("removed.basis", {any, any});
        const index_t width = out.removed.width(), rank = out.removed.rank();
        require("removed.basis", rank == 0 ? width == 0 || width == out.cols() : width == out.cols() && rank <= width,
                fmt::format("{0} rows and at most {0} columns", out.cols()), fmt::format("{} and {}", width, rank));
        out.removed.singular_values = list_of<double>("removed.singular_values", {any});
        out.removed.chosen.decided_by = rule("rank_rule");
        out.center = list_of<double>("center", {any});
        require("center", out.center.empty() || std::cmp_equal(out.center.size(), out.cols()),
                fmt::format("0 or {} values", out.cols()), fmt::format("{}", out.center.size()));
    }

    std::uint64_t hex(const char* key) const {
        std::uint64_t out = 0;
        require(key, text(key).size() == 16 && parse(text(key), 16, out), "16 hexadecimal digits", fmt::format("'{}'", text(key)));
        return out;
    }
};

ISIC_INLINE edit edit_of_file(const std::filesystem::path& path, const tensor_file& file) {
    return edit_reader(path, file).run();
}

}  // namespace detail

ISIC_INLINE void save_edit(const std::filesystem::path& path, const edit& e) {
    const tensor_file file = detail::file_of_edit(path, e);
    detail::edit_of_file(path, file);
    write_safetensors(path, file);
}

ISIC_INLINE edit load_edit(const std::filesystem::path& path) {
    const tensor_file file = read_safetensors(path);
    return detail::edit_of_file(path, file);
}

}  // namespace isic::inline ISIC_ABI
