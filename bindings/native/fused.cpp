// SPDX-License-Identifier: Apache-2.0
#include <isic/detail/checks.hpp>
#include <isic/fused.hpp>

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "module.hpp"
#include "precision.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

/// isic::fused::basis in both precisions.
struct basis_pair : in_both<fused::basis> {
    basis_pair() = default;
    explicit basis_pair(const subspace& s) : in_both{fused::basis<float>(s), fused::basis<double>(s)} {}
};

basis_pair make_basis(const subspace& s) {
    return basis_pair(s);
}

/// f(matrix_span<T>) for rows of float or double. Errors: value_error for other types.
template <class F>
void visit_real(std::string_view function, std::string_view name, const memory& m, F&& f) {
    visit(m.span(), [&]<class T>(matrix_span<T> rows) {
        if constexpr (real<T>) {
            f(rows);
        } else {
            fail<value_error>(function, fmt::format("{} of float32 or float64", name), name_of(m.type));
        }
    });
}

/// The rows that an update of `codes` reads. Errors: value_error unless they have the codes' type and memory of their own.
template <real T>
matrix_view<T> view_beside(std::string_view function, std::string_view name, const memory& m, matrix_span<T> codes) {
    require<value_error>(m.type == any_span(codes).type, function,
                         fmt::format("{} of {}, as the codes are", name, real_name<T>()), name_of(m.type));
    detail::require_apart(function, codes, m.view());  // the fused functions do not check it
    return {static_cast<const T*>(m.data), m.rows, m.cols, m.stride};
}

/// A vector of T; None gives an empty one.
template <class T>
adjacent_array<T> optional_numbers(std::string_view function, std::string_view name, py::handle object) {
    return object.is_none() ? adjacent_array<T>(0) : numbers<T>(function, name, object, 1);
}

template <class T>
std::span<const T> span_over(const adjacent_array<T>& values) {
    return {values.data(), static_cast<std::size_t>(values.size())};
}

void fused_project_out(py::handle rows, py::handle removed, py::handle strength, py::handle center, py::handle weights,
                       int threads) {
    constexpr const char* f = "fused::project_out";
    const memory book = memory_of(f, "rows", rows, access::edit);
    const basis_holder<basis_pair> basis(f, "subspace", removed, make_basis);
    visit_real(f, "rows", book, [&]<class T>(matrix_span<T> span) {
        const std::optional<double> all = number_in(strength);
        const auto each = all ? adjacent_array<T>(0) : numbers<T>(f, "strength", strength, 1);
        require<shape_error>(all || each.size() == span.rows(), f, fmt::format("{} values in strength", span.rows()),
                             fmt::format("{}", each.size()));
        const auto mu = optional_numbers<T>(f, "center", center), w = optional_numbers<T>(f, "weights", weights);
        const fused::projection_options<T> how{.uniform = static_cast<T>(all.value_or(1)),
                                               .strength = span_over(each),
                                               .center = span_over(mu),
                                               .weights = span_over(w),
                                               .execution = {.threads = threads}};
        unlocked([&] { fused::project_out(span, basis.get().of<T>(), how); });
    });
    book.note_edit();
}

/// A state in one of both precisions.
template <template <class> class State>
struct either_state {
    in_either<State> value;
};

using either_adam_state = either_state<adam_state>;
using either_ema_state = either_state<ema_state>;

/// The constraint of an update, with the arrays that it views. Lives for the duration of the call.
class limits_holder {
public:
    limits_holder(std::string_view function, py::handle orthogonal_to, py::handle locked, int threads)
        : basis_(function, "orthogonal_to", orthogonal_to, make_basis),
          locked_(marks_of(function, "locked", locked)),
          threads_(threads) {}

    template <real T>
    fused::constraint<T> of() const {
        static_assert(sizeof(bool) == 1);
        return {
            .orthogonal_to = basis_.get().of<T>(),
            .locked = {reinterpret_cast<const std::uint8_t*>(locked_.data()), static_cast<std::size_t>(locked_.size())},
            .execution = {.threads = threads_}};
    }

private:
    basis_holder<basis_pair> basis_;
    adjacent_array<bool> locked_;
    int threads_;
};

