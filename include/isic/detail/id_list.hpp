// SPDX-License-Identifier: Apache-2.0
/// \file
/// Token ids of any integer type behind one type.
#pragma once

#include <iterator>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <isic/types.hpp>

namespace isic::inline ISIC_ABI {

namespace detail {

/// The value type of contiguous memory: `std::data` and `std::size` say where it is.
template <class R>
using contiguous_value = std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<const R&>()))>>;

}  // namespace detail

/// A contiguous range of token ids: vector, span, array.
template <class R>
concept token_ids = requires(const R& ids) {
    requires std::is_pointer_v<decltype(std::data(ids))>;
    { std::size(ids) } -> std::convertible_to<std::size_t>;
    requires token_id<detail::contiguous_value<R>>;
};

namespace detail {

/// Token ids of any integer type: a view of int32 and int64 ids, which must outlive it, and a copy of ids of other
/// types.
class id_list {
public:
    template <token_ids R>
    explicit id_list(const R& ids) : size_(std::size(ids)) {
        using id = contiguous_value<R>;
        if constexpr (std::same_as<id, std::int64_t>) {
            wide_ = std::data(ids);
        } else if constexpr (std::same_as<id, std::int32_t>) {
            narrow_ = std::data(ids);
        } else {
            copy_.assign(std::data(ids), std::data(ids) + size_);  // ids of 2^63 and more become negative
            wide_ = copy_.data();
            were_unsigned_ = std::is_unsigned_v<id>;
        }
    }
    id_list(const id_list&) = delete;
    id_list& operator=(const id_list&) = delete;

    index_t size() const noexcept { return static_cast<index_t>(size_); }
    const std::int32_t* narrow() const noexcept { return narrow_; }  ///< null: use `wide`
    const std::int64_t* wide() const noexcept { return wide_; }      ///< null: use `narrow`
    index_t operator[](index_t t) const noexcept {
        return wide_ != nullptr ? static_cast<index_t>(wide_[t]) : static_cast<index_t>(narrow_[t]);
    }
    /// Id t in decimal, unsigned if its type was.
    std::string text(index_t t) const {
        return were_unsigned_ ? std::to_string(static_cast<std::uint64_t>(wide_[t])) : std::to_string((*this)[t]);
    }

private:
    std::size_t size_;
    const std::int64_t* wide_ = nullptr;
    const std::int32_t* narrow_ = nullptr;
    std::vector<std::int64_t> copy_;
    bool were_unsigned_ = false;
};

}  // namespace detail
}  // namespace isic::inline ISIC_ABI
