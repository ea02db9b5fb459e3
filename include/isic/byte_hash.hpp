/// \file
/// A hash of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace isic::detail {

/// 64-bit FNV-1a over bytes, piece by piece.
class byte_hash {
public:
    void add(std::span<const std::byte> bytes) {
        for (const std::byte b : bytes) {
            value_ = (value_ ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3ULL;
        }
    }
    std::uint64_t value() const { return value_; }

private:
    std::uint64_t value_ = 0xcbf29ce484222325ULL;
};

}  // namespace isic::detail
