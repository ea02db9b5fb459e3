#include <isic/fused.hpp>

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

/// isic::fused::basis of both types that rows may have.
struct row_bases {
    row_bases() = default;
    explicit row_bases(const subspace& harm) : narrow(harm), wide(harm) {}

    template <real T>
    const row_basis<T>& of() const {
        if constexpr (std::same_as<T, float>) {
            return narrow;
        } else {
            return wide;
        }
    }

    row_basis<float> narrow;
    row_basis<double> wide;
};

row_bases make_bases(const subspace& harm) {
    return row_bases(harm);
}

constexpr const char* word_of(dtype type) {
    constexpr const char* words[] = {"float32", "float64", "float16", "bfloat16"};
    return words[static_cast<int>(type)];
}

/// f(matrix_span<T>) of rows of float or double. Errors: value_error for narrower ones.
template <class F>
void with_real_rows(std::string_view function, std::string_view name, const memory& m, F&& f) {
    detail::require<value_error>(m.type == dtype::f32 || m.type == dtype::f64, function, fmt::format("{} of float32 or float64", name),
                                 word_of(m.type));
    if (m.type == dtype::f32) {
        f(span_as<float>(m.span()));
    } else {
        f(span_as<double>(m.span()));
    }
}

/// Rows that an update reads, of the storage of the codes that it edits.
template <class T>
matrix_view<T> same_view(std::string_view function, std::string_view name, const memory& m, matrix_span<T> codes) {
    constexpr storage expected = detail::dtype_of<T>();
    detail::require<value_error>(m.type == expected, function, fmt::format("{} of {}, as the codes are", name, word_of(expected)), word_of(m.type));
    detail::require_apart(function, codes, m.view());
    return span_as<T>(m.view());
}

/// Numbers that may be left out.
template <class T>
adjacent_array<T> given(std::string_view function, std::string_view name, py::handle object) {
    return object.is_none() ? adjacent_array<T>(0) : numbers<T>(function, name, object, 1);
}

template <class T>
std::span<const T> span_over(const adjacent_array<T>& values) {
    return {values.data(), static_cast<std::size_t>(values.size())};
}

void python_project_rows(py::handle rows, py::handle harm, py::handle strength, py::handle center, py::handle weights, int threads) {
    constexpr const char* f = "project_rows";
    const memory book = memory_of(f, "rows", rows, access::edit);
    const basis_holder<row_bases> basis(f, "harm", harm, make_bases);
    with_real_rows(f, "rows", book, [&]<class T>(matrix_span<T> span) {
        const std::optional<double> all = number_in(strength);
        const auto each = all ? adjacent_array<T>(0) : numbers<T>(f, "strength", strength, 1);
        detail::require_size(f, "values in strength", all ? 0 : span.rows(), each.size());
        const auto mu = given<T>(f, "center", center), w = given<T>(f, "weights", weights);
        const row_projection_options<T> how{.uniform = static_cast<T>(all.value_or(1)),
                                            .strength = span_over(each),
                                            .center = span_over(mu),
                                            .weights = span_over(w),
                                            .execution = execution_of(f, threads)};
        unlocked([&] { project_rows(span, basis.get().of<T>(), how); });
    });
    book.note_edit();
}

/// A state of either type.
template <template <class> class State>
struct either_state {
    std::variant<State<float>, State<double>> value;

    /// The state of codes of T. Errors: value_error if it is of the other type.
    template <real T>
    State<T>& of(std::string_view function) {
        auto* found = std::get_if<State<T>>(&value);
        detail::require<value_error>(found != nullptr, function, fmt::format("a state of {}, as the codes are", word_of(detail::dtype_of<T>())),
                                     "one of the other type");
        return *found;
    }
};

using adam_rows_state = either_state<adam_row_state>;
using ema_rows_state = either_state<ema_row_state>;

/// What adam_rows and ema_rows must respect, kept for the time of the call.
class limits_holder {
public:
    limits_holder(std::string_view function, py::handle orthogonal_to, py::handle locked, int threads)
        : basis_(function, "orthogonal_to", orthogonal_to, make_bases), locked_(marks_of(function, "locked", locked)), exec_(execution_of(function, threads)) {}

    template <real T>
    row_constraint<T> of() const {
        static_assert(sizeof(bool) == 1);
        return {.orthogonal_to = basis_.get().of<T>(),
                .locked = {reinterpret_cast<const std::uint8_t*>(locked_.data()), static_cast<std::size_t>(locked_.size())},
                .execution = exec_};
    }

private:
    basis_holder<row_bases> basis_;
    adjacent_array<bool> locked_;
    execution exec_;
};

