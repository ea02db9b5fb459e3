// SPDX-License-Identifier: Apache-2.0
// <strings.h> declares ::index, a name a careless header collides with under `using namespace`.
#include <strings.h>

#include <isic/isic.hpp>

#include "two_units.hpp"

using namespace isic;

double leakage_by_unit_b() {
    matrix<float> codes(4, 3, 1.0F);
    matrix<float> axis(1, 3);
    axis(0, 0) = 1.0F;
    const subspace harm = fit_subspace(axis, {.rank = {.fixed = 1}});
    project_out(codes, harm);
    return leakage(codes, harm).total;
}
