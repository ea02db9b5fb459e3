// SPDX-License-Identifier: Apache-2.0
/// \file
/// Fitted subspaces in safetensors files, with per-code harmfulness, targets and usage: the output of `isic fit`.
#pragma once

#include <filesystem>
#include <vector>

#include <isic/differences.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// A harmful subspace with the per-code results of its token ids, for a codebook [K x d] or L of them (residual
/// levels).
struct fitted_subspace {
    subspace harm;                         ///< the subspace
    index_t levels = 1;                    ///< L
    std::vector<double> harmfulness = {};  ///< per code, [L K], in [0, 1]; empty: fitted to embeddings
    matrix<double> targets = {};           ///< per code, [L K x d]; empty: unknown
    code_usage usage = {};                 ///< counts per code, [L K] each; empty: unknown
};

/// Writes a fitted subspace as a safetensors file; replaces an existing file atomically.
///
/// Tensors, float64: "basis" [d, r], "singular_values", and optionally "harmfulness" [K] or [L, K], "targets" [K, d] or
/// [L, K, d], "usage.harmful" and "usage.safe" [K] or [L, K]; metadata: "format", "version", "energy", "rank",
/// "decided_by". The Python package reads and writes the same format. Errors: shape_error unless the levels have equal
/// sizes; io_error if the file cannot be written, or could not be loaded again (inconsistent shapes, values that are
/// not finite); on an error nothing is written.
ISIC_API void save_subspace(const std::filesystem::path& path, const fitted_subspace& fitted);

/// Reads a file that `save_subspace` wrote. Errors: io_error naming the file, the expected and the actual content.
[[nodiscard]] ISIC_API fitted_subspace load_subspace(const std::filesystem::path& path);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/subspace-inl.hpp>
#endif
