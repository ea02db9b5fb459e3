# SPDX-License-Identifier: Apache-2.0
"""Tensors and parameters of torch are edited in place."""

import subprocess
import sys

import numpy as np
import pytest

import isic

torch = pytest.importorskip("torch", reason="torch is not installed")

X_AXIS = isic.span_of([[1.0], [0.0], [0.0]])
VALUES = [[3, 1, 0], [3, 0, 1], [0, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_of_all_types(dtype):
    codes = torch.tensor(VALUES, dtype=dtype)
    before, address = codes.clone(), codes.data_ptr()
    edit = isic.project_out(codes, X_AXIS)
    assert codes[:, 0].tolist() == [0] * 4 and codes.data_ptr() == address
    assert codes[:, 1:].equal(before[:, 1:])
    edit.undo()
    assert codes.equal(before)


def test_a_parameter_of_a_module():
    book = torch.nn.Embedding(4, 3)
    with torch.no_grad():
        book.weight.copy_(torch.tensor(VALUES))
    assert book.weight.requires_grad
    isic.project_out(book.weight, X_AXIS)
    assert book(torch.tensor([0]))[0].tolist() == [0, 1, 0]
    assert book.weight.requires_grad and book.weight.is_leaf


def test_rows_of_a_wider_tensor():
    wide = torch.arange(24.0).reshape(4, 6) + 1
    isic.project_out(wide[:, :3], X_AXIS)
    assert wide[:, 0].tolist() == [0] * 4 and wide[0, 3:].tolist() == [4, 5, 6]


def test_autograd_notices():
    codes = torch.tensor(VALUES, dtype=torch.float32, requires_grad=True)
    loss = (codes**2).sum()
    isic.project_out(codes, X_AXIS)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensors():
    with torch.inference_mode():
        codes = torch.tensor(VALUES, dtype=torch.float32)
        isic.project_out(codes, X_AXIS)
    assert codes[:, 0].tolist() == [0] * 4


def test_what_cannot_be_edited():
    with pytest.raises(isic.ShapeError, match="contiguous"):
        isic.project_out(torch.ones(3, 4).T, X_AXIS)
    with pytest.raises(isic.ValueError, match="float32"):
        isic.project_out(torch.ones(4, 3, dtype=torch.int64), X_AXIS)
    with pytest.raises(isic.ShapeError, match="two dimensions"):
        isic.project_out(torch.ones(3), X_AXIS)
    with pytest.raises(isic.ValueError, match="got int32; convert it"):
        isic.project_out(torch.ones(4, 3, dtype=torch.int32), X_AXIS)
    for nowhere in (torch.ones(4, 3, device="meta"), torch.ones(4, 3).to_sparse()):
        with pytest.raises(isic.ValueError, match="codes in memory that its library exports"):
            isic.project_out(nowhere, X_AXIS)


def test_ids_targets_and_gradients_may_be_tensors():
    codes = torch.tensor(VALUES, dtype=torch.float32)
    pairs = isic.DifferenceAccumulator(codes)
    pairs.add(torch.tensor([0, 1], dtype=torch.int32), torch.tensor([2, 2]))
    assert pairs.usage.harmful.tolist() == [1, 1, 0, 0]
    isic.remap(codes, target=torch.zeros(4, 3, dtype=torch.bfloat16), strength=torch.tensor([1.0, 0, 0, 0], requires_grad=True))
    assert codes[0].tolist() == [0, 0, 0]
    parameter = torch.nn.Parameter(torch.ones(4, 3))
    (parameter * 2).sum().backward()
    isic.sgd_update(parameter, parameter.grad, isic.SgdState(), rate=0.25)
    assert parameter.tolist() == [[0.5] * 3] * 4


def test_isic_does_not_import_torch():
    program = "import sys, numpy, isic; isic.leakage(numpy.eye(3), isic.span_of(numpy.eye(3)[:, :1])); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "False\n"


def test_same_bytes_as_numpy():
    values = np.random.default_rng(3).standard_normal((50, 3)).astype(np.float32)
    tensor = torch.tensor(values)
    isic.project_out(values, isic.span_of([[1.0], [2.0], [3.0]]))
    isic.project_out(tensor, isic.span_of([[1.0], [2.0], [3.0]]))
    assert tensor.numpy().tobytes() == values.tobytes()


TYPES = [getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool", "complex64", "float8_e4m3fn",
                                           "float8_e5m2", "float8_e8m0fnu") if hasattr(torch, name)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_are_written_as_they_are(dtype, tmp_path):
    load_file = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").load_file
    values = torch.arange(1, 13).reshape(3, 4).to(dtype)
    tensors = {"whole": values, "transposed": values.t(), "column": values[:, 1], "one": values[0, 0], "none": values[:0]}
    if dtype.is_floating_point and dtype.itemsize > 1:
        tensors["parameter"] = torch.nn.Parameter(values.t())
    isic.write_safetensors(tmp_path / "t", tensors)
    again = load_file(tmp_path / "t")
    for name, expected in tensors.items():
        assert again[name].dtype == dtype and again[name].shape == expected.shape
        assert again[name].tolist() == expected.tolist()


def test_tensors_that_cannot_be_written(tmp_path):
    with pytest.raises(isic.ValueError, match="'a' of bool, integers or floats .* got complex128"):
        isic.write_safetensors(tmp_path / "t", {"a": torch.zeros(2, dtype=torch.complex128)})
    assert not (tmp_path / "t").exists()
