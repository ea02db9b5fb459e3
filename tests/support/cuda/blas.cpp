// SPDX-License-Identifier: Apache-2.0
// The stand-in's cuBLAS. The real header is included: a wrong signature does not compile.
#include <cublas_v2.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "device.hpp"

namespace stand_in::detail {
namespace {

struct blas_handle : library_handle {
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
    void* workspace = nullptr;
    std::size_t workspace_bytes = 0;
};

registry<blas_handle>& handles() {
    static registry<blas_handle> all;
    return all;
}

const bool blas_is_cleared = [] {
    at_reset([] { handles().clear(); });
    return true;
}();

// alpha or beta: read now if it is the host's, when the work runs if it is the device's.
template <class T>
class factor {
public:
    factor() = default;
    explicit factor(T value) : value_(value) {}
    explicit factor(const T* device_pointer) : device_pointer_(device_pointer) {}
    double get() const { return device_pointer_ == nullptr ? value_ : *device_pointer_; }

private:
    const T* device_pointer_ = nullptr;
    T value_ = T();
};

using library_call_of_blas = library_call<cublasStatus_t, CUBLAS_STATUS_NOT_INITIALIZED, CUBLAS_STATUS_INVALID_VALUE,
                                          CUBLAS_STATUS_EXECUTION_FAILED>;

class blas_call : public library_call_of_blas {
public:
    blas_call(const char* function, cublasHandle_t handle) : library_call_of_blas(function) {
        handle_ = handles().find(handle);
        use(handle_);
    }

    blas_handle& handle() { return *handle_; }

    template <class T>
    factor<T> scalar(const char* argument, const T* p) {
        if (!ok()) {
            return {};
        }
        if (handle_->pointers == CUBLAS_POINTER_MODE_DEVICE) {
            vector(argument, p, 1);
            return factor<T>(p);
        }
        require(p != nullptr && heap().find(p) == nullptr, std::string(argument) + " in host memory");
        return ok() ? factor<T>(*p) : factor<T>();
    }

    template <class T>
    bool rounds_to_tf32() const {
        return std::is_same_v<T, float> && ok() && (handle_->math & 0xf) == CUBLAS_TF32_TENSOR_OP_MATH;
    }