void python_adam_rows(py::handle codes, py::handle gradient, adam_rows_state& state, double rate, double beta1, double beta2, double epsilon,
                      py::handle orthogonal_to, py::handle locked, int threads) {
    constexpr const char* f = "adam_rows";
    const memory book = memory_of(f, "codes", codes, access::edit), g = memory_of(f, "gradient", gradient, access::read);
    const limits_holder limits(f, orthogonal_to, locked, threads);
    const adam_options how{.rate = rate, .beta1 = beta1, .beta2 = beta2, .epsilon = epsilon};
    with_real_rows(f, "codes", book, [&]<class T>(matrix_span<T> span) {
        const matrix_view<T> slope = same_view(f, "a gradient", g, span);
        adam_state<T>& moments = state.of<T>(f);
        unlocked([&] { adam_rows(span, slope, moments, how, limits.of<T>()); });
    });
    book.note_edit();
}

void python_ema_rows(py::handle codes, py::handle vectors, py::handle ids, ema_rows_state& state, double decay, py::handle orthogonal_to,
                     py::handle locked, int threads) {
    constexpr const char* f = "ema_rows";
    const memory book = memory_of(f, "codes", codes, access::edit), z = memory_of(f, "vectors", vectors, access::read);
    const id_array all = ids_of(f, "ids", ids);
    const limits_holder limits(f, orthogonal_to, locked, threads);
    with_real_rows(f, "codes", book, [&]<class T>(matrix_span<T> span) {
        const matrix_view<T> rows = same_view(f, "vectors", z, span);
        ema_state<T>& sums = state.of<T>(f);
        unlocked([&] { ema_rows(span, rows, all.ids, sums, decay, limits.of<T>()); });
    });
    book.note_edit();
}

/// A state of the type that the word says.
template <template <class> class State>
either_state<State> state_of(const char* function, const std::string& word) {
    const bool wide = choice<bool>(function, "dtype", word, {{"float32", false}, {"float64", true}});
    return wide ? either_state<State>{State<double>()} : either_state<State>{State<float>()};
}

template <template <class> class State, class Read>
py::array part_of(const either_state<State>& s, Read read) {
    return std::visit([&](const auto& v) { return array_of(read(v)); }, s.value);
}

/// Puts a copy of numbers into a matrix of a state.
template <class T>
void set_part(const char* function, matrix<T>& to, py::handle from) {
    const auto values = numbers<T>(function, "values", from, 2);
    matrix<T> fresh(values.shape(0), values.shape(1));
    std::copy_n(values.data(), values.size(), fresh.data());
    to = std::move(fresh);
}

/// A matrix of a state: reads give a copy, so that no array outlives it.
template <template <class> class State, class Part>
void def_part(py::class_<either_state<State>>& c, const char* name, const char* full_name, Part part) {
    c.def_property(name, [part](const either_state<State>& s) { return part_of(s, part); },
                   [part, full_name](either_state<State>& s, py::handle from) {
                       std::visit([&](auto& v) { set_part(full_name, part(v), from); }, s.value);
                   });
}

const char* type_of(const auto& state) {
    return state.value.index() == 0 ? "float32" : "float64";
}

std::string adam_text(const adam_rows_state& s) {
    return std::visit([&](const auto& v) { return fmt::format("AdamRowState({} x {} {}, steps={})", v.mean.rows(), v.mean.cols(), type_of(s), v.steps); },
                      s.value);
}

std::string ema_text(const ema_rows_state& s) {
    return std::visit([&](const auto& v) { return fmt::format("EmaRowState({} x {} {})", v.sums.rows(), v.sums.cols(), type_of(s)); }, s.value);
}

void bind_adam_state(py::module_& m) {
    py::class_<adam_rows_state> c(m, "AdamRowState",
                                  "State of `adam_rows` for codes of dtype: mean and square of the projected gradient [K, d], steps taken. Empty "
                                  "until the first step; yours to keep.");
    c.def(py::init([](const std::string& dtype) { return state_of<adam_row_state>("adam_row_state", dtype); }), "dtype"_a = "float32")
        .def(py::pickle(
            [](const adam_rows_state& s) {
                return std::visit([&](const auto& v) { return py::make_tuple(type_of(s), array_of(v.mean), array_of(v.square), v.steps); }, s.value);
            },
            [](const py::tuple& parts) {
                auto s = state_of<adam_row_state>("adam_row_state", parts[0].cast<std::string>());
                std::visit([&](auto& v) {
                    set_part("adam_row_state::mean", v.mean, parts[1]);
                    set_part("adam_row_state::square", v.square, parts[2]);
                    v.steps = parts[3].cast<index_t>();
                }, s.value);
                return s;
            }))
        .def_property_readonly("dtype", [](const adam_rows_state& s) { return type_of(s); })
        .def_property("steps", [](const adam_rows_state& s) { return std::visit([](const auto& v) { return v.steps; }, s.value); },
                      [](adam_rows_state& s, index_t steps) { std::visit([&](auto& v) { v.steps = steps; }, s.value); })
        .def("__repr__", &adam_text);
    def_part(c, "mean", "adam_row_state::mean", [](auto& s) -> auto& { return s.mean; });
    def_part(c, "square", "adam_row_state::square", [](auto& s) -> auto& { return s.square; });
}

