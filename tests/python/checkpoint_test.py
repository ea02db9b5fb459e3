# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: codebooks are found, an edit changes only their bytes and those of their tensors, and undo restores every byte."""

import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import isic
from isic.checkpoint import Checkpoint
from support import DTYPES, UNIT, as_dtype, bfloat16

F = np.float32


def normal(rng, *shape, dtype=F):
    return rng.standard_normal(shape).astype(dtype)


def harm_of(width, rank=1, seed=3):
    return isic.span_of(np.random.default_rng(seed).standard_normal((width, rank)))


def leak(codes, subspace):
    """Largest share of a row's norm inside the subspace, computed without isic."""
    wide = np.asarray(codes, dtype=np.float64)
    return float((np.linalg.norm(wide @ subspace.basis, axis=-1) / np.linalg.norm(wide, axis=-1)).max())


def safetensors_file(folder, tensors, name="model.safetensors"):
    path = folder / name
    isic.write_safetensors(path, tensors)
    return path


# Families


def signs(rng, *shape):
    return np.sign(normal(rng, *shape))


def vila_u(rng, levels=2):
    return {f"vision_tower.rqvaesiglip.quantizer.codebooks.{i}.{name}": value for i in range(levels)
            for name, value in (("weight", normal(rng, 21, 6)), ("embed_ema", normal(rng, 20, 6)), ("cluster_size_ema", normal(rng, 20)))}


