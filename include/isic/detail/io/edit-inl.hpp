// SPDX-License-Identifier: Apache-2.0
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

#include <isic/detail/byte_hash.hpp>
#include <isic/detail/edit.hpp>
#include <isic/detail/io/record_reader.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

inline constexpr std::string_view edit_format = "isic.edit";
inline constexpr std::string_view edit_version = "1";

/// visit(name of the tensor, number) for every number that an edit reports. E is const when saving.
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

/// A hash of all tensors and metadata except the checksum itself.
inline std::uint64_t checksum(const tensor_file& file) {
    byte_hash hash;
    const auto add_text = [&](const std::string& text) {
        const auto length = static_cast<std::uint64_t>(text.size());  // else "ab", "c" and "a", "bc" would be equal
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

inline dtype dtype_named(const std::filesystem::path& path, std::string_view name) {
    for (const dtype type : {dtype::f32, dtype::f64, dtype::f16, dtype::bf16}) {
        if (name == name_of(type)) {
            return type;
        }
    }
    fail_file(path, fmt::format("dtype: expected f32, f64, f16 or bf16, got '{}'", name));
}

ISIC_INLINE tensor_file file_of_edit(const edit& e) {
    const auto moved = static_cast<index_t>(e.ids().size());
    const auto list = [](const auto& values) {
        return tensor::of(std::span(values.data(), values.size()), {static_cast<index_t>(values.size())});
    };
    const auto rows = [&](const raw_bytes& values) {
        return tensor{e.type(), {moved, e.cols()}, {values.begin(), values.end()}};
    };
    const matrix<double>& basis = e.removed.basis;
    tensor_file out;
    out.tensors = {
        {"ids", list(e.ids())},
        {"before", rows(edit_access::before(e))},
        {"after", rows(edit_access::after(e))},
        {"removed.basis", tensor::of(std::span(basis.data(), static_cast<std::size_t>(basis.rows() * basis.cols())),
                                     {basis.rows(), basis.cols()})},
        {"removed.singular_values", list(e.removed.singular_values)},
        {"center", list(e.center)}};
    visit_numbers(
        e, [&](const char* name, const auto& value) { out.tensors[name] = tensor::of(std::span(&value, 1), {}); });
    out.metadata = {{"format", std::string(edit_format)},
                    {"version", std::string(edit_version)},
                    {"dtype", std::string(name_of(e.type()))},
                    {"codes", fmt::format("{}", e.rows())},
                    {"width", fmt::format("{}", e.cols())},
                    {"fingerprint_before", fmt::format("{:016x}", e.fingerprint_before())},
                    {"fingerprint_after", fmt::format("{:016x}", e.fingerprint_after())},
                    {"rank_rule", std::string(to_string(e.removed.chosen.decided_by))}};
    out.metadata["checksum"] = fmt::format("{:016x}", checksum(out));
    return out;
}

/// Reads an edit from tensors and metadata; an io_error names the first part that is missing or invalid.
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
        require("checksum", checksum(file()) == expected, fmt::format("{:016x}", expected),
                fmt::format("{:016x}", checksum(file())));
        return out;
    }

private:
    void read_rows_of(edit& out) const {
        edit_access::type(out) = dtype_named(path(), text("dtype"));
        edit_access::rows(out) = size("codes");
        edit_access::cols(out) = size("width");
        require("codes", out.rows() > 0 || out.cols() > 0, "an edit of a codebook", "an empty edit");
        edit_access::ids(out) = list_of<index_t>("ids", {any});
        index_t least = 0;
        for (const index_t id : out.ids()) {
            require("ids", id >= least && id < out.rows(), fmt::format("ascending ids below {}", out.rows()),
                    fmt::format("{}", id));
            least = id + 1;
        }
        const std::vector<index_t> shape{static_cast<index_t>(out.ids().size()), out.cols()};
        const std::vector<std::byte>& before = tensor_of("before", out.type(), shape).bytes;
        const std::vector<std::byte>& after = tensor_of("after", out.type(), shape).bytes;
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
        require(key, text(key).size() == 16 && parse(text(key), out, 16), "16 hexadecimal digits",
                fmt::format("'{}'", text(key)));
        return out;
    }
};

ISIC_INLINE edit edit_of_file(const std::filesystem::path& path, const tensor_file& file) {
    return edit_reader(path, file).run();
}

}  // namespace detail

ISIC_INLINE void save_edit(const std::filesystem::path& path, const edit& e) {
    const tensor_file file = detail::file_of_edit(e);
    static_cast<void>(detail::edit_of_file(path, file));  // throws if it could not be loaded again
    write_safetensors(path, file);
}

ISIC_INLINE edit load_edit(const std::filesystem::path& path) {
    const tensor_file file = read_safetensors(path);
    return detail::edit_of_file(path, file);
}

}  // namespace isic::inline ISIC_ABI
