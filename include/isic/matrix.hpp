/// \file
/// Row-major matrices of any row stride: views over the caller's memory and one owning type.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ranges>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <isic/error.hpp>

namespace isic {

/// Rows, columns, ids and counts.
using index_t = std::ptrdiff_t;

/// What a codebook may be stored as. Arithmetic is float64 throughout; results are rounded once, when stored.
template <class T>
concept scalar = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, Eigen::half> ||
                 std::same_as<T, Eigen::bfloat16>;

/// An integer type of token ids; `std::int32_t` and `std::int64_t` are what tokenizers emit.
template <class T>
concept token_id = std::integral<T> && !std::same_as<T, bool>;

/// A contiguous range of token ids: vector, span, array.
template <class R>
concept token_ids = std::ranges::contiguous_range<R> && std::ranges::sized_range<R> &&
                    token_id<std::remove_cv_t<std::ranges::range_value_t<R>>>;

/// rows x cols values of T, row i starting at data() + i * stride(); does not own them. T may be const.
template <class T>
    requires scalar<std::remove_const_t<T>>
class matrix_span {
public:
    using value_type = std::remove_const_t<T>;  ///< T without const

    matrix_span() = default;

    /// Rows of `cols` values, contiguous. Errors: shape_error if a size is negative, value_error if data is null.
    matrix_span(T* data, index_t rows, index_t cols) : matrix_span(data, rows, cols, cols) {}

    /// Errors: shape_error if a size is negative or stride < cols, value_error if data is null and the view not empty.
    matrix_span(T* data, index_t rows, index_t cols, index_t stride)
        : data_(data), rows_(rows), cols_(cols), stride_(stride) {
        if (rows < 0 || cols < 0 || stride < cols) {
            detail::fail<shape_error>("matrix_span", "rows >= 0, cols >= 0, stride >= cols",
                                      fmt::format("{} x {} with stride {}", rows, cols, stride));
        }
        detail::require<value_error>(data != nullptr || rows == 0 || cols == 0, "matrix_span", "memory", "a null pointer");
    }

    /// A mutable view is also a const one.
    operator matrix_span<const value_type>() const
        requires(!std::is_const_v<T>)
    {
        return {data_, rows_, cols_, stride_};
    }

    T* data() const { return data_; }  ///< the first value of the first row
    index_t rows() const { return rows_; }  ///< number of rows
    index_t cols() const { return cols_; }  ///< values per row
    index_t stride() const { return stride_; }  ///< values from one row to the next
    bool empty() const { return rows_ == 0 || cols_ == 0; }  ///< no value at all
    /// Row i; i is not checked.
    std::span<T> row(index_t i) const { return {data_ + i * stride_, static_cast<std::size_t>(cols_)}; }
    /// Value j of row i; neither is checked.
    T& operator()(index_t i, index_t j) const { return data_[i * stride_ + j]; }

private:
    T* data_ = nullptr;
    index_t rows_ = 0;
    index_t cols_ = 0;
    index_t stride_ = 0;
};

/// A view that cannot write.
template <class T>
using matrix_view = matrix_span<const T>;

/// An owning, contiguous, row-major matrix.
template <scalar T>
class matrix {
public:
    using value_type = T;  ///< what is stored

    matrix() = default;
    /// rows x cols copies of `value`. Errors: shape_error if a size is negative.
    matrix(index_t rows, index_t cols, T value = T(0))
        : rows_(checked(rows)), cols_(checked(cols)), values_(static_cast<std::size_t>(rows * cols), value) {}

    T* data() { return values_.data(); }  ///< the first value of the first row
    const T* data() const { return values_.data(); }  ///< the same, read only
    index_t rows() const { return rows_; }  ///< number of rows
    index_t cols() const { return cols_; }  ///< values per row, and from one row to the next
    bool empty() const { return values_.empty(); }  ///< no value at all
    std::span<T> row(index_t i) { return span().row(i); }  ///< row i; i is not checked
    std::span<const T> row(index_t i) const { return view().row(i); }  ///< the same, read only
    /// Value j of row i; neither is checked.
    T& operator()(index_t i, index_t j) { return values_[static_cast<std::size_t>(i * cols_ + j)]; }
    /// The same, read only.
    const T& operator()(index_t i, index_t j) const { return values_[static_cast<std::size_t>(i * cols_ + j)]; }
    operator matrix_span<T>() & { return span(); }  ///< a matrix is a view of itself
    operator matrix_view<T>() const { return view(); }  ///< the same, read only
    matrix_span<T> span() { return {values_.data(), rows_, cols_}; }  ///< a view of all of it
    matrix_view<T> view() const { return {values_.data(), rows_, cols_}; }  ///< the same, read only

private:
    static index_t checked(index_t n) {
        detail::require<shape_error>(n >= 0, "matrix", "a size >= 0", fmt::format("{}", n));
        return n;
    }

