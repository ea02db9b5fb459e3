// SPDX-License-Identifier: Apache-2.0
// The stand-in's cuSOLVER. The real header is included: a wrong signature does not compile.
#include <cusolverDn.h>

#include <algorithm>
#include <limits>

#include "dense.hpp"
#include "device.hpp"

namespace stand_in::detail {
namespace {

struct params {};
struct gesvdj_info {};
struct syevj_info {};

template <class T>
registry<T>& objects() {
    static registry<T> all;
    return all;
}

const bool solver_is_cleared = [] {
    at_reset([] {
        objects<library_handle>().clear();
        objects<params>().clear();
        objects<gesvdj_info>().clear();
        objects<syevj_info>().clear();
    });
    return true;
}();

using library_call_of_solver = library_call<cusolverStatus_t, CUSOLVER_STATUS_NOT_INITIALIZED,
                                            CUSOLVER_STATUS_INVALID_VALUE, CUSOLVER_STATUS_EXECUTION_FAILED>;

class solver_call : public library_call_of_solver {
public:
    solver_call(const char* function, cusolverDnHandle_t handle) : library_call_of_solver(function) {
        handle_ = objects<library_handle>().find(handle);
        use(handle_);
    }

    library_handle& handle() { return *handle_; }

    void info(const int* p) { vector("info", p, 1); }

    cusolverStatus_t size(int* where, index_t count) {
        require(where != nullptr, "somewhere to put the size");
        if (ok()) {
            *where = static_cast<int>(count);
        }
        return status();
    }

