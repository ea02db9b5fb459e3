// SPDX-License-Identifier: Apache-2.0
/// \file
/// Edits: the changed rows of a codebook, to undo and apply them bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <isic/codebook.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// The numbers of an edit.
struct edit_summary {
    index_t moved = 0;           ///< rows whose stored bytes changed
    index_t near_zero = 0;       ///< near-zero rows, handled by the policy
    double relative_change = 0;  ///< ||C - C_before||_F / ||C_before||_F
    leakage_report before = {};  ///< leakage before; zero for a remap
    leakage_report after = {};   ///< leakage of the stored (rounded) rows after; zero for a remap
};

namespace detail {

/// Default-initialises the elements that resize() adds, so that the thread that writes them touches their pages first.
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

/// A change of rows of a codebook [K x d], with the bytes before and after.
///
/// A value: it can be copied, saved (`save_edit`) and applied to any copy of the codebook. Thread-safety: const members
/// may run concurrently on distinct codebooks.
///
/// \snippet snippets.cpp edit
class ISIC_API edit {
public:
    edit() = default;

    /// The edit that turns the codebook `before` into `after`, of the rows that differ.
    ///
    /// Rows with NaN or infinity, which padding may hold, do not count in summary.relative_change. Cost O(K d). Errors:
    /// shape_error unless the shapes are equal.
    template <matrix_like B, matrix_like A>
        requires std::same_as<scalar_of<B>, scalar_of<A>>
    [[nodiscard]] static edit between(const B& before, const A& after) {
        return between_rows(detail::view_of(before), detail::view_of(after));
    }
    /// The same for run-time types. Errors: value_error, too, if the types differ.
    [[nodiscard]] static edit between(any_view before, any_view after) {
        detail::require<value_error>(before.type == after.type, "edit::between", "codebooks of one dtype", "two");
        return between_rows(before, after);
    }

    /// Restores the bytes before the edit. Cost O(K d), for the fingerprint. Errors: shape_error, or value_error unless
    /// `codes` is the edited codebook; on an error nothing is written.
    template <mutable_matrix_like C>
    void undo(C&& codes) const {
        write(as_span(codes), before_, fingerprint_after_, "edit::undo", "edited");
    }

    /// Writes the bytes after the edit into a copy of the original codebook. Cost as `undo`. Errors: shape_error, or
    /// value_error unless `codes` is the original codebook; on an error nothing is written.
    template <mutable_matrix_like C>
    void apply(C&& codes) const {
        write(as_span(codes), after_, fingerprint_before_, "edit::apply", "original");
    }

    [[nodiscard]] index_t rows() const noexcept { return rows_; }                    ///< K
    [[nodiscard]] index_t cols() const noexcept { return cols_; }                    ///< d
    [[nodiscard]] dtype type() const noexcept { return type_; }                      ///< of the codebook
    [[nodiscard]] const std::vector<index_t>& ids() const noexcept { return ids_; }  ///< rows that changed, ascending
    [[nodiscard]] std::uint64_t fingerprint_before() const noexcept { return fingerprint_before_; }  ///< original
    [[nodiscard]] std::uint64_t fingerprint_after() const noexcept { return fingerprint_after_; }    ///< edited

    edit_summary summary;        ///< the numbers of the edit
    subspace removed;            ///< the subspace projected out; rank 0 for a remap or a tuned codebook
    std::vector<double> center;  ///< the center, [d]; empty: zero

private:
    friend struct detail::edit_access;

    static edit between_rows(any_view before, any_view after);
    static edit for_codebook(any_view codes);
    void add_row(index_t id, std::span<const std::byte> before, std::span<const std::byte> after);
    void write(any_span codes, const detail::raw_bytes& bytes, std::uint64_t expected, std::string_view function,
               std::string_view which) const;

    index_t rows_ = 0;
    index_t cols_ = 0;
    dtype type_ = dtype::f64;
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
