#include <isic/codebook.hpp>
#include <isic/metrics.hpp>

#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

py::object python_drift(py::handle before, py::handle after, py::handle padding) {
    const memory b = memory_of("drift", "before", before, access::read), a = memory_of("drift", "after", after, access::read);
    const auto rows = indices_of("drift", "padding", padding);
    return object_of(read_unlocked(b, [&](auto old_codes) {
        return with_span(a, [&](auto new_codes) { return drift(old_codes, new_codes, rows); });
    }));
}

py::array python_nearest(py::handle vectors, py::handle codes, const std::string& rule, py::handle padding) {
    const doubles z("nearest_codes", "vectors", vectors);
    const memory book = memory_of("nearest_codes", "codes", codes, access::read);
    const lookup how = lookup_of("nearest_codes", rule);
    const auto rows = indices_of("nearest_codes", "padding", padding);
    const std::vector<index_t> ids = read_unlocked(book, [&](auto view) { return nearest_codes(z.view(), view, how, rows); });
    return array_of(std::vector<std::int64_t>(ids.begin(), ids.end()));
}

double python_churn(py::handle vectors, py::handle before, py::handle after, const std::string& rule, py::handle padding) {
    constexpr const char* f = "nearest_code_churn";
    const doubles z(f, "vectors", vectors);
    const memory b = memory_of(f, "before", before, access::read), a = memory_of(f, "after", after, access::read);
    const lookup how = lookup_of(f, rule);
    const auto rows = indices_of(f, "padding", padding);
    return read_unlocked(b, [&](auto old_codes) {
        return with_span(a, [&](auto new_codes) { return nearest_code_churn(z.view(), old_codes, new_codes, how, rows); });
    });
}

index_t python_collapsed(py::handle codes, double tolerance, py::handle padding) {
    const memory book = memory_of("collapsed_pairs", "codes", codes, access::read);
    const auto rows = indices_of("collapsed_pairs", "padding", padding);
    return read_unlocked(book, [&](auto view) { return collapsed_pairs(view, tolerance, rows); });
}

}  // namespace

void bind_metrics(py::module_& m) {
    m.def("drift", &python_drift, "before"_a, "after"_a, "padding"_a);
    m.def("nearest_codes", &python_nearest, "vectors"_a, "codes"_a, "rule"_a, "padding"_a);
    m.def("nearest_code_churn", &python_churn, "vectors"_a, "before"_a, "after"_a, "rule"_a, "padding"_a);
    m.def("collapsed_pairs", &python_collapsed, "codes"_a, "tolerance"_a, "padding"_a);
    m.def("fingerprint", [](py::handle codes) {
        const memory book = memory_of("fingerprint", "codes", codes, access::read);
        return read_unlocked(book, [](auto view) { return fingerprint(view); });
    }, "codes"_a);
    m.def("usage_perplexity", [](py::handle counts) { return usage_perplexity(vector_of("usage_perplexity", "counts", counts)); }, "counts"_a);
    m.def("wilson", [](index_t hits, index_t n, double z) { return object_of(wilson(hits, n, z)); }, "hits"_a, "n"_a, "z"_a);
    m.def("corrected_rate", [](py::handle judged, double sensitivity, double specificity) {
        return object_of(corrected_rate(rate_of("corrected_rate", judged), sensitivity, specificity));
    }, "judged"_a, "sensitivity"_a, "specificity"_a);
}

}  // namespace isic::python
