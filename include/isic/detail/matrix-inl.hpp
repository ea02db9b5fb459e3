// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE void fail_shape(std::string_view function, std::string_view expected, index_t rows, index_t cols) {
    fail<shape_error>(function, expected, fmt::format("{} x {}", rows, cols));
}

ISIC_INLINE void fail_strided_shape(std::string_view function, index_t rows, index_t cols, index_t stride) {
    fail<shape_error>(function, "rows >= 0, cols >= 0, stride >= cols",
                      fmt::format("{} x {} with stride {}", rows, cols, stride));
}

ISIC_INLINE void fail_inner_stride(index_t stride) {
    fail<shape_error>("as_span", "adjacent columns (inner stride 1)", fmt::format("inner stride {}", stride));
}

/// `check_any_view` for any function.
inline void check_view(std::string_view function, const void* data, dtype type, index_t rows, index_t cols,
                       index_t stride) {
    const bool known = type == dtype::f16 || type == dtype::bf16 || type == dtype::f32 || type == dtype::f64;
    require<value_error>(known, function, "dtype f16, bf16, f32 or f64", "another type");
    if (rows < 0 || cols < 0 || stride < cols) {
        fail_strided_shape(function, rows, cols, stride);
    }
    require<value_error>(data != nullptr || rows == 0 || cols == 0, function, "memory", "a null pointer");
}

ISIC_INLINE void check_any_view(const void* data, dtype type, index_t rows, index_t cols, index_t stride) {
    check_view("any_matrix", data, type, rows, cols, stride);
}

ISIC_INLINE any_span span_of_dlpack(const dlpack_fields& t) {
    constexpr std::string_view f = "span_of_dlpack";
    constexpr int cpu = 1, cuda_host = 3, rocm_host = 11;  // kDLCPU, kDLCUDAHost, kDLROCMHost
    constexpr int code_float = 2, code_bfloat = 4;         // kDLFloat, kDLBfloat
    require<value_error>(t.device_type == cpu || t.device_type == cuda_host || t.device_type == rocm_host, f,
                         "a tensor on the CPU", fmt::format("device type {}", t.device_type));
    require<shape_error>(t.ndim == 2, f, "two dimensions", fmt::format("{}", t.ndim));
    const bool is_float = t.type_code == code_float && (t.type_bits == 16 || t.type_bits == 32 || t.type_bits == 64);
    const bool is_bfloat = t.type_code == code_bfloat && t.type_bits == 16;
    require<value_error>((is_float || is_bfloat) && t.type_lanes == 1, f, "float16, bfloat16, float32 or float64",
                         fmt::format("type code {} of {} bits in {} lanes", t.type_code, t.type_bits, t.type_lanes));
    const dtype type = is_bfloat           ? dtype::bf16
                       : t.type_bits == 16 ? dtype::f16
                       : t.type_bits == 32 ? dtype::f32
                                           : dtype::f64;
    const auto cols = static_cast<index_t>(t.shape[1]);
    if (t.strides != nullptr && t.strides[1] != 1 && cols > 1) {
        fail<shape_error>(f, "adjacent columns (inner stride 1)", fmt::format("inner stride {}", t.strides[1]));
    }
    const index_t stride = t.strides == nullptr || t.shape[0] <= 1 ? cols : static_cast<index_t>(t.strides[0]);
    const auto rows = static_cast<index_t>(t.shape[0]);
    check_view(f, t.data, type, rows, cols, stride);
    return any_span(t.data == nullptr ? nullptr : static_cast<std::byte*>(t.data) + t.byte_offset, rows, cols, stride,
                    type);
}

}  // namespace isic::inline ISIC_ABI::detail
