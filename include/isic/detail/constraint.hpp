// A constraint, applied to one step.
#pragma once

#include <isic/update.hpp>

#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Whether code k may move.
inline bool may_move(const constraint& c, index_t k) {
    return c.locked.empty() || !c.locked[static_cast<std::size_t>(k)];
}

/// Takes from x its part in a subspace; one of rank 0 has none, whatever its width.
void take_out(const subspace& harm, vector& x);

/// row + step, as far as the constraint allows.
vector constrained_row(const constraint& c, index_t k, const vector& row, vector step);

}  // namespace isic::inline ISIC_ABI::detail