    template <class T>
    void typed_workspace(const T* p, int given, index_t needed) {
        workspace("the workspace", p, static_cast<std::size_t>(std::max(given, 0)) * sizeof(T),
                  static_cast<std::size_t>(needed) * sizeof(T));
    }

private:
    library_handle* handle_ = nullptr;
};

// What the routine is to report, however it went.
int forced_info(const char* routine) {
    const auto found = control().info.find(routine);
    return found == control().info.end() ? 0 : found->second;
}

template <class T>
void fill_nan(T* a, index_t rows, index_t cols, index_t ld) {
    for (index_t j = 0; j < cols; ++j) {
        std::fill_n(a + j * ld, rows, std::numeric_limits<T>::quiet_NaN());
    }
}

template <class T>
dense read(const T* a, index_t rows, index_t cols, index_t ld) {
    dense read(rows, cols);
    for (index_t j = 0; j < cols; ++j) {
        std::copy_n(a + j * ld, rows, read.col(j));
    }
    return read;
}

template <class T>
void write(const dense& from, T* a, index_t ld) {
    for (index_t j = 0; j < from.cols; ++j) {
        std::transform(from.col(j), from.col(j) + from.rows, a + j * ld, [](double x) { return static_cast<T>(x); });
    }
}

template <class T>
void write(const std::vector<double>& from, T* to) {
    std::ranges::transform(from, to, [](double x) { return static_cast<T>(x); });
}

// The lower triangle of a symmetric matrix of which one triangle is stored; `both` fills the upper one as well.
template <class T>
dense read_triangle(const T* a, cublasFillMode_t uplo, index_t n, index_t ld, bool both) {
    dense full(n, n);
    for (index_t j = 0; j < n; ++j) {
        for (index_t i = j; i < n; ++i) {
            full(i, j) = uplo == CUBLAS_FILL_MODE_LOWER ? a[i + j * ld] : a[j + i * ld];
            if (both) {
                full(j, i) = full(i, j);
            }
        }
    }
    return full;
}

// ---- Symmetric eigenvalues

struct eigen_problem {
    cusolverEigMode_t job;
    cublasFillMode_t uplo;
    index_t n;
    index_t first;  // of the eigenvalues that are wanted, ascending from 0
    index_t last;   // the one behind them
};

index_t eigen_workspace(index_t n) {
    return 2 * n * n + 6 * n + 1;
}

template <class T>
void check_eigen(solver_call& call, const eigen_problem& problem, const T* a, index_t lda, const T* w,
                 const int* info) {
    const index_t n = problem.n;
    call.require(n >= 0, "n >= 0");
    call.require(0 <= problem.first && problem.first <= problem.last && problem.last <= n, "eigenvalues that exist");
    call.matrix("A", a, n, n, lda);
    call.vector("W", w, n);
    call.info(info);
}

template <class T>
void solve_eigen(const eigen_problem& problem, T* a, index_t lda, T* w, int* info, int forced) {
    const index_t n = problem.n;
    const dense matrix = read_triangle(a, problem.uplo, n, lda, true);
    fill_nan(a, n, n, lda);
    fill_nan(w, n, 1, n);
    *info = forced;
    if (forced != 0) {
        return;
    }
    const eigen_result found = symmetric_eigen(matrix);
    for (index_t j = problem.first; j < problem.last; ++j) {
        const index_t to = j - problem.first;
        w[to] = static_cast<T>(found.values[static_cast<std::size_t>(j)]);
        if (problem.job == CUSOLVER_EIG_MODE_VECTOR) {
            std::transform(found.vectors.col(j), found.vectors.col(j) + n, a + to * lda,
                           [](double x) { return static_cast<T>(x); });
        }
    }
}

bool is_real_type(cudaDataType type) {
    return type == CUDA_R_32F || type == CUDA_R_64F;
}

std::size_t bytes_of(cudaDataType type) {
    return type == CUDA_R_64F ? sizeof(double) : sizeof(float);
}

std::size_t host_workspace_bytes(index_t n) {
    return static_cast<std::size_t>(4 * n + 8);
}

struct raw_buffer {
    void* data;
    std::size_t bytes;
};

template <class T>
cusolverStatus_t xsyevd(solver_call& call, const eigen_problem& problem, void* a_, index_t lda, void* w_,
                        raw_buffer device, raw_buffer host, int* info) {
    T* const a = static_cast<T*>(a_);
    T* const w = static_cast<T*>(w_);
    const auto needed = static_cast<std::size_t>(eigen_workspace(std::max<index_t>(problem.n, 0))) * sizeof(T);
    check_eigen(call, problem, a, lda, w, info);
    call.workspace("the device workspace", device.data, device.bytes, needed);
    call.require(host.data != nullptr && host.bytes >= host_workspace_bytes(problem.n),
                 "a host workspace large enough");
    const int forced = forced_info("syevd");
    return call.submit([=] {
        scribble(device.data, device.bytes);
        scribble(host.data, host.bytes);  // the work may use it until it is done
        solve_eigen(problem, a, lda, w, info, forced);
    });
}

eigen_problem problem_in_range(cusolverEigMode_t job, cusolverEigRange_t range, cublasFillMode_t uplo, index_t n,
                               int il, int iu) {
    const bool all = range == CUSOLVER_EIG_RANGE_ALL;
    return {job, uplo, n, all ? 0 : il - 1, all ? n : iu};
}

// ---- Singular values

struct svd_problem {
    cusolverEigMode_t job;
    bool economic;
    index_t m;
    index_t n;
};

index_t svd_workspace(const svd_problem& problem) {
    return problem.m + problem.n + 64;
}

template <class T>
cusolverStatus_t gesvdj(const char* function, cusolverDnHandle_t handle, const svd_problem& problem, T* a, index_t lda,
                        T* s, T* u, index_t ldu, T* v, index_t ldv, T* work, int work_size, int* info,
                        gesvdjInfo_t options) {
    solver_call call(function, handle);
    const index_t m = problem.m;
    const index_t n = problem.n;
    const index_t k = std::min(m, n);
    const bool vectors = problem.job == CUSOLVER_EIG_MODE_VECTOR;
    call.require(m >= 0 && n >= 0, "sizes >= 0");
    call.require(objects<gesvdj_info>().find(options) != nullptr, "live options");
    call.matrix("A", a, m, n, lda);
    call.vector("S", s, k);
    if (vectors) {
        call.matrix("U", u, m, problem.economic ? k : m, ldu);
        call.matrix("V", v, n, problem.economic ? k : n, ldv);
    }
    call.typed_workspace(work, work_size, svd_workspace(problem));
    call.info(info);
    const int forced = forced_info("gesvdj");
    const bool spoilt = control().gesvdj_gives_nan;
    return call.submit([=] {
        scribble(work, static_cast<std::size_t>(work_size) * sizeof(T));
        const dense matrix = read(a, m, n, lda);
        fill_nan(a, m, n, lda);
        *info = forced;
        const bool square = !problem.economic;
        const svd_result found = forced == 0 ? svd(matrix, square) : all_nan_svd(m, n, square ? m : k, square ? n : k);
        write(found.values, s);
        if (vectors && spoilt) {
            fill_nan(u, m, square ? m : k, ldu);
            fill_nan(v, n, square ? n : k, ldv);
        } else if (vectors) {
            write(found.u, u, ldu);
            write(found.v, v, ldv);
        }
    });
}

// ---- Householder and Cholesky

index_t qr_workspace(index_t cols) {
    return 32 * cols + 7;
}

index_t cholesky_workspace(index_t n) {
    return 8 * n + 5;
}

void write_triangle(const dense& lower, cublasFillMode_t uplo, double* a, index_t ld) {
    for (index_t j = 0; j < lower.cols; ++j) {
        for (index_t i = j; i < lower.rows; ++i) {
            (uplo == CUBLAS_FILL_MODE_LOWER ? a[i + j * ld] : a[j + i * ld]) = lower(i, j);
        }
    }
}

// ---- Objects

template <class T, class Handle>
cusolverStatus_t create(const library_call_of_solver& call, Handle* made, T object, int& live) {
    if (call.ok()) {
        *made = static_cast<Handle>(objects<T>().add(object));
        ++live;
    }
    return call.status();
}

template <class T>
cusolverStatus_t destroy(const library_call_of_solver& call, const void* handle, int& live) {
    if (!objects<T>().remove(handle)) {
        violation(call.function() + ": not live");
        return CUSOLVER_STATUS_NOT_INITIALIZED;
    }
    --live;
    return call.status();
}

// Options are taken, and change nothing.
template <class T>
cusolverStatus_t set_option(library_call_of_solver& call, const void* handle) {
    call.require(objects<T>().find(handle) != nullptr, "live options");
    return call.status();
}

}  // namespace
}  // namespace stand_in::detail

