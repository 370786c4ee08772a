"""The native linear kernel against numpy in float64."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vllm_jax.kernels.cpu import library
from vllm_jax.kernels.cpu import linear as linear_module
from vllm_jax.kernels.cpu.library import available
from vllm_jax.kernels.cpu.linear import products

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")

VARIANTS = ("kPortable", "kAvx2", "kAvx512")
ROWS = (0, 1, 2, 3, 5, 6, 7, 11, 16, 17, 32, 33, 64, 65, 140)
SHAPES = ((0, 5), (5, 0), (1, 1), (3, 31), (4, 32), (35, 33), (64, 129), (130, 768), (67, 1000), (9, 4500))
# Rounding of the inputs is part of the operands; what is left is the order of the float32 sums.
DTYPES = ("float32", "bfloat16")


def draw(*shapes: tuple[int, ...], dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng()
    return [rng.standard_normal(shape).astype(jnp.dtype(dtype)) for shape in shapes]


def exact(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ weight.astype(np.float64).T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_shapes(dtype, rows):
    for out, into in SHAPES:
        x, weight = draw((rows, into), (out, into), dtype=dtype)
        (y,) = products(x, [weight], dtype=jnp.dtype("float32"))
        assert y.shape == (rows, out) and y.dtype == np.float32
        np.testing.assert_allclose(y, exact(x, weight), rtol=1e-5, atol=1e-5 * max(1, into) ** 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("y_dtype", DTYPES)
def test_several_weights_with_biases(dtype, y_dtype):
    x, *weights = draw((5, 70), (33, 70), (4, 70), (129, 70), dtype=dtype)
    biases = draw((33,), (4,), (129,), dtype=dtype)
    got = products(x, weights, biases, dtype=jnp.dtype(y_dtype))
    for y, weight, bias in zip(got, weights, biases, strict=True):
        assert y.dtype == y_dtype
        tolerance = 1e-4 if y_dtype == "float32" else 2**-8
        wanted = exact(x, weight) + bias.astype(np.float64)
        np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=tolerance, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype):
    """Nor on how many there are, among few and among many: those two are added up in another order."""
    x, weight = draw((200, 201), (37, 201), dtype=dtype)
    for most, fewer in ((2, (1,)), (200, (7, 13, 16, 17, 33, 64, 150))):
        together = np.asarray(products(x[:most], [weight], dtype=jnp.dtype("float32"))[0])
        for rows in fewer:
            alone = np.asarray(products(x[most - rows : most], [weight], dtype=jnp.dtype("float32"))[0])
            np.testing.assert_array_equal(alone, together[most - rows :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("live", "padded"), [(0, 1), (0, 40), (1, 8), (5, 7), (6, 300), (40, 41), (130, 256)]
)
def test_rows_of_zeros_at_the_end(dtype, live, padded):
    """They are left out of the products, and only of them: biases, residuals and norms still count."""
    x, weight, up, residual = draw((padded, 65), (50, 65), (50, 65), (padded, 50), dtype=dtype)
    bias, up_bias, scale, shift = draw((50,), (50,), (65,), (65,), dtype=dtype)
    x[live:] = 0
    x[live:, ::2] *= -1  # some of the zeros are negative
    if live > 2:
        x[1] = 0  # not at the end
    f32 = jnp.dtype("float32")
    close = 1e-4 if dtype == "float32" else 0.1
    (y,) = products(x, [weight], [bias], dtype=f32)
    np.testing.assert_allclose(y, exact(x, weight) + bias.astype(np.float64), rtol=1e-4, atol=1e-4)
    (y,) = products(x, [weight], dtype=x.dtype, residual=residual)
    wanted = exact(x, weight) + residual.astype(np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=2**-7, atol=close)
    x64 = x.astype(np.float64)
    centred = x64 - x64.mean(-1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * scale.astype(np.float64)
    (y,) = products(x, [weight], dtype=f32, norm="layer", norm_weight=scale, norm_bias=shift, eps=1e-5)
    normed += shift.astype(np.float64)
    rounded = 1e-5 if dtype == "float32" else 2**-8  # of each factor; the products' errors may all add up
    assert np.all(abs(y - exact(normed, weight)) <= rounded * exact(abs(normed), abs(weight)) + 1e-4)
    g, u = exact(x, weight) + bias.astype(np.float64), exact(x, up) + up_bias.astype(np.float64)
    (y,) = products(x, [weight, up], [bias, up_bias], dtype=x.dtype, gated=True)
    wanted = g / (1 + np.exp(-g)) * u
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=2**-5, atol=2 * close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("into", [1, 40, 64])
def test_nan_and_infinity_stay_in_their_row_and_output(dtype, into):
    x, weight = draw((7, into), (9, into), dtype=dtype)
    x[2, -1], x[4, 0] = np.nan, np.inf
    weight[3, 0] = np.nan
    y = np.asarray(products(x, [weight], dtype=jnp.dtype(dtype))[0], np.float64)
    with np.errstate(invalid="ignore"):
        wanted = exact(x, weight)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(wanted))
    np.testing.assert_array_equal(np.sign(y[np.isinf(y)]), np.sign(wanted[np.isinf(wanted)]))


def test_rounds_to_the_nearest_bfloat16_ties_to_even():
    rng = np.random.default_rng()
    bits = rng.integers(0, 2**32, 4000, dtype=np.uint32)
    bits[:1000] = (bits[:1000] & 0xFFFF0000) | 0x8000  # ties
    values = bits.view(np.float32)
    (y,) = products(np.ones((1, 1), np.float32), [values[:, None]], dtype=jnp.dtype("bfloat16"))
    with np.errstate(invalid="ignore"):
        wanted = values.astype(jnp.bfloat16)
    subnormal = np.abs(values) < np.finfo(np.float32).tiny
    y, wanted = np.asarray(y)[0][~subnormal], wanted[~subnormal]
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    np.testing.assert_array_equal(y.view(np.uint16)[~np.isnan(y)], wanted.view(np.uint16)[~np.isnan(y)])


def test_wrong_operands_are_refused():
    x, weight = draw((2, 8), (3, 9), dtype="float32")
    with pytest.raises(Exception, match="must fit together"):
        products(x, [weight], dtype=jnp.dtype("float32"))[0].block_until_ready()
    x, weight, residual = draw((2, 8), (3, 8), (2, 3), dtype="float32")
    with pytest.raises(Exception, match="must fit together"):
        products(x, [weight], dtype=x.dtype, activation="relu", residual=residual)[0].block_until_ready()


def cpu_has(variant: str) -> bool:
    """Whether this CPU can run a variant; the best one is what the other tests run."""
    if variant == "kPortable":
        return True
    needs = {"kAvx2": {"avx2", "fma"}, "kAvx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"}}[variant]
    return platform.machine() == "x86_64" and needs <= set(Path("/proc/cpuinfo").read_text().split())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_other_instruction_sets(variant, tmp_path, monkeypatch):
    if not cpu_has(variant):
        pytest.skip(f"this CPU cannot run {variant}")
    native, built = Path(library.__file__).parent / "native", tmp_path / "variant.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-psabi", f"-DVLLM_JAX_ISA={variant}"]
    include = ["-I", jax.ffi.include_dir()]
    subprocess.run(["g++", *flags, *include, "-o", str(built), str(native / "linear.cc")], check=True)
    name = f"vllm_jax_linear_{variant}"
    handler = ctypes.CDLL(str(built)).vllm_jax_linear
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    monkeypatch.setattr(linear_module, "TARGET", name)
    for dtype in DTYPES:
        for rows in (1, 3, 16, 40):
            x, weight, up, residual = draw((rows, 77), (37, 77), (37, 77), (rows, 37), dtype=dtype)
            scale, bias = draw((77,), (37,), dtype=dtype)
            (y,) = products(x, [weight], [bias], dtype=jnp.dtype("float32"))
            np.testing.assert_allclose(y, exact(x, weight) + bias.astype(np.float64), rtol=1e-4, atol=1e-4)
            (y,) = products(x, [weight], dtype=x.dtype, residual=residual)
            tolerance = 1e-4 if dtype == "float32" else 0.05
            wanted = exact(x, weight) + residual.astype(np.float64)
            np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=tolerance, atol=tolerance)
            (y,) = products(x, [weight], dtype=x.dtype, activation="gelu")
            wanted = exact(x, weight)
            wanted = wanted / 2 * special.erfc(-wanted / np.sqrt(2))
            tolerance = 1e-4 if dtype == "float32" else 0.1
            np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=tolerance, atol=tolerance)
            x64 = x.astype(np.float64)
            normed = x64 / np.sqrt(np.square(x64).mean(-1, keepdims=True) + 1e-5) * scale.astype(np.float64)
            g, u = exact(normed, weight), exact(normed, up)
            (y,) = products(
                x, [weight, up], dtype=x.dtype, norm="rms", norm_weight=scale, eps=1e-5, gated=True
            )
            # A bfloat16 is off by 2^-9 of itself, also in what a sum is made of; silu's slope is below 1.1.
            unit = 2**-8 if dtype == "bfloat16" else 2**-17
            g_off, u_off = (
                unit * (np.abs(normed) @ np.abs(w.astype(np.float64)).T + np.abs(z))
                for w, z in ((weight, g), (up, u))
            )
            silu = g / (1 + np.exp(-g))
            slack = 1.1 * g_off * (np.abs(u) + u_off) + np.abs(silu) * u_off + 2 * unit * np.abs(silu * u)
            assert np.all(np.abs(np.asarray(y, np.float64) - silu * u) <= slack + 1e-6)
