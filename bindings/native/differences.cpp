// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include <isic/differences.hpp>
#include <isic/harmfulness.hpp>

#include "accumulator.hpp"
#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

void require_same_shape(std::string_view function, const id_array& harmful, const id_array& safe) {
    if (harmful.shape != safe.shape) {
        fail<shape_error>(function, fmt::format("safe ids of shape [{}]", fmt::join(harmful.shape, ", ")),
                          fmt::format("[{}]", fmt::join(safe.shape, ", ")));
    }
}

/// T of ids [n, T] or of one image [T].
index_t tokens_per_image(std::string_view function, const id_array& ids) {
    if (ids.shape.empty() || ids.shape.size() > 2) {
        fail<shape_error>(function, "ids [n, T], or [T] of one image",
                          fmt::format("shape [{}]", fmt::join(ids.shape, ", ")));
    }
    return ids.shape.back();
}

py::array python_differences(py::handle harmful, py::handle safe) {
    const floats h("differences", "harmful", harmful), s("differences", "safe", safe);
    return array_of(unlocked([&] { return differences(h.view(), s.view()); }));
}

py::array python_pooled_differences(py::handle harmful, py::handle safe, index_t group) {
    const floats h("pooled_differences", "harmful", harmful), s("pooled_differences", "safe", safe);
    return array_of(unlocked([&] { return pooled_differences(h.view(), s.view(), group); }));
}

py::array python_histograms(py::handle ids, index_t codes) {
    const id_array all = ids_of("histograms", "ids", ids);
    const index_t t = tokens_per_image("histograms", all);
    return array_of(unlocked([&] { return histograms(all.ids, t, codes); }));
}

py::array python_bag_of_codes(py::handle codes, py::handle harmful, py::handle safe) {
    constexpr const char* f = "bag_of_codes_differences";
    const memory book = memory_of(f, "codes", codes, access::read);
    const id_array h = ids_of(f, "harmful_ids", harmful), s = ids_of(f, "safe_ids", safe);
    require_same_shape(f, h, s);
    const index_t t = tokens_per_image(f, h);
    return array_of(unlocked([&] { return bag_of_codes_differences(book.view(), h.ids, s.ids, t); }));
}

/// Adds the pairs of one image [T], or of n images [n, T].
void add_pairs(std::string_view function, auto& to, py::handle harmful, py::handle safe) {
    const id_array h = ids_of(function, "harmful_ids", harmful), s = ids_of(function, "safe_ids", safe);
    require_same_shape(function, h, s);
    unlocked([&] { to.add(h.ids, s.ids); });
}

accumulator make_accumulator(py::handle codes, std::optional<index_t> width) {
    return width ? accumulator(*width) : accumulator(memory_of("difference_accumulator", "codes", codes, access::read));
}

void add_safe(accumulator& self, py::handle safe) {
    const id_array s = ids_of("difference_accumulator::add_safe", "safe_ids", safe);
    unlocked([&] { self.moments.add_safe(s.ids); });
}

void add_rows(accumulator& self, py::handle harmful, py::handle safe) {
    constexpr const char* f = "difference_accumulator::add_rows";
    const floats h(f, "harmful", harmful), s(f, "safe", safe);
    unlocked([&] { self.moments.add_rows(h.view(), s.view()); });
}

void require_same_dtype(std::string_view function, const memory& a, const memory& b) {
    require<value_error>(a.type == b.type, function, "codebooks of one dtype", "two");
}

void merge_moments(accumulator& self, const accumulator& other) {
    require_same_dtype("difference_accumulator::merge", self.book, other.book);
    self.moments.merge(other.moments);
}

/// isic::counterpart_targets with the memory of its codebook.
struct targets_with_codebook {
    explicit targets_with_codebook(py::handle codes)
        : book(memory_of("counterpart_targets", "codes", codes, access::read)), sums(book.view()) {}

    memory book;
    counterpart_targets sums;
};

