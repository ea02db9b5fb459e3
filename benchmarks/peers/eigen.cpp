// SPDX-License-Identifier: Apache-2.0
// Eigen as one writes it: the formula of the text, in whole-array statements, row-major maps of the caller's memory.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include <Eigen/Core>
#include <Eigen/Eigenvalues>

namespace {

using Eigen::Index;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using in = Eigen::Map<const matrix>;
using in_place = Eigen::Map<matrix>;

void take_out(in_place& rows, const in& v) {
    rows.noalias() -= (rows * v) * v.transpose();
}

}  // namespace

extern "C" {

/// v [d x r].
void eigen_project(float* rows, Index n, Index d, const float* v, Index r, Index repeats) {
    in_place c(rows, n, d);
    for (Index i = 0; i < repeats; ++i) {
        take_out(c, in(v, d, r));
    }
}

/// Scores of `block` vectors at a time. half_norms [count]: ||c||^2 / 2.
void eigen_nearest(const float* codes, const float* half_norms, Index count, Index d, const float* vectors, Index n,
                   Index block, std::int64_t* ids, Index repeats) {
    const in c(codes, count, d);
    const in z(vectors, n, d);
    const Eigen::Map<const Eigen::RowVectorXf> half(half_norms, count);
    matrix scores;
    for (Index k = 0; k < repeats; ++k) {
        for (Index start = 0; start < n; start += block) {
            const Index rows = std::min(block, n - start);
            scores.noalias() = z.middleRows(start, rows) * c.transpose();
            scores.rowwise() -= half;
            for (Index i = 0; i < rows; ++i) {
                Index best = 0;
                scores.row(i).maxCoeff(&best);
                ids[start + i] = best;
            }
        }
    }
}

/// `steps`: how many were taken; counts on.
void eigen_adam(float* codes, float* mean, float* square, const float* gradient, Index count, Index d, const float* v,
                Index r, Index* steps, Index repeats) {
    in_place c(codes, count, d);
    in_place m(mean, count, d);
    in_place s(square, count, d);
    const in g(gradient, count, d);
    for (Index i = 0; i < repeats; ++i) {
        ++*steps;
        const float u1 = 1 - std::pow(0.9f, static_cast<float>(*steps));
        const float u2 = 1 - std::pow(0.999f, static_cast<float>(*steps));
        m = 0.9f * m + 0.1f * g;
        s.array() = 0.999f * s.array() + 0.001f * g.array().square();
        c.array() -= 1e-3f * (m.array() / u1) / ((s.array() / u2).sqrt() + 1e-3f);
        take_out(c, in(v, d, r));
    }
}

void eigen_ema(float* codes, float* counts, float* sums, Index count, Index d, const float* vectors,
               const std::int64_t* ids, Index n, const float* v, Index r, Index repeats) {
    in_place c(codes, count, d);
    in_place s(sums, count, d);
    Eigen::Map<Eigen::VectorXf> k(counts, count);
    const in z(vectors, n, d);
    for (Index t = 0; t < repeats; ++t) {
        k *= 0.99f;
        s *= 0.99f;
        for (Index i = 0; i < n; ++i) {
            k[ids[i]] += 0.01f;
            s.row(ids[i]) += 0.01f * z.row(i);
        }
        c.array() = s.array().colwise() / k.array();
        take_out(c, in(v, d, r));
    }
}

/// columns [d x r], the top first.
void eigen_subspace(const float* rows, Index n, Index d, Index r, double* columns, Index repeats) {
    const in x(rows, n, d);
    for (Index t = 0; t < repeats; ++t) {
        const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> wide = x.cast<double>();
        Eigen::MatrixXd gram = Eigen::MatrixXd::Zero(d, d);
        gram.selfadjointView<Eigen::Lower>().rankUpdate(wide.transpose());
        const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);
        for (Index j = 0; j < r; ++j) {
            for (Index i = 0; i < d; ++i) {
                columns[i * r + j] = solver.eigenvectors()(i, d - 1 - j);
            }
        }
    }
}
}
