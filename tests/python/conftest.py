# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by the tests."""

from __future__ import annotations

import numpy as np
import pytest

import isic.cuda


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def gpu() -> isic.cuda.Backend:
    return isic.cuda.Backend()
