// SPDX-License-Identifier: Apache-2.0
// Nearest-neighbour search: float32 scores find the candidates, float64 distances re-rank them.
#include "exact_search.cuh"
#include "scores.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {

index_t center_parts(index_t rows) {
    return (rows + rows_per_sum - 1) / rows_per_sum;
}

cudaError_t center_of_rows(const scaled_rows& m, const std::uint8_t* skip, index_t count, double* sums, float* center,
                           cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(center_parts(m.rows.rows)),
                    static_cast<unsigned>((m.rows.cols + sum_side - 1) / sum_side));
    if (const cudaError_t status = launch(sum_columns_kernel, grid, dim3(threads_per_block), 0, stream, m, skip, sums);
        status != cudaSuccess) {
        return status;
    }
    return launch(finish_center_kernel, blocks_for(m.rows.cols), dim3(threads_per_block), 0, stream, sums,
                  center_parts(m.rows.rows), m.rows.cols, count, center);
}

cudaError_t pack_codes(const scaled_rows& m, const std::uint8_t* skip, const float* center, const code_panels& to,
                       cudaStream_t stream) {
    return launch(pack_codes_kernel, blocks_for(to.count * panel_rows), dim3(threads_per_block), 0, stream, m, skip,
                  center, to);
}

cudaError_t pack_queries(const scaled_rows& m, const float* center, const unsigned long long* largest_norm,
                         const query_panels& to, cudaStream_t stream) {
    return launch(pack_queries_kernel, blocks_for(to.count * panel_rows), dim3(threads_per_block), 0, stream, m, center,
                  largest_norm, to);
}

index_t query_panels_per_block(index_t width) {
    return width <= 16 ? queries_per_thread * threads_per_block / panel_rows : 1;
}

cudaError_t least_scores(const score_arguments& a, index_t splits, cudaStream_t stream) {
    const index_t each = query_panels_per_block(a.queries.width);
    const dim3 grid(static_cast<unsigned>((a.queries.count + each - 1) / each), static_cast<unsigned>(splits));
    const auto run = [&](auto kernel) { return launch(kernel, grid, dim3(threads_per_block), 0, stream, a); };
    switch (a.queries.width) {
        case 4: return run(narrow_scores_kernel<4>);
        case 8: return run(narrow_scores_kernel<8>);
        case 16: return run(narrow_scores_kernel<16>);
        default: return run(wide_scores_kernel);
    }
}

cudaError_t nearest_codes(const search_arguments& l, cudaStream_t stream) {
    const index_t n = l.queries.rows.rows;
    if (const cudaError_t status =
            launch(rerank_kernel, blocks_for(n * codes_per_group), dim3(threads_per_block), 0, stream, l);
        status != cudaSuccess) {
        return status;
    }
    const dim3 blocks(static_cast<unsigned>(l.blocks));
    if (const cudaError_t status = launch(search_ambiguous_kernel, blocks, dim3(side * side), 0, stream, l);
        status != cudaSuccess) {
        return status;
    }
    return launch(join_splits_kernel, blocks_for(n), dim3(threads_per_block), 0, stream, l);
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
