// SPDX-License-Identifier: Apache-2.0
/// \file
/// Row-major matrices on a device: views of the caller's memory and one owning type. Copies are explicit: `upload`, `download`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ranges>
#include <span>
#include <string_view>
#include <utility>

#include <isic/cuda/backend.hpp>
#include <isic/detail/id_list.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// A read-only view [rows x cols] of device memory whose element type is known at run time: the device twin of `any_view`.
///
/// An aggregate, so that kernels take it by value.
struct any_device_view {
    const void* data = nullptr;  ///< device pointer to the first value
    dtype type = dtype::f64;     ///< f32, f64, f16 or bf16
    index_t rows = 0;            ///< number of rows
    index_t cols = 0;            ///< values per row
    index_t stride = 0;          ///< values from one row to the next
};

/// A view that can write: the device twin of `any_span`.
struct any_device_span {
    void* data = nullptr;     ///< device pointer to the first value
    dtype type = dtype::f64;  ///< f32, f64, f16 or bf16
    index_t rows = 0;         ///< number of rows
    index_t cols = 0;         ///< values per row
    index_t stride = 0;       ///< values from one row to the next

    /// A mutable view is also a const one.
    operator any_device_view() const noexcept { return {data, type, rows, cols, stride}; }
};

static_assert(sizeof(half) == 2 && alignof(half) == 2 && sizeof(bfloat16) == 2 && alignof(bfloat16) == 2,
              "kernels read 16-bit values as two bytes");
static_assert(sizeof(any_device_view) == 5 * sizeof(void*) && alignof(any_device_view) == alignof(void*) &&
                  sizeof(any_device_span) == sizeof(any_device_view) && sizeof(index_t) == 8,
              "host and device compilers lay views out alike");

/// Element types of device matrices: scalars, token ids, row marks.
template <class T>
concept device_value =
    scalar<T> || std::same_as<T, std::int32_t> || std::same_as<T, std::int64_t> || std::same_as<T, std::uint8_t>;

namespace cuda::detail {

[[noreturn]] void fail_unaligned();
[[noreturn]] void fail_id_rows(index_t ids, index_t rows);
[[noreturn]] void fail_download_stride(index_t cols, index_t stride);

}  // namespace cuda::detail

/// rows x cols values of T on a device, row i starting at data() + i * stride(); does not own them. T may be const.
///
/// The memory must be accessible to the backend's device. The caller orders earlier work before the backend's stream, and keeps the
/// memory until the queued work is done: with torch, use torch's stream, or Tensor.record_stream. Thread-safe, as it reads no
/// memory.
template <class T>
    requires device_value<std::remove_const_t<T>>
class device_span {
public:
    using value_type = std::remove_const_t<T>;  ///< T without const

    device_span() = default;
    /// Contiguous rows. Errors: as below.
    device_span(T* data, index_t rows, index_t cols) : device_span(data, rows, cols, cols) {}
    /// Errors: shape_error if a size is negative or stride < cols; value_error if data is not aligned for T, or is null in a view
    /// that is not empty.
    device_span(T* data, index_t rows, index_t cols, index_t stride)
        : data_(data), rows_(rows), cols_(cols), stride_(stride) {
        if (rows < 0 || cols < 0 || stride < cols) {
            detail::fail_strided_shape("device_span", rows, cols, stride);
        }
        detail::require<value_error>(data != nullptr || empty(), "device_span", "device memory", "a null pointer");
        if (reinterpret_cast<std::uintptr_t>(data) % sizeof(T) != 0) {
            cuda::detail::fail_unaligned();
        }
    }

    /// A mutable view is also a const one.
    operator device_span<const value_type>() const
        requires(!std::is_const_v<T>)
    {
        return {data_, rows_, cols_, stride_};
    }
    /// The run-time-typed view.
    operator any_device_view() const noexcept
        requires scalar<value_type>
    {
        return {data_, detail::dtype_of<value_type>(), rows_, cols_, stride_};
    }
    /// The run-time-typed view that can write.
    operator any_device_span() const noexcept
        requires(scalar<value_type> && !std::is_const_v<T>)
    {
        return {data_, detail::dtype_of<value_type>(), rows_, cols_, stride_};
    }

    [[nodiscard]] T* data() const noexcept { return data_; }                        ///< a device pointer
    [[nodiscard]] index_t rows() const noexcept { return rows_; }                   ///< number of rows
    [[nodiscard]] index_t cols() const noexcept { return cols_; }                   ///< values per row
    [[nodiscard]] index_t stride() const noexcept { return stride_; }               ///< values from one row to the next
    [[nodiscard]] bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }  ///< whether it has no values

