// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/metrics.hpp>

#include "../values.hpp"
#include "device_memory.hpp"
#include "module.hpp"

namespace isic::python {
namespace {

shared_array python_nearest(const shared_gpu& on, py::handle vectors, py::handle codes, const std::string& metric,
                            py::handle padding) {
    constexpr std::string_view f = "nearest_codes";
    const memory z = device_memory_of(*on, f, "vectors", vectors, access::read),
                 book = device_memory_of(*on, f, "codes", codes, access::read);
    const isic::metric how = metric_of(f, metric);
    const auto rows = indices_of(f, "padding", padding);
    auto ids = std::make_shared<device_array>(on, element_of<std::int64_t>(), std::vector<index_t>{z.rows});
    on->run([&] {
        cuda::detail::nearest(on->state(), rows_of(z), rows_of(book), how, rows,
                              static_cast<std::int64_t*>(ids->data()));
        return 0;
    });
    return ids;
}

double python_churn(const shared_gpu& on, py::handle vectors, py::handle before, py::handle after,
                    const std::string& metric, py::handle padding) {
    constexpr std::string_view f = "nearest_code_churn";
    const memory z = device_memory_of(*on, f, "vectors", vectors, access::read);
    const memory b = device_memory_of(*on, f, "before", before, access::read),
                 a = device_memory_of(*on, f, "after", after, access::read);
    const isic::metric how = metric_of(f, metric);
    const auto rows = indices_of(f, "padding", padding);
    return on->run(
        [&] { return cuda::detail::nearest_code_churn(on->state(), rows_of(z), rows_of(b), rows_of(a), how, rows); });
}

py::object python_leakage(const shared_gpu& on, py::handle codes, py::handle harm, py::handle center,
                          py::handle padding) {
    const memory book = device_memory_of(*on, "leakage", "codes", codes, access::read);
    const subspace s = subspace_of("leakage", "subspace", harm);
    const auto mu = vector_of("leakage", "center", center);
    const auto rows = indices_of("leakage", "padding", padding);
    return object_of(on->run([&] { return cuda::detail::leakage(on->state(), rows_of(book), s, mu, rows); }));
}

py::object python_drift(const shared_gpu& on, py::handle before, py::handle after, py::handle padding) {
    const memory b = device_memory_of(*on, "drift", "before", before, access::read),
                 a = device_memory_of(*on, "drift", "after", after, access::read);
    const auto rows = indices_of("drift", "padding", padding);
    return object_of(on->run([&] { return cuda::detail::drift(on->state(), rows_of(b), rows_of(a), rows); }));
}

py::array python_usage(const shared_gpu& on, py::handle ids, index_t codes) {
    const device_ids all = device_ids_of(*on, "usage_counts", "ids", ids);
    return array_of(on->run([&] { return cuda::detail::usage_counts(on->state(), all.ids, codes); }));
}

}  // namespace

void bind_device_metrics(py::module_& m) {
    m.def("nearest_codes", &python_nearest, "gpu"_a, "vectors"_a, "codes"_a, "metric"_a, "padding"_a);
    m.def("nearest_code_churn", &python_churn, "gpu"_a, "vectors"_a, "before"_a, "after"_a, "metric"_a, "padding"_a);
    m.def("leakage", &python_leakage, "gpu"_a, "codes"_a, "subspace"_a, "center"_a, "padding"_a);
    m.def("drift", &python_drift, "gpu"_a, "before"_a, "after"_a, "padding"_a);
    m.def("usage_counts", &python_usage, "gpu"_a, "ids"_a, "codes"_a);
}

}  // namespace isic::python
