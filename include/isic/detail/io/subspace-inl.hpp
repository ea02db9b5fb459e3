// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/io/subspace.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include <isic/io/safetensors.hpp>

#include <isic/detail/checks.hpp>
#include <isic/detail/io/record_reader.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

inline constexpr std::string_view subspace_format = "isic.subspace";
inline constexpr std::string_view subspace_version = "1";

/// The shape of `size` per-code values: [K], or [L, K] of several levels.
inline std::vector<index_t> shape_of_codes(const fitted_subspace& fitted, std::string_view name, index_t size) {
    if (fitted.levels < 1 || size % fitted.levels != 0) {
        fail<shape_error>("save_subspace", fmt::format("as much {} of each level", name),
                          fmt::format("{} of {} levels", size, fitted.levels));
    }
    return fitted.levels == 1 ? std::vector{size} : std::vector{fitted.levels, size / fitted.levels};
}

inline tensor tensor_of(const matrix<double>& m, std::vector<index_t> shape) {
    return tensor::of(std::span(m.data(), static_cast<std::size_t>(m.rows() * m.cols())), std::move(shape));
}

inline tensor_file file_of(const fitted_subspace& fitted) {
    const subspace& harm = fitted.harm;
    tensor_file out;
    out.tensors["basis"] = tensor_of(harm.basis, {harm.width(), harm.rank()});
    out.tensors["singular_values"] =
        tensor::of(std::span(harm.singular_values), {static_cast<index_t>(harm.singular_values.size())});
    const auto add = [&](const char* name, const std::vector<double>& values) {
        out.tensors[name] =
            tensor::of(std::span(values), shape_of_codes(fitted, name, static_cast<index_t>(values.size())));
    };
    if (!fitted.harmfulness.empty()) {
        add("harmfulness", fitted.harmfulness);
    }
    if (!fitted.targets.empty()) {
        std::vector<index_t> shape = shape_of_codes(fitted, "targets", fitted.targets.rows());
        shape.push_back(fitted.targets.cols());
        out.tensors["targets"] = tensor_of(fitted.targets, std::move(shape));
    }
    if (!fitted.usage.harmful.empty() || !fitted.usage.safe.empty()) {
        add("usage.harmful", fitted.usage.harmful);
        add("usage.safe", fitted.usage.safe);
    }
    out.metadata = {{"format", std::string(subspace_format)},
                    {"version", std::string(subspace_version)},
                    {"energy", fmt::format("{}", harm.energy)},
                    {"rank", fmt::format("{}", harm.chosen.rank)},
                    {"decided_by", std::string(to_string(harm.chosen.decided_by))}};
    return out;
}

/// Reads a fitted subspace from tensors and metadata; an io_error names the first part that is missing or invalid.
class subspace_reader : file_reader {
public:
    subspace_reader(const std::filesystem::path& path, const tensor_file& file)
        : file_reader(path, file, "a subspace") {}

    fitted_subspace run() {
        require_text("format", subspace_format);
        require_text("version", subspace_version);
        fitted_subspace out;
        out.harm.basis = matrix_of("basis", {any, any});
        require_finite("basis",
                       std::span(out.harm.basis.data(), static_cast<std::size_t>(out.harm.width() * out.harm.rank())));
        out.harm.singular_values = list_of<double>("singular_values", {any});
        out.harm.energy = energy();
        out.harm.chosen = {size("rank"), rule("decided_by")};
        if (has("harmfulness")) {
            out.harmfulness = list_of<double>("harmfulness", codes_of("harmfulness", 0));
            for (const double q : out.harmfulness) {
                require("harmfulness", q >= 0 && q <= 1, "values in [0, 1]", fmt::format("{}", q));
            }
        }
        if (has("targets")) {
            read_targets(out);
        }
        if (has("usage.harmful") || has("usage.safe")) {
            out.usage.harmful = list_of<double>("usage.harmful", codes_of("usage.harmful", 0));
            out.usage.safe = list_of<double>("usage.safe", codes_of("usage.safe", 0));
        }
        out.levels = codes_.size() == 2 ? codes_[0] : 1;
        return out;
    }

private:
    /// The shape [K] or [L, K] of the codes, without the last `more` dimensions of the tensor; all per-code tensors
    /// share it.
    const std::vector<index_t>& codes_of(const char* name, std::size_t more) {
        const auto found = file().tensors.find(name);
        if (codes_.empty() && found != file().tensors.end()) {
            const std::vector<index_t>& shape = found->second.shape;
            require(name, shape.size() == 1 + more || shape.size() == 2 + more,
                    more == 0 ? "[K] or [L, K]" : "[K, d] or [L, K, d]", describe(found->second.type, shape));
            codes_.assign(shape.begin(), shape.end() - static_cast<std::ptrdiff_t>(more));
        }
        return codes_;
    }

    void read_targets(fitted_subspace& out) {
        std::vector<index_t> shape = codes_of("targets", 1);
        shape.push_back(out.harm.width());
        const std::vector<double> values = list_of<double>("targets", shape);
        require_finite("targets", values);
        out.targets = matrix<double>(element_count(codes_), out.harm.width());
        std::ranges::copy(values, out.targets.data());
    }

    void require_finite(const char* name, std::span<const double> values) const {
        const auto wrong = std::ranges::find_if_not(values, [](double x) { return std::isfinite(x); });
        require(name, wrong == values.end(), "finite values", wrong == values.end() ? "" : fmt::format("{}", *wrong));
    }

    double energy() const {
        double out = 0;
        require("energy", parse(text("energy"), out) && std::isfinite(out), "a number",
                fmt::format("'{}'", text("energy")));
        return out;
    }

    std::vector<index_t> codes_;
};

}  // namespace detail

ISIC_INLINE void save_subspace(const std::filesystem::path& path, const fitted_subspace& fitted) {
    const tensor_file file = detail::file_of(fitted);
    detail::subspace_reader(path, file).run();  // throws if it could not be loaded again
    write_safetensors(path, file);
}

ISIC_INLINE fitted_subspace load_subspace(const std::filesystem::path& path) {
    const tensor_file file = read_safetensors(path);
    return detail::subspace_reader(path, file).run();
}

}  // namespace isic::inline ISIC_ABI
