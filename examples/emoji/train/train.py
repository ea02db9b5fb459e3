# SPDX-License-Identifier: Apache-2.0
"""Trains all networks of the demo, from the font to `../data/emoji.safetensors`; fixed seeds and step counts.

    python train.py [--work DIR] [STAGE ...]        stages: sprites tokenizer transformer check ghost export

Each stage reads and writes the work folder, so a finished stage need not run again. A stage uses one thread; the two checks
may run on a second core while the transformer trains.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import models
import world
from world import DATA, FIRST_HARMFUL

TOKENIZER_STEPS, TRANSFORMER_STEPS, CHECK_STEPS, GHOST_STEPS = 4000, 4000, 2200, 2200
torch.set_num_threads(1)


class Stage:
    """The work folder: images rendered from the sprites, trained parts by name."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def sprites(self):
        return dict(np.load(self.folder / "sprites.npz"))

    def data(self, kind):
        """float images come from `batch`; this holds uint8 [n, 3, 32, 32] and labels [n, 4]."""
        path = self.folder / f"{kind}.npz"
        if not path.exists():
            draw = {"train": lambda s: world.images(s, 60000, 1), "faint": lambda s: world.faint_images(s, 16000, 3),
                    "test": lambda s: world.images(s, 3000, 2, (0.35, 0.35, 0.30))}[kind]
            x, labels = draw(self.sprites())
            temporary = path.with_suffix(".tmp.npz")
            np.savez(temporary, x=x, labels=labels)
            temporary.rename(path)
        stored = np.load(path)
        return torch.tensor(stored["x"]).permute(0, 3, 1, 2).contiguous(), torch.tensor(stored["labels"])

    def save(self, name, module):
        torch.save(module.state_dict(), self.folder / f"{name}.pt")

    def load(self, name, module):
        module.load_state_dict(torch.load(self.folder / f"{name}.pt"))
        module.eval()
        return module.requires_grad_(False)


def batch(x, rows):
    return x[rows].float() / 255


@torch.no_grad()
def in_parts(f, x, size=250):
    return torch.cat([f(x[j:j + size]) for j in range(0, len(x), size)])


def schedule(optimiser, rate, it, steps, flat, floor, warmup):
    """Linear warm-up, flat, then linear decay to floor x rate."""
    factor = min(1, it / warmup) * (1 if it < flat * steps else max(floor, (1 - it / steps) / (1 - flat)))
    for group in optimiser.param_groups:
        group["lr"] = rate * factor


def train_sprites(stage):
    sprites = world.draw_sprites()
    np.savez_compressed(stage.folder / "sprites.npz", **sprites)
    flat = {k: torch.tensor(v) for k, v in sprites.items()}
    save_file(flat, DATA / "sprites.safetensors", {"format": "premultiplied RGBA, uint8 [height, width, 4]",
                                                   "source": "Noto Color Emoji, SIL Open Font License 1.1"})
    for kind in ("train", "faint", "test"):
        stage.data(kind)


def train_tokenizer(stage):
    """VQ by exponential moving averages, with a whitening penalty so that no colour axis dominates the latents."""
    torch.manual_seed(0)
    x, _ = stage.data("train")
    test = batch(stage.data("test")[0], slice(500))
    model = models.Tokenizer().to(memory_format=torch.channels_last)
    book, (codes, dim) = model.codebook, model.codebook.shape
    counts, sums = torch.ones(codes), book.clone()
    parameters = list(model.parameters())
    optimiser = torch.optim.Adam(parameters, 2e-3)
    start = time.time()
    for it in range(TOKENIZER_STEPS):
        schedule(optimiser, 2e-3, it, TOKENIZER_STEPS, 0.5, 0.03, 100)
        image = batch(x, torch.randint(0, len(x), (64,))).contiguous(memory_format=torch.channels_last)
        z = model.encode(image)
        whiteness = (torch.cov(z.reshape(-1, dim).t()) - torch.eye(dim)).pow(2).mean()
        loss = 0.01 * (z.pow(2).mean() - 1) ** 2 + 0.015 * whiteness
        if it < 300:                                             # start without quantisation
            loss = loss + F.mse_loss(model.decode(z), image)
        else:
            flat = z.detach().reshape(-1, dim)
            if it == 300:
                pool = in_parts(lambda p: model.encode(p.float() / 255), x[:2560]).reshape(-1, dim)
                book.copy_(pool[torch.randperm(len(pool))[:codes]])
                sums.copy_(book)
                counts.fill_(1)
            ids = model.quantise(z.detach()).reshape(-1)
            q = book[ids].view_as(z)
            counts.mul_(0.98).add_(torch.bincount(ids, minlength=codes).float(), alpha=0.02)
            sums.mul_(0.98).add_(torch.zeros(codes, dim).index_add_(0, ids, flat), alpha=0.02)
            book.copy_(sums / (counts[:, None] + 1e-4))
            if it % 50 == 0 and it < 0.6 * TOKENIZER_STEPS:      # unused codes restart where the error is large
                dead = (counts < 0.15).nonzero()[:, 0]
                if len(dead):
                    error = (flat - book[ids]).pow(2).sum(1) + 1e-6
                    fresh = flat[torch.multinomial(error, len(dead))]
                    book[dead], sums[dead], counts[dead] = fresh, fresh, 1.0
            loss = loss + F.mse_loss(model.decode(z + (q - z).detach()), image) + 0.005 * F.mse_loss(z, q)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if it % 250 == 0 or it == TOKENIZER_STEPS - 1:
            with torch.no_grad():
                ids = model.quantise(model.encode(test))
                print(f"tokenizer {it} {time.time() - start:.0f} s: {models.psnr(model.decode(book[ids]), test):.2f} dB, "
                      f"{len(ids.unique())} codes used, latent std {float(model.encode(test).std()):.3f}", flush=True)
    stage.save("tokenizer", model)


