/// \file
/// Subspaces in files, with what is known of each code: what `isic fit` writes, and what checkpoints are edited by.
#pragma once

#include <filesystem>
#include <vector>

#include <isic/differences.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// A harmful subspace with what its token ids said about each code of a codebook [K x d], or of L of them (residual levels).
struct fitted_subspace {
    subspace harm;                         ///< what is to be removed
    index_t levels = 1;                    ///< L
    std::vector<double> harmfulness = {};  ///< of each code, [L K], in [0, 1]; empty: it was fitted to embeddings
    matrix<double> targets = {};           ///< where each code goes, [L K x d]; empty: not known
    code_usage usage = {};                 ///< how often each code was seen, [L K] each; empty: not known
};

/// Writes a subspace, and what is known of each code, as a safetensors file that any reader opens, replacing an old file only
/// when the new one is complete.
///
/// Tensors, float64: "basis" [d, r], "singular_values", and where known "harmfulness" [K] or [L, K], "targets" with a last
/// dimension d, "usage.harmful" and "usage.safe"; metadata: "format", "version", "energy", "rank", "decided_by". isic for Python
/// reads and writes the same. Errors: shape_error unless there is as much of each level; io_error if it cannot be written, or
/// could not be loaded again: parts that do not fit together, or are not finite; nothing is written then.
ISIC_API void save_subspace(const std::filesystem::path& path, const fitted_subspace& fitted);

/// Reads what `save_subspace` wrote. Errors: io_error naming the file, what was expected in it and what was found.
ISIC_API fitted_subspace load_subspace(const std::filesystem::path& path);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/subspace-inl.hpp>
#endif
