"""The native CPU kernels: that they are built where they can be, and what is said where they are not."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from vllm_jax.kernels.cpu import library as library_module
from vllm_jax.kernels.cpu.library import TARGETS, available, library


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: the install goes on without")
def test_is_built_where_there_is_a_compiler():
    assert library().reason is None, "in a checkout: python setup.py build_ext --inplace"
    assert available() and library().isa


def test_every_handler_in_the_sources_is_registered():
    native = Path(library_module.__file__).parent / "native"
    sources = "".join(path.read_text() for path in native.glob("*.cc"))
    handlers = {part.split(",")[0].strip() for part in sources.split("XLA_FFI_DEFINE_HANDLER_SYMBOL(")[1:]}
    assert handlers == set(TARGETS)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The loader, looking into an empty folder."""
    monkeypatch.setattr(library_module, "__file__", str(tmp_path / "library.py"))
    return tmp_path


def test_not_built_has_a_reason(elsewhere):
    assert library.__wrapped__().reason.startswith("not built")


def test_a_broken_build_has_a_reason(elsewhere):
    (elsewhere / "_native.abi3.so").write_bytes(b"not a shared object")
    found = library.__wrapped__()
    assert found.isa is None and "reinstall" in found.reason


@pytest.mark.skipif(sys.platform != "linux", reason="builds a shared object with g++")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_build_of_another_version_has_a_reason(elsewhere):
    import subprocess

    source = elsewhere / "old.cc"
    source.write_text('extern "C" const char* vllm_jax_isa() { return "old"; }')
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-o", str(elsewhere / "_native.abi3.so"), str(source)], check=True
    )
    found = library.__wrapped__()
    assert found.isa is None and TARGETS[0] in found.reason


def test_an_older_build_than_its_sources_has_a_reason(elsewhere):
    built = elsewhere / "_native.abi3.so"
    built.write_bytes(b"")
    os.utime(built, (1, 1))
    (elsewhere / "native").mkdir()
    (elsewhere / "native" / "linear.cc").write_text("")
    assert "older than their sources" in library.__wrapped__().reason
