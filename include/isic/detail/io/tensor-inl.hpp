// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/io/tensor.hpp>

#include <fmt/format.h>

#include <isic/error.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

ISIC_INLINE const dtype_entry& entry_of(dtype type) {
    for (const dtype_entry& entry : dtypes) {
        if (entry.type == type) {
            return entry;
        }
    }
    throw value_error(fmt::format("isic::dtype: expected a member of the enumeration, got {}", static_cast<int>(type)));
}

ISIC_INLINE index_t element_count(const std::vector<index_t>& shape) {
    index_t count = 1;
    bool empty = false;
    for (const index_t n : shape) {
        if (n < 0 || (n > 0 && count > std::numeric_limits<index_t>::max() / n)) {
            return -1;
        }
        empty = empty || n == 0;
        count *= n == 0 ? 1 : n;
    }
    return empty ? 0 : count;
}

ISIC_INLINE index_t byte_count(const std::vector<index_t>& shape, dtype type) {
    const index_t count = element_count(shape), bits = entry_of(type).bits;
    return count < 0 || count > std::numeric_limits<index_t>::max() / bits || count * bits % 8 != 0 ? -1
                                                                                                    : count * bits / 8;
}

}  // namespace detail

ISIC_INLINE index_t tensor::size() const {
    const index_t count = detail::element_count(shape);
    if (count < 0) {
        throw value_error(
            fmt::format("isic::tensor::size: expected sizes whose product fits, got [{}]", fmt::join(shape, ", ")));
    }
    return count;
}

ISIC_INLINE void tensor::require_count(const std::vector<index_t>& shape, std::size_t values) {
    const index_t count = detail::element_count(shape);
    if (count != static_cast<index_t>(values)) {
        throw value_error(fmt::format("isic::tensor::of: expected {} values for shape [{}], got {}", count,
                                      fmt::join(shape, ", "), values));
    }
}

ISIC_INLINE void tensor::require_bytes() const {
    const index_t expected = detail::byte_count(shape, type);
    if (static_cast<index_t>(bytes.size()) != expected) {
        throw value_error(fmt::format("isic::tensor::values: expected {} bytes for {} [{}], got {}", expected,
                                      detail::entry_of(type).safetensors, fmt::join(shape, ", "), bytes.size()));
    }
}

ISIC_INLINE void tensor::fail_type() const {
    throw value_error(fmt::format("isic::tensor::values: expected a type that isic computes with, got {}",
                                  detail::entry_of(type).safetensors));
}

ISIC_INLINE void tensor::fail_integer(const std::string& most, const std::string& got) {
    throw value_error(fmt::format("isic::tensor::values: expected integers up to {}, got {}", most, got));
}

ISIC_INLINE void tensor::fail_floating() {
    throw value_error("isic::tensor::values: expected stored integers, got a floating type");
}

}  // namespace isic::inline ISIC_ABI
