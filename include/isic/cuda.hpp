/// \file
/// Everything that runs on a CUDA device. Link `isic::cuda`; no CUDA header is needed.
#pragma once

#include <isic/cuda/backend.hpp>
#include <isic/cuda/codebook.hpp>
#include <isic/cuda/device_matrix.hpp>
#include <isic/cuda/fit.hpp>
#include <isic/cuda/layout.hpp>
#include <isic/cuda/loop.hpp>
#include <isic/cuda/metrics.hpp>
#include <isic/cuda/projection.hpp>
#include <isic/cuda/rows.hpp>
#include <isic/cuda/update.hpp>
