// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/subspace.hpp>

#include "../values.hpp"
#include "device_memory.hpp"
#include "module.hpp"

namespace isic::python {
namespace {

/// The moments of isic::device_accumulator with the memory of their codebook.
struct device_pairs {
    shared_gpu on;
    memory book;
    cuda::detail::moments moments;
};

constexpr std::string_view who = "device_accumulator";

device_pairs make_pairs(const shared_gpu& on, py::handle codes, std::optional<index_t> width, bool keep_safe_moment) {
    if (width) {
        return {on, {}, on->run([&] { return cuda::detail::moments(on->state(), *width, keep_safe_moment); })};
    }
    memory book = device_memory_of(*on, who, "codes", codes, access::read);
    cuda::detail::moments moments = on->run([&] { return cuda::detail::moments(on->state(), view_of(book)); });
    return {on, std::move(book), std::move(moments)};
}

void add_ids(device_pairs& self, py::handle harmful, py::handle safe) {
    constexpr std::string_view f = "device_accumulator::add";
    const device_ids h = device_ids_of(*self.on, f, "harmful_ids", harmful),
                     s = device_ids_of(*self.on, f, "safe_ids", safe);
    if (h.shape != s.shape) {
        fail<shape_error>(f, fmt::format("safe ids of shape [{}]", fmt::join(h.shape, ", ")),
                          fmt::format("[{}]", fmt::join(s.shape, ", ")));
    }
    self.on->run([&] {
        self.moments.add_ids(h.ids, s.ids);
        return 0;
    });
}

void add_safe(device_pairs& self, py::handle safe) {
    const device_ids s = device_ids_of(*self.on, "device_accumulator::add_safe", "safe_ids", safe);
    self.on->run([&] {
        self.moments.add_safe(s.ids);
        return 0;
    });
}

void add_rows(device_pairs& self, py::handle harmful, py::handle safe) {
    constexpr std::string_view f = "device_accumulator::add_rows";
    const memory h = device_memory_of(*self.on, f, "harmful", harmful, access::read),
                 s = device_memory_of(*self.on, f, "safe", safe, access::read);
    self.on->run([&] {
        self.moments.add_rows(view_of(h), view_of(s));
        return 0;
    });
}

void require_same_backend(std::string_view function, const shared_gpu& a, const shared_gpu& b) {
    require<value_error>(a == b, function, "an accumulator of the same backend", "one of another");
}

device_fit_options options_of(const py::kwargs& o) {
    device_fit_options out;
    const auto set = [&]<class T>(const char* name, T& field) { field = option_of<T>("fit_subspace", name, o[name]); };
    set("rank", out.rank.fixed);
    set("energy", out.rank.energy);
    set("gavish_donoho", out.rank.gavish_donoho);
    set("max_rank", out.rank.max_rank);
    out.center = centering_of("fit_subspace", option_of<std::string>("fit_subspace", "center", o["center"]));
    out.solver =
        choice<eigen_solver>("fit_subspace", "solver", option_of<std::string>("fit_subspace", "solver", o["solver"]),
                             {{"automatic", eigen_solver::automatic},
                              {"syevd", eigen_solver::syevd},
                              {"jacobi", eigen_solver::jacobi},
                              {"randomised", eigen_solver::randomised}});
    return out;
}

py::tuple tuple_of(const device_fit& found) {
    return py::make_tuple(object_of(found.subspace), std::string(to_string(found.solver)));
}

py::tuple fit_pairs(const shared_gpu& on, const device_pairs& pairs, const py::kwargs& options) {
    require_same_backend("fit_subspace", on, pairs.on);
    const device_fit_options how = options_of(options);
    return tuple_of(on->run([&] { return pairs.moments.fit(how); }));
}

py::tuple fit_rows(const shared_gpu& on, py::handle rows, const py::kwargs& options) {
    const device_fit_options how = options_of(options);
    const memory d = device_memory_of(*on, "fit_subspace", "difference rows", rows, access::read);
    return tuple_of(with_device_span(
        d, [&](auto span) { return on->run([&] { return fit_subspace(on->backend(), span, how); }); }));
}

}  // namespace

void bind_device_subspace(py::module_& m) {
    const auto numbers = [](auto read) {
        return [read](const device_pairs& self) {
            return array_of(self.on->run([&] { return std::invoke(read, self.moments); }));
        };
    };
    py::class_<device_pairs>(m, "DifferenceAccumulator")
        .def(py::init(&make_pairs), "gpu"_a, "codes"_a, "width"_a, "keep_safe_moment"_a)
        .def("add", &add_ids, "harmful_ids"_a, "safe_ids"_a)
        .def("add_safe", &add_safe, "safe_ids"_a)
        .def("add_rows", &add_rows, "harmful"_a, "safe"_a)
        .def(
            "merge",
            [](device_pairs& self, const device_pairs& other) {
                require_same_backend("device_accumulator::merge", self.on, other.on);
                self.on->run([&] {
                    self.moments.merge(other.moments);
                    return 0;
                });
            },
            "other"_a)
        .def_property_readonly("width", [](const device_pairs& self) { return self.moments.width(); })
        .def_property_readonly("count", [](const device_pairs& self) { return self.moments.count(); })
        .def("usage",
             [](const device_pairs& self) { return object_of(self.on->run([&] { return self.moments.usage(); })); })
        .def("mean", numbers(&cuda::detail::moments::mean))
        .def("safe_mean", numbers(&cuda::detail::moments::safe_mean))
        .def("second_moment", numbers(&cuda::detail::moments::second_moment))
        .def("safe_second_moment", numbers(&cuda::detail::moments::safe_second_moment));
    m.def("fit_pairs", &fit_pairs);
    m.def("fit_rows", &fit_rows);
}

}  // namespace isic::python
