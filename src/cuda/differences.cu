// Embedding differences as float64 rows, for a Gram matrix.
#include "rows.cuh"

namespace isic::cuda {
namespace {

__global__ void subtract_rows_kernel(rows_in harmful, rows_in safe, index_t first, double* out, findings* found) {
    const index_t at = thread_number();
    if (at >= harmful.rows * harmful.cols) {
        return;
    }
    const double subtracted = safe.data == nullptr ? 0.0 : value_at(safe, at / safe.cols, at % safe.cols);
    const double difference = value_at(harmful, at / harmful.cols, at % harmful.cols) - subtracted;
    const bool fine = is_finite(difference);
    out[at] = fine ? difference : 0.0;
    if (!fine) {
        note(&found->not_finite, static_cast<std::uint64_t>(first * harmful.cols + at));
    }
}

__global__ void subtract_codes_kernel(rows_in codes, ids_in harmful, ids_in safe, index_t first, index_t n, double* out, findings* found) {
    const index_t at = thread_number();
    if (at >= n * codes.cols) {
        return;
    }
    const index_t t = first + at / codes.cols;
    const std::int64_t h = id_at(harmful, t);
    const std::int64_t s = id_at(safe, t);
    const bool fine = h >= 0 && h < codes.rows && s >= 0 && s < codes.rows;
    const index_t column = at % codes.cols;
    out[at] = fine ? value_at(codes, h, column) - value_at(codes, s, column) : 0.0;
    if (!fine) {
        note(&found->bad_id, static_cast<std::uint64_t>(t));
    }
}

__global__ void weigh_codes_kernel(rows_in codes, const unsigned long long* counts, double* out) {
    const index_t at = thread_number();
    if (at < codes.rows * codes.cols) {
        const index_t k = at / codes.cols;
        out[at] = counts[k] > 0 ? sqrt(static_cast<double>(counts[k])) * value_at(codes, k, at % codes.cols) : 0.0;
    }
}

__global__ void mirror_lower_kernel(double* a, index_t n) {
    const index_t at = thread_number();
    const index_t i = at % n;
    const index_t j = at / n;
    if (j < n && i < j) {
        a[j * n + i] = a[i * n + j];
    }
}

}  // namespace

cudaError_t mirror_lower(double* a, index_t n, cudaStream_t stream) {
    return launch(mirror_lower_kernel, blocks_for(n * n), dim3(threads_per_block), 0, stream, a, n);
}

cudaError_t subtract_rows(rows_in harmful, rows_in safe, index_t first, double* out, findings* found, cudaStream_t stream) {
    return launch(subtract_rows_kernel, blocks_for(harmful.rows * harmful.cols), dim3(threads_per_block), 0, stream, harmful, safe, first,
                  out, found);
}

cudaError_t subtract_codes(rows_in codes, ids_in harmful, ids_in safe, index_t first, index_t n, double* out, findings* found,
                           cudaStream_t stream) {
    return launch(subtract_codes_kernel, blocks_for(n * codes.cols), dim3(threads_per_block), 0, stream, codes, harmful, safe, first, n,
                  out, found);
}

cudaError_t weigh_codes(rows_in codes, const unsigned long long* counts, double* out, cudaStream_t stream) {
    return launch(weigh_codes_kernel, blocks_for(codes.rows * codes.cols), dim3(threads_per_block), 0, stream, codes, counts, out);
}

}  // namespace isic::cuda
