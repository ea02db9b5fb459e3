// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/loop.hpp>

#include <isic/codebook.hpp>
#include <isic/detail/checks.hpp>

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

/// Rows of bytes: the first row, bytes from one row to the next, bytes per row, number of rows.
struct byte_rows {
    std::size_t pitch;
    std::size_t width;
    std::size_t rows;
};

template <class View>
byte_rows bytes_of(const View& m) {
    const auto value = static_cast<std::size_t>(isic::detail::size_of(m.type));
    return {static_cast<std::size_t>(m.stride) * value, static_cast<std::size_t>(m.cols) * value,
            static_cast<std::size_t>(m.rows)};
}

void require_same_shape(any_device_view device, any_span host) {
    constexpr std::string_view function = "self_improve";
    isic::detail::require_size(function, "rows in the device's codebook", host.rows, device.rows);
    isic::detail::require_size(function, "columns in the device's codebook", host.cols, device.cols);
    isic::detail::require<shape_error>(host.type == device.type, function, "one element type on host and device",
                                       "two");
}

}  // namespace

codebook_mirror::codebook_mirror(std::shared_ptr<state> s, any_device_view device, any_span host)
    : state_(std::move(s)), host_(host) {
    require_same_shape(device, host);
    const byte_rows to = bytes_of(host);
    copy_to_host(*state_, host.data, to.pitch, device.data, bytes_of(device).pitch, to.width, to.rows);
    sent_ = isic::detail::fingerprint(host);
}

void codebook_mirror::send(any_device_span device) {
    const std::uint64_t now = isic::detail::fingerprint(host_);
    if (now == sent_) {
        return;
    }
    require_same_shape(device, host_);
    const byte_rows from = bytes_of(host_);
    copy_to_device(*state_, device.data, bytes_of(device).pitch, host_.data, from.pitch, from.width, from.rows);
    sent_ = now;
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