using namespace stand_in::detail;
using stand_in::control;

extern "C" {

// ---- Handles

cusolverStatus_t CUSOLVERAPI cusolverDnCreate(cusolverDnHandle_t* made) {
    const library_call_of_solver call(__func__);
    return create(call, made, library_handle{nullptr, current_device()}, control().live.solvers);
}

cusolverStatus_t CUSOLVERAPI cusolverDnDestroy(cusolverDnHandle_t handle) {
    const library_call_of_solver call(__func__);
    return destroy<library_handle>(call, handle, control().live.solvers);
}

cusolverStatus_t CUSOLVERAPI cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
    solver_call call(__func__, handle);
    if (call.ok() && find_stream(call.function(), stream) != nullptr) {
        call.handle().stream = stream;
    }
    return call.status();
}

cusolverStatus_t CUSOLVERAPI cusolverDnCreateParams(cusolverDnParams_t* made) {
    const library_call_of_solver call(__func__, needs::nothing);
    return create(call, made, params{}, control().live.params);
}

cusolverStatus_t CUSOLVERAPI cusolverDnDestroyParams(cusolverDnParams_t handle) {
    const library_call_of_solver call(__func__, needs::nothing);
    return destroy<params>(call, handle, control().live.params);
}

cusolverStatus_t CUSOLVERAPI cusolverDnCreateGesvdjInfo(gesvdjInfo_t* made) {
    const library_call_of_solver call(__func__, needs::nothing);
    return create(call, made, gesvdj_info{}, control().live.gesvdj_infos);
}

cusolverStatus_t CUSOLVERAPI cusolverDnDestroyGesvdjInfo(gesvdjInfo_t handle) {
    const library_call_of_solver call(__func__, needs::nothing);
    return destroy<gesvdj_info>(call, handle, control().live.gesvdj_infos);
}

cusolverStatus_t CUSOLVERAPI cusolverDnXgesvdjSetTolerance(gesvdjInfo_t handle, double) {
    library_call_of_solver call(__func__, needs::nothing);
    return set_option<gesvdj_info>(call, handle);
}

