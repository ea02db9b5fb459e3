/// \file
/// Device memory as compiled code sees it: without templates, without Eigen, without CUDA.
#pragma once

#include <cstddef>

namespace isic::inline ISIC_ABI {
using index_t = std::ptrdiff_t;  // as in matrix.hpp
}

namespace isic::inline ISIC_ABI::cuda {

/// What values are stored as.
enum class storage : int { f32, f64, f16, bf16 };

/// Row-major values to read, [rows x cols].
struct rows_in {
    const void* data;  ///< a device pointer
    dtype type;      ///< of each value
    index_t rows;      ///< number of rows
    index_t cols;      ///< values per row
    index_t stride;    ///< values from one row to the next
};

/// Row-major values to read and write.
struct rows_out {
    void* data;      ///< a device pointer
    dtype type;    ///< of each value
    index_t rows;    ///< number of rows
    index_t cols;    ///< values per row
    index_t stride;  ///< values from one row to the next
};

/// The same, read only.
inline rows_in read_only(const rows_out& m) {
    return {m.data, m.type, m.rows, m.cols, m.stride};
}

/// Token ids to read, contiguous.
struct ids_in {
    const void* data;  ///< a device pointer
    bool wide;         ///< int64, otherwise int32
    index_t size;      ///< how many
};

}  // namespace isic::inline ISIC_ABI::cuda
