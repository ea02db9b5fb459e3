/// \file
/// All of isic. \namespace isic Codebook surgery: take a harmful concept out of the vectors a generator decodes from.
#pragma once

#include <isic/codebook.hpp>
#include <isic/constraint.hpp>
#include <isic/differences.hpp>
#include <isic/edit.hpp>
#include <isic/edit_file.hpp>
#include <isic/eigen.hpp>
#include <isic/error.hpp>
#include <isic/fit.hpp>
#include <isic/generator.hpp>
#include <isic/harmfulness.hpp>
#include <isic/io.hpp>
#include <isic/lexicon.hpp>
#include <isic/loop.hpp>
#include <isic/matrix.hpp>
#include <isic/merge.hpp>
#include <isic/metrics.hpp>
#include <isic/orthonormal.hpp>
#include <isic/projection.hpp>
#include <isic/rank.hpp>
#include <isic/subspace.hpp>
#include <isic/update.hpp>
#include <isic/version.hpp>
