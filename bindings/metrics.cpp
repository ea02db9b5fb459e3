#include <isic/codebook.hpp>
#include <isic/metrics.hpp>

#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

py::object python_drift(py::handle before, py::handle after, py::handle padding) {
    const memory b = memory_of("drift", "before", before, access::read), a = memory_of("drift", "after", after, access::read);
    const auto rows = indices_of("drift", "padding", padding);
    return object_of(unlocked([&] { return detail::drift(b.view(), a.view(), rows); }));
}

/// isic::code_index with the codebook that it looks into.
struct codebook_index {
    codebook_index(std::string_view function, py::handle codes, std::string_view rule, py::handle padding)
        : book(memory_of(function, "codes", codes, access::read)),
          index(packed(lookup_of(function, rule), indices_of(function, "padding", padding))) {}

    py::array nearest(const floats& vectors, const kernels::resources& use) const {
        std::vector<std::int64_t> ids;
        unlocked([&] {
            const std::vector<index_t> found = with_rows(vectors.view(), [&](auto rows) { return index.nearest(rows, use); });
            ids.assign(found.begin(), found.end());
        });
        return array_of(std::move(ids));
    }

    memory book;
    code_index index;

private:
    code_index packed(lookup rule, const std::vector<index_t>& padding) const {
        return unlocked([&] { return with_rows(book.view(), [&](auto rows) { return code_index(rows, rule, padding); }); });
    }
};

codebook_index make_index(py::handle codes, const std::string& rule, py::handle padding) {
    return codebook_index("code_index", codes, rule, padding);
}

py::array look_up(const codebook_index& self, py::handle vectors, int threads) {
    constexpr const char* f = "code_index::nearest";
    return self.nearest(floats(f, "vectors", vectors), resources_of(f, threads));
}

py::array python_nearest(py::handle vectors, py::handle codes, const std::string& rule, py::handle padding, int threads) {
    constexpr const char* f = "nearest_codes";
    const floats z(f, "vectors", vectors);
    const kernels::resources use = resources_of(f, threads);
    return codebook_index(f, codes, rule, padding).nearest(z, use);
}

double python_churn(py::handle vectors, py::handle before, py::handle after, const std::string& rule, py::handle padding) {
    constexpr const char* f = "nearest_code_churn";
    const floats z(f, "vectors", vectors);
    const memory b = memory_of(f, "before", before, access::read), a = memory_of(f, "after", after, access::read);
    const lookup how = lookup_of(f, rule);
    const auto rows = indices_of(f, "padding", padding);
    return unlocked([&] { return detail::nearest_code_churn(z.view(), b.view(), a.view(), how, rows); });
}

index_t python_collapsed(py::handle codes, double tolerance, py::handle padding) {
    const memory book = memory_of("collapsed_pairs", "codes", codes, access::read);
    const auto rows = indices_of("collapsed_pairs", "padding", padding);
    return unlocked([&] { return detail::collapsed_pairs(book.view(), tolerance, rows); });
}

}  // namespace

void bind_metrics(py::module_& m) {
    m.def("drift", &python_drift, "before"_a, "after"_a, "padding"_a);
    m.def("nearest_codes", &python_nearest, "vectors"_a, "codes"_a, "rule"_a, "padding"_a, "threads"_a);
    py::class_<codebook_index>(m, "CodeIndex")
        .def(py::init(&make_index), "codes"_a, "rule"_a, "padding"_a)
        .def("nearest", &look_up, "vectors"_a, "threads"_a)
        .def("__repr__", [](const codebook_index& self) {
            return fmt::format("{} x {} {}", self.book.rows, self.book.cols, detail::name_of(self.book.type));
        });
    m.def("nearest_code_churn", &python_churn, "vectors"_a, "before"_a, "after"_a, "rule"_a, "padding"_a);
    m.def("collapsed_pairs", &python_collapsed, "codes"_a, "tolerance"_a, "padding"_a);
    m.def("fingerprint", [](py::handle codes) {
        const memory book = memory_of("fingerprint", "codes", codes, access::read);
        return unlocked([&] { return detail::fingerprint(book.view()); });
    }, "codes"_a);
    m.def("usage_perplexity", [](py::handle counts) { return usage_perplexity(vector_of("usage_perplexity", "counts", counts)); }, "counts"_a);
    m.def("wilson", [](index_t hits, index_t n, double z) { return object_of(wilson(hits, n, z)); }, "hits"_a, "n"_a, "z"_a);
    m.def("corrected_rate", [](py::handle judged, double sensitivity, double specificity) {
        return object_of(corrected_rate(rate_of("corrected_rate", judged), sensitivity, specificity));
    }, "judged"_a, "sensitivity"_a, "specificity"_a);
}

}  // namespace isic::python
