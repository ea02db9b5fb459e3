# SPDX-License-Identifier: Apache-2.0
"""The exception of isic.cuda."""

from __future__ import annotations

from typing import Literal

from .._errors import BackendError

Failure = Literal["no_device", "out_of_memory", "not_converged", "invalid_value", "other"]


class CudaError(BackendError):
    """A device or one of its libraries failed."""

    failure: Failure
    """Kind of failure. "other" includes errors of a kernel, which persist until the process ends."""
    library: str
    """"CUDA", "cuBLAS" or "cuSOLVER"."""
    code: int
    """The library's code: cudaError_t, cublasStatus_t, cusolverStatus_t, or the info of a solver."""

    def __init__(self, message: str, failure: Failure = "other", library: str = "CUDA", code: int = 0) -> None:
        super().__init__(message)
        self.failure, self.library, self.code = failure, library, code


CudaError.__module__ = "isic.cuda"
