"""Finds the native CPU kernels, hands them to XLA, and says why where they cannot be used.

Knows where the install puts the shared object and which handlers it has; the sources are in ``native/``. Does
not know what the handlers compute: a kernel's module next to this one does. They are built when the package
is installed (see ``setup.py``), and nothing needs them: callers ask :func:`available` and have an XLA form.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import jax

TARGETS = ("vllm_jax_linear", "vllm_jax_paged_attention", "vllm_jax_host_turn")
"""The handlers, under the names that are both their symbols and their FFI targets."""


@dataclass(frozen=True)
class Library:
    """What became of loading it: the instruction set its kernels use here, or the reason there is none."""

    isa: str | None
    reason: str | None


def available() -> bool:
    """Whether programs for the CPU may call the native kernels. The first call loads and registers them."""
    return library().isa is not None


def describe() -> str:
    """One line for a person: what the native kernels use, or why XLA computes alone."""
    found = library()
    return (
        f"native, {found.isa}" if found.reason is None else f"XLA alone; the native ones were {found.reason}"
    )


@cache
def library() -> Library:
    """Loads the shared object and registers its handlers, once in a process."""
    folder = Path(__file__).parent
    path = next(
        (file for suffix in EXTENSION_SUFFIXES if (file := folder / f"_native{suffix}").exists()), None
    )
    if path is None:
        return Library(None, "not built: the install found no C++ compiler that could do it")
    # In a checkout the sources lie beside it, and Python here may want newer ones.
    built = path.stat().st_mtime
    if any(source.stat().st_mtime > built for source in (folder / "native").glob("*.*")):
        return Library(None, "older than their sources: python setup.py build_ext --inplace")
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.vllm_jax_isa.restype = ctypes.c_char_p
        for target in TARGETS:
            handler = getattr(loaded, target)
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
    except Exception as error:  # a stale or foreign build must not stop the server
        return Library(None, f"not loaded ({str(error).strip().splitlines()[0]}); reinstall to rebuild")
    return Library(loaded.vllm_jax_isa().decode(), None)