    /// With a workspace of the caller's, which the work destroys.
    cublasStatus_t submit_with_workspace(std::function<void()> work) {
        if (!ok() || handle_->workspace == nullptr) {
            return submit(std::move(work));
        }
        void* const p = handle_->workspace;
        const std::size_t bytes = handle_->workspace_bytes;
        workspace("the workspace", p, bytes, bytes);
        return submit([=] {
            scribble(p, bytes);
            work();
        });
    }

private:
    blas_handle* handle_ = nullptr;
};

bool is_transposed(cublasOperation_t op) {
    return op != CUBLAS_OP_N;
}

bool in_triangle(cublasFillMode_t uplo, index_t row, index_t col) {
    return uplo == CUBLAS_FILL_MODE_LOWER ? row >= col : row <= col;
}

// TF32 keeps 10 bits of the mantissa.
double to_tf32(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return std::bit_cast<float>((bits + 0x1000u) & ~0x1fffu);
}

// `count` vectors of `length` values one after another: columns of a matrix, or its rows.
template <class T>
std::vector<double> pack(const T* a, index_t ld, bool columns, index_t count, index_t length, bool tf32) {
    std::vector<double> packed(static_cast<std::size_t>(count * length));
    double* to = packed.data();
    for (index_t i = 0; i < count; ++i) {
        for (index_t l = 0; l < length; ++l) {
            const T x = columns ? a[l + i * ld] : a[i + l * ld];
            *to++ = tf32 ? to_tf32(static_cast<float>(x)) : static_cast<double>(x);
        }
    }
    return packed;
}

double dot(const double* x, const double* y, index_t n) {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) {
        sum += x[i] * y[i];
    }
    return sum;
}

// c = alpha * product + beta * c, where beta == 0 does not read c.
template <class T>
void update(T& c, double alpha, double product, double beta) {
    const double kept = beta == 0 ? 0 : beta * static_cast<double>(c);
    c = static_cast<T>(alpha == 0 ? kept : alpha * product + kept);
}

template <class T>
cublasStatus_t gemm(const char* function, cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                    int n, int k, const T* alpha, const T* a, int lda, const T* b, int ldb, const T* beta, T* c,
                    int ldc) {
    blas_call call(function, handle);
    const bool ta = is_transposed(op_a);
    const bool tb = is_transposed(op_b);
    const block_of_memory in_a{a, ta ? k : m, ta ? m : k, lda, sizeof(T)};
    const block_of_memory in_b{b, tb ? n : k, tb ? k : n, ldb, sizeof(T)};
    const block_of_memory in_c{c, m, n, ldc, sizeof(T)};
    call.require(m >= 0 && n >= 0 && k >= 0, "sizes >= 0");
    call.matrix("A", a, in_a.rows, in_a.cols, lda);
    call.matrix("B", b, in_b.rows, in_b.cols, ldb);
    call.matrix("C", c, m, n, ldc);
    call.disjoint("A and C", in_a, in_c);
    call.disjoint("B and C", in_b, in_c);
    const auto alpha_factor = call.scalar("alpha", alpha);
    const auto beta_factor = call.scalar("beta", beta);
    const bool tf32 = call.template rounds_to_tf32<T>();
    return call.submit_with_workspace([=] {
        const auto rows = pack(a, lda, ta, m, k, tf32);
        const auto columns = pack(b, ldb, !tb, n, k, tf32);
        for (index_t j = 0; j < n; ++j) {
            for (index_t i = 0; i < m; ++i) {
                const double product = dot(rows.data() + i * k, columns.data() + j * k, k);
                update(c[i + j * ldc], alpha_factor.get(), product, beta_factor.get());
            }
        }
    });
}

template <class T>
cublasStatus_t syrk(const char* function, cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t op, int n,
                    int k, const T* alpha, const T* a, int lda, const T* beta, T* c, int ldc) {
    blas_call call(function, handle);
    const bool transposed = is_transposed(op);
    const block_of_memory in_a{a, transposed ? k : n, transposed ? n : k, lda, sizeof(T)};
    call.require(n >= 0 && k >= 0, "sizes >= 0");
    call.matrix("A", a, in_a.rows, in_a.cols, lda);
    call.matrix("C", c, n, n, ldc);
    call.disjoint("A and C", in_a, {c, n, n, ldc, sizeof(T)});
    const auto alpha_factor = call.scalar("alpha", alpha);
    const auto beta_factor = call.scalar("beta", beta);
    const bool tf32 = call.template rounds_to_tf32<T>();
    return call.submit_with_workspace([=] {
        const auto rows = pack(a, lda, transposed, n, k, tf32);
        for (index_t j = 0; j < n; ++j) {
            for (index_t i = 0; i < n; ++i) {
                if (in_triangle(uplo, i, j)) {
                    const double product = dot(rows.data() + i * k, rows.data() + j * k, k);
                    update(c[i + j * ldc], alpha_factor.get(), product, beta_factor.get());
                }
            }
        }
    });
}

cublasStatus_t gemv(const char* function, cublasHandle_t handle, cublasOperation_t op, int m, int n,
                    const double* alpha, const double* a, int lda, const double* x, int x_step, const double* beta,
                    double* y, int y_step) {
    blas_call call(function, handle);
    const bool transposed = is_transposed(op);
    const index_t y_size = transposed ? n : m;
    const index_t x_size = transposed ? m : n;
    call.require(m >= 0 && n >= 0, "sizes >= 0");
    call.matrix("A", a, m, n, lda);
    call.vector("x", x, x_size, x_step);
    call.vector("y", y, y_size, y_step);
    call.disjoint("A and y", {a, m, n, lda, sizeof(double)}, {y, 1, y_size, y_step, sizeof(double)});
    call.disjoint("x and y", {x, 1, x_size, x_step, sizeof(double)}, {y, 1, y_size, y_step, sizeof(double)});
    const auto alpha_factor = call.scalar("alpha", alpha);
    const auto beta_factor = call.scalar("beta", beta);
    return call.submit_with_workspace([=] {
        const auto rows = pack(a, lda, transposed, y_size, x_size, false);
        const auto values = pack(x, x_step, false, 1, x_size, false);
        for (index_t i = 0; i < y_size; ++i) {
            const double product = dot(rows.data() + i * x_size, values.data(), x_size);
            update(y[i * y_step], alpha_factor.get(), product, beta_factor.get());
        }
    });
}

// A += scale * alpha * (x y' + y x') in one triangle.
cublasStatus_t symmetric_update(blas_call& call, cublasFillMode_t uplo, int n, double scale, const double* alpha,
                                const double* x, int x_step, const double* y, int y_step, double* a, int lda) {
    call.require(n >= 0, "size >= 0");
    call.matrix("A", a, n, n, lda);
    call.vector("x", x, n, x_step);
    call.vector("y", y, n, y_step);
    const auto alpha_factor = call.scalar("alpha", alpha);
    return call.submit([=] {
        for (index_t j = 0; j < n; ++j) {
            for (index_t i = 0; i < n; ++i) {
                if (in_triangle(uplo, i, j)) {
                    const double product = x[i * x_step] * y[j * y_step] + y[i * y_step] * x[j * x_step];
                    a[i + j * lda] += scale * alpha_factor.get() * product;
                }
            }
        }
    });
}

// Results go to the host, which waits for them, or to the device.
template <class Compute>
cublasStatus_t reduce(blas_call& call, double* result, Compute compute) {
    if (!call.ok()) {
        return call.status();
    }
    if (call.handle().pointers == CUBLAS_POINTER_MODE_DEVICE) {
        call.vector("result", result, 1);
        return call.submit([=] { *result = compute(); });
    }
    call.require(result != nullptr && heap().find(result) == nullptr, "result in host memory");
    return call.submit_and_wait([=] { *result = compute(); });
}

struct status_name {
    cublasStatus_t status;
    const char* name;
    const char* text;
};

constexpr status_name status_names[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED", "the library was not initialized"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE", "an invalid value was passed in"},
    {CUBLAS_STATUS_ARCH_MISMATCH, "CUBLAS_STATUS_ARCH_MISMATCH", "the device lacks a feature"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED", "the function failed to launch on the GPU"},
    {CUBLAS_STATUS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR", "an internal operation failed"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED", "the functionality is not supported"},
};

const status_name* find_status_name(cublasStatus_t status) {
    const auto* found = std::ranges::find(status_names, status, &status_name::status);
    return found == std::end(status_names) ? nullptr : found;
}

}  // namespace
}  // namespace stand_in::detail

