// SPDX-License-Identifier: Apache-2.0
/// \file
/// XXH3 for fingerprints and checksums; its values are the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#define XXH_INLINE_ALL
// g++ 12 sees uninitialised values in its AVX-512 headers; the hash is the same for every width.
#if defined(__AVX512F__) && !defined(XXH_VECTOR)
#define XXH_VECTOR 2  // XXH_AVX2
#endif
#include <xxhash.h>

namespace isic::inline ISIC_ABI::detail {

/// Streaming 64-bit XXH3.
class byte_hash {
public:
    byte_hash() { XXH3_64bits_reset(&state_); }
    void add(std::span<const std::byte> bytes) { XXH3_64bits_update(&state_, bytes.data(), bytes.size()); }
    std::uint64_t value() const { return XXH3_64bits_digest(&state_); }

private:
    XXH3_state_t state_;
};

}  // namespace isic::inline ISIC_ABI::detail