private:
    T* data_ = nullptr;
    index_t rows_ = 0;
    index_t cols_ = 0;
    index_t stride_ = 0;
};

/// A view that cannot write.
template <class T>
using device_view = device_span<const T>;

/// Anything a device function reads as a matrix: a view or an owning matrix.
template <class M>
concept device_matrix_like = requires(const M& m) {
    typename M::value_type;
    device_view<typename M::value_type>(m);
};

/// Anything a device function may write.
template <class M>
concept mutable_device_matrix_like = requires(M& m) {
    typename std::remove_cvref_t<M>::value_type;
    device_span<typename std::remove_cvref_t<M>::value_type>(m);
};

namespace cuda::detail {

/// Device memory, freed in stream order; shares the backend's state. Not thread-safe.
class buffer {
public:
    buffer() = default;
    /// Not initialised. Errors: cuda_error (out_of_memory).
    buffer(std::shared_ptr<state> owner, std::size_t bytes);
    buffer(buffer&& other) noexcept
        : owner_(std::move(other.owner_)),
          data_(std::exchange(other.data_, nullptr)),
          size_(std::exchange(other.size_, 0)) {}
    buffer& operator=(buffer&& other) noexcept {
        std::swap(owner_, other.owner_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~buffer();

    [[nodiscard]] void* data() const noexcept { return data_; }        ///< a device pointer; null if empty
    [[nodiscard]] std::size_t size() const noexcept { return size_; }  ///< bytes

private:
    std::shared_ptr<state> owner_;
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

/// Copies `rows` rows of `width` bytes from host to device in stream order; the host memory may be reused on return. Errors:
/// cuda_error.
void copy_to_device(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                    std::size_t width, std::size_t rows);
/// The same, from device to host. Waits.
void copy_to_host(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                  std::size_t rows);
/// The same, from device to device. Asynchronous.
void copy_on_device(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                    std::size_t width, std::size_t rows);

/// Contiguous token ids on a device.
struct device_ids {
    const void* data;  ///< a device pointer
    bool wide;         ///< int64, otherwise int32
    index_t size;      ///< number of ids
};

/// The run-time-typed view of a matrix.
template <device_matrix_like M>
any_device_view view_of(const M& m) {
    return device_view<typename M::value_type>(m);
}

/// The run-time-typed view of a matrix, to write.
template <mutable_device_matrix_like M>
any_device_span span_of(M& m) {
    return device_span<typename std::remove_cvref_t<M>::value_type>(m);
}

/// Throws shape_error unless ids lie without gaps.
void require_contiguous_ids(std::string_view function, index_t rows, index_t cols, index_t stride);

/// The token ids of a matrix, row by row. Errors: shape_error unless its rows are contiguous.
template <device_matrix_like M>
    requires std::same_as<typename M::value_type, std::int32_t> || std::same_as<typename M::value_type, std::int64_t>
device_ids ids_of(std::string_view function, const M& m) {
    const device_view<typename M::value_type> ids = m;
    require_contiguous_ids(function, ids.rows(), ids.cols(), ids.stride());
    return {ids.data(), sizeof(typename M::value_type) == sizeof(std::int64_t), ids.rows() * ids.cols()};
}

/// Throws shape_error unless the view has rows and columns.
void require_not_empty(std::string_view function, std::string_view name, any_device_view m);

/// Throws value_error if two views share memory. Reads addresses only.
void require_apart(std::string_view function, any_device_view a, any_device_view b);

}  // namespace cuda::detail

/// An owning, contiguous, row-major matrix on a device, freed in stream order. Movable. Not thread-safe.
template <device_value T>
class device_matrix {
public:
    using value_type = T;  ///< element type

    device_matrix() = default;
    /// rows x cols values, not initialised. Errors: shape_error if a size is negative; cuda_error (out_of_memory).
    device_matrix(const cuda_backend& gpu, index_t rows, index_t cols)
        : memory_(gpu.shared_state(), bytes(rows, cols)) {
        span_ = {static_cast<T*>(memory_.data()), rows, cols};
    }
    /// Leaves the other one empty.
    device_matrix(device_matrix&& other) noexcept
        : span_(std::exchange(other.span_, {})), memory_(std::move(other.memory_)) {}
    /// Exchanges the memory of both.
    device_matrix& operator=(device_matrix&& other) noexcept {
        std::swap(span_, other.span_);
        std::swap(memory_, other.memory_);
        return *this;
    }

    [[nodiscard]] T* data() noexcept { return span_.data(); }              ///< a device pointer
    [[nodiscard]] const T* data() const noexcept { return span_.data(); }  ///< the same, read only
    [[nodiscard]] index_t rows() const noexcept { return span_.rows(); }   ///< number of rows
    [[nodiscard]] index_t cols() const noexcept {
        return span_.cols();
    }  ///< values per row, and from one row to the next
    [[nodiscard]] bool empty() const noexcept { return span_.empty(); }  ///< whether it has no values
    operator device_span<T>() & { return span_; }                        ///< a matrix is a view of itself
    operator device_view<T>() const { return span_; }                    ///< the same, read only
    [[nodiscard]] device_span<T> span() noexcept { return span_; }       ///< a view of the whole matrix
    [[nodiscard]] device_view<T> view() const { return span_; }          ///< the same, read only

private:
    static std::size_t bytes(index_t rows, index_t cols) {
        if (rows < 0 || cols < 0) {
            detail::fail_shape("device_matrix", "sizes >= 0", rows, cols);
        }
        return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * sizeof(T);
    }

    device_span<T> span_;
    cuda::detail::buffer memory_;
};

/// Copies a matrix to the device. The host memory may be reused on return. Errors: cuda_error.
template <matrix_like M>
[[nodiscard]] device_matrix<scalar_of<M>> upload(const cuda_backend& gpu, const M& host) {
    const auto from = detail::view_of(host);
    using T = scalar_of<M>;
    device_matrix<T> out(gpu, from.rows(), from.cols());
    const auto size = [](index_t n) { return static_cast<std::size_t>(n) * sizeof(T); };
    cuda::detail::copy_to_device(*gpu.shared_state(), out.data(), size(out.cols()), from.data(), size(from.stride()),
                                 size(from.cols()), static_cast<std::size_t>(from.rows()));
    return out;
}

/// Copies n token ids to the device, as [rows x n / rows]. Errors: shape_error unless rows divides n; cuda_error.
template <token_ids R>
    requires device_value<std::remove_cv_t<std::ranges::range_value_t<R>>>
[[nodiscard]] auto upload_ids(const cuda_backend& gpu, const R& ids, index_t rows = 1) {
    const std::span all(std::ranges::data(ids), std::ranges::size(ids));
    using Id = std::remove_cv_t<std::ranges::range_value_t<R>>;
    const auto n = static_cast<index_t>(all.size());
    if (rows < 1 || n % rows != 0) {
        cuda::detail::fail_id_rows(n, rows);
    }
    device_matrix<Id> out(gpu, rows, n / rows);
    cuda::detail::copy_to_device(*gpu.shared_state(), out.data(), all.size_bytes(), all.data(), all.size_bytes(),
                                 all.size_bytes(), 1);
    return out;
}

/// Copies row marks to the device, as [1 x n]. Errors: cuda_error.
[[nodiscard]] inline device_matrix<std::uint8_t> upload_marks(const cuda_backend& gpu,
                                                              std::span<const std::uint8_t> marks) {
    device_matrix<std::uint8_t> out(gpu, 1, static_cast<index_t>(marks.size()));
    cuda::detail::copy_to_device(*gpu.shared_state(), out.data(), marks.size(), marks.data(), marks.size(),
                                 marks.size(), 1);
    return out;
}

/// Copies a device matrix into host memory of the same shape, `stride` values from one row to the next. Waits. Errors: shape_error,
/// cuda_error.
template <device_value T>
void download(const cuda_backend& gpu, device_view<T> from, T* to, index_t stride) {
    const auto size = [](index_t n) { return static_cast<std::size_t>(n) * sizeof(T); };
    if (stride < from.cols()) {
        cuda::detail::fail_download_stride(from.cols(), stride);
    }
    cuda::detail::copy_to_host(*gpu.shared_state(), to, size(stride), from.data(), size(from.stride()),
                               size(from.cols()), static_cast<std::size_t>(from.rows()));
}

/// Copies a device matrix to the host. Waits. Errors: cuda_error, also of earlier asynchronous work.
template <scalar T>
[[nodiscard]] matrix<T> download(const cuda_backend& gpu, device_view<T> from) {
    matrix<T> out(from.rows(), from.cols());
    download<T>(gpu, from, out.data(), out.cols());
    return out;
}
/// The same.
template <scalar T>
[[nodiscard]] matrix<T> download(const cuda_backend& gpu, const device_matrix<T>& from) {
    return download<T>(gpu, from.view());
}
/// The same, for a mutable view.
template <scalar T>
[[nodiscard]] matrix<T> download(const cuda_backend& gpu, device_span<T> from) {
    return download<T>(gpu, device_view<T>(from));
}

}  // namespace isic::inline ISIC_ABI
