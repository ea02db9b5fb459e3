# SPDX-License-Identifier: Apache-2.0
"""The emoji demo's loop, with its networks in torch: the same weights, images, judge, redrawing, loss and rounds.

    python benchmarks/peers/emoji_loop.py --demo PROGRAM [--threads 1] [--pairs 3] [--json FILE]

Runs the demo and `isic.self_improve` over a generator in torch, in turns, and compares the seconds of their rounds.
scripts/bench.sh --emoji-loop builds and installs the requirements.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/emoji/train"))

ROUNDS, FIT_UNSAFE, FIT_SAFE, REAL = 3, 1000, 2800, 2000  # as in the demo
THRESHOLDS = (0.6, 0.55, 0.45)
CHUNK = 256


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", type=Path, required=True, help="the program isic_emoji_demo")
    parser.add_argument("--threads", type=int, default=1, help="of both (default: 1)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--json", type=Path, help="writes the figures")
    return parser.parse_args()


def torch_model(torch, isic):
    """The generator of `isic.self_improve` and its judge."""
    import numpy as np
    import torch.nn.functional as F
    from models import TOKENS, Tokenizer, Transformer
    from world import FIRST_HARMFUL, ITEMS, BACKGROUNDS, WORDS

    file, _ = isic.read_safetensors(ROOT / "examples/emoji/data/emoji.safetensors")
    tensors = {name: torch.tensor(np.asarray(value, np.float32)) for name, value in file.items()}

    def load(module, prefix):
        module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        return module.eval().requires_grad_(False)

    codes, dim = tensors["tokenizer.codebook"].shape
    width = tensors["tokenizer.patch.weight"].shape[0]
    up = tensors["tokenizer.to_pixels.weight"].shape[1]
    tokenizer = load(Tokenizer(codes, dim, width, up), "tokenizer.")
    layers = 1 + max(int(n.split(".")[2]) for n in tensors if n.startswith("transformer.blocks."))
    transformer = load(Transformer(codes, dim, tensors["transformer.position"].shape[1], layers), "transformer.")
    original = tokenizer.codebook.clone()
    scaled = original / transformer.scale

    def chunks(n):
        return (slice(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK))

    @torch.inference_mode()
    def walk(prompts, pick):
        """pick(position, logits) -> ids; a key-value cache, every position once."""
        caches = [[] for _ in transformer.blocks]
        x = transformer.prompt(prompts) + transformer.position[:3]
        for t in range(TOKENS):
            for block, cache in zip(transformer.blocks, caches):
                x = block(x, cache)
            ids = pick(t, transformer.head(transformer.norm(x[:, -1])))
            x = (transformer.code_in(scaled[ids]) + transformer.position[3 + t])[:, None]

    def drawn(logits, temperature, top_k, random):
        best, where = logits.topk(top_k, 1)
        noise = torch.empty_like(best).exponential_(generator=random).log_().neg_()
        return where.gather(1, (best / temperature + noise).argmax(1, keepdim=True))[:, 0]

    class Generator:
        def __init__(self, real):
            self.book = original.clone()
            self.real = real
            self.known = {}

        @property
        def codebook(self):
            return self.book

        def prompts(self, texts):
            return torch.tensor([[int(x) for x in text.split()] for text in texts])

        def generate(self, prompts, seed):
            key = (seed, tuple(prompts))
            if key not in self.known:
                random, p = torch.Generator().manual_seed(seed % 2**63), self.prompts(prompts)
                out = torch.empty(len(p), TOKENS, dtype=torch.long)
                for part in chunks(len(p)):
                    def pick(t, logits):
                        out[part, t] = drawn(logits, 0.85, 48, random)
                        return out[part, t]
                    walk(p[part], pick)
                self.known[key] = out
            return self.known[key]

        def decode(self, tokens):
            return self.decoded(torch.as_tensor(np.asarray(tokens)).long(), self.book)

        @torch.inference_mode()
        def decoded(self, ids, book):
            return torch.cat([tokenizer.decode(book[ids[part]]) for part in chunks(len(ids))])

        def redraw(self, request):
            harmful = torch.as_tensor(np.asarray(request.harmful)).long()
            if request.attempt >= len(THRESHOLDS):
                return self.generate(request.prompts, request.seed)
            threshold, q = THRESHOLDS[request.attempt], torch.as_tensor(np.asarray(request.harmfulness), dtype=torch.float32)
            hot = max(threshold, 0.6)
            grid = q[harmful].view(-1, 1, 8, 8)
            near = F.conv2d((grid > hot).float(), torch.ones(1, 1, 3, 3), padding=1)
            marked = ((grid > hot) | ((near >= 2) & (grid > threshold - 0.2))).view(-1, TOKENS)
            forbidden = (q > threshold)[None]
            p, best, most = self.prompts(request.prompts), harmful.clone(), torch.full((len(harmful),), -1e30)
            for candidate in range(3):
                random = torch.Generator().manual_seed((request.seed + 7919 * candidate) % 2**63)
                for part in chunks(len(p)):
                    out, likelihood = harmful[part].clone(), torch.zeros(len(harmful[part]))
                    def pick(t, logits):
                        rows = marked[part, t].nonzero()[:, 0]
                        if len(rows):
                            out[rows, t] = drawn(logits[rows].masked_fill(forbidden, -torch.inf), 0.7, 32, random)
                        ids = out[:, t]
                        log_p = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
                        likelihood.add_(log_p.clamp_min(-8))
                        return ids
                    walk(p[part], pick)
                    better = likelihood > most[part]
                    best[part] = torch.where(better[:, None], out, best[part])
                    most[part] = torch.where(better, likelihood, most[part])
            return best

        def tuning_loss(self, tuning_set):
            sets = [torch.as_tensor(np.asarray(s)).long() for s in (tuning_set.safe, tuning_set.harmful)]
            counterparts = torch.as_tensor(np.asarray(tuning_set.counterparts)).long()
            ids = [*sets, self.real[0]]
            targets = [self.decoded(sets[0], original), self.decoded(counterparts, original), self.real[1]]
            random = torch.Generator().manual_seed(tuning_set.round)

            def loss(step, gradient):
                chosen = [torch.randint(len(i), (n,), generator=random) for i, n in zip(ids, (32, 32, 16))]
                book = self.book.requires_grad_(True)
                images = tokenizer.decode(book[torch.cat([i[c] for i, c in zip(ids, chosen)])])
                error = (images - torch.cat([t[c] for t, c in zip(targets, chosen)])).split((32, 32, 16))
                clipped = error[1].clamp(-0.05, 0.05)
                value = error[0].pow(2).mean() + 1.5 * (clipped * (2 * error[1] - clipped)).mean() + error[2].pow(2).mean()
                value.backward()
                gradient += book.grad.double().numpy()
                book.grad = None
                book.requires_grad_(False)
                return value.item()

            return loss

    @torch.inference_mode()
    def judge(images):
        out = []
        for part in chunks(len(images)):
            latents = tokenizer.encode(images[part]) / transformer.scale
            out.append(transformer.judge(latents)[2].softmax(1)[:, FIRST_HARMFUL:].sum(1))
        return torch.cat(out).double().numpy()

    return tokenizer, Generator, judge, (len(ITEMS), len(BACKGROUNDS), WORDS)


def loop_in_torch(threads):
    """Seconds of each round, and the model's own rate of unsafe images."""
    import numpy as np
    import torch

    import isic
    from world import OBJECTS, WORLD, images

    torch.set_num_threads(threads)
    tokenizer, generator, judge, (items, backgrounds, words) = torch_model(torch, isic)
    sprites, _ = isic.read_safetensors(ROOT / "examples/emoji/data/sprites.safetensors")
    x = torch.tensor(images({n: np.asarray(v) for n, v in sprites.items()}, REAL, 1, (0.42, 0.58, 0))[0]).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        real = torch.cat([tokenizer.quantise(tokenizer.encode(part)) for part in x.split(CHUNK)]), x
    rng = np.random.default_rng(0)
    fit = [i for i, e in enumerate(WORLD["items"]) if e["name"] not in WORLD["held_out_items"]]
    plain, safe = WORLD["plain_words"], WORLD["safe_words"]
    mix = WORLD["unsafe_mix"]

    def prompt(item, word):
        return f"{item} {rng.integers(backgrounds)} {words.index(word)}"

    unsafe_prompts = [prompt(rng.choice(fit), rng.choice(list(mix), p=list(mix.values()))) for _ in range(FIT_UNSAFE)]
    nouns = {w for w in words if w in OBJECTS}

    def rewrite(text):
        item, background, word = text.split()
        other = "alone" if words[int(word)] in nouns else "plain"
        return f"{item} {background} {words.index(other)}"

    safe_prompts = [rewrite(p) for p in unsafe_prompts][:FIT_SAFE * 5 // 14]
    share = WORLD["safe_mix"]["plain_words"]
    while len(safe_prompts) < FIT_SAFE:
        safe_prompts.append(prompt(rng.integers(items), rng.choice(plain if rng.random() < share else safe)))
    report = isic.self_improve(
        generator(real), judge, unsafe_prompts=unsafe_prompts, safe_prompts=safe_prompts, rewrite=rewrite,
        stop=isic.StopOptions(max_rounds=ROUNDS),
        judging=isic.JudgingOptions(unsafe_above=0.3, safe_below=0.3, counterpart_attempts=4),
        rank=isic.RankOptions(fixed=6, budget=tokenizer.dim),
        tuning=isic.TuningOptions(steps=15, growth=5, constrained=False), resample=False, seed=0)
    return [r.seconds for r in report.rounds], [r.self_unsafe.value for r in report.rounds]


def loop_of_the_demo(program, threads):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, "--data", ROOT / "examples/emoji/data", "--loop-only", "--threads", str(threads), "--out", folder,
                        "--unsafe", "50", "--safe", "50", "--rounds", str(ROUNDS)], check=True, stdout=subprocess.DEVNULL)
        rounds = json.loads((Path(folder) / "report.json").read_text())["rounds"]
    return [r["seconds"] for r in rounds], [r["fit_self_unsafe"] for r in rounds]


def main():
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    rows = []
    for _ in range(arguments.pairs):
        ours, our_rates = loop_of_the_demo(arguments.demo, arguments.threads)
        theirs, rates = loop_in_torch(arguments.threads)
        rows.append({"ours_s": sum(ours), "torch_s": sum(theirs), "ratio": sum(theirs) / sum(ours), "ours_rounds": ours, "torch_rounds": theirs,
                     "ours_self_unsafe": our_rates, "torch_self_unsafe": rates})
        print(f"demo {sum(ours):6.1f} s ({' '.join(f'{s:.1f}' for s in ours)}; self-unsafe {our_rates[0]:.3f} -> {our_rates[-1]:.3f}), "
              f"torch {sum(theirs):6.1f} s ({' '.join(f'{s:.1f}' for s in theirs)}; {rates[0]:.3f} -> {rates[-1]:.3f}): "
              f"{rows[-1]['ratio']:.2f}x", flush=True)
    rows.sort(key=lambda r: r["ratio"])
    print(f"median of {len(rows)} pairs, {arguments.threads} thread(s): torch takes {rows[len(rows) // 2]['ratio']:.2f} times as long")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
