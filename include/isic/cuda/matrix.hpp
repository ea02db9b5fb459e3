/// \file
/// Row-major matrices on a device: views over the caller's pointers and one owning type. Nothing is copied silently.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ranges>
#include <span>
#include <utility>

#include <isic/cuda/backend.hpp>
#include <isic/cuda/layout.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// What a device matrix may hold: what a codebook may, token ids, and marks of rows.
template <class T>
concept device_value = scalar<T> || std::same_as<T, std::int32_t> || std::same_as<T, std::int64_t> || std::same_as<T, std::uint8_t>;

/// rows x cols values of T on a device, row i starting at data() + i * stride(); does not own them. T may be const.
///
/// The memory must be accessible to the backend's device. Its owner must order earlier work before the backend's stream, and
/// keep the memory until the stream has passed what was queued: with torch, use torch's stream, or Tensor.record_stream.
template <class T>
    requires device_value<std::remove_const_t<T>>
class device_span {
public:
    using value_type = std::remove_const_t<T>;  ///< T without const

    device_span() = default;
    /// Contiguous rows. Errors: as below.
    device_span(T* data, index_t rows, index_t cols) : device_span(data, rows, cols, cols) {}
    /// Errors: shape_error if a size is negative or stride < cols; value_error if data is null and the view not empty, or
    /// not aligned for T.
    device_span(T* data, index_t rows, index_t cols, index_t stride) : data_(data), rows_(rows), cols_(cols), stride_(stride) {
        if (rows < 0 || cols < 0 || stride < cols) {
            detail::fail<shape_error>("device_span", "rows >= 0, cols >= 0, stride >= cols",
                                      fmt::format("{} x {} with stride {}", rows, cols, stride));
        }
        detail::require<value_error>(data != nullptr || empty(), "device_span", "device memory", "a null pointer");
        detail::require<value_error>(reinterpret_cast<std::uintptr_t>(data) % sizeof(T) == 0, "device_span", "memory aligned for its values",
                                     "a pointer between two of them");
    }

    /// A mutable view is also a const one.
    operator device_span<const value_type>() const
        requires(!std::is_const_v<T>)
    {
        return {data_, rows_, cols_, stride_};
    }

    T* data() const { return data_; }                          ///< a device pointer
    index_t rows() const { return rows_; }                     ///< number of rows
    index_t cols() const { return cols_; }                     ///< values per row
    index_t stride() const { return stride_; }                 ///< values from one row to the next
    bool empty() const { return rows_ == 0 || cols_ == 0; }    ///< no value at all

private:
    T* data_ = nullptr;
    index_t rows_ = 0;
    index_t cols_ = 0;
    index_t stride_ = 0;
};

/// A view that cannot write.
template <class T>
using device_view = device_span<const T>;