using namespace stand_in::detail;
using stand_in::control;

extern "C" {

const char* CUBLASWINAPI cublasGetStatusName(cublasStatus_t status) {
    const status_name* found = find_status_name(status);
    return found == nullptr ? "unknown" : found->name;
}

const char* CUBLASWINAPI cublasGetStatusString(cublasStatus_t status) {
    const status_name* found = find_status_name(status);
    return found == nullptr ? "unknown" : found->text;
}

// ---- Handles

cublasStatus_t CUBLASWINAPI cublasCreate_v2(cublasHandle_t* made) {
    const library_call_of_blas call(__func__);
    if (!call.ok()) {
        return call.status();
    }
    blas_handle handle;
    handle.device = current_device();
    *made = static_cast<cublasHandle_t>(handles().add(handle));
    ++control().live.blas;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasDestroy_v2(cublasHandle_t handle) {
    const library_call_of_blas call(__func__);
    if (!handles().remove(handle)) {
        stand_in::violation(call.function() + ": the handle is not live");
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    --control().live.blas;
    return call.status();
}

cublasStatus_t CUBLASWINAPI cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    blas_call call(__func__, handle);
    if (call.ok() && find_stream(call.function(), stream) != nullptr) {
        call.handle().stream = stream;
        call.handle().workspace = nullptr;  // as the real library does it
        call.handle().workspace_bytes = 0;
    }
    return call.status();
}

cublasStatus_t CUBLASWINAPI cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    blas_call call(__func__, handle);
    if (call.ok()) {
        call.handle().math = mode;
    }
    return call.status();
}

cublasStatus_t CUBLASWINAPI cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    blas_call call(__func__, handle);
    if (call.ok()) {
        call.handle().pointers = mode;
    }
    return call.status();
}

cublasStatus_t CUBLASWINAPI cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
    blas_call call(__func__, handle);
    call.workspace("the workspace", workspace, bytes, 0);
    if (call.ok() && workspace != nullptr) {
        const char* begin = heap().find(workspace)->data;  // 256 byte aligned on a device
        call.require((static_cast<const char*>(workspace) - begin) % 256 == 0, "a workspace aligned to 256 bytes");
    }
    if (call.ok()) {
        call.handle().workspace = bytes == 0 ? nullptr : workspace;
        call.handle().workspace_bytes = bytes;
    }
    return call.status();
}

// ---- Matrices