FAMILIES = {
    "Janus": (lambda r: {"gen_vision_model.quantize.embedding.weight": normal(r, 40, 8), "gen_embed.weight": normal(r, 40, 8)},
              dict(codes=40, width=8, metric="cosine", input_tables=("gen_embed.weight",))),
    "Janus (transformers)": (lambda r: {"model.vqmodel.quantize.embedding.weight": normal(r, 40, 8),
                                        "model.generation_embeddings.weight": normal(r, 40, 8)},
                             dict(metric="cosine", input_tables=("model.generation_embeddings.weight",))),
    "Emu3": (lambda r: {"vqmodel.quantize.embedding.weight": normal(r, 40, 4),
                        "vqmodel.post_quant_conv.conv.weight": normal(r, 4, 4, 3, 1, 1)},
             dict(codes=40, width=4, metric="l2")),
    "Chameleon (transformers)": (lambda r: {"model.vqmodel.quantize.embedding.weight": normal(r, 40, 16),
                                            "model.vqmodel.post_quant_conv.weight": normal(r, 16, 16, 1, 1)}, dict(metric="l2")),
    "LlamaGen": (lambda r: {"quantize.embedding.weight": normal(r, 40, 8), "quantize.codebook_used": normal(r, 90)},
                 dict(metric="cosine")),
    "VAR": (lambda r: {"quantize.embedding.weight": normal(r, 40, 8), "quantize.ema_vocab_hit_SV": normal(r, 10, 40)}, dict(metric="l2")),
    "TiTok": (lambda r: {"quantize.embedding.weight": normal(r, 40, 12), "latent_tokens": normal(r, 32, 64)}, dict(metric="cosine")),
    "VQGAN": (lambda r: {"quantize.embedding.weight": normal(r, 40, 16), "quantize.embedding.embed_avg": normal(r, 40, 16)},
              dict(metric="l2", sums=("quantize.embedding.embed_avg",))),
    "VQGAN, Gumbel": (lambda r: {"quantize.embed.weight": normal(r, 40, 16), "quantize.proj.weight": normal(r, 40, 16, 1, 1)}, {}),
    "VILA-U": (vila_u, dict(codes=20, width=6, levels=2, padding=(20,), metric="l2")),
    "TokenFlow, pixel half": (lambda r: {"quantize.embedding_vqgan.weight": normal(r, 40, 8)}, dict(metric="cosine")),
    "TokenFlow, semantic half": (lambda r: {"quantize.embedding_vqkd.weight": normal(r, 40, 32)}, dict(metric="cosine")),
    "UniTok": (lambda r: {"quantizer.codebooks.0.codebook.weight": normal(r, 40, 8)}, dict(metric="cosine", levels=1)),
    "EnCodec": (lambda r: {f"quantizer.vq.layers.{i}._codebook.{name}": value for i in range(3) for name, value in
                           (("embed", normal(r, 40, 8)), ("embed_avg", normal(r, 40, 8)), ("inited", np.ones(1, F)))}, dict(levels=3)),
    "lucidrains": (lambda r: {"vq._codebook.embed": normal(r, 2, 40, 8), "vq._codebook.embed_avg": normal(r, 2, 40, 8),
                              "vq._codebook.initted": np.array([True])}, dict(levels=2, codes=40, sums=("vq._codebook.embed_avg",))),
    "Moshi / Mimi": (lambda r: {f"quantizer.rvq_rest.vq.layers.{i}._codebook.{name}": value for i in range(2) for name, value in
                                (("embedding_sum", normal(r, 40, 8)), ("cluster_usage", np.full(40, 3, F)))}, dict(levels=2)),
    "VQ-VAE with EMA": (lambda r: {"_vq_vae._embedding.weight": normal(r, 40, 8), "_vq_vae._ema_w": normal(r, 40, 8)},
                        dict(sums=("_vq_vae._ema_w",))),
    "LFQ (Show-o)": (lambda r: {"quantize.embedding": signs(r, 64, 6), "quantize.power_vals": np.arange(6)}, dict(refusal="sign vectors")),
    "LFQ or BSQ": (lambda r: {"vae.quantizer.mask": 2 ** np.arange(10)[::-1]}, dict(codes=1024, width=10, refusal="no free codebook")),
    "SimVQ": (lambda r: {"vq.frozen_codebook": normal(r, 40, 8), "vq.code_transform.weight": normal(r, 8, 8)},
              dict(refusal="code_transform")),
    "FSQ": (lambda r: {"quantizer.fsq._levels": np.array([8, 5, 5])}, dict(codes=200, width=3, refusal="grid points")),
    "lucidrains, affine": (lambda r: {"vq._codebook.embed": normal(r, 1, 40, 8), "vq._codebook.codebook_mean": normal(r, 1, 1, 8)},
                           dict(refusal="affine map")),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_found(name, rng, tmp_path):
    make, expected = FAMILIES[name]
    tensors = {**make(rng), "language_model.embed_tokens.weight": normal(rng, 99, 8), "encoder.conv_in.weight": normal(rng, 8, 3, 3, 3)}
    found = isic.checkpoint.inspect(safetensors_file(tmp_path, tensors))
    assert [book.family for book in found.codebooks] == [name]
    book = found.codebooks[0]
    for field, value in expected.items():
        assert value in book.refusal if field == "refusal" else getattr(book, field) == value, field
    assert bool(book.refusal) == ("refusal" in expected)
    assert name in str(found) and book.key in str(found)
    json.dumps(found.to_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_edited_or_refused(name, rng, tmp_path):
    make, expected = FAMILIES[name]
    path = safetensors_file(tmp_path, make(rng))
    before = path.read_bytes()
    width = isic.checkpoint.inspect(path).codebooks[0].width
    if "refusal" in expected:
        with pytest.raises(isic.ValueError, match=expected["refusal"]):
            isic.checkpoint.apply(path, harm_of(width))
        assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
        return
    plan = isic.checkpoint.apply(path, harm_of(width)).plan
    for level in plan.levels:
        assert level.before.total > 0.1 and level.after.total < 1e-6 and level.rounding < 1e-6 and level.moved > 0
    assert isic.checkpoint.undo(path).state == "undone"
    assert path.read_bytes() == before


def test_codebooks_of_unknown_families_are_found_by_shape_and_must_be_named(rng, tmp_path):
    path = safetensors_file(tmp_path, {"my.vq_codebook": normal(rng, 64, 8), "embed_tokens.weight": normal(rng, 64, 8)})
    book, = isic.checkpoint.inspect(path).codebooks
    assert book.key == "my.vq_codebook" and not book.known
    with pytest.raises(isic.ValueError, match="CHECKPOINT:KEY: my.vq_codebook"):
        isic.checkpoint.plan(path, harm_of(8))
    assert isic.checkpoint.plan(path, harm_of(8), key="my.vq_codebook").levels[0].moved == 64
    assert isic.checkpoint.plan(path, harm_of(8), key="embed_tokens.weight").levels[0].moved == 64
    with pytest.raises(isic.ValueError, match="expected a key"):
        isic.checkpoint.plan(path, harm_of(8), key="my.codebook")


def test_the_width_of_the_subspace_decides_between_halves(rng, tmp_path):
    path = safetensors_file(tmp_path, {"quantize.embedding_vqkd.weight": normal(rng, 40, 32),
                                       "quantize.embedding_vqgan.weight": normal(rng, 40, 8)})
    assert isic.checkpoint.plan(path, harm_of(8)).codebook.key == "quantize.embedding_vqgan.weight"
    assert isic.checkpoint.plan(path, harm_of(32)).codebook.key == "quantize.embedding_vqkd.weight"
    with pytest.raises(isic.ValueError, match="select one"):
        isic.checkpoint.plan(path, harm_of(7))


def test_sign_rows_are_refused_whatever_their_key(rng, tmp_path):
    path = safetensors_file(tmp_path, {"quantize.embedding.weight": 0.25 * signs(rng, 64, 6)})
    with pytest.raises(isic.ValueError, match="0.25 or -0.25"):
        isic.checkpoint.plan(path, harm_of(6))


def test_rows_of_norm_one_keep_it(rng, tmp_path):
    codes = normal(rng, 64, 8)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    path = safetensors_file(tmp_path, {"quantize.embedding.weight": codes})
    isic.checkpoint.apply(path, harm_of(8))
    after = isic.read_safetensors(path)[0]["quantize.embedding.weight"]
    assert np.allclose(np.linalg.norm(after, axis=1), 1, atol=1e-6) and leak(after, harm_of(8)) < 1e-6 < leak(codes, harm_of(8))
    isic.checkpoint.undo(path)
    isic.checkpoint.apply(path, harm_of(8), metric="l2")
    shrunk = isic.read_safetensors(path)[0]["quantize.embedding.weight"]
    assert np.linalg.norm(shrunk, axis=1).min() < 0.99


def test_a_codebook_that_kmeans_would_overwrite_is_refused(rng, tmp_path):
    tensors = {"vq._codebook.embed": normal(rng, 1, 40, 8), "vq._codebook.initted": np.array([False])}
    with pytest.raises(isic.ValueError, match="initted is false"):
        isic.checkpoint.plan(safetensors_file(tmp_path, tensors), harm_of(8))


# Formats

KEY = "model.quantize.embedding.weight"


def write_sharded(folder, tensors):
    names = {key: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, key in enumerate(tensors)}
    for shard in set(names.values()):
        isic.write_safetensors(folder / shard, {key: tensors[key] for key in tensors if names[key] == shard})
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return path


def write_torch(folder, tensors):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = {key: torch.from_numpy(np.ascontiguousarray(value.view(np.int16))).view(torch.bfloat16) if value.dtype.name == "bfloat16"
             else torch.from_numpy(value) for key, value in tensors.items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "model.ckpt")
    return folder / "model.ckpt"


def write_npz(folder, tensors):
    np.savez(folder / "model.npz", **tensors)
    return folder / "model.npz"


WRITERS = {"safetensors": safetensors_file, "sharded": write_sharded, "torch": write_torch, "npz": write_npz}


def read_by_others(path):
    """Reads tensors with the formats' own libraries."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(arrays)
    if path.suffix == ".ckpt":
        import torch

        state = torch.load(path, weights_only=True, mmap=True)["state_dict"]
        return {key: value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy() for key, value in state.items()}
    files = sorted(path.parent.glob("*.safetensors")) if path.suffix == ".json" else [path]
    load_file = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed").load_file
    return {key: value for file in files if ".isic-undo" not in file.name for key, value in load_file(file).items()}


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if ".isic-undo" not in file.name}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_codebook_changes_and_undo_restores_every_byte(kind, dtype, rng, tmp_path):
    if kind == "npz" and dtype == "bfloat16":
        pytest.skip("numpy stores no bfloat16 that it could name again")
    codes, subspace = as_dtype(normal(rng, 50, 8), dtype), harm_of(8, 2)
    tensors = {"a.weight": as_dtype(normal(rng, 30, 30), dtype), KEY: codes, "z.weight": normal(rng, 7), "n": np.arange(9)}
    path = WRITERS[kind](tmp_path, tensors)
    before = bytes_of(tmp_path)
    report = isic.checkpoint.apply(path, subspace)
    reference = codes.copy()
    isic.project_out(reference, subspace)
    after = read_by_others(path)
    key = KEY if kind != "torch" else KEY
    assert np.array_equal(after[key].astype(np.float64), reference.astype(np.float64))
    for other in ("a.weight", "z.weight", "n"):
        assert np.array_equal(after[other].astype(np.float64), tensors[other].astype(np.float64))
    changed = sum(a != b for name, old in before.items() for a, b in zip(old, bytes_of(tmp_path)[name]))
    assert 0 < changed <= codes.nbytes + 12 and {n: len(b) for n, b in before.items()} == {n: len(b) for n, b in bytes_of(tmp_path).items()}
    assert report.plan.levels[0].after.largest < 8 * UNIT[dtype] < report.plan.levels[0].before.largest
    assert isic.checkpoint.verify(path).state == "edited"
    if kind in ("torch", "npz"):
        assert zipfile.ZipFile(path).testzip() is None
    assert isic.checkpoint.undo(path).state == "undone" and bytes_of(tmp_path) == before
    assert isic.checkpoint.undo(path).state == "already undone" and isic.checkpoint.verify(path).state == "original"


def test_a_single_array(rng, tmp_path):
    path = tmp_path / "codebook.npy"
    np.save(path, normal(rng, 50, 8))
    before = path.read_bytes()
    assert str(isic.checkpoint.inspect(path)).splitlines()[3].endswith("unknown     yes")  # apply finds it without a key
    isic.checkpoint.apply(path, harm_of(8))
    assert leak(np.load(path), harm_of(8)) < 1e-6
    isic.checkpoint.undo(path)
    assert path.read_bytes() == before
    np.save(path, np.asfortranarray(normal(rng, 50, 8)))
    with pytest.raises(isic.IoError, match="row-major"):
        isic.checkpoint.inspect(path)


def test_compressed_archives_are_refused_with_the_fix(rng, tmp_path):
    np.savez_compressed(tmp_path / "c.npz", codebook=normal(rng, 50, 8))
    with pytest.raises(isic.ValueError, match="numpy.savez instead"):
        isic.checkpoint.plan(tmp_path / "c.npz", harm_of(8), key="codebook")


def test_a_folder_means_the_checkpoint_in_it(rng, tmp_path):
    path = write_sharded(tmp_path, {KEY: normal(rng, 50, 8), "b": normal(rng, 3)})
    isic.checkpoint.apply(tmp_path, harm_of(8))
    assert (tmp_path / "model.safetensors.index.json.isic-undo.safetensors").exists()
    assert isic.checkpoint.verify(path).state == isic.checkpoint.verify(tmp_path).state == "edited"
    (tmp_path / "empty").mkdir()
    with pytest.raises(isic.IoError, match="got none"):
        isic.checkpoint.open(tmp_path / "empty")


def test_torch_files_run_no_code(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'was_here'}",)

    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"model": {KEY: 1}, "hostile": Hostile()}))
    assert isic.checkpoint.inspect(tmp_path / "x.pt").tensors == 0
    assert not (tmp_path / "was_here").exists()


def test_a_pickled_module_is_no_state_dict(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.save(torch.nn.Embedding(9, 4), tmp_path / "m.pt")
    assert "no tensor found; expected a state dict" in str(isic.checkpoint.inspect(tmp_path / "m.pt"))


def test_torch_files_with_objects_parameters_and_views(rng, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import argparse

    codes = torch.from_numpy(normal(rng, 50, 8))
    state = {"model": {"quantize.embedding.weight": torch.nn.Parameter(codes), "ema.quantize.embedding.weight": codes, "part": codes[10:20],
                       "transposed": codes.t()}, "args": argparse.Namespace(lr=1),
             "optimizer": {"state": {0: {"exp_avg": torch.zeros(50, 8)}}}}
    torch.save(state, tmp_path / "c.pt")
    book, = isic.checkpoint.inspect(tmp_path / "c.pt").codebooks
    assert book.aliases == ("model.ema.quantize.embedding.weight",)
    applied = isic.checkpoint.apply(tmp_path / "c.pt", harm_of(8))
    assert set(applied.plan.edited) == {book.key, *book.aliases}
    after = torch.load(tmp_path / "c.pt", weights_only=False)["model"]
    reference = codes.numpy().copy()
    isic.project_out(reference, harm_of(8))
    assert np.array_equal(after["quantize.embedding.weight"].detach().numpy(), reference)
    assert after["ema.quantize.embedding.weight"].data_ptr() == after["quantize.embedding.weight"].data_ptr()
    assert np.array_equal(after["part"].numpy(), reference[10:20]) and np.array_equal(after["transposed"].numpy(), reference.T)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transposed_tensors_of_torch_are_read_and_refused_with_the_fix(dtype, rng, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if dtype == "bfloat16":
        bfloat16()  # reads them
    key = "quantize.embedding.weight"
    codes = torch.from_numpy(normal(rng, 50, 8)).to(getattr(torch, dtype))
    wide = torch.cat([codes, codes + 1], dim=1)
    path, subspace = tmp_path / "c.pt", harm_of(8)
    for lies in (codes.t().contiguous().t(), wide[:, :8], torch.stack([codes, codes + 1], dim=1)[:, 0], codes[:1].expand(50, 8)):
        torch.save({key: lies, "other": wide.t()}, path)
        before = path.read_bytes()
        opened = isic.checkpoint.open(path)
        assert np.array_equal(opened.read(key).astype(float), lies.double().numpy()) and opened.tensors[key].nbytes == codes.nbytes
        assert np.array_equal(opened.read("other").astype(float), wide.t().double().numpy())
        book, = isic.checkpoint.inspect(path).codebooks
        assert (book.key, book.codes, book.width, book.aliases) == (key, 50, 8, ()) and ".contiguous()" in str(isic.checkpoint.inspect(path))
        assert isic.checkpoint.verify(path, subspace=subspace, key=key).leakage[0].now.total == pytest.approx(
            isic.leakage(lies.double().contiguous(), subspace).total)
        with pytest.raises(isic.ValueError, match=r"not adjacent in the file .*save it after \.contiguous\(\)"):
            isic.checkpoint.apply(path, subspace, key=key)
        assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    torch.save({key: codes, "quantize.embed_avg": (codes * 3).t().contiguous().t()}, path)
    with pytest.raises(isic.ValueError, match=r"adjacent rows in quantize.embed_avg, which is edited with quantize.embedding.weight"):
        isic.checkpoint.apply(path, subspace)
    torch.save({key: codes.contiguous(), "quantize.embed_avg": codes * 3}, path)
    isic.checkpoint.apply(path, subspace)
    after = torch.load(path)[key]
    torch.save({key: after.t().contiguous().t(), "quantize.embed_avg": torch.load(path)["quantize.embed_avg"]}, path)
    with pytest.raises(isic.IoError, match="expected adjacent rows in quantize.embedding.weight"):
        isic.checkpoint.undo(path)


@pytest.mark.parametrize(("offset", "shape", "strides"), [(0, (2, 2), (-2, 1)), (-1, (2, 2), (2, 1)), (0, (2, 2), (3, 1)), (1, (2, 2), (1, 2)),
                                                          (0, (2, 2), (2,)), (0, (2, 2), (1.0, 2.0)), (0, (-2, 2), (1, 2))])
def test_torch_tensors_outside_of_their_storage_are_left_out(offset, shape, strides, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    storage = object()

    class Lies:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, strides, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if value is storage else None

    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        with archive.open("x/data.pkl", "w") as f:
            Pickler(f, protocol=2).dump({"a": Lies()})
        archive.writestr("x/data/0", bytes(16))
    assert isic.checkpoint.open(tmp_path / "x.pt").tensors == {}


# Tensors that belong to a codebook


def test_padding_rows_are_left_alone(rng, tmp_path):
    tensors = vila_u(rng)
    for key, value in tensors.items():
        if key.endswith(".weight"):
            value[-1] = np.nan
    path = safetensors_file(tmp_path, tensors)
    plan = isic.checkpoint.apply(path, harm_of(6)).plan
    after = isic.read_safetensors(path)[0]
    for level in plan.levels:
        assert level.moved == 20 and leak(after[level.key][:-1], harm_of(6)) < 1e-6 and np.isnan(after[level.key][-1]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_next_training_step_does_not_bring_the_concept_back(dtype, rng, tmp_path):
    """weight = embed_avg / cluster_size, after one decayed step on data without the concept."""
    subspace, counts = harm_of(8), rng.uniform(1, 50, 40).astype(F)
    codes = normal(rng, 40, 8)
    tensors = {"quantize.embedding.weight": as_dtype(codes, dtype),
               "quantize.embedding.embed_avg": as_dtype(codes * counts[:, None], dtype), "quantize.embedding.cluster_size": counts}
    data = normal(rng, 40, 8) @ (np.eye(8) - subspace.basis @ subspace.basis.T)

    def step(after, sums):
        wide = sums.astype(np.float64) * 0.99 + 0.01 * data
        return wide / (counts * 0.99 + 0.01)[:, None]

    path = safetensors_file(tmp_path, tensors)
    plan = isic.checkpoint.apply(path, subspace).plan
    after = isic.read_safetensors(path)[0]
    assert "quantize.embedding.embed_avg" in plan.edited and np.array_equal(after["quantize.embedding.cluster_size"], counts)
    assert leak(step(after, tensors["quantize.embedding.embed_avg"]), subspace) > 0.5
    assert leak(step(after, after["quantize.embedding.embed_avg"]), subspace) < 16 * UNIT[dtype]
    codes_now, sums_now = (after[f"quantize.embedding.{name}"].astype(float) for name in ("weight", "embed_avg"))
    assert np.allclose(sums_now, codes_now * counts[:, None],
                       rtol=4 * UNIT[dtype], atol=8 * UNIT[dtype] * counts.max())


def test_codes_that_are_stored_as_sums(rng, tmp_path):
    usage = rng.uniform(0, 20, 40).astype(F)
    tensors = {"rvq.layers.0._codebook.embedding_sum": normal(rng, 40, 8) * usage[:, None], "rvq.layers.0._codebook.cluster_usage": usage}
    path = safetensors_file(tmp_path, tensors)
    isic.checkpoint.apply(path, harm_of(8))
    sums = isic.read_safetensors(path)[0]["rvq.layers.0._codebook.embedding_sum"]
    codes = sums / np.maximum(usage, 1e-5)[:, None]
    old = tensors["rvq.layers.0._codebook.embedding_sum"] / np.maximum(usage, 1e-5)[:, None]
    assert leak(codes, harm_of(8)) < 1e-5 < leak(old, harm_of(8))
    isic.project_out(old, harm_of(8))
    assert np.allclose(codes, old, atol=1e-5)


def test_copies_are_edited_and_unknown_twins_are_asked_about(rng, tmp_path):
    codes = normal(rng, 40, 8)
    both = {"a.quantize.embedding.weight": codes, "ema.quantize.embedding.weight": codes}
    path = safetensors_file(tmp_path, both)
    assert isic.checkpoint.apply(path, harm_of(8)).plan.edited == tuple(both)
    after = isic.read_safetensors(path)[0]
    assert np.array_equal(*after.values()) and leak(after["a.quantize.embedding.weight"], harm_of(8)) < 1e-6
    isic.checkpoint.undo(path)

    path = safetensors_file(tmp_path, {"quantize.embedding.weight": codes, "table": codes}, "twin.safetensors")
    before = path.read_bytes()
    with pytest.raises(isic.ValueError, match="--also KEY.*--leave KEY"):
        isic.checkpoint.apply(path, harm_of(8))
    with pytest.raises(isic.ValueError, match="'tabel'"):
        isic.checkpoint.apply(path, harm_of(8), leave=["tabel"])
    assert path.read_bytes() == before
    isic.checkpoint.apply(path, harm_of(8), leave=["table"])
    assert np.array_equal(isic.read_safetensors(path)[0]["table"], codes)
    isic.checkpoint.undo(path)
    isic.checkpoint.apply(path, harm_of(8), also=["table"])
    assert np.array_equal(*isic.read_safetensors(path)[0].values())
    isic.checkpoint.undo(path)
    assert path.read_bytes() == before


def test_sums_beside_copies_and_aliases_are_edited_too(rng, tmp_path):
    codes, subspace = normal(rng, 40, 8), harm_of(8)
    tensors = {f"{model}.quantize.embedding.{name}": value for model, n in (("model", 3), ("ema", 7))
               for name, value in (("weight", codes), ("embed_avg", n * codes))}
    for path in (safetensors_file(tmp_path, tensors), write_torch(tmp_path, tensors)):
        book, = isic.checkpoint.inspect(path).codebooks
        assert len(book.sums) == 2 and len(book.copies) + len(book.aliases) == 1
        isic.checkpoint.apply(path, subspace)
        after = read_by_others(path)
        assert all(leak(value, subspace) < 1e-6 for value in after.values())
        assert np.allclose(after["ema.quantize.embedding.embed_avg"], 7 * after["model.quantize.embedding.weight"], atol=1e-5)


def test_a_copy_in_another_file_is_edited_with_it(rng, tmp_path):
    books = [normal(rng, 40, 8) for _ in range(2)]
    (tmp_path / "mllm").mkdir()
    named = {f"quantizer.codebooks.{i}.codebook.weight": b for i, b in enumerate(books)}
    first = safetensors_file(tmp_path, named, "unitok.safetensors")
    second = safetensors_file(tmp_path / "mllm", {f"model.multi_embedder.{key}": b for key, b in named.items()})
    before = first.read_bytes(), second.read_bytes()
    key = "quantizer.codebooks.1.codebook.weight"
    applied = isic.checkpoint.apply(first, harm_of(8), key=key, also=[second])
    assert len(applied.plan.edited) == 2
    here, there = (isic.read_safetensors(p)[0] for p in (first, second))
    assert np.array_equal(here[key], there["model.multi_embedder." + key]) and leak(here[key], harm_of(8)) < 1e-6
    assert np.array_equal(there["model.multi_embedder.quantizer.codebooks.0.codebook.weight"], books[0])
    assert isic.checkpoint.verify(first).state == "edited"
    assert isic.checkpoint.undo(first).state == "undone" and (first.read_bytes(), second.read_bytes()) == before
    with pytest.raises(isic.IoError, match="found none with the same bytes"):
        isic.checkpoint.apply(first, harm_of(8), key=key, also=[safetensors_file(tmp_path, {"x": books[0]}, "x.safetensors")])


def test_separate_input_tables_stay(rng, tmp_path):
    codes = normal(rng, 40, 8)
    path = safetensors_file(tmp_path, {"gen_vision_model.quantize.embedding.weight": codes, "gen_embed.weight": codes})
    isic.checkpoint.apply(path, harm_of(8))
    assert np.array_equal(isic.read_safetensors(path)[0]["gen_embed.weight"], codes)


# Edits of rows


def ids_of(rng, n=30, t=12, codes=40, harmful=10):
    h, s = rng.integers(0, harmful, (n, t)), rng.integers(harmful, codes, (n, t))
    shared = rng.random((n, t)) < 0.5
    return np.where(shared, s, h), s


def test_fit_is_what_the_primitives_say(rng, tmp_path):
    codes = normal(rng, 40, 8)
    path = safetensors_file(tmp_path, {"quantize.embedding.weight": codes})
    h, s = ids_of(rng)
    fitted = isic.checkpoint.fit(h, s, checkpoint=path, rank=2)
    pairs = isic.DifferenceAccumulator(codes.astype(np.float64))
    pairs.add(h, s)
    assert np.allclose(fitted.subspace.basis, isic.fit_subspace(pairs, rank=2).basis)
    assert np.array_equal(fitted.harmfulness, isic.code_harmfulness(pairs.usage).harmfulness)
    goals = isic.CounterpartTargets(codes.astype(np.float64))
    goals.add(h, s)
    assert np.allclose(fitted.targets, goals.targets()) and np.array_equal(fitted.usage.safe, pairs.usage.safe)


def test_fit_reads_codes_as_the_decoder_does(rng, tmp_path):
    codes = normal(rng, 40, 8)
    scaled = codes * rng.uniform(0.1, 9, (40, 1)).astype(F)
    h, s = ids_of(rng)
    fits = [isic.checkpoint.fit(h, s, checkpoint=safetensors_file(tmp_path, {"gen_vision_model.quantize.embedding.weight": c}), rank=2)
            for c in (codes, scaled)]
    assert isic.principal_angles(fits[0].subspace, fits[1].subspace).max() < 1e-3


def test_residual_levels(rng, tmp_path):
    path = safetensors_file(tmp_path, vila_u(rng, 3))
    h, s = rng.integers(0, 10, (20, 4, 3)), rng.integers(10, 20, (20, 4, 3))
    fitted = isic.checkpoint.fit(h, s, checkpoint=path, rank=1)
    assert fitted.harmfulness.shape == (3, 20) and fitted.targets.shape == (3, 20, 6) and fitted.usage.harmful.shape == (3, 20)
    tables = [isic.read_safetensors(path)[0][f"vision_tower.rqvaesiglip.quantizer.codebooks.{i}.weight"].astype(float) for i in range(3)]
    rows = sum(t[h[..., i]] - t[s[..., i]] for i, t in enumerate(tables)).reshape(-1, 6)
    assert isic.principal_angles(fitted.subspace, isic.span_of(np.linalg.svd(rows)[2][:1].T)).max() < 1e-6
    plan = isic.checkpoint.apply(path, fitted).plan
    assert all(0 < level.moved <= 10 for level in plan.levels)
    with pytest.raises(isic.ShapeError, match=r"\[n, T, 3\]"):
        isic.checkpoint.fit(h[..., 0], s[..., 0], checkpoint=path)


def test_strengths_come_from_harmfulness_unless_told(rng, tmp_path):
    codes = normal(rng, 40, 8)
    path = safetensors_file(tmp_path, {"quantize.embedding.weight": codes})
    fitted = isic.checkpoint.fit(*ids_of(rng), checkpoint=path, rank=1)
    strength = isic.code_strength(fitted.harmfulness)
    assert 0 < (strength > 0).sum() < 40
    for options, reference in (({}, strength), ({"strength": 0.5}, 0.5), ({"strength": strength / 2}, strength / 2)):
        isic.checkpoint.apply(path, fitted, **options)
        expected = codes.copy()
        isic.project_out(expected, fitted.subspace, strength=reference)
        assert np.array_equal(isic.read_safetensors(path)[0]["quantize.embedding.weight"], expected)
        isic.checkpoint.undo(path)
    isic.checkpoint.apply(path, fitted, remap=True)
    expected = codes.copy()
    isic.remap(expected, target=fitted.targets, strength=strength)
    assert np.array_equal(isic.read_safetensors(path)[0]["quantize.embedding.weight"], expected)


def test_rank_takes_the_first_directions(rng, tmp_path):
    codes = normal(rng, 40, 8)
    path = safetensors_file(tmp_path, {"quantize.embedding.weight": codes})
    subspace = isic.fit_subspace(normal(rng, 100, 8), rank=3, max_rank=8)
    plan = isic.checkpoint.apply(path, subspace, rank=1).plan
    assert plan.rank == 1 and plan.energy < subspace.energy
    after = isic.read_safetensors(path)[0]["quantize.embedding.weight"]
    assert np.abs(after @ subspace.basis[:, 0]).max() < 1e-6 and np.allclose(after @ subspace.basis[:, 1:], codes @ subspace.basis[:, 1:], atol=1e-5)
    with pytest.raises(isic.ValueError, match=r"rank in \[1, 3\]"):
        isic.checkpoint.plan(path, subspace, rank=4)


def test_plan_counts_what_vanishes_and_collapses_and_writes_nothing(rng, tmp_path):
    subspace = isic.span_of(np.eye(8)[:, :1])
    codes = normal(rng, 40, 8)
    codes[0] = 3 * np.eye(8)[0]
    codes[2] = codes[1] + np.eye(8, dtype=F)[0]
    path = safetensors_file(tmp_path, {"quantize.embedding.weight": codes})
    before = bytes_of(tmp_path)
    level, = isic.checkpoint.plan(path, subspace).levels
    assert level.near_zero == 1 and level.collapsed >= 1 and 0 < level.churn < 1
    assert bytes_of(tmp_path) == before and isic.checkpoint.plan(path, subspace, near_zero="zero").levels[0].near_zero == 1
    with pytest.raises(isic.NumericError):
        isic.checkpoint.plan(path, subspace, near_zero="error")


# The subspace file


def test_subspace_files(rng, tmp_path):
    subspace = isic.fit_subspace(normal(rng, 100, 8), rank=2)
    isic.save_subspace(tmp_path / "s", subspace)
    back = isic.load_subspace(tmp_path / "s")
    assert np.array_equal(back.subspace.basis, subspace.basis) and back.subspace.chosen == subspace.chosen and back.subspace.energy == subspace.energy
    assert back.harmfulness is None and back.targets is None and back.usage is None
    q, t = rng.random(5), rng.random((5, 8))
    isic.save_subspace(tmp_path / "s", subspace, harmfulness=q, targets=t, usage=isic.CodeUsage(q, q))
    back = isic.load_subspace(tmp_path / "s")
    assert np.array_equal(back.harmfulness, q) and np.array_equal(back.targets, t) and np.array_equal(back.usage.safe, q)
    isic.save_subspace(tmp_path / "again", back)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "s").read_bytes()


def test_a_subspace_file_is_the_same_in_cpp(tmp_path):
    """The bytes that tests/io/subspace_test.cpp writes and reads."""
    header = (b'{"__metadata__":{"decided_by":"energy","energy":"0.9375","format":"isic.subspace","rank":"2","version":"1"},'
              b'"basis":{"data_offsets":[0,48],"dtype":"F64","shape":[3,2]},'
              b'"harmfulness":{"data_offsets":[48,80],"dtype":"F64","shape":[2,2]},'
              b'"singular_values":{"data_offsets":[80,104],"dtype":"F64","shape":[3]},'
              b'"targets":{"data_offsets":[104,200],"dtype":"F64","shape":[2,2,3]},'
              b'"usage.harmful":{"data_offsets":[200,232],"dtype":"F64","shape":[2,2]},'
              b'"usage.safe":{"data_offsets":[232,264],"dtype":"F64","shape":[2,2]}} ')
    basis, sigma, q, t = np.eye(3)[:, 1:], np.array([3.0, 2, 1]), np.array([[0.25, 1], [0, 0.5]]), np.arange(12.0).reshape(2, 2, 3)
    usage = isic.CodeUsage(8 * q, 8 - 8 * q)
    content = len(header).to_bytes(8, "little") + header + b"".join(v.tobytes() for v in (basis, q, sigma, t, usage.harmful, usage.safe))
    (tmp_path / "cpp").write_bytes(content)
    back = isic.load_subspace(tmp_path / "cpp")
    assert np.array_equal(back.subspace.basis, basis) and back.subspace.chosen == isic.RankChoice(2, "energy")
    assert np.array_equal(back.harmfulness, q) and np.array_equal(back.targets, t) and np.array_equal(back.usage.safe, usage.safe)
    isic.save_subspace(tmp_path / "own", isic.Subspace(basis, sigma, 0.9375, isic.RankChoice(2, "energy")), harmfulness=q, targets=t, usage=usage)
    assert (tmp_path / "own").read_bytes() == content


def test_what_is_known_of_codes_is_said_once_and_fits(tmp_path):
    known = isic.FittedSubspace(harm_of(8), harmfulness=np.ones(4))
    with pytest.raises(isic.ValueError, match="a FittedSubspace and keywords"):
        isic.save_subspace(tmp_path / "s", known, harmfulness=np.zeros(4))
    with pytest.raises(isic.ShapeError, match=r"usage \(1,\) and \(2,\)"):
        isic.save_subspace(tmp_path / "s", harm_of(8), usage=isic.CodeUsage([1.0], [2.0, 3.0]))
    with pytest.raises(isic.ShapeError, match=r"harmfulness \(4,\), usage \(3,\) and \(3,\)"):
        isic.save_subspace(tmp_path / "s", harm_of(8), harmfulness=np.ones(4), usage=isic.CodeUsage(np.ones(3), np.ones(3)))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("wrong", [dict(harmfulness=[0.5, 2]), dict(harmfulness=[np.nan]), dict(targets=[[1.0]]),
                                   dict(harmfulness=[0.5], targets=np.zeros((2, 8)))])
def test_subspace_files_that_do_not_fit(wrong, rng, tmp_path):
    with pytest.raises(isic.ShapeError, match="isic.save_subspace"):
        isic.save_subspace(tmp_path / "s", harm_of(8), **wrong)
    tensors = {"basis": harm_of(8).basis, "singular_values": np.ones(1), **{k: np.asarray(v, float) for k, v in wrong.items()}}
    metadata = {"format": "isic.subspace", "version": "1", "energy": "1", "rank": "1", "decided_by": "fixed"}
    isic.write_safetensors(tmp_path / "t", tensors, metadata)
    with pytest.raises(isic.IoError, match="isic.load_subspace"):
        isic.load_subspace(tmp_path / "t")


def test_other_files_are_no_subspaces(rng, tmp_path):
    for metadata in ({}, {"format": "isic.subspace", "version": "2"}, {"format": "isic.subspace", "version": "1"}):
        isic.write_safetensors(tmp_path / "s", {"basis": np.eye(3)}, metadata)
        with pytest.raises(isic.IoError, match="isic.load_subspace"):
            isic.load_subspace(tmp_path / "s")


# Undo, verify, copies


def vq(folder, rng, **more):
    return safetensors_file(folder, {"quantize.embedding.weight": normal(rng, 40, 8), **more})


def test_apply_keeps_one_undo_file_per_edit(rng, tmp_path):
    path = vq(tmp_path, rng)
    original = path.read_bytes()
    isic.checkpoint.apply(path, harm_of(8))
    assert isic.checkpoint.apply(path, harm_of(8)).undo_file == ""  # no byte changed
    with pytest.raises(isic.IoError, match="earlier edit"):
        isic.checkpoint.apply(path, harm_of(8, seed=4))
    isic.checkpoint.apply(path, harm_of(8, seed=4), undo=tmp_path / "second")
    with pytest.raises(isic.IoError, match="changed by something else"):
        isic.checkpoint.undo(path)
    assert isic.checkpoint.verify(path).state == "neither"
    isic.checkpoint.undo(path, undo=tmp_path / "second")
    isic.checkpoint.undo(path)
    assert path.read_bytes() == original
    isic.checkpoint.apply(path, harm_of(8, seed=4))  # the old edit is undone, so its undo file may be replaced


def test_undo_refuses_what_it_does_not_know(rng, tmp_path):
    path = vq(tmp_path, rng)
    with pytest.raises(isic.IoError, match="found no"):
        isic.checkpoint.undo(path)
    isic.checkpoint.apply(path, harm_of(8))
    edited = bytearray(path.read_bytes())
    edited[-3] ^= 1
    path.write_bytes(edited)
    with pytest.raises(isic.IoError, match="changed by something else"):
        isic.checkpoint.undo(path)
    assert path.read_bytes() == bytes(edited)
    other = safetensors_file(tmp_path, {"quantize.embedding.weight": normal(rng, 41, 8)}, "other.safetensors")
    with pytest.raises(isic.IoError, match=r"is F32 \[41, 8\]"):
        isic.checkpoint.undo(other, undo=f"{path}.isic-undo.safetensors")
    with pytest.raises(isic.IoError, match="isic.checkpoint-undo"):
        isic.checkpoint.undo(path, undo=other)


def test_verify_measures_what_is_stored(rng, tmp_path):
    path = vq(tmp_path, rng)
    with pytest.raises(isic.IoError, match="undo file or a subspace"):
        isic.checkpoint.verify(path)
    found = isic.checkpoint.verify(path, subspace=harm_of(8))
    assert found.state == "unknown" and found.leakage[0].now.largest > 0.5
    plan = isic.checkpoint.apply(path, harm_of(8)).plan
    found = isic.checkpoint.verify(path)
    assert found.leakage[0].now == found.leakage[0].recorded == plan.levels[0].after
    assert isic.checkpoint.verify(path, subspace=harm_of(8, seed=9)).leakage[0].now.largest > 0.1


def test_output_edits_a_copy(rng, tmp_path):
    path = vq(tmp_path, rng)
    original = path.read_bytes()
    applied = isic.checkpoint.apply(path, harm_of(8), output=tmp_path / "safer.safetensors")
    assert path.read_bytes() == original and isic.checkpoint.verify(tmp_path / "safer.safetensors").state == "edited"
    with pytest.raises(isic.IoError, match="exists"):
        isic.checkpoint.apply(path, harm_of(8), output=tmp_path / "safer.safetensors")
    with pytest.raises(isic.IoError, match="isic.checkpoint-undo"):
        isic.checkpoint.apply(path, harm_of(8), output=tmp_path / "more.safetensors", undo=path)
    assert isic.checkpoint.undo(applied.path).state == "undone" and (tmp_path / "safer.safetensors").read_bytes() == original
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "safer.safetensors", "safer.safetensors.isic-undo.safetensors"]


def test_output_of_a_sharded_checkpoint_is_a_folder(rng, tmp_path):
    path = write_sharded(tmp_path, {KEY: normal(rng, 50, 8), "b": normal(rng, 3)})
    before, seen = bytes_of(tmp_path), []
    isic.checkpoint.apply(path, harm_of(8), output=tmp_path / "safer", on_progress=lambda *p: seen.append(p))
    after = bytes_of(tmp_path / "safer")
    assert [name for name in before if after[name] != before[name]] == ["model-00001-of-00002.safetensors"] and set(after) == set(before)
    assert isic.checkpoint.verify(tmp_path / "safer").state == "edited"
    assert seen[-1][0] == "copy" and seen[-1][1] == seen[-1][2] == sum(map(len, before.values()))


def test_links_are_followed_and_stay(rng, tmp_path):
    """A link of a download cache: its target is patched, and it stays a link."""
    (tmp_path / "blobs").mkdir()
    blob = vq(tmp_path, rng).rename(tmp_path / "blobs" / "abc")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    isic.checkpoint.apply(link, harm_of(8))
    assert link.is_symlink() and leak(isic.read_safetensors(blob)[0]["quantize.embedding.weight"], harm_of(8)) < 1e-6
    assert Checkpoint(link).journal == Checkpoint(blob).journal


def test_read_only_files_are_refused(rng, tmp_path, monkeypatch):
    path = vq(tmp_path, rng)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root
    with pytest.raises(isic.IoError, match="writable files"):
        isic.checkpoint.apply(path, harm_of(8))
    assert os.listdir(tmp_path) == [path.name]


# Files that are not checkpoints


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02old torch", b"PK\x03\x04", b"\x93NUMPY\x01\x00",
                                     b"\x93NUMPY\x09\x00\x10\x00{}", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0{\"a\":1}         "])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(isic.IoError, match="x"):
        isic.checkpoint.open(tmp_path / "x")


@pytest.mark.parametrize("index", ["{}", "[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": "gone.safetensors"}}',
                                   '{"weight_map": {"b": "m.safetensors"}}'])
def test_broken_indexes_are_refused(index, rng, tmp_path):
    safetensors_file(tmp_path, {"a": normal(rng, 3)}, "m.safetensors")
    (tmp_path / "x.index.json").write_text(index)
    with pytest.raises(isic.IoError):
        isic.checkpoint.open(tmp_path / "x.index.json")


@pytest.mark.parametrize("kind", ["safetensors", "torch", "npz"])
def test_damaged_files_raise_only_errors_of_isic(kind, rng, tmp_path):
    path = WRITERS[kind](tmp_path, {KEY: normal(rng, 20, 4), "b": normal(rng, 3)})
    good = path.read_bytes()
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 1 + int(rng.integers(4))):
            bad[at] = int(rng.integers(256))
        path.write_bytes(bytes(bad[:int(rng.integers(1, len(bad)))]) if rng.random() < 0.3 else bytes(bad))
        try:
            isic.checkpoint.inspect(path)
        except isic.Error:
            refused += 1
    assert refused > 30


def test_bfloat16_needs_its_package(rng, tmp_path, monkeypatch):
    path = safetensors_file(tmp_path, {"quantize.embedding.weight": normal(rng, 20, 4).astype(bfloat16())})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert isic.checkpoint.inspect(path).codebooks[0].dtype == "BF16"
    with pytest.raises(ImportError, match="pip install ml_dtypes"):
        isic.checkpoint.plan(path, harm_of(4))


# Memory

PEAK = """
import pathlib, re, resource, sys
import numpy as np
import isic
file, subspace = sys.argv[1], isic.span_of(np.eye(8)[:, :1])
isic.checkpoint.apply(file, subspace), isic.checkpoint.verify(file), isic.checkpoint.undo(file)
if len(sys.argv) > 2:
    whole = open(file, "rb").read(int(sys.argv[2]))
status = pathlib.Path("/proc/self/status")  # ru_maxrss would start at the parent's peak
peak = re.search(r"VmHWM:\\s*(\\d+)", status.read_text()) if status.exists() else None
print(peak.group(1) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def sparse_checkpoint(path, rng, nbytes):
    """A codebook behind a sparse tensor."""
    codes = normal(rng, 4096, 8)
    book = {"dtype": "F32", "shape": [4096, 8], "data_offsets": [nbytes, nbytes + codes.nbytes]}
    hole = {"dtype": "U8", "shape": [nbytes], "data_offsets": [0, nbytes]}
    header = json.dumps({"hole": hole, "quantize.embedding.weight": book}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        f.seek(8 + len(header) + nbytes)
        f.write(codes.tobytes())
    return path


def test_memory_does_not_grow_with_the_file(rng, tmp_path):
    def peak(nbytes, *read):
        path = sparse_checkpoint(tmp_path / f"{nbytes}-{len(read)}.safetensors", rng, nbytes)
        result = subprocess.run([sys.executable, "-c", PEAK, str(path), *read], capture_output=True, text=True, check=True)
        path.unlink()
        return int(result.stdout) / 1024  # megabytes

    small = peak(1 << 20)
    assert peak(4 << 30) - small < 200 < peak(4 << 30, str(300 << 20)) - small
