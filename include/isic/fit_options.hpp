/// \file
/// Options of `fit_subspace`, whatever it runs on.
#pragma once

#include <isic/kernels.hpp>
#include <isic/rank.hpp>

namespace isic {

/// What is taken out of the differences before they are decomposed.
enum class centering {
    none,      ///< plain second moment: the mean difference, usually the strongest direction, stays
    mean,      ///< the mean difference; keeps only how pairs vary
    safe_axis  ///< the top right singular vector of the safe embeddings (ProFS, arXiv 2405.13967); needs d >= 3
};

/// Options of `fit_subspace`.
struct fit_options {
    rank_options rank = {};                  ///< rank rules
    centering center = centering::none;      ///< what to take out first
    kernels::resources use = {};             ///< threads and instructions of the second moment; the GPU has its own
};

}  // namespace isic
