// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/matrix.hpp>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

/// A host view of the same address, shape and type. Never dereferenced.
any_view address_of(any_device_view m) {
    return {static_cast<const std::byte*>(m.data), m.rows, m.cols, m.stride, m.type};
}

}  // namespace

void fail_unaligned() {
    isic::detail::fail<value_error>("device_span", "memory aligned for its element type", "an unaligned pointer");
}

void fail_id_rows(index_t ids, index_t rows) {
    isic::detail::fail<shape_error>("upload_ids", "ids in rows of equal length",
                                    fmt::format("{} ids in {} rows", ids, rows));
}

void fail_download_stride(index_t cols, index_t stride) {
    isic::detail::fail<shape_error>("download", fmt::format("a stride of at least {}", cols),
                                    fmt::format("{}", stride));
}

void require_contiguous_ids(std::string_view function, index_t rows, index_t cols, index_t stride) {
    isic::detail::require<shape_error>(stride == cols || rows <= 1, function, "contiguous token ids",
                                       fmt::format("rows of {} with stride {}", cols, stride));
}

void require_apart(std::string_view function, any_device_view a, any_device_view b) {
    isic::detail::require_apart(function, address_of(a), address_of(b));
}

void require_not_empty(std::string_view function, std::string_view name, any_device_view m) {
    isic::detail::require_not_empty(function, name, address_of(m));
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
