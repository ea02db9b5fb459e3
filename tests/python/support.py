# SPDX-License-Identifier: Apache-2.0
"""The dtypes of a codebook."""

import pytest

DTYPES = ["float64", "float32", "float16", "bfloat16"]
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def bfloat16():
    return pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16


def as_dtype(values, dtype):
    return values.astype(bfloat16() if dtype == "bfloat16" else dtype)
