#include <isic/cuda/matrix.hpp>

#include "look.hpp"

namespace isic::inline ISIC_ABI::cuda {

scratch<findings> nothing(const std::shared_ptr<state>& s) {
    constexpr findings clean{nothing_found, nothing_found, nothing_found, 0};
    return to_device<findings>(s, {&clean, 1});
}

findings found_by(state& s, const scratch<findings>& found) {
    return to_host(s, found.data(), 1).front();
}

bool require_finite_rows(const std::shared_ptr<state>& s, rows_in m, const std::uint8_t* skip, std::string_view function, std::string_view name) {
    if (m.rows == 0 || m.cols == 0) {
        return false;
    }
    const on_device guard(s->device());
    const scratch<findings> found = nothing(s);
    check(look_at_rows(m, skip, found.data(), s->stream()), function, "look_at_rows");
    const findings f = found_by(*s, found);
    if (f.not_finite != nothing_found) {
        const auto width = static_cast<std::uint64_t>(m.cols);
        isic::detail::fail<numeric_error>(function, fmt::format("finite values in {}", name),
                                          fmt::format("NaN or infinity at row {}, column {}", f.not_finite / width, f.not_finite % width));
    }
    return f.any != 0;
}

void require_ids_inside(const std::shared_ptr<state>& s, ids_in ids, index_t codes, std::string_view function) {
    if (ids.size == 0) {
        return;
    }
    const on_device guard(s->device());
    const scratch<findings> found = nothing(s);
    check(look_at_ids(ids, codes, found.data(), s->stream()), function, "look_at_ids");
    const findings f = found_by(*s, found);
    isic::detail::require<value_error>(f.bad_id == nothing_found, function, fmt::format("token ids in [0, {})", codes),
                                       fmt::format("another at position {}", f.bad_id));
}

std::uint64_t hash_of(const std::shared_ptr<state>& s, rows_in m) {
    const on_device guard(s->device());
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

}  // namespace isic::inline ISIC_ABI::cuda
