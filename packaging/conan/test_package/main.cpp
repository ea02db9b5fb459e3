// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <isic/projection.hpp>
#include <isic/version.hpp>

int main() {
    isic::matrix<float> codes(4, 3, 1.0F);
    isic::matrix<float> axis(3, 1);
    axis(1, 0) = 2.0F;
    const isic::subspace harm = isic::span_of(axis);
    isic::project_out(codes, harm);
    const double leakage = isic::leakage(codes, harm).total;
    std::printf("isic %s: leakage %g after projection\n", isic::version_string, leakage);
    return leakage < 1e-6 ? 0 : 1;
}
