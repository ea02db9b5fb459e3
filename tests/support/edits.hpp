// SPDX-License-Identifier: Apache-2.0
// Edits to compare.
#pragma once

#include <vector>

#include <isic/projection.hpp>

#include <isic/detail/edit.hpp>

#include "support/data.hpp"
#include "support/reference.hpp"

namespace isic_test {

/// Two edits with the same members, bit for bit.
inline bool same(const isic::edit& a, const isic::edit& b) {
    using isic::detail::edit_access;
    const auto numbers = [](const isic::edit& e) {
        const auto& s = e.summary;
        return bytes_of(std::vector<double>{
            static_cast<double>(s.moved), static_cast<double>(s.near_zero), s.relative_change, s.before.total,
            s.before.largest, s.after.total, s.after.largest, e.removed.energy,
            static_cast<double>(e.removed.chosen.rank), static_cast<double>(e.removed.chosen.decided_by)});
    };
    return a.rows() == b.rows() && a.cols() == b.cols() && a.type() == b.type() && a.ids() == b.ids() &&
           a.fingerprint_before() == b.fingerprint_before() && a.fingerprint_after() == b.fingerprint_after() &&
           edit_access::before(a) == edit_access::before(b) && edit_access::after(a) == edit_access::after(b) &&
           numbers(a) == numbers(b) && a.removed.width() == b.removed.width() && a.removed.rank() == b.removed.rank() &&
           bytes_of(a.removed.basis) == bytes_of(b.removed.basis) &&
           bytes_of(a.removed.singular_values) == bytes_of(b.removed.singular_values) &&
           bytes_of(a.center) == bytes_of(b.center);
}

/// An edit with something in every member.
template <class T>
isic::edit full_edit(isic::matrix<T>& book, random& dice) {
    isic::subspace harm = subspace_of(random_basis(dice, book.cols(), 2));
    harm.singular_values = {3.5, 2.25, 0.125};
    harm.energy = 0.9;
    harm.chosen.decided_by = isic::rank_rule::energy;
    const auto center = dice.numbers(book.cols());
    auto strength = dice.numbers(book.rows());
    strength[2] = 0;
    return isic::project_out(book, harm, {.strength = strength, .center = center});
}

}  // namespace isic_test