cusolverStatus_t CUSOLVERAPI cusolverDnXgesvdjSetMaxSweeps(gesvdjInfo_t handle, int) {
    library_call_of_solver call(__func__, needs::nothing);
    return set_option<gesvdj_info>(call, handle);
}

cusolverStatus_t CUSOLVERAPI cusolverDnCreateSyevjInfo(syevjInfo_t* made) {
    const library_call_of_solver call(__func__, needs::nothing);
    return create(call, made, syevj_info{}, control().live.syevj_infos);
}

cusolverStatus_t CUSOLVERAPI cusolverDnDestroySyevjInfo(syevjInfo_t handle) {
    const library_call_of_solver call(__func__, needs::nothing);
    return destroy<syevj_info>(call, handle, control().live.syevj_infos);
}

cusolverStatus_t CUSOLVERAPI cusolverDnXsyevjSetTolerance(syevjInfo_t handle, double) {
    library_call_of_solver call(__func__, needs::nothing);
    return set_option<syevj_info>(call, handle);
}

cusolverStatus_t CUSOLVERAPI cusolverDnXsyevjSetMaxSweeps(syevjInfo_t handle, int) {
    library_call_of_solver call(__func__, needs::nothing);
    return set_option<syevj_info>(call, handle);
}

// ---- Symmetric eigenvalues

cusolverStatus_t CUSOLVERAPI cusolverDnXsyevd_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t options,
                                                         cusolverEigMode_t, cublasFillMode_t, int64_t n,
                                                         cudaDataType type, const void*, int64_t lda,
                                                         cudaDataType w_type, const void*, cudaDataType compute_type,
                                                         size_t* device_bytes, size_t* host_bytes) {
    solver_call call(__func__, handle);
    call.require(objects<params>().find(options) != nullptr, "live params");
    call.require(is_real_type(type) && w_type == type && compute_type == type, "one real type throughout");
    call.require(n >= 0 && lda >= std::max<int64_t>(1, n), "leading dimension of A >= n >= 0");
    if (call.ok()) {
        *device_bytes = static_cast<size_t>(eigen_workspace(n)) * bytes_of(type);
        *host_bytes = host_workspace_bytes(n);
    }
    return call.status();
}

cusolverStatus_t CUSOLVERAPI cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t options,
                                              cusolverEigMode_t job, cublasFillMode_t uplo, int64_t n,
                                              cudaDataType type, void* a, int64_t lda, cudaDataType w_type, void* w,
                                              cudaDataType compute_type, void* device_buffer, size_t device_bytes,
                                              void* host_buffer, size_t host_bytes, int* info) {
    solver_call call(__func__, handle);
    call.require(objects<params>().find(options) != nullptr, "live params");
    call.require(is_real_type(type) && w_type == type && compute_type == type, "one real type throughout");
    const eigen_problem problem{job, uplo, n, 0, n};
    const raw_buffer device_space{device_buffer, device_bytes};
    const raw_buffer host_space{host_buffer, host_bytes};
    return type == CUDA_R_64F ? xsyevd<double>(call, problem, a, lda, w, device_space, host_space, info)
                              : xsyevd<float>(call, problem, a, lda, w, device_space, host_space, info);
}

cusolverStatus_t CUSOLVERAPI cusolverDnDsyevdx_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t,
                                                          cusolverEigRange_t, cublasFillMode_t, int n, const double*,
                                                          int, double, double, int, int, int*, const double*,
                                                          int* size) {
    solver_call call(__func__, handle);
    return call.size(size, eigen_workspace(n));
}