void fused_adam_update(py::handle codes, py::handle gradient, either_adam_state& state, double rate, double beta1,
                       double beta2, double epsilon, py::handle orthogonal_to, py::handle locked, int threads) {
    constexpr const char* f = "fused::adam_update";
    const memory book = memory_of(f, "codes", codes, access::edit),
                 g = memory_of(f, "gradient", gradient, access::read);
    const limits_holder limits(f, orthogonal_to, locked, threads);
    const adam_options how{.rate = rate, .beta1 = beta1, .beta2 = beta2, .epsilon = epsilon};
    visit_real(f, "codes", book, [&]<class T>(matrix_span<T> span) {
        const matrix_view<T> slope = view_beside(f, "a gradient", g, span);
        adam_state<T>& moments = get_real<T, adam_state>(f, state.value);
        unlocked([&] { fused::adam_update(span, slope, moments, how, limits.of<T>()); });
    });
    book.note_edit();
}

void fused_ema_update(py::handle codes, py::handle vectors, py::handle ids, either_ema_state& state, double decay,
                      py::handle orthogonal_to, py::handle locked, int threads) {
    constexpr const char* f = "fused::ema_update";
    const memory book = memory_of(f, "codes", codes, access::edit), z = memory_of(f, "vectors", vectors, access::read);
    const id_array all = ids_of(f, "ids", ids);
    const limits_holder limits(f, orthogonal_to, locked, threads);
    visit_real(f, "codes", book, [&]<class T>(matrix_span<T> span) {
        const matrix_view<T> rows = view_beside(f, "vectors", z, span);
        ema_state<T>& sums = get_real<T, ema_state>(f, state.value);
        unlocked([&] { fused::ema_update(span, rows, all.ids, sums, decay, limits.of<T>()); });
    });
    book.note_edit();
}

template <template <class> class State>
either_state<State> empty_state(const char* function, const std::string& word) {
    return {empty_real<State>(function, word)};
}

template <template <class> class State, class Read>
py::array part_of(const either_state<State>& s, Read read) {
    return std::visit([&](const auto& v) { return array_of(read(v)); }, s.value);
}

/// Assigns a copy of an array to a matrix of a state.
template <class T>
void set_part(const char* function, matrix<T>& to, py::handle from) {
    const auto values = numbers<T>(function, "values", from, 2);
    matrix<T> fresh(values.shape(0), values.shape(1));
    std::copy_n(values.data(), values.size(), fresh.data());
    to = std::move(fresh);
}

/// A property for a matrix of a state. Reading copies, so that no array outlives the state.
template <template <class> class State, class Part>
void def_part(py::class_<either_state<State>>& c, const char* name, const char* full_name, Part part) {
    c.def_property(
        name, [part](const either_state<State>& s) { return part_of(s, part); },
        [part, full_name](either_state<State>& s, py::handle from) {
            std::visit([&](auto& v) { set_part(full_name, part(v), from); }, s.value);
        });
}

const char* type_of(const auto& state) {
    return state.value.index() == 0 ? "float32" : "float64";
}

std::string adam_text(const either_adam_state& s) {
    return std::visit(
        [&](const auto& v) {
            return fmt::format("AdamState({} x {} {}, steps={})", v.mean.rows(), v.mean.cols(), type_of(s), v.steps);
        },
        s.value);
}

std::string ema_text(const either_ema_state& s) {
    return std::visit(
        [&](const auto& v) { return fmt::format("EmaState({} x {} {})", v.sums.rows(), v.sums.cols(), type_of(s)); },
        s.value);
}

void bind_adam_state(py::module_& m) {
    py::class_<either_adam_state> c(m, "FusedAdamState",
                                    "State of `fused.adam_update` for codes of `dtype`: mean and square of the "
                                    "projected gradient [K, d], and steps "
                                    "taken. Empty until the first step. The caller keeps it.");
    c.def(py::init([](const std::string& dtype) { return empty_state<adam_state>("fused::adam_state", dtype); }),
          "dtype"_a = "float32")
        .def(py::pickle(
            [](const either_adam_state& s) {
                return std::visit(
                    [&](const auto& v) {
                        return py::make_tuple(type_of(s), array_of(v.mean), array_of(v.square), v.steps);
                    },
                    s.value);
            },
            [](const py::tuple& parts) {
                auto s = empty_state<adam_state>("fused::adam_state", parts[0].cast<std::string>());
                std::visit(
                    [&](auto& v) {
                        set_part("fused::adam_state::mean", v.mean, parts[1]);
                        set_part("fused::adam_state::square", v.square, parts[2]);
                        v.steps = parts[3].cast<index_t>();
                    },
                    s.value);
                return s;
            }))
        .def_property_readonly("dtype", [](const either_adam_state& s) { return type_of(s); })
        .def_property(
            "steps",
            [](const either_adam_state& s) { return std::visit([](const auto& v) { return v.steps; }, s.value); },
            [](either_adam_state& s, index_t steps) { std::visit([&](auto& v) { v.steps = steps; }, s.value); })
        .def("__repr__", &adam_text);
    def_part(c, "mean", "fused::adam_state::mean", [](auto& s) -> auto& { return s.mean; });
    def_part(c, "square", "fused::adam_state::square", [](auto& s) -> auto& { return s.square; });
}

