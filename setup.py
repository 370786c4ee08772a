"""The native CPU kernels. Everything else about the build is in pyproject.toml.

They are a plain shared object with handlers for XLA's foreign function interface: no Python in it, so that
neither Python's headers nor its version matter. It is optional: where it cannot be built, the install goes on
without it and the server computes with XLA alone, and says so.
"""

from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("vllm_jax/kernels/cpu/native")
JAXLIB = find_spec("jaxlib")  # has the headers; a build dependency

setup(
    ext_modules=[
        Extension(
            "vllm_jax.kernels.cpu._native",
            sources=sorted(str(path) for path in NATIVE.glob("*.cc")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            include_dirs=[str(Path(place) / "include") for place in JAXLIB.submodule_search_locations or ()]
            if JAXLIB
            else [],
            # Speed comes from variants chosen at run time, not from the flags of the building machine.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-fvisibility=hidden",
                "-Wno-psabi",
                "-Wno-uninitialized",
            ],
            language="c++",
            optional=True,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for all versions of Python
)
