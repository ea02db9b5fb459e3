# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring runs, and every public name has a docstring."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import numpy as np
import pytest

import isic

# cuda_test.py runs those of isic.cuda, which need a device
MODULES = ["isic", *(f"isic.{m.name}" for m in pkgutil.iter_modules(isic.__path__) if m.name not in ("_isic", "_cuda", "cuda"))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    names = {"np": np, "isic": isic}
    results = doctest.testmod(importlib.import_module(name), extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


def test_the_examples_are_found():
    module = importlib.import_module("isic._edit")
    assert sum(len(t.examples) for t in doctest.DocTestFinder().find(module)) > 5


PUBLIC = [getattr(isic, name) for name in isic.__all__] + [getattr(isic.fused, name) for name in isic.fused.__all__]


@pytest.mark.parametrize("thing", PUBLIC, ids=str)
def test_public_names_are_documented(thing):
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)
        assert thing.__module__.split(".")[0] == "isic"


def test_options_are_keywords():
    for thing in PUBLIC:
        if inspect.isfunction(thing):
            name = thing.__name__
            for p in inspect.signature(thing).parameters.values():
                assert p.default is inspect.Parameter.empty or p.kind is p.KEYWORD_ONLY or name == "write_safetensors", f"{name}({p.name})"


def test_the_readme_prints_what_it_says(capsys):
    readme = pathlib.Path(__file__).parents[2] / "bindings" / "README.md"
    if not readme.is_file():
        pytest.skip("the sources are not here")
    names = {}
    programs = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    for program in programs:  # each continues the one before
        exec(program, names)
        printed = capsys.readouterr().out.splitlines()
        assert printed and all(f"# {line}" in program for line in printed)
    assert len(programs) == 2


def test_version():
    assert isic.__version__.count(".") == 2
