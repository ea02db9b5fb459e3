// SPDX-License-Identifier: Apache-2.0
/// \file
/// Row-major matrices: typed views of any row stride, run-time-typed views, and one owning type.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include <isic/error.hpp>
#include <isic/execution.hpp>
#include <isic/types.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

[[noreturn]] ISIC_API void fail_shape(std::string_view function, std::string_view expected, index_t rows, index_t cols);
[[noreturn]] ISIC_API void fail_strided_shape(std::string_view function, index_t rows, index_t cols, index_t stride);
[[noreturn]] ISIC_API void fail_inner_stride(index_t stride);

}  // namespace detail

/// A non-owning view of [rows x cols] values of T, row i at data() + i * stride(). T may be const.
///
/// Cheap to copy. Thread-safety: as the memory it refers to; views of distinct rows may be written concurrently.
///
/// \snippet snippets.cpp matrix
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
            detail::fail_strided_shape("matrix_span", rows, cols, stride);
        }
        detail::require<value_error>(data != nullptr || rows == 0 || cols == 0, "matrix_span", "memory",
                                     "a null pointer");
    }

    /// A mutable view is also a const one.
    operator matrix_span<const value_type>() const
        requires(!std::is_const_v<T>)
    {
        return {data_, rows_, cols_, stride_};
    }

    [[nodiscard]] T* data() const noexcept { return data_; }           ///< the first value of the first row
    [[nodiscard]] index_t rows() const noexcept { return rows_; }      ///< number of rows
    [[nodiscard]] index_t cols() const noexcept { return cols_; }      ///< values per row
    [[nodiscard]] index_t stride() const noexcept { return stride_; }  ///< values from one row to the next
    [[nodiscard]] bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }  ///< whether it has no values
    /// Row i; i is not checked.
    [[nodiscard]] std::span<T> row(index_t i) const noexcept {
        return {data_ + i * stride_, static_cast<std::size_t>(cols_)};
    }
    /// Value j of row i; neither is checked.
    [[nodiscard]] T& operator()(index_t i, index_t j) const noexcept { return data_[i * stride_ + j]; }

private:
    T* data_ = nullptr;
    index_t rows_ = 0;
    index_t cols_ = 0;
    index_t stride_ = 0;
};

/// A read-only view.
template <class T>
using matrix_view = matrix_span<const T>;

/// An owning, contiguous, row-major matrix, aligned to a cache line. A value: copies are deep.
///
/// Thread-safety: const members may run concurrently.
template <scalar T>
class matrix {
public:
    using value_type = T;  ///< what is stored

    matrix() = default;
    /// rows x cols copies of `value`. Errors: shape_error if a size is negative, or there are more values than index_t
    /// counts.
    matrix(index_t rows, index_t cols, T value = T(0))
        : rows_(rows), cols_(cols), values_(checked_size(rows, cols), value) {}

    [[nodiscard]] T* data() noexcept { return values_.data(); }              ///< the first value of the first row
    [[nodiscard]] const T* data() const noexcept { return values_.data(); }  ///< the same, read only
    [[nodiscard]] index_t rows() const noexcept { return rows_; }            ///< number of rows
    [[nodiscard]] index_t cols() const noexcept { return cols_; }  ///< values per row, and from one row to the next
    [[nodiscard]] bool empty() const noexcept { return values_.empty(); }            ///< whether it has no values
    [[nodiscard]] std::span<T> row(index_t i) { return span().row(i); }              ///< row i; i is not checked
    [[nodiscard]] std::span<const T> row(index_t i) const { return view().row(i); }  ///< the same, read only
    /// Value j of row i; neither is checked.
    [[nodiscard]] T& operator()(index_t i, index_t j) noexcept {
        return values_[static_cast<std::size_t>(i * cols_ + j)];
    }
    /// The same, read only.
    [[nodiscard]] const T& operator()(index_t i, index_t j) const noexcept {
        return values_[static_cast<std::size_t>(i * cols_ + j)];
    }
    operator matrix_span<T>() & { return span(); }                                  ///< a matrix is a view of itself
    operator matrix_view<T>() const { return view(); }                              ///< the same, read only
    [[nodiscard]] matrix_span<T> span() { return {values_.data(), rows_, cols_}; }  ///< a view of all of it
    [[nodiscard]] matrix_view<T> view() const { return {values_.data(), rows_, cols_}; }  ///< the same, read only

private:
    static std::size_t checked_size(index_t rows, index_t cols) {
        const bool fits = rows >= 0 && cols >= 0 && (cols == 0 || rows <= std::numeric_limits<index_t>::max() / cols);
        if (!fits) {
            detail::fail_shape("matrix", "sizes >= 0 whose product fits index_t", rows, cols);
        }
        return static_cast<std::size_t>(rows * cols);
    }

    index_t rows_ = 0;
    index_t cols_ = 0;
    detail::buffer<T> values_;
};

