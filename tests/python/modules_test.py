# SPDX-License-Identifier: Apache-2.0
"""Codebooks of other projects: their keys, assignments and training sums, edited in memory and in a saved file."""

import numpy as np
import pytest

import isic
import isic.checkpoint

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402

HARM = isic.span_of(np.random.default_rng(1).standard_normal((8, 2)))
AWAY = torch.as_tensor(np.eye(8) - HARM.basis @ HARM.basis.T, dtype=torch.float32)
"""Projects data out of the harmful subspace."""


@pytest.fixture(autouse=True)
def same_numbers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def in_file(tmp_path):
    """Edits a module through a saved file: save, apply, load. Returns a function that undoes the file and loads it."""

    def edit(module, **options):
        file = tmp_path / "model.safetensors"
        isic.write_safetensors(file, {key: value.numpy().copy() for key, value in module.state_dict().items()})
        before = file.read_bytes()

        def load():
            module.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in isic.read_safetensors(file)[0].items()})

        def undo():
            isic.checkpoint.undo(file)
            assert file.read_bytes() == before
            load()

        isic.checkpoint.apply(file, HARM, **options)
        load()
        return undo

    return edit


def leaks(rows):
    return isic.leakage(torch.as_tensor(rows).detach().reshape(-1, 8), HARM).total


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(module, before):
    assert all(value.equal(before[key]) for key, value in module.state_dict().items())


class LlamaGen(nn.Module):
    """Rows are normalised when they are read."""

    def __init__(self):
        super().__init__()
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(32, 8)
        self.quantize.register_buffer("codebook_used", torch.zeros(64))

    def embed(self, ids):
        return normalize(self.quantize.embedding.weight, dim=-1)[ids]

    def encode(self, x):
        return (normalize(x, dim=-1) @ normalize(self.quantize.embedding.weight, dim=-1).T).argmax(-1)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_llamagen(in_file, where):
    model = LlamaGen()
    book, ids = model.quantize.embedding.weight, torch.arange(32)
    before, norms = state(model), book.detach().norm(dim=1)
    assert leaks(model.embed(ids)) > 0.3
    undo = isic.project_out(book, HARM, metric="cosine").undo if where == "memory" else in_file(model)
    assert leaks(model.embed(ids)) <= 1e-6
    assert torch.allclose(book.detach().norm(dim=1), norms, rtol=1e-5)
    undo()
    assert_same(model, before)


def test_llamagen_near_zero_row():
    """Normalisation would turn the remainder of such a row into noise; it takes another code's direction."""
    model = LlamaGen()
    book = model.quantize.embedding.weight.requires_grad_(False)
    book[5] = torch.as_tensor(HARM.basis[:, 0]) + 1e-5 * torch.randn(8)
    noise = normalize(book[5] @ AWAY, dim=0)
    assert isic.project_out(book, HARM, metric="cosine").summary.near_zero == 1
    others = model.embed(torch.cat([torch.arange(5), torch.arange(6, 32)]))
    assert noise.norm() > 0.999 and (others @ noise).max() < 0.99
    assert (others @ model.embed(5)).max() == pytest.approx(1, abs=1e-6)


class VilaU(nn.Module):
    """Residual levels of K rows and a padding row, with the running sums of training."""

    def __init__(self, levels=3):
        super().__init__()
        self.quantizer = nn.Module()
        self.quantizer.codebooks = nn.ModuleList(nn.Embedding(17, 8, padding_idx=16) for _ in range(levels))
        for book in self.quantizer.codebooks:
            book.weight.requires_grad_(False)
            book.register_buffer("cluster_size_ema", torch.zeros(16))
            book.register_buffer("embed_ema", book.weight[:-1].clone())

    def forward(self, x, decay=0.8):
        """The sum over the levels; training also updates every level's averages."""
        total = torch.zeros_like(x)
        for book in self.quantizer.codebooks:
            ids = torch.cdist(x - total, book.weight[:-1]).argmin(-1)
            if self.training:
                one_hot = nn.functional.one_hot(ids, 16).float()
                book.cluster_size_ema.mul_(decay).add_(one_hot.sum(0), alpha=1 - decay)
                book.embed_ema.mul_(decay).add_(one_hot.T @ (x - total), alpha=1 - decay)
                n = book.cluster_size_ema.sum()
                book.weight[:-1] = book.embed_ema / (n * (book.cluster_size_ema + 1e-5) / (n + 16 * 1e-5)).unsqueeze(1)
            total += book.weight[ids]
        return total


