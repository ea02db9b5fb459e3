// SPDX-License-Identifier: Apache-2.0
/// \file
/// Everything that runs on a CUDA device. Link `isic::cuda`; no CUDA header is needed.
#pragma once

#include <isic/cuda/backend.hpp>
#include <isic/cuda/codebook.hpp>
#include <isic/cuda/fused.hpp>
#include <isic/cuda/loop.hpp>
#include <isic/cuda/matrix.hpp>
#include <isic/cuda/metrics.hpp>
#include <isic/cuda/projection.hpp>
#include <isic/cuda/subspace.hpp>
#include <isic/cuda/update.hpp>