def reconstruct(tokenizer, x):
    """uint8 images through the tokenizer, uint8 again."""
    f = lambda p: (tokenizer.decode(tokenizer.codebook[tokenizer.quantise(tokenizer.encode(p.float() / 255))]) * 255).byte()
    return in_parts(f, x)


def train_transformer(stage):
    """Next-code loss on prompts, and every third step the judge's loss on latents of real, re-encoded and faint images."""
    torch.manual_seed(0)
    tokenizer = stage.load("tokenizer", models.Tokenizer())
    encode = lambda x: in_parts(lambda p: tokenizer.encode(p.float() / 255), x)
    (x, labels), (faint, faint_labels), (test, test_labels) = (stage.data(k) for k in ("train", "faint", "test"))
    test, test_labels = test[:500], test_labels[:500]
    z, zf, zt = encode(x), encode(faint), encode(test)
    ids, test_ids = in_parts(tokenizer.quantise, z), in_parts(tokenizer.quantise, zt)
    seen = 6000                                                  # re-encoded, as the judge's own images are
    zr, zfr = encode(reconstruct(tokenizer, x[:seen])), encode(reconstruct(tokenizer, faint[:seen]))
    ztr = encode(reconstruct(tokenizer, test))
    model = models.Transformer()
    model.scale.fill_(float(z.std()))
    codes = tokenizer.codebook / model.scale
    z, zf, zt, zr, zfr, ztr = (v / model.scale for v in (z, zf, zt, zr, zfr, ztr))
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW([{"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
                                   {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}], betas=(0.9, 0.98))
    pick, start, total = (lambda v, n: torch.randint(0, len(v), (n,))), time.time(), 0.0
    for it in range(TRANSFORMER_STEPS):
        schedule(optimiser, 2e-3, it, TRANSFORMER_STEPS, 0.45, 0.02, 150)
        j = pick(x, 48)
        draw = F.cross_entropy(model.draw(labels[j][:, :3], codes[ids[j]]).flatten(0, 1), ids[j].flatten())
        loss, total = draw, total + float(draw.detach())
        if it % 3 == 0:
            a, b, c, d = pick(x, 16), pick(zr, 8), pick(zf, 8), pick(zfr, 6)
            latents = torch.cat([torch.where(torch.rand(16, 1, 1) < 0.7, z[a], codes[ids[a]]), zr[b], zf[c], zfr[d]])
            answer = torch.cat([labels[a], labels[b], faint_labels[c], faint_labels[d]])
            item, background, obj = model.judge(latents + torch.randn_like(latents) * 0.05)
            loss = loss + 0.4 * (F.cross_entropy(item, answer[:, 0]) + 0.3 * F.cross_entropy(background, answer[:, 1])
                                 + F.cross_entropy(obj, answer[:, 3]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if it % 250 == 0 or it == TRANSFORMER_STEPS - 1:
            with torch.no_grad():
                val = float(F.cross_entropy(model.draw(test_labels[:200, :3], codes[test_ids[:200]]).flatten(0, 1),
                                            test_ids[:200].flatten()))
                acc = [[round(float((a.argmax(1) == test_labels[:, c]).float().mean()), 3)
                        for a, c in zip(model.judge(v), (0, 1, 3))] for v in (zt, ztr)]
            print(f"transformer {it} {time.time() - start:.0f} s: train {total / (250 if it else 1):.3f}, test {val:.3f} "
                  f"nats per code; judge, images and reconstructions: {acc}", flush=True)
            total = 0.0
            stage.save("transformer", model)


def train_check(stage, name="check", steps=CHECK_STEPS, seed=5, with_faint=False):
    """The CNNs: on images and reconstructions; the ghost check also on faint objects."""
    torch.manual_seed(seed)
    tokenizer = stage.load("tokenizer", models.Tokenizer())
    x, labels = stage.data("train")
    sets = [(x, labels), (reconstruct(tokenizer, x[:12000]), labels[:12000])]
    if with_faint:
        faint, faint_labels = stage.data("faint")
        sets += [(faint[:12000], faint_labels[:12000]), (reconstruct(tokenizer, faint[:12000]), faint_labels[:12000])]
    model = models.Check().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-3)
    start = time.time()
    for it in range(steps):
        schedule(optimiser, 2e-3, it, steps, 0.5, 0.03, 1)
        rows = [torch.randint(0, len(s[0]), (64 // len(sets),)) for s in sets]
        image = torch.cat([batch(s[0], j) for s, j in zip(sets, rows)])
        answer = torch.cat([s[1][j] for s, j in zip(sets, rows)])
        noise = torch.randn_like(image) * torch.rand(64, 1, 1, 1) * 0.06 + (torch.rand(64, 3, 1, 1) - 0.5) * 0.06
        image = (image + noise).clamp(0, 1).contiguous(memory_format=torch.channels_last)
        loss = sum(F.cross_entropy(a, answer[:, c]) for a, c in zip(model(image), (0, 1, 3)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    test, test_labels = stage.data("test")
    shown = [("images", test, test_labels), ("reconstructions", reconstruct(tokenizer, test), test_labels)]
    if with_faint:
        shown.append(("faint", faint[12000:], faint_labels[12000:]))
    for kind, images, answer in shown:
        out = in_parts(lambda p: torch.cat([a.argmax(1, keepdim=True) for a in model(p.float() / 255)], 1), images)
        harmful, said = answer[:, 3] >= FIRST_HARMFUL, out[:, 2] >= FIRST_HARMFUL
        print(f"{name} on {kind}: item {float((out[:, 0] == answer[:, 0]).float().mean()):.4f}, object "
              f"{float((out[:, 2] == answer[:, 3]).float().mean()):.4f}, sensitivity {float(said[harmful].float().mean()):.4f}, "
              f"specificity {float((~said[~harmful]).float().mean()):.4f}, {time.time() - start:.0f} s", flush=True)
    stage.save(name, model)


def train_ghost(stage):
    train_check(stage, "ghost", GHOST_STEPS, 9, True)


def export(stage):
    """Writes all weights as fp16 in one file, and reference vectors for another implementation."""
    parts = {"tokenizer": models.Tokenizer(), "transformer": models.Transformer(), "check": models.Check(), "ghost": models.Check()}
    weights = {}
    for name, module in parts.items():
        path = stage.folder / f"{name}.pt"
        if path.exists():
            stage.load(name, module)
        else:
            print(f"{name}: not trained yet, exporting random weights")
        module.eval()
        for key, value in module.state_dict().items():
            weights[f"{name}.{key}"] = value.half().contiguous()
            value.copy_(value.half().float())
    save_file(weights, DATA / "emoji.safetensors", {"heads": "4"})
    tokenizer, transformer = parts["tokenizer"], parts["transformer"]
    test, labels = stage.data("test")
    images, prompts = batch(test, slice(4)), labels[:4, :3]
    with torch.no_grad():
        latents = tokenizer.encode(images)
        ids = tokenizer.quantise(latents)
        codes = tokenizer.codebook[ids]
        draw = transformer.draw(prompts, codes / transformer.scale)
        vectors = {"images": test[:4], "labels": labels[:4].int(), "latents": latents, "ids": ids.int(),
                   "decoded": tokenizer.decode(codes), "draw_logits": draw[:, ::9].contiguous(),
                   "judge_object": transformer.judge(latents / transformer.scale)[2],
                   "check_object": parts["check"](images)[2], "check_item": parts["check"](images)[0],
                   "ghost_object": parts["ghost"](images)[2]}
    codes = codes.clone().requires_grad_(True)
    tokenizer.decode(codes).sub(images).pow(2).mean().backward()
    vectors["decoder_gradient"] = codes.grad                     # of mean((decode(codes) - images)^2)
    sprites, rng = stage.sprites(), np.random.default_rng(7)     # reference images of the renderer, and their choices
    choices = [(rng.integers(len(world.ITEMS)), rng.integers(len(world.BACKGROUNDS)), j % len(world.OBJECTS),
                *world.random_choice(rng), 255 if j % 3 else rng.integers(256)) for j in range(60)]
    vectors["render_choices"] = torch.tensor(np.array(choices), dtype=torch.int32)      # [n, 9], the last is the opacity
    vectors["render_images"] = torch.tensor(np.stack([world.render(sprites, *c[:3], c[3:8], c[8]) for c in choices]))
    save_file({k: v.contiguous() for k, v in vectors.items()}, DATA / "vectors.safetensors")
    size = (DATA / "emoji.safetensors").stat().st_size
    print(f"{sum(v.numel() for v in weights.values())} weights, {size / 1e6:.2f} MB")


STAGES = {"sprites": train_sprites, "tokenizer": train_tokenizer, "transformer": train_transformer,
          "check": train_check, "ghost": train_ghost, "export": export}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="build/emoji-train")
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="STAGE")
    arguments = parser.parse_args()
    for name in arguments.stages:
        STAGES[name](Stage(arguments.work))