namespace detail {

/// A two-byte floating-point type with that many digits, of any library.
template <class T, int Digits>
concept sixteen_bits = sizeof(T) == 2 && !std::integral<T> && std::numeric_limits<T>::is_specialized &&
                       std::numeric_limits<T>::digits == Digits;

template <class T>
struct stored_scalar {};
template <scalar T>
struct stored_scalar<T> {
    using type = T;
};
template <class T>
    requires(!scalar<T> && sixteen_bits<T, 11>)
struct stored_scalar<T> {
    using type = half;
};
template <class T>
    requires(!scalar<T> && sixteen_bits<T, 8>)
struct stored_scalar<T> {
    using type = bfloat16;
};
// g++ before 13 has `_Float16` in C++ on x86 only, but defines the macro elsewhere too.
#if defined(__FLT16_MANT_DIG__) && !defined(__STDCPP_FLOAT16_T__) && \
    (defined(__clang__) || defined(__x86_64__) || __GNUC__ >= 13)
template <class T>
    requires(std::same_as<T, _Float16> && !sixteen_bits<T, 11>)
struct stored_scalar<T> {
    using type = half;
};
#endif

}  // namespace detail

/// The scalar with the layout of T: T itself, or `half` and `bfloat16` for the 16-bit types of other libraries
/// (`_Float16`, `std::float16_t`, `std::bfloat16_t`, `Eigen::half`, `Eigen::bfloat16`, `c10::Half`, `c10::BFloat16`).
template <class T>
using stored_scalar = typename detail::stored_scalar<std::remove_const_t<T>>::type;

/// A view [rows x cols] of values of T, which may be a 16-bit type of another library. Errors: as `matrix_span`.
template <class T, class S = stored_scalar<T>>
matrix_span<std::conditional_t<std::is_const_v<T>, const S, S>> as_span(T* data, index_t rows, index_t cols,
                                                                        index_t stride) {
    using stored = std::conditional_t<std::is_const_v<T>, const S, S>;
    return {reinterpret_cast<stored*>(data), rows, cols, stride};
}

namespace detail {

template <class M>
concept eigen_rows = requires(M& m) {
    typename std::remove_cvref_t<M>::Scalar;
    typename isic::stored_scalar<typename std::remove_cvref_t<M>::Scalar>;
    { m.outerStride() } -> std::convertible_to<index_t>;
    { m.innerStride() } -> std::convertible_to<index_t>;
    m.data();
} && static_cast<bool>(std::remove_cvref_t<M>::IsRowMajor);

}  // namespace detail

/// A view is its own span.
template <class T>
matrix_span<T> as_span(matrix_span<T> m) {
    return m;
}
/// The whole matrix.
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
    if (m.innerStride() != 1 && m.cols() > 1) {
        detail::fail_inner_stride(m.innerStride());
    }
    return as_span(m.data(), m.rows(), m.cols(), m.rows() > 1 ? m.outerStride() : m.cols());
}

template <class Byte>
struct any_matrix;

namespace detail {

template <class M>
constexpr bool is_any_matrix = false;
template <class Byte>
constexpr bool is_any_matrix<any_matrix<Byte>> = true;

}  // namespace detail

/// Anything isic reads as a matrix: `matrix`, views, row-major Eigen types, a type with its own `as_span`, or
/// `any_view`.
template <class M>
concept matrix_like = detail::is_any_matrix<std::remove_cvref_t<M>> ||
                      requires(M& m) { matrix_view<typename decltype(as_span(m))::value_type>(as_span(m)); };

/// Anything isic may edit in place.
template <class M>
concept mutable_matrix_like =
    std::same_as<std::remove_cvref_t<M>, any_matrix<std::byte>> ||
    (matrix_like<M> && requires(M& m) { matrix_span<typename decltype(as_span(m))::value_type>(as_span(m)); });

/// The dtype of a matrix.
template <matrix_like M>
using scalar_of = typename decltype(as_span(std::declval<M&>()))::value_type;

namespace detail {

template <matrix_like M>
matrix_view<scalar_of<M>> view_of(const M& m) {
    return as_span(const_cast<M&>(m));
}
template <class Byte>
any_matrix<const std::byte> view_of(const any_matrix<Byte>& m);

/// Throws value_error unless the type is f32, f64, f16 or bf16; checks the other arguments as `matrix_span` does.
ISIC_API void check_any_view(const void* data, dtype type, index_t rows, index_t cols, index_t stride);

}  // namespace detail

/// A non-owning view [rows x cols] whose element type is known at run time, for engines with a `dtype` field. Its type
/// is f32, f64, f16 or bf16; `Byte` is std::byte or const std::byte.
///
/// Cheap to copy. Thread-safety: as the memory it refers to.
///
/// \snippet snippets.cpp any_view
template <class Byte>
struct any_matrix {
    Byte* data = nullptr;     ///< the first value of the first row
    index_t rows = 0;         ///< number of rows
    index_t cols = 0;         ///< values per row
    index_t stride = 0;       ///< values from one row to the next
    dtype type = dtype::f64;  ///< f32, f64, f16 or bf16

