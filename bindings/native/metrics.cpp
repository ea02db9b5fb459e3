// SPDX-License-Identifier: Apache-2.0
#include <isic/codebook.hpp>
#include <isic/metrics.hpp>

#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

py::object python_drift(py::handle before, py::handle after, py::handle padding) {
    const memory b = memory_of("drift", "before", before, access::read),
                 a = memory_of("drift", "after", after, access::read);
    const auto rows = indices_of("drift", "padding", padding);
    return object_of(unlocked([&] { return drift(b.view(), a.view(), rows); }));
}

/// isic::code_index with the memory of its codebook.
struct codebook_index {
    codebook_index(std::string_view function, py::handle codes, std::string_view metric, py::handle padding)
        : book(memory_of(function, "codes", codes, access::read)),
          index(packed(metric_of(function, metric), indices_of(function, "padding", padding))) {}

    py::array nearest(const floats& vectors, const execution& exec) const {
        std::vector<std::int64_t> ids;
        unlocked([&] {
            const std::vector<index_t> found = index.nearest(vectors.view(), exec);
            ids.assign(found.begin(), found.end());
        });
        return array_of(std::move(ids));
    }

    memory book;
    code_index index;

private:
    code_index packed(isic::metric metric, const std::vector<index_t>& padding) const {
        return unlocked([&] { return code_index(book.view(), metric, padding); });
    }
};

codebook_index make_index(py::handle codes, const std::string& metric, py::handle padding) {
    return codebook_index("code_index", codes, metric, padding);
}

py::array nearest(const codebook_index& self, py::handle vectors, int threads) {
    return self.nearest(floats("code_index::nearest", "vectors", vectors), {.threads = threads});
}

py::array python_nearest(py::handle vectors, py::handle codes, const std::string& metric, py::handle padding,
                         int threads) {
    constexpr const char* f = "nearest_codes";
    const floats z(f, "vectors", vectors);
    return codebook_index(f, codes, metric, padding).nearest(z, {.threads = threads});
}

double python_churn(py::handle vectors, py::handle before, py::handle after, const std::string& metric,
                    py::handle padding) {
    constexpr const char* f = "nearest_code_churn";
    const floats z(f, "vectors", vectors);
    const memory b = memory_of(f, "before", before, access::read), a = memory_of(f, "after", after, access::read);
    const isic::metric how = metric_of(f, metric);
    const auto rows = indices_of(f, "padding", padding);
    return unlocked([&] { return nearest_code_churn(z.view(), b.view(), a.view(), how, rows); });
}

index_t python_collapsed(py::handle codes, double tolerance, py::handle padding) {
    const memory book = memory_of("collapsed_pairs", "codes", codes, access::read);
    const auto rows = indices_of("collapsed_pairs", "padding", padding);
    return unlocked([&] { return collapsed_pairs(book.view(), tolerance, rows); });
}

}  // namespace

void bind_metrics(py::module_& m) {
    m.def("drift", &python_drift, "before"_a, "after"_a, "padding"_a);
    m.def("nearest_codes", &python_nearest, "vectors"_a, "codes"_a, "metric"_a, "padding"_a, "threads"_a);
    py::class_<codebook_index>(m, "CodeIndex")
        .def(py::init(&make_index), "codes"_a, "metric"_a, "padding"_a)
        .def("nearest", &nearest, "vectors"_a, "threads"_a)
        .def("__repr__", [](const codebook_index& self) {
            return fmt::format("{} x {} {}", self.book.rows, self.book.cols, detail::name_of(self.book.type));
        });
    m.def("nearest_code_churn", &python_churn, "vectors"_a, "before"_a, "after"_a, "metric"_a, "padding"_a);
    m.def("collapsed_pairs", &python_collapsed, "codes"_a, "tolerance"_a, "padding"_a);
    m.def(
        "fingerprint",
        [](py::handle codes) {
            const memory book = memory_of("fingerprint", "codes", codes, access::read);
            return unlocked([&] { return fingerprint(book.view()); });
        },
        "codes"_a);
    m.def(
        "usage_perplexity",
        [](py::handle counts) { return usage_perplexity(vector_of("usage_perplexity", "counts", counts)); },
        "counts"_a);
    m.def(
        "wilson", [](index_t hits, index_t n, double z) { return object_of(wilson(hits, n, z)); }, "hits"_a, "n"_a,
        "z"_a);
    m.def(
        "corrected_rate",
        [](py::handle judged, double sensitivity, double specificity) {
            return object_of(corrected_rate(rate_of("corrected_rate", judged), sensitivity, specificity));
        },
        "judged"_a, "sensitivity"_a, "specificity"_a);
}

}  // namespace isic::python
