# SPDX-License-Identifier: Apache-2.0
"""The build requires NVIDIA's libraries only where they are used."""

import importlib
import pathlib

import pytest

CMAKE = pathlib.Path(__file__).parents[2] / "cmake"
if not (CMAKE / "build_backend.py").is_file():
    pytest.skip("the sources are not here", allow_module_level=True)
pytest.importorskip("scikit_build_core", reason="scikit-build-core is not installed")


@pytest.fixture
def build(monkeypatch):
    monkeypatch.syspath_prepend(str(CMAKE))
    monkeypatch.chdir(CMAKE.parent)  # build frontends call the backend here
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)
    return importlib.import_module("build_backend")


def compiler(folder, release, headers=()):
    """A fake nvcc that reports its version and a toolkit with these headers."""
    include = folder / "include"
    include.mkdir()
    for header in headers:
        (include / header).touch()
    nvcc = folder / "nvcc"
    nvcc.write_text(f"""#!/bin/sh
[ "$1" = --version ] && echo "Cuda compilation tools, release {release}, V{release}.88"
[ "$1" = --dryrun ] && echo '#$ INCLUDES="-I{include}"' >&2
exit 0
""")
    nvcc.chmod(0o755)
    return str(nvcc)


@pytest.mark.parametrize(("release", "headers", "settings", "asked"), [
    ("13.0", (), {}, True),
    ("13.0", (), {"cmake.define.ISIC_CUDA": "ON"}, True),
    ("13.0", (), {"cmake.define.ISIC_CUDA": "OFF"}, False),
    ("13.1", ("cublas_v2.h",), {}, True),
    ("13.1", ("cublas_v2.h", "cusolverDn.h"), {}, False),
    ("12.9", (), {}, False),
])
def test_what_is_asked_for(build, monkeypatch, tmp_path, release, headers, settings, asked):
    monkeypatch.setenv("CUDACXX", compiler(tmp_path, release, headers))
    more = set(build.get_requires_for_build_wheel(settings)) - set(build._build.get_requires_for_build_wheel(settings))
    assert more == (set(build.LIBRARIES) if asked else set())


def test_without_nvcc(build, monkeypatch):
    monkeypatch.setattr(build, "_nvcc", lambda: None)
    assert build.get_requires_for_build_editable() == build._build.get_requires_for_build_editable()


def test_the_extra_names_the_same_libraries(build):
    tomllib = pytest.importorskip("tomllib", reason="before Python 3.11")
    extras = tomllib.loads((CMAKE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["cuda"] == build.LIBRARIES
