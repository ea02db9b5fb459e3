// SPDX-License-Identifier: Apache-2.0
// Files.
#include <isic/isic.hpp>

#include <isic/detail/io/disk_file-inl.hpp>
#include <isic/detail/io/edit-inl.hpp>
#include <isic/detail/io/files-inl.hpp>
#include <isic/detail/io/journal-inl.hpp>
#include <isic/detail/io/npy-inl.hpp>
#include <isic/detail/io/patch-inl.hpp>
#include <isic/detail/io/safetensors-inl.hpp>
#include <isic/detail/io/subspace-inl.hpp>
#include <isic/detail/io/tensor-inl.hpp>