cusolverStatus_t CUSOLVERAPI cusolverDnDsyevdx(cusolverDnHandle_t handle, cusolverEigMode_t job,
                                               cusolverEigRange_t range, cublasFillMode_t uplo, int n, double* a,
                                               int lda, double, double, int il, int iu, int* found, double* w,
                                               double* work, int work_size, int* info) {
    solver_call call(__func__, handle);
    const eigen_problem problem = problem_in_range(job, range, uplo, n, il, iu);
    call.require(range != CUSOLVER_EIG_RANGE_V, "a range of indices or all (the stand-in has no range of values)");
    call.require(found != nullptr, "somewhere to put the number found");
    check_eigen(call, problem, a, lda, w, info);
    call.typed_workspace(work, work_size, eigen_workspace(n));
    if (call.ok()) {
        *found = static_cast<int>(problem.last - problem.first);
    }
    const int forced = forced_info("syevdx");
    return call.submit([=] {
        scribble(work, static_cast<std::size_t>(work_size) * sizeof(double));
        solve_eigen(problem, a, lda, w, info, forced);
    });
}

cusolverStatus_t CUSOLVERAPI cusolverDnDsyevj_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t, cublasFillMode_t,
                                                         int n, const double*, int, const double*, int* size,
                                                         syevjInfo_t options) {
    solver_call call(__func__, handle);
    call.require(objects<syevj_info>().find(options) != nullptr, "live options");
    return call.size(size, eigen_workspace(n));
}

cusolverStatus_t CUSOLVERAPI cusolverDnDsyevj(cusolverDnHandle_t handle, cusolverEigMode_t job, cublasFillMode_t uplo,
                                              int n, double* a, int lda, double* w, double* work, int work_size,
                                              int* info, syevjInfo_t options) {
    solver_call call(__func__, handle);
    const eigen_problem problem{job, uplo, n, 0, n};
    call.require(objects<syevj_info>().find(options) != nullptr, "live options");
    check_eigen(call, problem, a, lda, w, info);
    call.typed_workspace(work, work_size, eigen_workspace(n));
    const int forced = forced_info("syevj");
    return call.submit([=] {
        scribble(work, static_cast<std::size_t>(work_size) * sizeof(double));
        solve_eigen(problem, a, lda, w, info, forced);
    });
}

// ---- Singular values

cusolverStatus_t CUSOLVERAPI cusolverDnDgesvdj_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t job,
                                                          int economic, int m, int n, const double*, int, const double*,
                                                          const double*, int, const double*, int, int* size,
                                                          gesvdjInfo_t options) {
    solver_call call(__func__, handle);
    call.require(objects<gesvdj_info>().find(options) != nullptr, "live options");
    return call.size(size, svd_workspace({job, economic != 0, m, n}));
}

cusolverStatus_t CUSOLVERAPI cusolverDnDgesvdj(cusolverDnHandle_t handle, cusolverEigMode_t job, int economic, int m,
                                               int n, double* a, int lda, double* s, double* u, int ldu, double* v,
                                               int ldv, double* work, int work_size, int* info, gesvdjInfo_t options) {
    const svd_problem problem{job, economic != 0, m, n};
    return gesvdj(__func__, handle, problem, a, lda, s, u, ldu, v, ldv, work, work_size, info, options);
}

cusolverStatus_t CUSOLVERAPI cusolverDnSgesvdj_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t job,
                                                          int economic, int m, int n, const float*, int, const float*,
                                                          const float*, int, const float*, int, int* size,
                                                          gesvdjInfo_t options) {
    solver_call call(__func__, handle);
    call.require(objects<gesvdj_info>().find(options) != nullptr, "live options");
    return call.size(size, svd_workspace({job, economic != 0, m, n}));
}

cusolverStatus_t CUSOLVERAPI cusolverDnSgesvdj(cusolverDnHandle_t handle, cusolverEigMode_t job, int economic, int m,
                                               int n, float* a, int lda, float* s, float* u, int ldu, float* v, int ldv,
                                               float* work, int work_size, int* info, gesvdjInfo_t options) {
    const svd_problem problem{job, economic != 0, m, n};
    return gesvdj(__func__, handle, problem, a, lda, s, u, ldu, v, ldv, work, work_size, info, options);
}

// ---- Householder

cusolverStatus_t CUSOLVERAPI cusolverDnDgeqrf_bufferSize(cusolverDnHandle_t handle, int, int n, double*, int,
                                                         int* size) {
    solver_call call(__func__, handle);
    return call.size(size, qr_workspace(n));
}

