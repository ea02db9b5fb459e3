// SPDX-License-Identifier: Apache-2.0
#include "checks.hpp"

#include <fmt/format.h>

#include <isic/detail/checks.hpp>

namespace isic::inline ISIC_ABI::cuda::detail {

scratch<check_flags> make_check_flags(const std::shared_ptr<state>& s) {
    constexpr check_flags unset{no_offender, no_offender, no_offender, 0};
    return to_device<check_flags>(s, {&unset, 1});
}

check_flags read_check_flags(state& s, const scratch<check_flags>& flags) {
    return to_host(s, flags.data(), 1).front();
}

void require_width(std::string_view function, index_t width) {
    if (width > widest_row) {
        isic::detail::fail<value_error>(function, fmt::format("a width of at most {} on a device", widest_row),
                                        fmt::format("{}", width));
    }
}

bool require_finite_rows(const std::shared_ptr<state>& s, any_device_view m, const std::uint8_t* skip,
                         std::string_view function, std::string_view name) {
    if (m.rows == 0 || m.cols == 0) {
        return false;
    }
    const device_guard guard(s->device());
    const scratch<check_flags> flags = make_check_flags(s);
    check(check_finite(m, skip, flags.data(), s->stream()), function, "check_finite");
    const check_flags f = read_check_flags(*s, flags);
    if (f.not_finite != no_offender) {
        const auto width = static_cast<std::uint64_t>(m.cols);
        isic::detail::fail<numeric_error>(
            function, fmt::format("finite values in {}", name),
            fmt::format("NaN or infinity at row {}, column {}", f.not_finite / width, f.not_finite % width));
    }
    return f.any != 0;
}

void require_ids_inside(const std::shared_ptr<state>& s, device_ids ids, index_t codes, std::string_view function) {
    if (ids.size == 0) {
        return;
    }
    const device_guard guard(s->device());
    const scratch<check_flags> flags = make_check_flags(s);
    check(check_ids(ids, codes, flags.data(), s->stream()), function, "check_ids");
    const check_flags f = read_check_flags(*s, flags);
    isic::detail::require<value_error>(f.bad_id == no_offender, function, fmt::format("token ids in [0, {})", codes),
                                       fmt::format("another at position {}", f.bad_id));
}

std::uint64_t hash_of(const std::shared_ptr<state>& s, any_device_view m) {
    const device_guard guard(s->device());
    const scratch<unsigned long long> hash(s, 1);
    fill_bytes(*s, hash.data(), 0, hash.bytes());
    check(hash_rows(m, hash.data(), s->stream()), "device_edit", "hash_rows");
    return to_host(*s, hash.data(), 1).front();
}

scratch<std::uint8_t> padding_mask_of(const std::shared_ptr<state>& s, std::span<const index_t> padding, index_t codes,
                                      std::string_view function) {
    if (padding.empty()) {
        return {};
    }
    const std::vector<bool> mask = isic::detail::padding_mask(function, padding, codes);
    const std::vector<std::uint8_t> bytes(mask.begin(), mask.end());
    return to_device<std::uint8_t>(s, bytes);
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