@pytest.fixture
def vila_u():
    model = VilaU()
    for _ in range(20):
        model(torch.randn(256, 8))
    return model


def edit_rows(model):
    return [isic.project_out(book.weight, HARM, padding=[16]) for book in model.quantizer.codebooks]


def edit_sums(model):
    return [isic.project_out(book.embed_ema, HARM) for book in model.quantizer.codebooks]


@pytest.mark.parametrize("where", ["memory", "file"])
def test_vila_u(vila_u, in_file, where):
    vila_u.eval()
    x = torch.randn(64, 8)
    for book in vila_u.quantizer.codebooks:
        book.weight[16] = 7  # padding must not change
    before = state(vila_u)
    assert leaks(vila_u(x)) > 0.3
    undo = [e.undo for e in edit_rows(vila_u) + edit_sums(vila_u)] if where == "memory" else [in_file(vila_u)]
    assert leaks(vila_u(x)) <= 1e-6
    assert all(book.weight[16].tolist() == [7] * 8 for book in vila_u.quantizer.codebooks)
    vila_u.train()
    for _ in range(5):
        vila_u(x @ AWAY)
    assert all(leaks(book.weight[:16]) <= 1e-6 for book in vila_u.quantizer.codebooks)
    if where == "file":
        undo[0]()
        assert_same(vila_u, before)


def test_vila_u_brings_the_concept_back_if_its_sums_are_forgotten(vila_u):
    edit_rows(vila_u)
    assert leaks(vila_u.quantizer.codebooks[0].weight[:16]) <= 1e-6
    vila_u(torch.randn(64, 8) @ AWAY)
    assert leaks(vila_u.quantizer.codebooks[0].weight[:16]) > 0.2


class UniTok(nn.Module):
    """Eight sub-codebooks side by side, each read normalised."""

    def __init__(self):
        super().__init__()
        self.quantizer = nn.Module()
        self.quantizer.codebooks = nn.ModuleList(nn.Module() for _ in range(8))
        for part in self.quantizer.codebooks:
            part.codebook = nn.Embedding(16, 8)

    def encode(self, x):
        parts = zip(x.chunk(8, -1), self.quantizer.codebooks)
        return torch.stack([(normalize(z, dim=-1) @ normalize(p.codebook.weight, dim=-1).T).argmax(-1) for z, p in parts], -1)

    def embed(self, ids):
        return torch.cat([normalize(p.codebook.weight, dim=-1)[i] for i, p in zip(ids.unbind(-1), self.quantizer.codebooks)], -1)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_unitok(in_file, where):
    """An edit of one sub-codebook stays in its eighth of the vector."""
    model = UniTok()
    before, ids = state(model), model.encode(torch.randn(64, 64))
    original = model.embed(ids).chunk(8, -1)
    assert all(leaks(part) > 0.3 for part in original)
    undo = (isic.project_out(model.quantizer.codebooks[3].codebook.weight, HARM, metric="cosine").undo if where == "memory"
            else in_file(model, key="quantizer.codebooks.3.codebook.weight"))
    for i, part in enumerate(model.embed(ids).chunk(8, -1)):
        assert leaks(part) <= 1e-6 if i == 3 else part.equal(original[i])
    undo()
    assert_same(model, before)