/// V^T [r x d], as a pickled basis keeps it.
matrix<double> rows_of(const fused::basis<double>& b) {
    matrix<double> out(b.rank(), b.width());
    std::copy_n(b.data(), out.rows() * out.cols(), out.data());
    return out;
}

/// The basis whose vectors are the rows of a pickled array.
basis_pair basis_of_state(const py::tuple& parts) {
    const doubles kept("fused::basis", "basis", parts[0]);
    const matrix_view<double> rows = kept.view();
    subspace s;
    s.basis = matrix<double>(rows.cols(), rows.rows());
    for (index_t j = 0; j < rows.rows(); ++j) {
        for (index_t i = 0; i < rows.cols(); ++i) {
            s.basis(i, j) = rows(j, i);
        }
    }
    return basis_pair(s);
}

void set_counts(either_ema_state& s, py::handle from) {
    std::visit(
        [&]<class T>(ema_state<T>& v) {
            const auto values = numbers<T>("fused::ema_state::counts", "values", from, 1);
            v.counts.assign(values.data(), values.data() + values.size());
        },
        s.value);
}

void bind_ema_state(py::module_& m) {
    py::class_<either_ema_state> c(m, "FusedEmaState",
                                   "State of `fused.ema_update` for codes of `dtype`: decayed counts [K] and sums [K, "
                                   "d]. Empty until the first step. "
                                   "The caller keeps it.");
    c.def(py::init([](const std::string& dtype) { return empty_state<ema_state>("fused::ema_state", dtype); }),
          "dtype"_a = "float32")
        .def(py::pickle(
            [](const either_ema_state& s) {
                return std::visit(
                    [&](const auto& v) { return py::make_tuple(type_of(s), array_of(v.counts), array_of(v.sums)); },
                    s.value);
            },
            [](const py::tuple& parts) {
                auto s = empty_state<ema_state>("fused::ema_state", parts[0].cast<std::string>());
                set_counts(s, parts[1]);
                std::visit([&](auto& v) { set_part("fused::ema_state::sums", v.sums, parts[2]); }, s.value);
                return s;
            }))
        .def_property_readonly("dtype", [](const either_ema_state& s) { return type_of(s); })
        .def_property(
            "counts", [](const either_ema_state& s) { return part_of(s, [](const auto& v) { return v.counts; }); },
            &set_counts)
        .def("__repr__", &ema_text);
    def_part(c, "sums", "fused::ema_state::sums", [](auto& s) -> auto& { return s.sums; });
}

}  // namespace

void bind_fused(py::module_& m) {
    py::class_<basis_pair>(m, "FusedBasis",
                           "The basis of a subspace, packed for fused functions: made once, used in every step. Raises "
                           "ValueError unless it "
                           "is orthonormal.")
        .def(py::init([](py::handle s) { return basis_pair(subspace_of("fused::basis", "subspace", s)); }),
             py::arg("subspace").none(false))
        .def_property_readonly(
            "rank", [](const basis_pair& b) { return b.wide.rank(); }, "r.")
        .def_property_readonly(
            "width", [](const basis_pair& b) { return b.wide.width(); }, "d.")
        .def(py::pickle([](const basis_pair& b) { return py::make_tuple(array_of(rows_of(b.wide))); }, &basis_of_state))
        .def("__repr__", [](const basis_pair& b) {
            return fmt::format("Basis(width={}, rank={})", b.wide.width(), b.wide.rank());
        });
    bind_adam_state(m);
    bind_ema_state(m);
    m.def("fused_project_out", &fused_project_out, "rows"_a, py::arg("subspace").none(false), "strength"_a, "center"_a,
          "weights"_a, "threads"_a);
    m.def("fused_adam_update", &fused_adam_update, "codes"_a, "gradient"_a, "state"_a, "rate"_a, "beta1"_a, "beta2"_a,
          "epsilon"_a, "orthogonal_to"_a, "locked"_a, "threads"_a);
    m.def("fused_ema_update", &fused_ema_update, "codes"_a, "vectors"_a, "ids"_a, "state"_a, "decay"_a,
          "orthogonal_to"_a, "locked"_a, "threads"_a);
}

}  // namespace isic::python