cublasStatus_t CUBLASWINAPI cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                                           int n, int k, const float* alpha, const float* a, int lda, const float* b,
                                           int ldb, const float* beta, float* c, int ldc) {
    return gemm(__func__, handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

cublasStatus_t CUBLASWINAPI cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                                           int n, int k, const double* alpha, const double* a, int lda, const double* b,
                                           int ldb, const double* beta, double* c, int ldc) {
    return gemm(__func__, handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

cublasStatus_t CUBLASWINAPI cublasSsyrk_v2(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t op, int n,
                                           int k, const float* alpha, const float* a, int lda, const float* beta,
                                           float* c, int ldc) {
    return syrk(__func__, handle, uplo, op, n, k, alpha, a, lda, beta, c, ldc);
}

cublasStatus_t CUBLASWINAPI cublasDsyrk_v2(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t op, int n,
                                           int k, const double* alpha, const double* a, int lda, const double* beta,
                                           double* c, int ldc) {
    return syrk(__func__, handle, uplo, op, n, k, alpha, a, lda, beta, c, ldc);
}

cublasStatus_t CUBLASWINAPI cublasDgemv_v2(cublasHandle_t handle, cublasOperation_t op, int m, int n,
                                           const double* alpha, const double* a, int lda, const double* x, int x_step,
                                           const double* beta, double* y, int y_step) {
    return gemv(__func__, handle, op, m, n, alpha, a, lda, x, x_step, beta, y, y_step);
}

cublasStatus_t CUBLASWINAPI cublasDsyr_v2(cublasHandle_t handle, cublasFillMode_t uplo, int n, const double* alpha,
                                          const double* x, int x_step, double* a, int lda) {
    blas_call call(__func__, handle);
    return symmetric_update(call, uplo, n, 0.5, alpha, x, x_step, x, x_step, a, lda);
}

cublasStatus_t CUBLASWINAPI cublasDsyr2_v2(cublasHandle_t handle, cublasFillMode_t uplo, int n, const double* alpha,
                                           const double* x, int x_step, const double* y, int y_step, double* a,
                                           int lda) {
    blas_call call(__func__, handle);
    return symmetric_update(call, uplo, n, 1, alpha, x, x_step, y, y_step, a, lda);
}

cublasStatus_t CUBLASWINAPI cublasDger_v2(cublasHandle_t handle, int m, int n, const double* alpha, const double* x,
                                          int x_step, const double* y, int y_step, double* a, int lda) {
    blas_call call(__func__, handle);
    call.require(m >= 0 && n >= 0, "sizes >= 0");
    call.matrix("A", a, m, n, lda);
    call.vector("x", x, m, x_step);
    call.vector("y", y, n, y_step);
    const auto alpha_factor = call.scalar("alpha", alpha);
    return call.submit([=] {
        for (index_t j = 0; j < n; ++j) {
            for (index_t i = 0; i < m; ++i) {
                a[i + j * lda] += alpha_factor.get() * x[i * x_step] * y[j * y_step];
            }
        }
    });
}

// ---- Vectors

cublasStatus_t CUBLASWINAPI cublasDscal_v2(cublasHandle_t handle, int n, const double* alpha, double* x, int step) {
    blas_call call(__func__, handle);
    call.vector("x", x, n, step);
    const auto alpha_factor = call.scalar("alpha", alpha);
    return call.submit([=] {
        for (index_t i = 0; i < n; ++i) {
            x[i * step] *= alpha_factor.get();
        }
    });
}

cublasStatus_t CUBLASWINAPI cublasDaxpy_v2(cublasHandle_t handle, int n, const double* alpha, const double* x,
                                           int x_step, double* y, int y_step) {
    blas_call call(__func__, handle);
    call.vector("x", x, n, x_step);
    call.vector("y", y, n, y_step);
    const auto alpha_factor = call.scalar("alpha", alpha);
    return call.submit([=] {
        for (index_t i = 0; i < n; ++i) {
            y[i * y_step] += alpha_factor.get() * x[i * x_step];
        }
    });
}

cublasStatus_t CUBLASWINAPI cublasDdot_v2(cublasHandle_t handle, int n, const double* x, int x_step, const double* y,
                                          int y_step, double* result) {
    blas_call call(__func__, handle);
    call.vector("x", x, n, x_step);
    call.vector("y", y, n, y_step);
    return reduce(call, result, [=] {
        double sum = 0;
        for (index_t i = 0; i < n; ++i) {
            sum += x[i * x_step] * y[i * y_step];
        }
        return sum;
    });
}

cublasStatus_t CUBLASWINAPI cublasDnrm2_v2(cublasHandle_t handle, int n, const double* x, int step, double* result) {
    blas_call call(__func__, handle);
    call.vector("x", x, n, step);
    return reduce(call, result, [=] {
        double norm = 0;
        for (index_t i = 0; i < n; ++i) {
            norm = std::hypot(norm, x[i * step]);  // neither overflows nor underflows
        }
        return norm;
    });
}

cublasStatus_t CUBLASWINAPI cublasDasum_v2(cublasHandle_t handle, int n, const double* x, int step, double* result) {
    blas_call call(__func__, handle);
    call.vector("x", x, n, step);
    return reduce(call, result, [=] {
        double sum = 0;
        for (index_t i = 0; i < n; ++i) {
            sum += std::abs(x[i * step]);
        }
        return sum;
    });
}

}  // extern "C"
