# SPDX-License-Identifier: Apache-2.0
"""Writes a small TorchScript decoder with its codebook, for main.cpp: python decoder.py decoder.pt"""

from __future__ import annotations

import sys
import warnings

import torch
from torch import nn


class Decoder(nn.Module):
    """Token ids [n, h, w] -> pixels [n, 3, 4 h, 4 w], with the key names of the VQGAN family."""

    def __init__(self, codes: int = 64, width: int = 8) -> None:
        super().__init__()
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, width)
        self.post_quant_conv = nn.Conv2d(width, 32, 1)
        self.decoder = nn.Sequential(nn.SiLU(), nn.Upsample(scale_factor=2.0), nn.Conv2d(32, 16, 3, padding=1),
                                     nn.SiLU(), nn.Upsample(scale_factor=2.0), nn.Conv2d(16, 3, 3, padding=1), nn.Sigmoid())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(self.quantize.embedding(ids).permute(0, 3, 1, 2)))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    torch.manual_seed(0)
    torch.jit.trace(Decoder().eval(), torch.zeros(1, 8, 8, dtype=torch.long)).save(sys.argv[1])
