// SPDX-License-Identifier: Apache-2.0
/// \file
/// All headers of isic but the CUDA backend. \namespace isic Codebook surgery: removes a harmful concept from the
/// vectors that a generator decodes.
#pragma once

#include <isic/codebook.hpp>
#include <isic/differences.hpp>
#include <isic/edit.hpp>
#include <isic/error.hpp>
#include <isic/execution.hpp>
#include <isic/fused.hpp>
#include <isic/generator.hpp>
#include <isic/harmfulness.hpp>
#include <isic/io/edit.hpp>
#include <isic/io/npy.hpp>
#include <isic/io/patch.hpp>
#include <isic/io/safetensors.hpp>
#include <isic/io/subspace.hpp>
#include <isic/io/tensor.hpp>
#include <isic/lexicon.hpp>
#include <isic/loop.hpp>
#include <isic/matrix.hpp>
#include <isic/metrics.hpp>
#include <isic/projection.hpp>
#include <isic/rank.hpp>
#include <isic/subspace.hpp>
#include <isic/types.hpp>
#include <isic/update.hpp>
#include <isic/version.hpp>
