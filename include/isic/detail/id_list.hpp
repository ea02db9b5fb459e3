/// \file
/// Token ids of any integer type, as the compiled part reads them.
#pragma once

#include <ranges>
#include <string>
#include <vector>

#include <isic/types.hpp>

namespace isic::inline ISIC_ABI {

/// A contiguous range of token ids: vector, span, array.
template <class R>
concept token_ids = std::ranges::contiguous_range<R> && std::ranges::sized_range<R> &&
                    token_id<std::remove_cv_t<std::ranges::range_value_t<R>>>;

namespace detail {

/// Token ids of any integer type. A view of int32 and int64 ids, which must outlive it; a copy of other types.
class id_list {
public:
    template <token_ids R>
    explicit id_list(const R& ids) : size_(std::ranges::size(ids)) {
        using id = std::remove_cv_t<std::ranges::range_value_t<R>>;
        if constexpr (std::same_as<id, std::int64_t>) {
            wide_ = std::ranges::data(ids);
        } else if constexpr (std::same_as<id, std::int32_t>) {
            narrow_ = std::ranges::data(ids);
        } else {
            copy_.assign(std::ranges::begin(ids), std::ranges::end(ids));  // ids of 2^63 and more become negative
            wide_ = copy_.data();
            were_unsigned_ = std::is_unsigned_v<id>;
        }
    }
    id_list(const id_list&) = delete;
    id_list& operator=(const id_list&) = delete;

    index_t size() const noexcept { return static_cast<index_t>(size_); }
    const std::int32_t* narrow() const noexcept { return narrow_; }  // null: the ids of `wide`
    const std::int64_t* wide() const noexcept { return wide_; }
    index_t operator[](index_t t) const noexcept {
        return wide_ != nullptr ? static_cast<index_t>(wide_[t]) : static_cast<index_t>(narrow_[t]);
    }
    /// Id t as the caller wrote it.
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
