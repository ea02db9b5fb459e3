/// \file
/// The record of what was done to a codebook: undoes it bit for bit, applies it again, refuses another codebook.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <isic/codebook.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// What an edit did, in numbers.
struct edit_summary {
    index_t moved = 0;             ///< rows whose stored bytes changed
    index_t near_zero = 0;          ///< rows of which less than the threshold was left, handled by the policy
    double relative_change = 0;    ///< ||C - C_before||_F / ||C_before||_F
    leakage_report before = {};    ///< leakage of all rows before; zero for a full remap
    leakage_report after = {};     ///< leakage of all rows as stored, after rounding
};

namespace detail {

/// Leaves what a vector's resize() adds as it is: the first to write it may be another thread.
template <class T>
struct uninitialised_allocator : std::allocator<T> {
    template <class U>
    struct rebind {
        using other = uninitialised_allocator<U>;
    };
    template <class U>
    void construct(U* p) noexcept {
        ::new (static_cast<void*>(p)) U;
    }
    template <class U, class... A>
    void construct(U* p, A&&... args) {
        ::new (static_cast<void*>(p)) U(std::forward<A>(args)...);
    }
};

using raw_bytes = std::vector<std::byte, uninitialised_allocator<std::byte>>;

struct edit_access;

}  // namespace detail

/// A change of some rows of a codebook [K x d]. A value: copy it, save it, undo with it.
class ISIC_API edit {
public:
    edit() = default;

    /// The edit that turns the codebook `before` into `after`; only rows that differ are kept.
    ///
    /// Rows with NaN or infinity, as padding may hold, do not count in summary.relative_change. Cost O(K d). Errors:
    /// shape_error unless the shapes are equal.
    template <matrix_like B, matrix_like A>
        requires std::same_as<scalar_of<B>, scalar_of<A>>
    static edit between(const B& before, const A& after) {
        return between_rows(detail::view_of(before), detail::view_of(after));
    }
    /// The same for run-time types. Errors: value_error, too, if the types differ.
    static edit between(any_view before, any_view after) {
        detail::require<value_error>(before.type == after.type, "edit::between", "codebooks of one dtype", "two");
        return between_rows(before, after);
    }

    /// Puts the old bytes back. Errors: shape_error, value_error if `codes` is not the edited codebook; nothing is written then.
    template <mutable_matrix_like C>
    void undo(C&& codes) const {
        write(as_span(codes), before_, fingerprint_after_, "edit::undo", "edited");
    }

    /// Makes the same change to an untouched copy. Errors: as `undo`, if `codes` is not the original codebook.
    template <mutable_matrix_like C>
    void apply(C&& codes) const {
        write(as_span(codes), after_, fingerprint_before_, "edit::apply", "original");
    }

    index_t rows() const { return rows_; }                                ///< K
    index_t cols() const { return cols_; }                                ///< d
    const std::string& storage() const { return storage_; }               ///< "f32", "f64", "f16" or "bf16"
    const std::vector<index_t>& ids() const { return ids_; }              ///< rows that changed, ascending
    std::uint64_t fingerprint_before() const { return fingerprint_before_; }  ///< of the original codebook
    std::uint64_t fingerprint_after() const { return fingerprint_after_; }    ///< of the edited codebook

    edit_summary summary;        ///< what was done, in numbers
    subspace removed;            ///< what was projected out; rank 0 for a remap or a tuned codebook
    std::vector<double> center;  ///< the centre, [d]; empty: zero

private:
    friend struct detail::edit_access;

    static edit between_rows(any_view before, any_view after);
    static edit for_codebook(any_view codes);
    void add_row(index_t id, std::span<const std::byte> before, std::span<const std::byte> after);
    void write(any_span codes, const detail::raw_bytes& bytes, std::uint64_t expected, std::string_view function,
               std::string_view which) const;

    index_t rows_ = 0;
    index_t cols_ = 0;
    std::string storage_;
    std::uint64_t fingerprint_before_ = 0;
    std::uint64_t fingerprint_after_ = 0;
    std::vector<index_t> ids_;
    detail::raw_bytes before_;
    detail::raw_bytes after_;
};

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/edit-inl.hpp>
#endif