/// The bases whose directions are the rows of a state's array.
row_bases bases_of_state(const py::tuple& parts) {
    const doubles kept("row_basis", "directions", parts[0]);
    const matrix_view<double> rows = kept.view();
    subspace harm;
    harm.basis = matrix<double>(rows.cols(), rows.rows());
    for (index_t j = 0; j < rows.rows(); ++j) {
        for (index_t i = 0; i < rows.cols(); ++i) {
            harm.basis(i, j) = rows(j, i);
        }
    }
    return row_bases(harm);
}

void set_counts(ema_rows_state& s, py::handle from) {
    std::visit([&]<class T>(ema_state<T>& v) {
        const auto values = numbers<T>("ema_row_state::counts", "values", from, 1);
        v.counts.assign(values.data(), values.data() + values.size());
    }, s.value);
}

void bind_ema_state(py::module_& m) {
    py::class_<ema_rows_state> c(m, "EmaRowState",
                                 "State of `ema_rows` for codes of dtype: decayed counts [K] and sums [K, d]. Empty until the first step; yours to "
                                 "keep.");
    c.def(py::init([](const std::string& dtype) { return state_of<ema_row_state>("ema_row_state", dtype); }), "dtype"_a = "float32")
        .def(py::pickle(
            [](const ema_rows_state& s) {
                return std::visit([&](const auto& v) { return py::make_tuple(type_of(s), array_of(v.counts), array_of(v.sums)); }, s.value);
            },
            [](const py::tuple& parts) {
                auto s = state_of<ema_row_state>("ema_row_state", parts[0].cast<std::string>());
                set_counts(s, parts[1]);
                std::visit([&](auto& v) { set_part("ema_row_state::sums", v.sums, parts[2]); }, s.value);
                return s;
            }))
        .def_property_readonly("dtype", [](const ema_rows_state& s) { return type_of(s); })
        .def_property("counts", [](const ema_rows_state& s) { return part_of(s, [](const auto& v) { return v.counts; }); }, &set_counts)
        .def("__repr__", &ema_text);
    def_part(c, "sums", "ema_row_state::sums", [](auto& s) -> auto& { return s.sums; });
}

}  // namespace

void bind_rows(py::module_& m) {
    py::class_<row_bases>(m, "RowBasis",
                          "The directions of a subspace as inner loops read them: made once, used in every step. Raises ValueError unless they are "
                          "orthonormal.")
        .def(py::init([](py::handle harm) { return row_bases(subspace_of("row_basis", "harm", harm)); }), py::arg("harm").none(false))
        .def_property_readonly("rank", [](const row_bases& b) { return b.wide.rank(); }, "r.")
        .def_property_readonly("width", [](const row_bases& b) { return b.wide.width(); }, "d.")
        .def(py::pickle([](const row_bases& b) { return py::make_tuple(array_of(b.wide.rows())); }, &bases_of_state))
        .def("__repr__", [](const row_bases& b) { return fmt::format("RowBasis(width={}, rank={})", b.wide.width(), b.wide.rank()); });
    bind_adam_state(m);
    bind_ema_state(m);
    m.def("project_rows", &python_project_rows, "rows"_a, py::arg("harm").none(false), "strength"_a, "center"_a, "weights"_a, "threads"_a);
    m.def("adam_rows", &python_adam_rows, "codes"_a, "gradient"_a, "state"_a, "rate"_a, "beta1"_a, "beta2"_a, "epsilon"_a, "orthogonal_to"_a,
          "locked"_a, "threads"_a);
    m.def("ema_rows", &python_ema_rows, "codes"_a, "vectors"_a, "ids"_a, "state"_a, "decay"_a, "orthogonal_to"_a, "locked"_a, "threads"_a);
}

}  // namespace isic::python
