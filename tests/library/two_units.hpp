// SPDX-License-Identifier: Apache-2.0
#pragma once
// Both units use the same templates and inline functions.

/// Leakage that is left of a small codebook after one projection.
double leakage_by_unit_a();
double leakage_by_unit_b();