    any_matrix() = default;
    /// Unchecked.
    any_matrix(Byte* d, index_t r, index_t c, index_t s, dtype t) : data(d), rows(r), cols(c), stride(s), type(t) {}
    /// r rows of c values, s values from one row to the next. Errors: value_error on a type other than f32, f64, f16
    /// and bf16, or on a null pointer; shape_error if a size is negative or s < c.
    any_matrix(std::conditional_t<std::is_const_v<Byte>, const void, void>* d, dtype t, index_t r, index_t c, index_t s)
        : data(static_cast<Byte*>(d)), rows(r), cols(c), stride(s), type(t) {
        detail::check_any_view(d, t, r, c, s);
    }
    /// A typed view.
    template <class T>
        requires(std::is_const_v<Byte> || !std::is_const_v<T>)
    any_matrix(matrix_span<T> m)
        : data(reinterpret_cast<Byte*>(m.data())),
          rows(m.rows()),
          cols(m.cols()),
          stride(m.stride()),
          type(detail::dtype_of<std::remove_const_t<T>>()) {}
    /// A mutable view is also a const one.
    operator any_matrix<const std::byte>() const noexcept
        requires(!std::is_const_v<Byte>)
    {
        return {data, rows, cols, stride, type};
    }

    [[nodiscard]] bool empty() const noexcept { return rows == 0 || cols == 0; }  ///< whether it has no values
    [[nodiscard]] index_t row_bytes() const noexcept {
        return cols * detail::size_of(type);
    }  ///< bytes of a row's values
    /// The bytes of row i; i is not checked.
    [[nodiscard]] std::span<Byte> row(index_t i) const noexcept {
        return {data + i * stride * detail::size_of(type), static_cast<std::size_t>(row_bytes())};
    }
    /// n rows from the first-th on; neither is checked.
    [[nodiscard]] any_matrix block(index_t first, index_t n) const noexcept {
        return {data + first * stride * detail::size_of(type), n, cols, stride, type};
    }
};

/// A read-only run-time-typed view.
using any_view = any_matrix<const std::byte>;
/// A mutable run-time-typed view.
using any_span = any_matrix<std::byte>;

/// A run-time-typed view is a view of itself.
template <class Byte>
any_matrix<Byte> as_span(any_matrix<Byte> m) {
    return m;
}

namespace detail {

template <class Byte>
any_view view_of(const any_matrix<Byte>& m) {
    return m;
}

/// The view of T that a run-time-typed view stands for; m.type is not checked.
template <class T, class Byte>
auto typed(any_matrix<Byte> m) {
    using value = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    return matrix_span<value>(reinterpret_cast<value*>(m.data), m.rows, m.cols, m.stride);
}

}  // namespace detail

/// f(view), view the matrix_span of the run-time type; returns the result of f.
template <class Byte, class F>
decltype(auto) visit(any_matrix<Byte> m, F&& f) {
    switch (m.type) {
        case dtype::f32: return f(detail::typed<float>(m));
        case dtype::f16: return f(detail::typed<half>(m));
        case dtype::bf16: return f(detail::typed<bfloat16>(m));
        default: return f(detail::typed<double>(m));
    }
}

namespace detail {

/// The fields of a DLTensor, whichever header declares it.
struct dlpack_fields {
    void* data;
    int device_type;
    int ndim;
    int type_code;
    int type_bits;
    int type_lanes;
    const std::int64_t* shape;
    const std::int64_t* strides;
    std::uint64_t byte_offset;
};

ISIC_API any_span span_of_dlpack(const dlpack_fields& t);

}  // namespace detail

/// The view of a two-dimensional DLTensor on the CPU (DLPack 0.6 to 1.x). Tensor is any struct with its fields.
///
/// The tensor keeps its memory, which must outlive the view. Errors: shape_error unless it has two dimensions and
/// adjacent columns; value_error on another device or element type.
template <class Tensor>
    requires requires(const Tensor& t) {
        t.device.device_type;
        t.dtype.code;
        t.dtype.lanes;
        t.byte_offset;
        t.strides;
        t.shape;
    }
[[nodiscard]] any_span span_of_dlpack(const Tensor& t) {
    return detail::span_of_dlpack(detail::dlpack_fields{
        t.data, static_cast<int>(t.device.device_type), static_cast<int>(t.ndim), static_cast<int>(t.dtype.code),
        static_cast<int>(t.dtype.bits), static_cast<int>(t.dtype.lanes), t.shape, t.strides, t.byte_offset});
}

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/matrix-inl.hpp>
#endif