void merge_targets(targets_with_codebook& self, const targets_with_codebook& other) {
    require_same_dtype("counterpart_targets::merge", self.book, other.book);
    self.sums.merge(other.sums);
}

py::array targets_of(const targets_with_codebook& self, double weight, py::handle prior) {
    const auto mu = vector_of("counterpart_targets::targets", "prior", prior);
    return array_of(unlocked([&] { return self.sums.targets(weight, mu); }));
}

}  // namespace

void bind_differences(py::module_& m) {
    m.def("differences", &python_differences, "harmful"_a, "safe"_a);
    m.def("pooled_differences", &python_pooled_differences, "harmful"_a, "safe"_a, "group"_a);
    m.def("histograms", &python_histograms, "ids"_a, "codes"_a);
    m.def("bag_of_codes_differences", &python_bag_of_codes, "codes"_a, "harmful_ids"_a, "safe_ids"_a);

    py::class_<accumulator>(m, "DifferenceAccumulator")
        .def(py::init(&make_accumulator), "codes"_a, "width"_a)
        .def(
            "add",
            [](accumulator& self, py::handle h, py::handle s) {
                add_pairs("difference_accumulator::add", self.moments, h, s);
            },
            "harmful_ids"_a, "safe_ids"_a)
        .def("add_safe", &add_safe, "safe_ids"_a)
        .def("add_rows", &add_rows, "harmful"_a, "safe"_a)
        .def("merge", &merge_moments, "other"_a)
        .def_property_readonly("width", [](const accumulator& self) { return self.moments.width(); })
        .def_property_readonly("count", [](const accumulator& self) { return self.moments.count(); })
        .def("usage", [](const accumulator& self) { return object_of(self.moments.usage()); })
        .def("mean", [](const accumulator& self) { return array_of(self.moments.mean()); })
        .def("safe_mean",
             [](const accumulator& self) { return array_of(unlocked([&] { return self.moments.safe_mean(); })); })
        .def("second_moment", [](const accumulator& self) { return array_of(self.moments.second_moment()); })
        .def("safe_second_moment", [](const accumulator& self) {
            return array_of(unlocked([&] { return self.moments.safe_second_moment(); }));
        });

    m.def(
        "code_harmfulness",
        [](py::handle usage, double prior) {
            return object_of(code_harmfulness(usage_of("code_harmfulness", usage), {.prior_per_code = prior}));
        },
        "usage"_a, "prior_per_code"_a);
    m.def(
        "code_strength",
        [](py::handle harmfulness, double low, double high) {
            return array_of(
                code_strength(vector_of("code_strength", "harmfulness", harmfulness), {.low = low, .high = high}));
        },
        "harmfulness"_a, "low"_a, "high"_a);
    m.def(
        "excess_strength",
        [](py::handle p_harmful, py::handle p_safe) {
            code_scores scores;
            scores.p_harmful = vector_of("excess_strength", "p_harmful", p_harmful);
            scores.p_safe = vector_of("excess_strength", "p_safe", p_safe);
            return array_of(excess_strength(scores));
        },
        "p_harmful"_a, "p_safe"_a);
    m.def(
        "gate_strength",
        [](py::handle score, double threshold) {
            return array_of(gate_strength(vector_of("gate_strength", "score", score), threshold));
        },
        "score"_a, "threshold"_a);

    py::class_<targets_with_codebook>(m, "CounterpartTargets")
        .def(py::init<py::handle>(), "codes"_a)
        .def(
            "add",
            [](targets_with_codebook& self, py::handle h, py::handle s) {
                add_pairs("counterpart_targets::add", self.sums, h, s);
            },
            "harmful_ids"_a, "safe_ids"_a)
        .def("merge", &merge_targets, "other"_a)
        .def("targets", &targets_of, "weight"_a, "prior"_a)
        .def("counts", [](const targets_with_codebook& self) { return array_of(self.sums.counts()); });
}

}  // namespace isic::python