class TokenFlow(nn.Module):
    """One index with two halves, normalised separately: 32 semantic values and 8 pixel values; distances are added."""

    def __init__(self):
        super().__init__()
        self.quantize = nn.Module()
        self.quantize.embedding_vqkd = nn.Embedding(32, 32)
        self.quantize.embedding_vqgan = nn.Embedding(32, 8)

    def halves(self):
        return normalize(self.quantize.embedding_vqkd.weight, dim=-1), normalize(self.quantize.embedding_vqgan.weight, dim=-1)

    def encode(self, meaning, pixels):
        vqkd, vqgan = self.halves()
        return (torch.cdist(normalize(meaning, dim=-1), vqkd) ** 2 + torch.cdist(normalize(pixels, dim=-1), vqgan) ** 2).argmin(-1)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_tokenflow(in_file, where):
    """The pixel half is edited, the semantic half with the same ids is not; encoding would change."""
    model = TokenFlow()
    before, x = state(model), (torch.randn(256, 32), torch.randn(256, 8))
    (meaning, pixels), ids = model.halves(), model.encode(*x)
    assert leaks(pixels[ids]) > 0.3
    undo = (isic.project_out(model.quantize.embedding_vqgan.weight, HARM, metric="cosine").undo if where == "memory"
            else in_file(model, key="quantize.embedding_vqgan.weight"))
    same_meaning, edited = model.halves()
    assert leaks(edited[ids]) <= 1e-6 and same_meaning.equal(meaning)
    assert (model.encode(*x) != ids).any()
    undo()
    assert_same(model, before)
    assert model.encode(*x).equal(ids)


def lucidrains(**options):
    """vector-quantize-pytorch itself, trained for a while."""
    package = pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed")
    kind = package.ResidualVQ if "num_quantizers" in options else package.VectorQuantize
    model = kind(dim=8, codebook_size=32, decay=0.8, threshold_ema_dead_code=0, **options).train()
    for _ in range(20):
        model(torch.randn(4, 64, 8))
    return model


def codebooks(model):
    return [module for name, module in model.named_modules() if name.endswith("_codebook")]


KINDS = {"euclidean": {}, "cosine": dict(use_cosine_sim=True), "residual": dict(num_quantizers=2)}


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("kind", KINDS)
def test_lucidrains(in_file, kind, where):
    """With edited sums, its own training steps on clean data do not restore the concept."""
    model = lucidrains(**KINDS[kind])
    metric = "cosine" if kind == "cosine" else "l2"
    before, x = state(model), torch.randn(4, 64, 8)
    model.eval()
    assert leaks(model(x)[0]) > 0.3
    if where == "memory":
        tables = [table for book in codebooks(model) for table in (book.embed[0], book.embed_avg[0])]
        edits = [isic.project_out(table, HARM, metric=metric) for table in tables]
    else:
        undo = in_file(model, metric=metric)
    assert leaks(model(x)[0]) <= 1e-6
    if kind == "cosine":
        assert torch.allclose(codebooks(model)[0].embed.norm(dim=-1), torch.ones(32), atol=1e-5)  # it does not normalise rows itself
    trained = state(model)
    model.train()
    for _ in range(5):
        model(x @ AWAY)
    assert all(leaks(book.embed[0]) <= 1e-6 for book in codebooks(model))
    model.load_state_dict(trained)
    if where == "memory":
        for edit in edits:
            edit.undo()
    else:
        undo()
    assert_same(model, before)


@pytest.mark.parametrize("kind", KINDS)
def test_lucidrains_brings_the_concept_back_if_its_sums_are_forgotten(kind):
    model = lucidrains(**KINDS[kind])
    for book in codebooks(model):
        isic.project_out(book.embed[0], HARM)
        assert leaks(book.embed[0]) <= 1e-6
    model(torch.randn(4, 64, 8) @ AWAY)
    assert all(leaks(book.embed[0]) > 0.2 for book in codebooks(model))
