// SPDX-License-Identifier: Apache-2.0
#include <isic/isic.hpp>

#include "two_units.hpp"

#include <cstdio>

double leakage_by_unit_a() {
    isic::matrix<float> codes(4, 3, 1.0F);
    isic::matrix<float> axis(1, 3);
    axis(0, 0) = 1.0F;
    const isic::subspace harm = isic::fit_subspace(axis, {.rank = {.fixed = 1}});
    isic::project_out(codes, harm);
    return isic::leakage(codes, harm).total;
}

int main() {
    const double a = leakage_by_unit_a();
    const double b = leakage_by_unit_b();
    std::printf("leakage %g and %g\n", a, b);
    return a == b && a < 1e-6 ? 0 : 1;
}