cusolverStatus_t CUSOLVERAPI cusolverDnDgeqrf(cusolverDnHandle_t handle, int m, int n, double* a, int lda, double* tau,
                                              double* work, int work_size, int* info) {
    solver_call call(__func__, handle);
    call.require(m >= 0 && n >= 0, "sizes >= 0");
    call.matrix("A", a, m, n, lda);
    call.vector("tau", tau, std::min(m, n));
    call.typed_workspace(work, work_size, qr_workspace(n));
    call.info(info);
    const int forced = forced_info("geqrf");
    return call.submit([=] {
        scribble(work, static_cast<std::size_t>(work_size) * sizeof(double));
        *info = forced;
        dense matrix = read(a, m, n, lda);
        fill_nan(a, m, n, lda);
        if (forced == 0) {
            write(householder_qr(matrix), tau);
            write(matrix, a, lda);
        }
    });
}

cusolverStatus_t CUSOLVERAPI cusolverDnDorgqr_bufferSize(cusolverDnHandle_t handle, int, int n, int, const double*, int,
                                                         const double*, int* size) {
    solver_call call(__func__, handle);
    return call.size(size, qr_workspace(n) + 2);
}

cusolverStatus_t CUSOLVERAPI cusolverDnDorgqr(cusolverDnHandle_t handle, int m, int n, int k, double* a, int lda,
                                              const double* tau, double* work, int work_size, int* info) {
    solver_call call(__func__, handle);
    call.require(0 <= k && k <= n && n <= m, "0 <= k <= n <= m");
    call.matrix("A", a, m, n, lda);
    call.vector("tau", tau, k);
    call.typed_workspace(work, work_size, qr_workspace(n) + 2);
    call.info(info);
    const int forced = forced_info("orgqr");
    return call.submit([=] {
        scribble(work, static_cast<std::size_t>(work_size) * sizeof(double));
        *info = forced;
        const dense matrix = read(a, m, n, lda);
        fill_nan(a, m, n, lda);
        if (forced == 0) {
            write(orthonormal_from_reflectors(matrix, std::vector<double>(tau, tau + k)), a, lda);
        }
    });
}

// ---- Cholesky

cusolverStatus_t CUSOLVERAPI cusolverDnDpotrf_bufferSize(cusolverDnHandle_t handle, cublasFillMode_t, int n, double*,
                                                         int, int* size) {
    solver_call call(__func__, handle);
    return call.size(size, cholesky_workspace(n));
}

cusolverStatus_t CUSOLVERAPI cusolverDnDpotrf(cusolverDnHandle_t handle, cublasFillMode_t uplo, int n, double* a,
                                              int lda, double* work, int work_size, int* info) {
    solver_call call(__func__, handle);
    call.require(n >= 0, "n >= 0");
    call.matrix("A", a, n, n, lda);
    call.typed_workspace(work, work_size, cholesky_workspace(n));
    call.info(info);
    const int forced = forced_info("potrf");
    return call.submit([=] {
        scribble(work, static_cast<std::size_t>(work_size) * sizeof(double));
        dense lower = read_triangle(a, uplo, n, lda, false);
        const int failed = cholesky(lower);
        *info = forced != 0 ? forced : failed;
        if (*info != 0) {
            std::ranges::fill(lower.values, not_a_number);
        }
        write_triangle(lower, uplo, a, lda);
    });
}

cusolverStatus_t CUSOLVERAPI cusolverDnDpotrs(cusolverDnHandle_t handle, cublasFillMode_t uplo, int n, int columns,
                                              const double* a, int lda, double* b, int ldb, int* info) {
    solver_call call(__func__, handle);
    call.require(n >= 0 && columns >= 0, "sizes >= 0");
    call.matrix("A", a, n, n, lda);
    call.matrix("B", b, n, columns, ldb);
    call.info(info);
    const int forced = forced_info("potrs");
    return call.submit([=] {
        *info = forced;
        const dense lower = read_triangle(a, uplo, n, lda, false);
        dense solution = read(b, n, columns, ldb);
        for (index_t j = 0; j < columns; ++j) {
            cholesky_solve(lower, solution.col(j));
        }
        if (forced != 0) {
            std::ranges::fill(solution.values, not_a_number);
        }
        write(solution, b, ldb);
    });
}

}  // extern "C"
