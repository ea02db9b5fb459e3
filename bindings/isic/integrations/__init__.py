# SPDX-License-Identifier: Apache-2.0
"""Adapters for models of other packages. Each module requires the package of its name."""