    index_t rows_ = 0;
    index_t cols_ = 0;
    std::vector<T> values_;
};

namespace detail {

template <class M>
concept eigen_rows = requires(M& m) {
    typename std::remove_cvref_t<M>::Scalar;
    { m.outerStride() } -> std::convertible_to<index_t>;
    { m.innerStride() } -> std::convertible_to<index_t>;
    m.data();
} && static_cast<bool>(std::remove_cvref_t<M>::IsRowMajor);

}  // namespace detail

/// What isic reads and edits: a view of itself, of a matrix, of row-major Eigen types.
template <class T>
matrix_span<T> as_span(matrix_span<T> m) {
    return m;
}
/// All of a matrix.
template <scalar T>
matrix_span<T> as_span(matrix<T>& m) {
    return m.span();
}
/// The same, read only.
template <scalar T>
matrix_view<T> as_span(const matrix<T>& m) {
    return m.view();
}
/// Row-major Eigen matrices, maps and blocks. Errors: shape_error if the columns are not adjacent.
template <detail::eigen_rows M>
auto as_span(M& m) {
    detail::require<shape_error>(m.innerStride() == 1 || m.cols() <= 1, "as_span", "adjacent columns (inner stride 1)",
                                 fmt::format("inner stride {}", m.innerStride()));
    const index_t stride = m.rows() > 1 ? m.outerStride() : m.cols();
    return matrix_span<std::remove_pointer_t<decltype(m.data())>>(m.data(), m.rows(), m.cols(), stride);
}

/// Anything isic reads as a matrix: `matrix`, views, row-major Eigen types, or a type with its own `as_span`.
template <class M>
concept matrix_like = requires(M& m) { matrix_view<typename decltype(as_span(m))::value_type>(as_span(m)); };

/// Anything isic may edit in place.
template <class M>
concept mutable_matrix_like =
    matrix_like<M> && requires(M& m) { matrix_span<typename decltype(as_span(m))::value_type>(as_span(m)); };

/// The storage type of a matrix.
template <matrix_like M>
using scalar_of = typename decltype(as_span(std::declval<M&>()))::value_type;

namespace detail {

using row_matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using vector = Eigen::VectorXd;
using row_map = Eigen::Map<const row_matrix>;

template <matrix_like M>
matrix_view<scalar_of<M>> view_of(const M& m) {
    return as_span(const_cast<M&>(m));
}

/// Reads a row as float64.
template <scalar T>
void load(std::span<const T> row, vector& out) {
    out.resize(static_cast<index_t>(row.size()));
    for (std::size_t j = 0; j < row.size(); ++j) {
        out[static_cast<index_t>(j)] = static_cast<double>(row[j]);
    }
}

/// x as T, rounded once to nearest. Eigen goes to half and bfloat16 through float and would round twice; rounding to an
/// odd float first keeps what the second rounding needs to know.
template <scalar T>
T rounded(double x) {
    if constexpr (sizeof(T) < sizeof(float)) {
        float near = static_cast<float>(x);
        if (std::isfinite(near) && static_cast<double>(near) != x && (std::bit_cast<std::uint32_t>(near) & 1U) == 0) {
            const float infinity = std::numeric_limits<float>::infinity();
            near = std::nextafter(near, x > static_cast<double>(near) ? infinity : -infinity);
        }
        return static_cast<T>(near);
    } else {
        return static_cast<T>(x);
    }
}

/// Rounds a float64 row into the storage type.
template <scalar T>
void store(const vector& row, std::span<T> out) {
    for (std::size_t j = 0; j < out.size(); ++j) {
        out[j] = rounded<T>(row[static_cast<index_t>(j)]);
    }
}

/// The name of a storage type in files and messages.
template <scalar T>
constexpr std::string_view scalar_name() {
    if constexpr (std::same_as<T, double>) {
        return "f64";
    } else if constexpr (std::same_as<T, float>) {
        return "f32";
    } else if constexpr (std::same_as<T, Eigen::half>) {
        return "f16";
    } else {
        return "bf16";
    }
}

/// Half the spacing of T at 1 is the relative error of one rounding. (Not from epsilon(): Eigen 3.4's is wrong for half.)
template <scalar T>
double rounding_unit() {
    return std::ldexp(1.0, -std::numeric_limits<T>::digits);
}

/// Largest finite value of T as float64.
template <scalar T>
double largest() {
    return static_cast<double>((Eigen::NumTraits<T>::highest)());
}

template <class T>
matrix<double> to_double(matrix_view<T> m) {
    matrix<double> out(m.rows(), m.cols());
    for (index_t i = 0; i < m.rows(); ++i) {
        for (index_t j = 0; j < m.cols(); ++j) {
            out(i, j) = static_cast<double>(m(i, j));
        }
    }
    return out;
}

inline row_map map(const matrix<double>& m) {
    return {m.data(), m.rows(), m.cols()};
}
inline Eigen::Map<row_matrix> map(matrix<double>& m) {
    return {m.data(), m.rows(), m.cols()};
}

inline matrix<double> from_eigen(const Eigen::MatrixXd& m) {
    matrix<double> out(m.rows(), m.cols());
    map(out) = m;
    return out;
}

/// Throws numeric_error naming the first value that is not finite; rows marked in `skipped` may hold anything.
template <class T>
void require_finite(std::string_view function, std::string_view name, matrix_view<T> m,
                    const std::vector<bool>* skipped = nullptr) {
    for (index_t i = 0; i < m.rows(); ++i) {
        if (skipped != nullptr && (*skipped)[static_cast<std::size_t>(i)]) {
            continue;
        }
        for (index_t j = 0; j < m.cols(); ++j) {
            if (const double value = static_cast<double>(m(i, j)); !std::isfinite(value)) {
                fail<numeric_error>(function, fmt::format("finite values in {}", name),
                                    fmt::format("{} at row {}, column {}", value, i, j));
            }
        }
    }
}

inline void require_finite(std::string_view function, std::string_view name, std::span<const double> values) {
    require_finite(function, name, matrix_view<double>(values.data(), 1, static_cast<index_t>(values.size())));
}

/// Throws shape_error unless the matrix has at least one row and column.
template <class T>
void require_not_empty(std::string_view function, std::string_view name, matrix_view<T> m) {
    require<shape_error>(!m.empty(), function, fmt::format("{} with rows and columns", name),
                         fmt::format("{} x {}", m.rows(), m.cols()));
}

/// Throws unless there is one value per code and each lies in [0, 1].
inline void require_shares(std::string_view function, std::string_view name, std::span<const double> values,
                           index_t codes) {
    require_size(function, fmt::format("values of {}", name), codes, static_cast<index_t>(values.size()));
    for (std::size_t k = 0; k < values.size(); ++k) {
        if (!(values[k] >= 0.0 && values[k] <= 1.0)) {  // the text is made only when it is needed
            require_range(function, fmt::format("{} of code {}", name, k), values[k], 0.0, 1.0);
        }
    }
}

template <token_ids R>
auto ids_of(const R& ids) {
    return std::span<const std::remove_cv_t<std::ranges::range_value_t<R>>>(std::ranges::data(ids),
                                                                           std::ranges::size(ids));
}

/// Throws value_error naming the first id outside [0, codes).
template <token_id Id>
void require_ids(std::string_view function, std::span<const Id> ids, index_t codes) {
    for (std::size_t t = 0; t < ids.size(); ++t) {
        if (std::cmp_less(ids[t], 0) || std::cmp_greater_equal(ids[t], codes)) {
            fail<value_error>(function, fmt::format("token ids in [0, {})", codes),
                              fmt::format("{} at position {}", static_cast<long long>(ids[t]), t));
        }
    }
}

/// One past the last byte a view touches.
template <class T>
std::uintptr_t end_address(matrix_span<T> m) {
    return m.empty() ? reinterpret_cast<std::uintptr_t>(m.data())
                     : reinterpret_cast<std::uintptr_t>(m.data() + (m.rows() - 1) * m.stride() + m.cols());
}

/// Which rows are no codes, one mark per code. Throws as require_ids.
inline std::vector<bool> padding_mask(std::string_view function, std::span<const index_t> padding, index_t codes) {
    require_ids(function, padding, codes);
    std::vector<bool> out(static_cast<std::size_t>(codes), false);
    for (const index_t k : padding) {
        out[static_cast<std::size_t>(k)] = true;
    }
    return out;
}

/// Throws value_error unless all values are counts: finite and not negative.
inline void require_counts(std::string_view function, std::span<const double> counts) {
    for (const double n : counts) {
        if (!(n >= 0 && std::isfinite(n))) {
            fail<value_error>(function, "counts >= 0", fmt::format("{}", n));
        }
    }
}

/// Throws value_error if two pieces of memory share bytes. Two column blocks of one wider matrix do not.
template <class A, class B>
void require_apart(std::string_view function, matrix_span<A> a, matrix_span<B> b) {
    const auto start_a = reinterpret_cast<std::uintptr_t>(a.data());
    const auto start_b = reinterpret_cast<std::uintptr_t>(b.data());
    bool apart = a.empty() || b.empty() || end_address(a) <= start_b || end_address(b) <= start_a;
    const auto stride = static_cast<std::uintptr_t>(a.stride()) * sizeof(A);
    if (!apart && stride == static_cast<std::uintptr_t>(b.stride()) * sizeof(B)) {
        // Where b's rows start within a's.
        const std::uintptr_t shift = start_b >= start_a ? (start_b - start_a) % stride
                                                        : (stride - (start_a - start_b) % stride) % stride;
        apart = shift >= static_cast<std::uintptr_t>(a.cols()) * sizeof(A) &&
                shift + static_cast<std::uintptr_t>(b.cols()) * sizeof(B) <= stride;
    }
    require<value_error>(apart, function, "separate memory for what is read and what is edited", "overlapping memory");
}

/// The same for a vector, which may be empty.
template <class A>
void require_apart(std::string_view function, matrix_span<A> a, std::span<const double> b) {
    require_apart(function, a, matrix_view<double>(b.data(), 1, static_cast<index_t>(b.size())));
}

}  // namespace detail
}  // namespace isic
