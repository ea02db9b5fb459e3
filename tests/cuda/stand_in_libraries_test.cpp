// SPDX-License-Identifier: Apache-2.0
// The stand-in for cuBLAS and cuSOLVER: arithmetic, and checks of sizes, workspaces and handles.
#include "cuda/stand_in_support.hpp"

namespace {

using namespace stand_in_tests;

// ---- cuBLAS

TEST_CASE_FIXTURE(fresh, "stand-in: sizes and leading dimensions are checked") {
    const blas_guard blas;
    const device_vector<double> a(vector<double>(12));
    const device_vector<double> c(vector<double>(12));
    const double one = 1;
    const auto gemm = [&](int m, int n, int k, int lda, int ldb, int ldc) {
        return cublasDgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, m, n, k, &one, a.data(), lda, a.data(), ldb, &one,
                           c.data(), ldc);
    };
    CHECK(gemm(4, 3, 3, 4, 4, 4) == CUBLAS_STATUS_SUCCESS);
    CHECK(gemm(4, 3, 3, 3, 4, 4) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("leading dimension of A");
    CHECK(gemm(4, 3, 3, 4, 2, 4) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("leading dimension of B");
    CHECK(gemm(4, 3, 3, 4, 4, 3) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("leading dimension of C");
    CHECK(gemm(4, 3, 3, 4, 4, 5) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("C needs 112 bytes (4 x 3, leading dimension 5), there are 96");
    CHECK(gemm(-1, 3, 3, 4, 4, 5) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("sizes >= 0");
    CHECK(cublasDgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, c.data(), 2, a.data(), 2, &one,
                      c.data() + 3, 2) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("A and C do not overlap");
    CHECK(cublasDgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, c.data(), 4, a.data(), 2, &one,
                      c.data() + 2, 4) == CUBLAS_STATUS_SUCCESS);
    synchronize();
}

TEST_CASE_FIXTURE(fresh, "stand-in: a workspace of the caller's is used, until the stream is set") {
    const blas_guard blas;
    const double one = 1;
    const device_vector<double> x(vector<double>(4));
    const device_vector<double> workspace(vector<double>(64));
    const auto multiply = [&] {
        return cublasDgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, x.data(), 1, x.data(), 1, &one,
                           x.data() + 1, 1);
    };
    CHECK(cublasSetWorkspace(blas.handle, workspace.data(), 513) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("the workspace needs 513 bytes");
    CHECK(cublasSetWorkspace(blas.handle, workspace.data() + 1, 8) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("aligned to 256 bytes");
    CHECK(cublasSetWorkspace(blas.handle, workspace.data(), 512) == CUBLAS_STATUS_SUCCESS);
    CHECK(multiply() == CUBLAS_STATUS_SUCCESS);
    CHECK(workspace.values()[63] != 0);
    void* gone = nullptr;
    REQUIRE(cudaMalloc(&gone, 512) == cudaSuccess);
    CHECK(cublasSetWorkspace(blas.handle, gone, 512) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(cudaFree(gone) == cudaSuccess);
    CHECK(multiply() == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("the workspace is not in device memory");
    CHECK(cublasSetStream(blas.handle, nullptr) == CUBLAS_STATUS_SUCCESS);
    CHECK(multiply() == CUBLAS_STATUS_SUCCESS);
    synchronize();
}

template <class T>
matrix device_gemm(cublasHandle_t blas, bool ta, bool tb, double alpha, const matrix& a, const matrix& b, double beta,
                   const matrix& c) {
    const device_vector<T> da(as<T>(a.values));
    const device_vector<T> db(as<T>(b.values));
    const device_vector<T> dc(as<T>(c.values));
    const auto op_a = ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    const auto op_b = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int k = ta ? a.rows : a.cols;
    const T factors[] = {static_cast<T>(alpha), static_cast<T>(beta)};
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    if constexpr (std::is_same_v<T, float>) {
        status = cublasSgemm(blas, op_a, op_b, c.rows, c.cols, k, &factors[0], da.data(), a.ld, db.data(), b.ld,
                             &factors[1], dc.data(), c.ld);
    } else {
        status = cublasDgemm(blas, op_a, op_b, c.rows, c.cols, k, &factors[0], da.data(), a.ld, db.data(), b.ld,
                             &factors[1], dc.data(), c.ld);
    }
    CHECK(status == CUBLAS_STATUS_SUCCESS);
    return downloaded(dc, c.rows, c.cols, c.ld);
}

TEST_CASE_FIXTURE(fresh, "stand-in: gemm") {
    const blas_guard blas;
    for (const bool ta : {false, true}) {
        for (const bool tb : {false, true}) {
            for (const double beta : {0.0, 2.0}) {
                CAPTURE(ta);
                CAPTURE(tb);
                CAPTURE(beta);
                const matrix a = ta ? random_matrix(6, 5, 2) : random_matrix(5, 6, 1);
                const matrix b = tb ? random_matrix(4, 6, 3) : random_matrix(6, 4, 2);
                matrix c = random_matrix(5, 4, 1);
                matrix expected = product(ta ? transposed(a) : a, tb ? transposed(b) : b);
                for (int j = 0; j < 4; ++j) {
                    for (int i = 0; i < 5; ++i) {
                        expected(i, j) = 3 * expected(i, j) + beta * c(i, j);
                        c(i, j) = beta == 0 ? not_a_number : c(i, j);  // is not read
                    }
                }
                const matrix found = device_gemm<double>(blas.handle, ta, tb, 3, a, b, beta, c);
                CHECK(same(found, expected));
                CHECK(padding_untouched(found));
                CHECK(same(device_gemm<float>(blas.handle, ta, tb, 3, a, b, beta, c), expected, 1e-4));
            }
        }
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: TF32 costs accuracy, and only in float") {
    const blas_guard blas;
    const matrix a = random_matrix(8, 8);
    const matrix exact = product(a, a);
    const matrix zero(8, 8, 8);
    const auto error = [&](auto type) {
        return largest_difference(device_gemm<decltype(type)>(blas.handle, false, false, 1, a, a, 0, zero), exact);
    };
    CHECK(error(0.0f) < 1e-5);
    CHECK(cublasSetMathMode(blas.handle, CUBLAS_TF32_TENSOR_OP_MATH) == CUBLAS_STATUS_SUCCESS);
    CHECK(error(0.0f) > 1e-4);
    CHECK(error(0.0f) < 1e-1);
    CHECK(error(0.0) < 1e-12);
}

TEST_CASE_FIXTURE(fresh, "stand-in: syrk writes one triangle") {
    const blas_guard blas;
    const double alpha = 2;
    const double beta = 0;
    for (const bool transpose_a : {false, true}) {
        for (const auto uplo : {CUBLAS_FILL_MODE_LOWER, CUBLAS_FILL_MODE_UPPER}) {
            const matrix a = transpose_a ? random_matrix(7, 4, 1) : random_matrix(4, 7, 2);
            const matrix full = transpose_a ? product(transposed(a), a) : product(a, transposed(a));
            const device_vector<double> da(a.values);
            const device_vector<double> dc(vector<double>(5 * 4, 77));
            CHECK(cublasDsyrk(blas.handle, uplo, transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, 4, 7, &alpha, da.data(), a.ld,
                              &beta, dc.data(), 5) == CUBLAS_STATUS_SUCCESS);
            const matrix found = downloaded(dc, 4, 4, 5);
            CHECK(padding_untouched(found));
            for (int j = 0; j < 4; ++j) {
                for (int i = 0; i < 4; ++i) {
                    const bool inside = uplo == CUBLAS_FILL_MODE_LOWER ? i >= j : i <= j;
                    CHECK(found(i, j) == doctest::Approx(inside ? 2 * full(i, j) : 77));
                }
            }
        }
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: products of matrices and vectors") {
    const blas_guard blas;
    const matrix a = random_matrix(5, 3, 2);
    const vector<double> x = random_values(10);
    const vector<double> y = random_values(15);
    const device_vector<double> dx(x);
    const double alpha = 1.5;
    const double beta = -2;
    {
        const device_vector<double> da(a.values);
        const device_vector<double> dy(y);
        CHECK(cublasDgemv(blas.handle, CUBLAS_OP_T, 5, 3, &alpha, da.data(), a.ld, dx.data(), 2, &beta, dy.data(), 3) ==
              CUBLAS_STATUS_SUCCESS);
        const vector<double> found = dy.values();
        for (int j = 0; j < 3; ++j) {
            double expected = beta * y[std::size_t(3 * j)];
            for (int i = 0; i < 5; ++i) {
                expected += alpha * a(i, j) * x[std::size_t(2 * i)];
            }
            CHECK(found[std::size_t(3 * j)] == doctest::Approx(expected));
        }
        CHECK(found[1] == y[1]);
    }
    const matrix s = random_matrix(4, 4, 1);
    const device_vector<double> dy(y);
    const device_vector<double> ds(s.values);
    CHECK(cublasDsyr(blas.handle, CUBLAS_FILL_MODE_UPPER, 4, &alpha, dx.data(), 2, ds.data(), 5) ==
          CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDsyr2(blas.handle, CUBLAS_FILL_MODE_LOWER, 4, &alpha, dx.data(), 2, dy.data(), 1, ds.data(), 5) ==
          CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDger(blas.handle, 4, 4, &beta, dx.data(), 1, dy.data(), 2, ds.data(), 5) == CUBLAS_STATUS_SUCCESS);
    const matrix found = downloaded(ds, 4, 4, 5);
    CHECK(padding_untouched(found));
    for (int j = 0; j < 4; ++j) {
        for (int i = 0; i < 4; ++i) {
            const double xi = x[std::size_t(2 * i)];
            const double xj = x[std::size_t(2 * j)];
            double expected = s(i, j) + beta * x[std::size_t(i)] * y[std::size_t(2 * j)];
            expected += i <= j ? alpha * xi * xj : 0;
            expected += i >= j ? alpha * (xi * y[std::size_t(j)] + y[std::size_t(i)] * xj) : 0;
            CHECK(found(i, j) == doctest::Approx(expected));
        }
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: vectors, with results on the host and on the device") {
    const blas_guard blas;
    const device_vector<double> x(vector<double>{3, 9, -4, 9});
    const device_vector<double> y(vector<double>{1, 2});
    double result = 0;
    CHECK(cublasDnrm2(blas.handle, 2, x.data(), 2, &result) == CUBLAS_STATUS_SUCCESS);
    CHECK(result == 5);
    CHECK(cublasDasum(blas.handle, 2, x.data(), 2, &result) == CUBLAS_STATUS_SUCCESS);
    CHECK(result == 7);
    CHECK(cublasDdot(blas.handle, 2, x.data(), 2, y.data(), 1, &result) == CUBLAS_STATUS_SUCCESS);
    CHECK(result == -5);
    const double two = 2;
    CHECK(cublasDscal(blas.handle, 2, &two, x.data(), 2) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDaxpy(blas.handle, 2, &two, y.data(), 1, x.data(), 2) == CUBLAS_STATUS_SUCCESS);
    CHECK(x.values() == vector<double>{8, 9, -4, 9});
    CHECK(cublasDscal(blas.handle, 3, &two, x.data(), 2) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("x needs");

    CHECK(cublasSetPointerMode(blas.handle, CUBLAS_POINTER_MODE_DEVICE) == CUBLAS_STATUS_SUCCESS);
    const device_vector<double> factor(vector<double>{0.5});
    CHECK(cublasDscal(blas.handle, 4, factor.data(), x.data(), 1) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDasum(blas.handle, 4, x.data(), 1, factor.data()) == CUBLAS_STATUS_SUCCESS);
    CHECK(factor.values() == vector<double>{15});
    CHECK(cublasDscal(blas.handle, 4, &two, x.data(), 1) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("alpha is not in device memory");
}

// ---- cuSOLVER

struct eigen_found {
    matrix vectors;
    vector<double> values;
    int info;
};

template <class T>
eigen_found device_syevd(const solver_guard& solver, const matrix& a, cublasFillMode_t uplo,
                         cusolverEigMode_t job = CUSOLVER_EIG_MODE_VECTOR) {
    const auto type = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_64F;
    const device_vector<T> da(as<T>(a.values));
    const device_vector<T> dw(static_cast<std::size_t>(a.rows));
    const device_vector<int> info(std::size_t(1));
    std::size_t device_bytes = 0;
    std::size_t host_bytes = 0;
    CHECK(cusolverDnXsyevd_bufferSize(solver.handle, solver.params, job, uplo, a.rows, type, da.data(), a.ld, type,
                                      dw.data(), type, &device_bytes, &host_bytes) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<char> work(device_bytes);
    vector<char> host(host_bytes);
    CHECK(cusolverDnXsyevd(solver.handle, solver.params, job, uplo, a.rows, type, da.data(), a.ld, type, dw.data(),
                           type, work.data(), device_bytes, host.data(), host_bytes,
                           info.data()) == CUSOLVER_STATUS_SUCCESS);
    const vector<T> values = dw.values();
    return {downloaded(da, a.rows, a.rows, a.ld), vector<double>(values.begin(), values.end()), info.values()[0]};
}

matrix symmetric(const matrix& a) {
    matrix s = a;
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < j; ++i) {
            s(i, j) = a(j, i);
        }
    }
    return s;
}

matrix with_triangle_nan(matrix a, bool lower) {
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < a.rows; ++i) {
            a(i, j) = (lower ? i > j : i < j) ? not_a_number : a(i, j);
        }
    }
    return a;
}

/// v diag(w) v' = a, v' v = 1, w ascending.
void check_eigen(const matrix& a, const eigen_found& found, double tolerance) {
    matrix scaled = found.vectors;
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < a.rows; ++i) {
            scaled(i, j) *= found.values[std::size_t(j)];
        }
    }
    CHECK(same(product(scaled, transposed(found.vectors)), a, tolerance));
    CHECK(same(product(transposed(found.vectors), found.vectors), identity(a.cols), tolerance));
    CHECK(std::ranges::is_sorted(found.values));
}

TEST_CASE_FIXTURE(fresh, "stand-in: syevd") {
    const solver_guard solver;
    const matrix a = symmetric(random_matrix(12, 12, 3));
    for (const bool lower : {true, false}) {
        const auto uplo = lower ? CUBLAS_FILL_MODE_LOWER : CUBLAS_FILL_MODE_UPPER;
        const matrix given = with_triangle_nan(a, !lower);
        const eigen_found found = device_syevd<double>(solver, given, uplo);
        CHECK(found.info == 0);
        check_eigen(a, found, 1e-12);
        CHECK(padding_untouched(found.vectors));
        check_eigen(a, device_syevd<float>(solver, given, uplo), 1e-5);
    }
    const eigen_found values_only = device_syevd<double>(solver, a, CUBLAS_FILL_MODE_LOWER, CUSOLVER_EIG_MODE_NOVECTOR);
    CHECK(std::isnan(values_only.vectors(3, 2)));  // the matrix is destroyed
    CHECK(padding_untouched(values_only.vectors));
    CHECK(std::ranges::is_sorted(values_only.values));
    CHECK(all_nan(device_syevd<double>(solver, with_triangle_nan(a, true), CUBLAS_FILL_MODE_LOWER).values));
    stand_in::control().info["syevd"] = 3;
    const eigen_found failed = device_syevd<double>(solver, a, CUBLAS_FILL_MODE_LOWER);
    CHECK(failed.info == 3);
    CHECK(all_nan(failed.values));
    CHECK(std::isnan(failed.vectors(0, 0)));
}

TEST_CASE_FIXTURE(fresh, "stand-in: workspaces are checked, and destroyed") {
    const solver_guard solver;
    const auto job = CUSOLVER_EIG_MODE_VECTOR;
    const auto uplo = CUBLAS_FILL_MODE_LOWER;
    const device_vector<double> a(vector<double>{2, 0, 0, 3});
    const device_vector<double> w(std::size_t(2));
    const device_vector<int> info(std::size_t(1));
    std::size_t bytes = 0;
    std::size_t host_bytes = 0;
    REQUIRE(cusolverDnXsyevd_bufferSize(solver.handle, solver.params, job, uplo, 2, CUDA_R_64F, a.data(), 2, CUDA_R_64F,
                                        w.data(), CUDA_R_64F, &bytes, &host_bytes) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<char> work(vector<char>(bytes - 1, 'w'));
    const device_vector<char> enough(vector<char>(bytes, 'w'));
    vector<char> host(host_bytes, 'h');
    const auto solve = [&](const device_vector<char>& buffer, std::size_t size, char* host_buffer,
                           std::size_t host_size) {
        return cusolverDnXsyevd(solver.handle, solver.params, job, uplo, 2, CUDA_R_64F, a.data(), 2, CUDA_R_64F,
                                w.data(), CUDA_R_64F, buffer.data(), size, host_buffer, host_size, info.data());
    };
    CHECK(solve(work, bytes - 1, host.data(), host_bytes) == CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("the device workspace at least as large as was asked for");
    CHECK(solve(work, bytes, host.data(), host_bytes) == CUSOLVER_STATUS_EXECUTION_FAILED);
    expect_violation("the device workspace needs");
    CHECK(solve(enough, bytes, nullptr, host_bytes) == CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("a host workspace");
    CHECK(solve(enough, bytes, host.data(), host_bytes - 1) == CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("a host workspace");
    CHECK(solve(enough, bytes, host.data(), host_bytes) == CUSOLVER_STATUS_SUCCESS);
    CHECK(host.front() == 'h');
    synchronize();
    CHECK(host.front() != 'h');
    CHECK(enough.values().back() != 'w');
    CHECK(cusolverDnDpotrf(solver.handle, uplo, 2, a.data(), 2, a.data(), 0, info.data()) ==
          CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("the workspace at least as large as was asked for");
}

TEST_CASE_FIXTURE(fresh, "stand-in: syevj, and syevdx for some of the eigenvalues") {
    const solver_guard solver;
    const auto job = CUSOLVER_EIG_MODE_VECTOR;
    const auto uplo = CUBLAS_FILL_MODE_LOWER;
    const matrix a = symmetric(random_matrix(6, 6));
    const eigen_found all = device_syevd<double>(solver, a, uplo);
    const device_vector<double> w(std::size_t(6));
    const device_vector<int> info(std::size_t(1));
    int size = 0;
    int count = 0;
    {
        const device_vector<double> da(a.values);
        CHECK(cusolverDnDsyevj_bufferSize(solver.handle, job, uplo, 6, da.data(), 6, w.data(), &size,
                                          solver.eigen_options) == CUSOLVER_STATUS_SUCCESS);
        const device_vector<double> work(static_cast<std::size_t>(size));
        CHECK(cusolverDnDsyevj(solver.handle, job, uplo, 6, da.data(), 6, w.data(), work.data(), size, info.data(),
                               solver.eigen_options) == CUSOLVER_STATUS_SUCCESS);
        check_eigen(a, {downloaded(da, 6, 6, 6), w.values(), 0}, 1e-12);
    }
    const device_vector<double> da(a.values);
    const auto range = CUSOLVER_EIG_RANGE_I;
    CHECK(cusolverDnDsyevdx_bufferSize(solver.handle, job, range, uplo, 6, da.data(), 6, 0, 0, 5, 6, &count, w.data(),
                                       &size) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<double> work(static_cast<std::size_t>(size));
    CHECK(cusolverDnDsyevdx(solver.handle, job, range, uplo, 6, da.data(), 6, 0, 0, 5, 7, &count, w.data(), work.data(),
                            size, info.data()) == CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("eigenvalues that exist");
    CHECK(cusolverDnDsyevdx(solver.handle, job, range, uplo, 6, da.data(), 6, 0, 0, 5, 6, &count, w.data(), work.data(),
                            size, info.data()) == CUSOLVER_STATUS_SUCCESS);
    CHECK(count == 2);
    const vector<double> values = w.values();
    const matrix vectors = downloaded(da, 6, 6, 6);
    CHECK(values[0] == doctest::Approx(all.values[4]));
    CHECK(values[1] == doctest::Approx(all.values[5]));
    CHECK(std::isnan(values[2]));
    CHECK(std::abs(vectors(0, 1)) == doctest::Approx(std::abs(all.vectors(0, 5))));
    CHECK(std::isnan(vectors(0, 2)));
}

void check_gesvdj(const solver_guard& solver, const matrix& a, bool economic) {
    CAPTURE(a.rows);
    CAPTURE(a.cols);
    CAPTURE(economic);
    const int m = a.rows;
    const int n = a.cols;
    const int k = std::min(m, n);
    const int u_cols = economic ? k : m;
    const int v_cols = economic ? k : n;
    const auto job = CUSOLVER_EIG_MODE_VECTOR;
    const device_vector<double> da(a.values);
    const device_vector<double> ds(static_cast<std::size_t>(k));
    const device_vector<double> du(vector<double>(std::size_t(m + 1) * u_cols, 77));
    const device_vector<double> dv(vector<double>(std::size_t(n + 2) * v_cols, 77));
    const device_vector<int> info(std::size_t(1));
    int size = 0;
    CHECK(cusolverDnDgesvdj_bufferSize(solver.handle, job, economic, m, n, da.data(), a.ld, ds.data(), du.data(), m + 1,
                                       dv.data(), n + 2, &size, solver.svd_options) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<double> work(static_cast<std::size_t>(size));
    CHECK(cusolverDnDgesvdj(solver.handle, job, economic, m, n, da.data(), a.ld, ds.data(), du.data(), m + 1, dv.data(),
                            n + 2, work.data(), size, info.data(), solver.svd_options) == CUSOLVER_STATUS_SUCCESS);
    const matrix u = downloaded(du, m, u_cols, m + 1);
    const matrix v = downloaded(dv, n, v_cols, n + 2);
    const vector<double> s = ds.values();
    CHECK(info.values()[0] == 0);
    CHECK(padding_untouched(u));
    CHECK(padding_untouched(v));
    CHECK(same(product(transposed(u), u), identity(u_cols)));
    CHECK(same(product(transposed(v), v), identity(v_cols)));
    CHECK(std::ranges::is_sorted(s, std::greater<>()));
    matrix middle(u_cols, v_cols, u_cols);
    std::ranges::fill(middle.values, 0.0);
    for (int i = 0; i < k; ++i) {
        middle(i, i) = s[std::size_t(i)];
    }
    CHECK(same(product(product(u, middle), transposed(v)), a));
    CHECK(std::isnan(downloaded(da, m, n, a.ld)(0, 0)));
}

TEST_CASE_FIXTURE(fresh, "stand-in: gesvdj") {
    const solver_guard solver;
    matrix deficient = random_matrix(7, 5, 1);
    for (int i = 0; i < 7; ++i) {
        deficient(i, 3) = 0;
        deficient(i, 4) = deficient(i, 0);
    }
    for (const bool economic : {true, false}) {
        check_gesvdj(solver, random_matrix(9, 4, 2), economic);
        check_gesvdj(solver, random_matrix(4, 9), economic);
        check_gesvdj(solver, random_matrix(6, 6), economic);
        check_gesvdj(solver, deficient, economic);
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: geqrf and orgqr") {
    const solver_guard solver;
    const matrix a = random_matrix(8, 5, 2);
    const device_vector<double> da(a.values);
    const device_vector<double> tau(std::size_t(5));
    const device_vector<int> info(std::size_t(1));
    int size = 0;
    CHECK(cusolverDnDgeqrf_bufferSize(solver.handle, 8, 5, da.data(), a.ld, &size) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<double> work(static_cast<std::size_t>(size));
    CHECK(cusolverDnDgeqrf(solver.handle, 8, 5, da.data(), a.ld, tau.data(), work.data(), size, info.data()) ==
          CUSOLVER_STATUS_SUCCESS);
    matrix r(5, 5, 5);
    const matrix factored = downloaded(da, 8, 5, a.ld);
    for (int j = 0; j < 5; ++j) {
        for (int i = 0; i < 5; ++i) {
            r(i, j) = i <= j ? factored(i, j) : 0;
        }
    }
    CHECK(cusolverDnDorgqr_bufferSize(solver.handle, 8, 5, 5, da.data(), a.ld, tau.data(), &size) ==
          CUSOLVER_STATUS_SUCCESS);
    const device_vector<double> more_work(static_cast<std::size_t>(size));
    CHECK(cusolverDnDorgqr(solver.handle, 8, 5, 6, da.data(), a.ld, tau.data(), more_work.data(), size, info.data()) ==
          CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("k <= n <= m");
    CHECK(cusolverDnDorgqr(solver.handle, 8, 5, 5, da.data(), a.ld, tau.data(), more_work.data(), size, info.data()) ==
          CUSOLVER_STATUS_SUCCESS);
    const matrix q = downloaded(da, 8, 5, a.ld);
    CHECK(padding_untouched(q));
    CHECK(same(product(transposed(q), q), identity(5)));
    CHECK(same(product(q, r), a));
}

TEST_CASE_FIXTURE(fresh, "stand-in: potrf and potrs") {
    const solver_guard solver;
    const matrix x = random_matrix(6, 9);
    const matrix a = product(x, transposed(x));
    const matrix b = random_matrix(6, 2, 1);
    for (const bool lower : {true, false}) {
        const auto uplo = lower ? CUBLAS_FILL_MODE_LOWER : CUBLAS_FILL_MODE_UPPER;
        const matrix given = with_triangle_nan(a, !lower);
        const device_vector<double> da(given.values);
        const device_vector<double> db(b.values);
        const device_vector<int> info(std::size_t(1));
        int size = 0;
        CHECK(cusolverDnDpotrf_bufferSize(solver.handle, uplo, 6, da.data(), 6, &size) == CUSOLVER_STATUS_SUCCESS);
        const device_vector<double> work(static_cast<std::size_t>(size));
        CHECK(cusolverDnDpotrf(solver.handle, uplo, 6, da.data(), 6, work.data(), size, info.data()) ==
              CUSOLVER_STATUS_SUCCESS);
        CHECK(info.values()[0] == 0);
        CHECK(cusolverDnDpotrs(solver.handle, uplo, 6, 2, da.data(), 6, db.data(), b.ld, info.data()) ==
              CUSOLVER_STATUS_SUCCESS);
        const matrix solution = downloaded(db, 6, 2, b.ld);
        CHECK(padding_untouched(solution));
        CHECK(same(product(a, solution), b, 1e-10));
        CHECK(std::isnan(lower ? downloaded(da, 6, 6, 6)(0, 5) : downloaded(da, 6, 6, 6)(5, 0)));  // was not touched

        const device_vector<double> indefinite(vector<double>{1, 2, 2, 1});
        CHECK(cusolverDnDpotrf(solver.handle, uplo, 2, indefinite.data(), 2, work.data(), size, info.data()) ==
              CUSOLVER_STATUS_SUCCESS);
        CHECK(info.values()[0] == 2);
    }
}

}  // namespace
