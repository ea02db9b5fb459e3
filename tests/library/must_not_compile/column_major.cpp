// SPDX-License-Identifier: Apache-2.0
// Rows are vectors: a column-major Eigen matrix would be read wrongly, so it is not read at all.
// expect: no matching function for call to .*differences
#include <isic/differences.hpp>

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void check(const row_major& harmful, const row_major& safe) {
    static_cast<void>(isic::differences(harmful, safe));
#ifdef ISIC_BROKEN
    static_cast<void>(isic::differences(Eigen::MatrixXf(harmful), safe));
#endif
}
