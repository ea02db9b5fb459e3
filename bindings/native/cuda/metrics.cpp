// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/codebook.hpp>
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
        cuda::detail::nearest(on->state(), view_of(z), view_of(book), how, rows,
                              static_cast<std::int64_t*>(ids->data()));
        return 0;
    });
    return ids;
}

/// isic::device_code_index with the memory of its codebook.
class index_on_device {
public:
    index_on_device(const shared_gpu& on, py::handle codes, const std::string& metric, py::handle padding)
        : on_(on), book_(device_memory_of(*on, "nearest_codes", "codes", codes, access::read)) {
        const isic::metric how = metric_of("nearest_codes", metric);
        const auto rows = indices_of("nearest_codes", "padding", padding);
        packed_ = on_->run([&] { return cuda::detail::pack_codebook(on_->state(), view_of(book_), how, rows); });
    }

    shared_array nearest(py::handle vectors) const {
        const memory z = device_memory_of(*on_, "nearest_codes", "vectors", vectors, access::read);
        auto ids = std::make_shared<device_array>(on_, element_of<std::int64_t>(), std::vector<index_t>{z.rows});
        on_->run([&] {
            cuda::detail::nearest(*packed_, view_of(z), static_cast<std::int64_t*>(ids->data()));
            return 0;
        });
        return ids;
    }

private:
    shared_gpu on_;
    memory book_;
    std::shared_ptr<const cuda::detail::packed_codebook> packed_;
};

double python_churn(const shared_gpu& on, py::handle vectors, py::handle before, py::handle after,
                    const std::string& metric, py::handle padding) {
    constexpr std::string_view f = "nearest_code_churn";
    const memory z = device_memory_of(*on, f, "vectors", vectors, access::read);
    const memory b = device_memory_of(*on, f, "before", before, access::read),
                 a = device_memory_of(*on, f, "after", after, access::read);
    const isic::metric how = metric_of(f, metric);
    const auto rows = indices_of(f, "padding", padding);
    return on->run(
        [&] { return cuda::detail::nearest_code_churn(on->state(), view_of(z), view_of(b), view_of(a), how, rows); });
}

py::object python_leakage(const shared_gpu& on, py::handle codes, py::handle removed, py::handle center,
                          py::handle padding) {
    const memory book = device_memory_of(*on, "leakage", "codes", codes, access::read);
    const subspace s = subspace_of("leakage", "subspace", removed);
    const auto mu = vector_of("leakage", "center", center);
    const auto rows = indices_of("leakage", "padding", padding);
    return object_of(on->run([&] { return cuda::detail::leakage(on->state(), view_of(book), s, mu, rows); }));
}

py::object python_drift(const shared_gpu& on, py::handle before, py::handle after, py::handle padding) {
    const memory b = device_memory_of(*on, "drift", "before", before, access::read),
                 a = device_memory_of(*on, "drift", "after", after, access::read);
    const auto rows = indices_of("drift", "padding", padding);
    return object_of(on->run([&] { return cuda::detail::drift(on->state(), view_of(b), view_of(a), rows); }));
}

py::array python_usage(const shared_gpu& on, py::handle ids, index_t codes) {
    const device_ids all = device_ids_of(*on, "usage_counts", "ids", ids);
    return array_of(on->run([&] { return cuda::detail::usage_counts(on->state(), all.ids, codes); }));
}

}  // namespace

void bind_device_metrics(py::module_& m) {
    m.def("nearest_codes", &python_nearest, "gpu"_a, "vectors"_a, "codes"_a, "metric"_a, "padding"_a);
    py::class_<index_on_device>(m, "CodeIndex")
        .def(py::init<const shared_gpu&, py::handle, const std::string&, py::handle>(), "gpu"_a, "codes"_a, "metric"_a,
             "padding"_a)
        .def("nearest", &index_on_device::nearest, "vectors"_a);
    m.def("nearest_code_churn", &python_churn, "gpu"_a, "vectors"_a, "before"_a, "after"_a, "metric"_a, "padding"_a);
    m.def("leakage", &python_leakage, "gpu"_a, "codes"_a, "subspace"_a, "center"_a, "padding"_a);
    m.def("drift", &python_drift, "gpu"_a, "before"_a, "after"_a, "padding"_a);
    m.def("usage_counts", &python_usage, "gpu"_a, "ids"_a, "codes"_a);
}

}  // namespace isic::python
