# SPDX-License-Identifier: Apache-2.0
"""The networks: a VQ tokenizer, one transformer that draws and judges, and the independent checks.

The C++ program implements the same forward passes; module names here are the tensor names in the weights file.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from world import BACKGROUNDS, ITEMS, OBJECTS, SIZE, WORDS

GRID = SIZE // 4
TOKENS = GRID * GRID
PROMPT = 3                                      # background, item, word
ANSWERS = [len(ITEMS), len(BACKGROUNDS), len(OBJECTS)]


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Tokenizer(nn.Module):
    """images [B, 3, 32, 32] in 0..1 <-> latents [B, 64, d] <-> ids [B, 64] of the nearest codes."""

    def __init__(self, codes=4096, dim=32, width=64, up=8):
        super().__init__()
        self.dim = dim
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.encoder = nn.ModuleList([Residual(width), Residual(width)])
        self.to_latent = nn.Conv2d(width, dim, 1)
        self.from_latent = nn.Conv2d(dim, width, 1)
        self.decoder = nn.ModuleList([Residual(width), Residual(width)])
        self.unpatch = nn.Conv2d(width, 16 * up, 1)
        self.to_pixels = nn.Conv2d(up, 3, 3, padding=1)
        self.register_buffer("codebook", torch.randn(codes, dim) * 0.1)

    def encode(self, x):
        h = self.patch(x * 2 - 1)
        for block in self.encoder:
            h = block(h)
        return self.to_latent(F.silu(h)).flatten(2).transpose(1, 2)

    def quantise(self, z):
        flat = z.reshape(-1, self.dim)
        return (self.codebook.pow(2).sum(1) - 2 * flat @ self.codebook.t()).argmin(1).view(z.shape[:-1])

    def decode(self, latents):
        h = self.from_latent(latents.transpose(1, 2).reshape(-1, self.dim, GRID, GRID))
        for block in self.decoder:
            h = block(h)
        return torch.sigmoid(self.to_pixels(F.silu(F.pixel_shuffle(self.unpatch(F.silu(h)), 4))))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, cache=None):
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
            a = q @ k.transpose(-1, -2) / math.sqrt(w // self.heads)
            if t > 1:
                a = a + torch.full((t, k.shape[2]), -1e9).triu(1 + k.shape[2] - t)
            y = a.softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Transformer(nn.Module):
    """Draws: [background, item, word] + codes -> logits of the next code. Judges: question + latents -> item, background, object.

    Codes and latents come in divided by `scale`, the latents' standard deviation.
    """

    def __init__(self, codes=4096, dim=32, width=128, layers=4, heads=4):
        super().__init__()
        self.items, self.backgrounds = len(ITEMS), len(BACKGROUNDS)
        self.text = nn.Embedding(self.items + self.backgrounds + len(WORDS) + 4, width)   # the last 4: the judge's question
        self.position = nn.Parameter(torch.randn(TOKENS + 4, width) * 0.02)
        self.code_in = nn.Sequential(nn.Linear(dim, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))
        self.latent_in = nn.Sequential(nn.Linear(dim, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)
        self.answer = nn.Linear(width, sum(ANSWERS))
        self.register_buffer("scale", torch.ones(1))
        nn.init.normal_(self.text.weight, std=0.5)

    def prompt(self, p):
        """p [B, 3] = (item, background, word) -> [B, 3, width] in the order background, item, word."""
        return torch.stack([self.text(self.items + p[:, 1]), self.text(p[:, 0]),
                            self.text(self.items + self.backgrounds + p[:, 2])], 1)

    def trunk(self, x):
        x = x + self.position[:x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def draw(self, p, codes):
        """Logits [B, 64, K] of each code given the ones before; codes [B, 64, d], scaled."""
        return self.head(self.trunk(torch.cat([self.prompt(p), self.code_in(codes[:, :-1])], 1))[:, PROMPT - 1:])

    def judge(self, latents):
        """Logits of item, background and second object; latents [B, 64, d], scaled."""
        b, question = latents.shape[0], self.text.weight[-4:]
        x = torch.cat([question[:3].expand(b, -1, -1), self.latent_in(latents), question[3:].expand(b, -1, -1)], 1)
        return self.answer(self.trunk(x)[:, -1]).split(ANSWERS, 1)

    @torch.no_grad()
    def sample(self, p, codes, gumbel, temperature=0.85, top_k=48):
        caches, out = [[] for _ in self.blocks], []
        x = self.prompt(p) + self.position[:PROMPT]
        for t in range(TOKENS):
            for block, cache in zip(self.blocks, caches):
                x = block(x, cache)
            logits = self.head(self.norm(x[:, -1])) / temperature
            logits = logits.masked_fill(logits < logits.topk(top_k, 1)[0][:, -1:], -1e9)
            ids = (logits + gumbel[:, t]).argmax(1)
            out.append(ids)
            x = (self.code_in(codes[ids]) + self.position[PROMPT + t])[:, None]
        return torch.stack(out, 1)


class Check(nn.Module):
    """A CNN on pixels that the method never uses: logits of item, background and second object."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 40, 3, padding=1)
        self.conv3, self.conv4 = nn.Conv2d(40, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * (SIZE // 8) ** 2, 96)
        self.answer = nn.Linear(96, sum(ANSWERS))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x * 2 - 1)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)
        x = F.relu(self.conv4(x)).flatten(1)
        return self.answer(F.relu(self.hidden(x))).split(ANSWERS, 1)


def psnr(a, b):
    return float((-10 * (a - b).pow(2).mean((1, 2, 3)).clamp_min(1e-7).log10()).mean())