namespace cuda {

/// Bytes on a device, freed in the order of the backend's stream; keeps the backend's handles alive.
class buffer {
public:
    buffer() = default;
    /// Not initialised. Errors: cuda_error (out_of_memory).
    buffer(std::shared_ptr<state> owner, std::size_t bytes);
    buffer(buffer&& other) noexcept
        : owner_(std::move(other.owner_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    buffer& operator=(buffer&& other) noexcept {
        std::swap(owner_, other.owner_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~buffer();

    void* data() const noexcept { return data_; }         ///< a device pointer; null if empty
    std::size_t size() const noexcept { return size_; }   ///< bytes

private:
    std::shared_ptr<state> owner_;
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

/// Copies rows of bytes between host and device or on the device, in stream order. Errors: cuda_error.
void copy_to_device(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width, std::size_t rows);
/// The same, to the host; waits.
void copy_to_host(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width, std::size_t rows);
/// The same, on the device.
void copy_on_device(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width, std::size_t rows);

/// How a scalar is stored.
template <scalar T>
constexpr storage storage_of() {
    if constexpr (std::same_as<T, float>) {
        return dtype::f32;
    } else if constexpr (std::same_as<T, double>) {
        return dtype::f64;
    } else if constexpr (std::same_as<T, Eigen::half>) {
        return dtype::f16;
    } else {
        return dtype::bf16;
    }
}

/// A view without its type.
template <scalar T>
rows_in rows_of(device_view<T> m) {
    return {m.data(), storage_of<T>(), m.rows(), m.cols(), m.stride()};
}

/// A view without its type, to write.
template <scalar T>
rows_out writable(device_span<T> m) {
    return {m.data(), storage_of<T>(), m.rows(), m.cols(), m.stride()};
}

/// Token ids without their type. Errors: shape_error if the rows are not contiguous.
template <class Id>
    requires std::same_as<Id, std::int32_t> || std::same_as<Id, std::int64_t>
ids_in flat_ids(std::string_view function, device_view<Id> ids) {
    isic::detail::require<shape_error>(ids.stride() == ids.cols() || ids.rows() <= 1, function, "contiguous token ids",
                                       fmt::format("rows of {} with stride {}", ids.cols(), ids.stride()));
    return {ids.data(), sizeof(Id) == sizeof(std::int64_t), ids.rows() * ids.cols()};
}

}  // namespace cuda

/// What a device function reads as a matrix: a view or an owning matrix.
template <class M>
concept device_matrix_like = requires(const M& m) {
    typename M::value_type;
    device_view<typename M::value_type>(m);
};

/// What a device function may write.
template <class M>
concept mutable_device_matrix_like = requires(M& m) {
    typename std::remove_cvref_t<M>::value_type;
    device_span<typename std::remove_cvref_t<M>::value_type>(m);
};

namespace cuda {

/// Throws value_error if two views share memory; only addresses are looked at.
template <scalar A, scalar B>
void require_apart(std::string_view function, device_view<A> a, device_view<B> b) {
    isic::detail::require_apart(function, matrix_view<A>(a.data(), a.rows(), a.cols(), a.stride()),
                                matrix_view<B>(b.data(), b.rows(), b.cols(), b.stride()));
}

}  // namespace cuda

/// An owning, contiguous, row-major matrix on a device. Its memory is freed in the order of the backend's stream.
template <device_value T>
class device_matrix {
public:
    using value_type = T;  ///< what is stored

    device_matrix() = default;
    /// rows x cols values, not initialised. Errors: shape_error if a size is negative, cuda_error (out_of_memory).
    device_matrix(const cuda_backend& gpu, index_t rows, index_t cols)
        : span_(nullptr, 0, 0), memory_(gpu.shared_state(), bytes(rows, cols)) {
        span_ = {static_cast<T*>(memory_.data()), rows, cols};
    }
    device_matrix(device_matrix&& other) noexcept : span_(std::exchange(other.span_, {})), memory_(std::move(other.memory_)) {}
    device_matrix& operator=(device_matrix&& other) noexcept {
        std::swap(span_, other.span_);
        std::swap(memory_, other.memory_);
        return *this;
    }

    T* data() { return span_.data(); }                          ///< a device pointer
    const T* data() const { return span_.data(); }              ///< the same, read only
    index_t rows() const { return span_.rows(); }               ///< number of rows
    index_t cols() const { return span_.cols(); }               ///< values per row, and from one row to the next
    bool empty() const { return span_.empty(); }                ///< no value at all
    operator device_span<T>() & { return span_; }               ///< a matrix is a view of itself
    operator device_view<T>() const { return span_; }           ///< the same, read only
    device_span<T> span() { return span_; }                     ///< a view of all of it
    device_view<T> view() const { return span_; }               ///< the same, read only

private:
    static std::size_t bytes(index_t rows, index_t cols) {
        if (rows < 0 || cols < 0) {
            detail::fail<shape_error>("device_matrix", "sizes >= 0", fmt::format("{} x {}", rows, cols));
        }
        return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * sizeof(T);
    }

    device_span<T> span_;
    cuda::buffer memory_;
};

/// Copies a matrix to the device. The host memory may be reused when it returns. Errors: cuda_error.
template <matrix_like M>
device_matrix<scalar_of<M>> upload(const cuda_backend& gpu, const M& host) {
    const auto from = detail::view_of(host);
    using T = scalar_of<M>;
    device_matrix<T> out(gpu, from.rows(), from.cols());
    const auto size = [](index_t n) { return static_cast<std::size_t>(n) * sizeof(T); };
    cuda::copy_to_device(*gpu.shared_state(), out.data(), size(out.cols()), from.data(), size(from.stride()), size(from.cols()),
                         static_cast<std::size_t>(from.rows()));
    return out;
}

/// Copies token ids to the device, as [rows x n / rows]. Errors: shape_error unless rows divides n; cuda_error.
template <token_ids R>
    requires device_value<std::remove_cv_t<std::ranges::range_value_t<R>>>
auto upload_ids(const cuda_backend& gpu, const R& ids, index_t rows = 1) {
    const std::span all(std::ranges::data(ids), std::ranges::size(ids));
    using Id = std::remove_cv_t<std::ranges::range_value_t<R>>;
    const auto n = static_cast<index_t>(all.size());
    if (rows < 1 || n % rows != 0) {
        detail::fail<shape_error>("upload_ids", "ids in equal rows", fmt::format("{} ids in {} rows", n, rows));
    }
    device_matrix<Id> out(gpu, rows, n / rows);
    cuda::copy_to_device(*gpu.shared_state(), out.data(), all.size_bytes(), all.data(), all.size_bytes(), all.size_bytes(), 1);
    return out;
}

/// Copies marks, one per row, to the device, as [1 x n]. Errors: cuda_error.
inline device_matrix<std::uint8_t> upload_marks(const cuda_backend& gpu, std::span<const std::uint8_t> marks) {
    device_matrix<std::uint8_t> out(gpu, 1, static_cast<index_t>(marks.size()));
    cuda::copy_to_device(*gpu.shared_state(), out.data(), marks.size(), marks.data(), marks.size(), marks.size(), 1);
    return out;
}

/// Copies a device matrix into host memory of the same shape; waits. Errors: shape_error, cuda_error.
template <device_value T>
void download(const cuda_backend& gpu, device_view<T> from, T* to, index_t stride) {
    const auto size = [](index_t n) { return static_cast<std::size_t>(n) * sizeof(T); };
    if (stride < from.cols()) {
        detail::fail<shape_error>("download", fmt::format("a stride of at least {}", from.cols()), fmt::format("{}", stride));
    }
    cuda::copy_to_host(*gpu.shared_state(), to, size(stride), from.data(), size(from.stride()), size(from.cols()),
                       static_cast<std::size_t>(from.rows()));
}

/// Copies a device matrix to the host; waits. Errors: cuda_error, also of earlier asynchronous work.
template <scalar T>
matrix<T> download(const cuda_backend& gpu, device_view<T> from) {
    matrix<T> out(from.rows(), from.cols());
    download<T>(gpu, from, out.data(), out.cols());
    return out;
}
/// The same.
template <scalar T>
matrix<T> download(const cuda_backend& gpu, const device_matrix<T>& from) {
    return download<T>(gpu, from.view());
}
/// The same, for a mutable view.
template <scalar T>
matrix<T> download(const cuda_backend& gpu, device_span<T> from) {
    return download<T>(gpu, device_view<T>(from));
}

}  // namespace isic::inline ISIC_ABI
