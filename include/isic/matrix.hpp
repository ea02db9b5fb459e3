/// \file
/// Row-major matrices of any row stride: views over the caller's memory and one owning type.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <isic/error.hpp>
#include <isic/kernels.hpp>

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

/// An owning, contiguous, row-major matrix that begins with a cache line.
template <scalar T>
class matrix {
public:
    using value_type = T;  ///< what is stored

    matrix() = default;
    /// rows x cols copies of `value`. Errors: shape_error if a size is negative, or there are more values than index_t counts.
    matrix(index_t rows, index_t cols, T value = T(0)) : rows_(rows), cols_(cols), values_(checked_size(rows, cols), value) {}

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
    static std::size_t checked_size(index_t rows, index_t cols) {
        const bool fits = rows >= 0 && cols >= 0 && (cols == 0 || rows <= std::numeric_limits<index_t>::max() / cols);
        if (!fits) {
            detail::fail<shape_error>("matrix", "sizes >= 0 whose product can be counted", fmt::format("{} x {}", rows, cols));
        }
        return static_cast<std::size_t>(rows * cols);
    }

    index_t rows_ = 0;
    index_t cols_ = 0;
    kernels::detail::buffer<T> values_;
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

template <matrix_like M>
matrix_view<scalar_of<M>> view_of(const M& m) {
    return as_span(const_cast<M&>(m));
}

/// What values are stored as.
enum class storage : unsigned char { f32, f64, f16, bf16 };

template <scalar T>
constexpr storage storage_of() {
    if constexpr (std::same_as<T, double>) {
        return storage::f64;
    } else if constexpr (std::same_as<T, float>) {
        return storage::f32;
    } else if constexpr (std::same_as<T, Eigen::half>) {
        return storage::f16;
    } else {
        return storage::bf16;
    }
}

/// The name of a storage type in files and messages.
constexpr std::string_view name_of(storage type) {
    constexpr std::array<std::string_view, 4> names{"f32", "f64", "f16", "bf16"};
    return names[static_cast<std::size_t>(type)];
}

/// Bytes of a value.
constexpr index_t size_of(storage type) {
    return type == storage::f64 ? 8 : type == storage::f32 ? 4 : 2;
}

/// rows x cols values of any storage: the form in which matrices reach the compiled part of isic.
template <class Byte>
struct any_rows {
    Byte* data = nullptr;
    index_t rows = 0;
    index_t cols = 0;
    index_t stride = 0;  ///< in values
    storage type = storage::f64;

    any_rows() = default;
    any_rows(Byte* d, index_t r, index_t c, index_t s, storage t) : data(d), rows(r), cols(c), stride(s), type(t) {}
    template <class T>
        requires(std::is_const_v<Byte> || !std::is_const_v<T>)
    any_rows(matrix_span<T> m)
        : data(reinterpret_cast<Byte*>(m.data())), rows(m.rows()), cols(m.cols()), stride(m.stride()),
          type(storage_of<std::remove_const_t<T>>()) {}
    operator any_rows<const std::byte>() const
        requires(!std::is_const_v<Byte>)
    {
        return {data, rows, cols, stride, type};
    }

    bool empty() const { return rows == 0 || cols == 0; }
    index_t row_bytes() const { return cols * size_of(type); }
    /// The bytes of row i.
    std::span<Byte> row(index_t i) const {
        return {data + i * stride * size_of(type), static_cast<std::size_t>(row_bytes())};
    }
    /// n rows from the first-th on.
    any_rows block(index_t first, index_t n) const { return {data + first * stride * size_of(type), n, cols, stride, type}; }
};

using any_view = any_rows<const std::byte>;
using any_span = any_rows<std::byte>;

/// Token ids of any integer type. int32 and int64 are read where they lie, and must outlive it.
class id_list {
public:
    template <token_ids R>
    explicit id_list(const R& ids) : size_(std::ranges::size(ids)) {
        using id = std::remove_cv_t<std::ranges::range_value_t<R>>;
        if constexpr (std::same_as<id, std::int64_t>) {
            wide_ = std::ranges::data(ids);
        } else if constexpr (std::same_as<id, std::int32_t>) {
            narrow_ = std::ranges::data(ids);
        } else {
            copy_.assign(std::ranges::begin(ids), std::ranges::end(ids));  // ids of 2^63 and more become negative
            wide_ = copy_.data();
            were_unsigned_ = std::is_unsigned_v<id>;
        }
    }
    id_list(const id_list&) = delete;
    id_list& operator=(const id_list&) = delete;

    index_t size() const { return static_cast<index_t>(size_); }
    const std::int32_t* narrow() const { return narrow_; }  // null: those of `wide`
    const std::int64_t* wide() const { return wide_; }
    index_t operator[](index_t t) const { return wide_ != nullptr ? static_cast<index_t>(wide_[t]) : static_cast<index_t>(narrow_[t]); }
    /// Id t as it was given.
    std::string text(index_t t) const {
        return were_unsigned_ ? fmt::format("{}", static_cast<std::uint64_t>(wide_[t])) : fmt::format("{}", (*this)[t]);
    }

private:
    std::size_t size_;
    const std::int64_t* wide_ = nullptr;
    const std::int32_t* narrow_ = nullptr;
    std::vector<std::int64_t> copy_;
    bool were_unsigned_ = false;
};

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

matrix<double> to_double(any_view m);

/// Throws numeric_error naming the first value that is not finite; rows marked in `skipped` may hold anything.
void require_finite(std::string_view function, std::string_view name, any_view m, const std::vector<bool>* skipped = nullptr);
void require_finite(std::string_view function, std::string_view name, std::span<const double> values);

/// Throws shape_error unless the matrix has at least one row and column.
void require_not_empty(std::string_view function, std::string_view name, any_view m);

/// Throws unless there is one value per code and each lies in [0, 1].
void require_shares(std::string_view function, std::string_view name, std::span<const double> values, index_t codes);

/// Throws value_error naming the first id outside [0, codes).
void require_ids(std::string_view function, const id_list& ids, index_t codes);

/// Which rows are no codes, one mark per code. Throws as require_ids.
std::vector<bool> padding_mask(std::string_view function, std::span<const index_t> padding, index_t codes);

/// Throws value_error unless all values are counts: finite and not negative.
void require_counts(std::string_view function, std::span<const double> counts);

/// Throws value_error if two pieces of memory share bytes. Two column blocks of one wider matrix do not.
void require_apart(std::string_view function, any_view a, any_view b);
/// The same for a vector, which may be empty.
void require_apart(std::string_view function, any_view a, std::span<const double> b);

}  // namespace detail
}  // namespace isic
