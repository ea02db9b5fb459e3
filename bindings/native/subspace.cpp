// SPDX-License-Identifier: Apache-2.0
#include <isic/subspace.hpp>

#include "accumulator.hpp"
#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

fit_options fit_options_of(const py::kwargs& o) {
    fit_options out;
    const auto set = [&]<class T>(const char* name, T& field) { field = option_of<T>("fit_subspace", name, o[name]); };
    set("rank", out.rank.fixed);
    set("energy", out.rank.energy);
    set("gavish_donoho", out.rank.gavish_donoho);
    set("sign_flips", out.rank.sign_flips);
    set("quantile", out.rank.quantile);
    set("seed", out.rank.seed);
    set("max_rank", out.rank.max_rank);
    out.center = centering_of("fit_subspace", option_of<std::string>("fit_subspace", "center", o["center"]));
    out.execution = {.threads = option_of<int>("fit_subspace", "threads", o["threads"])};
    return out;
}

py::object fit_rows(py::handle rows, const py::kwargs& options) {
    const fit_options how = fit_options_of(options);
    const floats d("fit_subspace", "difference rows", rows);
    return object_of(unlocked([&] { return fit_subspace(d.view(), how); }));
}

py::object fit_pairs(const accumulator& pairs, const py::kwargs& options) {
    const fit_options how = fit_options_of(options);
    return object_of(unlocked([&] { return fit_subspace(pairs.moments, how); }));
}

py::object python_leakage(py::handle codes, py::handle removed, py::handle center, py::handle padding, int threads) {
    const memory book = memory_of("leakage", "codes", codes, access::read);
    const subspace s = subspace_of("leakage", "subspace", removed);
    const auto mu = vector_of("leakage", "center", center);
    const auto rows = indices_of("leakage", "padding", padding);
    return object_of(unlocked([&] { return leakage(book.view(), s, mu, rows, {.threads = threads}); }));
}

}  // namespace

void bind_subspace(py::module_& m) {
    m.def("fit_pairs", &fit_pairs);
    m.def("fit_rows", &fit_rows);
    m.def(
        "span_of",
        [](py::handle directions) {
            const floats d("span_of", "directions", directions);
            return object_of(unlocked([&] { return span_of(d.view()); }));
        },
        "directions"_a);
    m.def(
        "merge",
        [](py::handle first, py::handle second, double tolerance, index_t max_rank) {
            const subspace a = subspace_of("merge", "first", first), b = subspace_of("merge", "second", second);
            return object_of(unlocked([&] { return merge(a, b, tolerance, max_rank); }));
        },
        "first"_a, "second"_a, "tolerance"_a, "max_rank"_a);
    m.def(
        "principal_angles",
        [](py::handle first, py::handle second) {
            const subspace a = subspace_of("principal_angles", "first", first),
                           b = subspace_of("principal_angles", "second", second);
            return array_of(unlocked([&] { return principal_angles(a, b); }));
        },
        "first"_a, "second"_a);
    m.def("leakage", &python_leakage, "codes"_a, "subspace"_a, "center"_a, "padding"_a, "threads"_a);
    m.def(
        "spectral_weights",
        [](py::handle removed, double alpha) {
            return array_of(spectral_weights(subspace_of("spectral_weights", "subspace", removed), alpha));
        },
        "subspace"_a, "alpha"_a);
}

}  // namespace isic::python
