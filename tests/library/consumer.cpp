// SPDX-License-Identifier: Apache-2.0
// A program that uses isic from outside; built by the three consumer_* tests.
#include <cstdio>

#include <isic/projection.hpp>
#include <isic/version.hpp>

int main() {
    isic::matrix<float> codes(4, 3, 1.0F);
    isic::matrix<float> axis(3, 1);
    axis(1, 0) = 2.0F;
    const isic::subspace harm = isic::span_of(axis);
    const isic::edit edit = isic::project_out(codes, harm);
    const double leakage = isic::leakage(codes, harm).total;
    edit.undo(codes);
    std::printf("isic %s: leakage %g after projection, %g after undo\n", isic::version_string, leakage,
                isic::leakage(codes, harm).total);
    return leakage < 1e-6 && isic::leakage(codes, harm).total > 0.1 ? 0 : 1;
}
