"""Matrix products with the weight stored ``[out, in]``, the layout of the checkpoints.

The one place that knows which form is best where:

* CPU, few rows (:data:`NATIVE_ROWS`): the native kernel, which reads each weight once at the memory's speed.
* CPU, more rows, or no native kernels: XLA, with float32 accumulation and at least two rows (a single
  bfloat16 row falls into a naive path that is ten times slower).
* Elsewhere: XLA.

``benchmarks/kernels/cpu_linear.py`` measures the forms beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vllm_jax.kernels.cpu.library import available
from vllm_jax.kernels.cpu.linear import products

NATIVE_ROWS: Mapping[str, int] = MappingProxyType({"float32": 32, "bfloat16": 32})
"""Up to how many rows the native CPU kernel is the faster form, by dtype."""


def matmul(x: jax.Array, weight: jax.Array) -> jax.Array:
    """``x [..., in]`` times ``weight [out, in]`` transposed -> ``[..., out]`` float32 accumulator.

    float32 operands are multiplied as float32 on every backend: TPUs and GPUs would round them otherwise.
    """
    return _products(x, [weight], None, jnp.float32)[0]


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``x [..., in] @ weight[out, in].T + bias[out]`` -> ``[..., out]`` in the dtype of ``x``."""
    return _products(x, [weight], None if bias is None else [bias], x.dtype)[0]


class Linear(nnx.Module):
    """``weight [out, in]`` and an optional ``bias [out]``."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        scale = in_features**-0.5
        self.weight = nnx.Param(
            (jax.random.normal(rngs.params(), (out_features, in_features), jnp.float32) * scale).astype(dtype)
        )
        self.bias = nnx.Param(jnp.zeros((out_features,), dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x [..., in]`` -> ``[..., out]``, same dtype."""
        return linear(x, self.weight[...], None if self.bias is None else self.bias[...])


def side_by_side(x: jax.Array, *layers: Linear) -> list[jax.Array]:
    """``[layer(x) for layer in layers]``, in one pass where that is faster. All have a bias, or none has."""
    biases = [layer.bias[...] for layer in layers if layer.bias is not None]
    return _products(x, [layer.weight[...] for layer in layers], biases or None, x.dtype)


Arrays = tuple[jax.Array, ...]


def _products(
    x: jax.Array, weights: Sequence[jax.Array], biases: Sequence[jax.Array] | None, dtype: jnp.dtype
) -> list[jax.Array]:
    form = _few_rows if _takes_native(x, weights) else _by_xla
    return list(form(jnp.dtype(dtype), x, tuple(weights), None if biases is None else tuple(biases)))


def _takes_native(x: jax.Array, weights: Sequence[jax.Array]) -> bool:
    fits = x.ndim == 2 and x.shape[0] <= NATIVE_ROWS.get(x.dtype.name, 0)
    return fits and all(weight.dtype == x.dtype for weight in weights) and available()


def _by_xla(dtype: jnp.dtype, x: jax.Array, weights: Arrays, biases: Arrays | None) -> Arrays:
    return tuple(
        _by_xla_one(dtype, x, w, None if biases is None else biases[i]) for i, w in enumerate(weights)
    )


def _by_xla_one(dtype: jnp.dtype, x: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    lonely = x.dtype == jnp.bfloat16 and x.ndim == 2 and x.shape[0] == 1
    if lonely:
        x = jnp.concatenate([x, jnp.zeros_like(x)], axis=0)
    y = jax.lax.dot_general(
        x,
        weight,
        (((x.ndim - 1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    y = y[:1] if lonely else y
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _few_rows(dtype: jnp.dtype, x: jax.Array, weights: Arrays, biases: Arrays | None) -> Arrays:
    """The native kernel in programs for the CPU, XLA in others. ``x [rows, in]``."""

    @jax.custom_batching.custom_vmap
    def multiply(x: jax.Array, weights: Arrays, biases: Arrays | None) -> Arrays:
        def native(x: jax.Array, weights: Arrays, biases: Arrays | None) -> Arrays:
            return tuple(products(x, weights, biases, dtype=dtype))

        return jax.lax.platform_dependent(x, weights, biases, cpu=native, default=partial(_by_xla, dtype))

    @multiply.def_vmap
    def batched(
        size: int, is_batched: Any, x: jax.Array, weights: Arrays, biases: Arrays | None
    ) -> tuple[Arrays, tuple[bool, ...]]:
        axes = jax.tree.map(lambda batched: 0 if batched else None, is_batched)
        return jax.vmap(partial(_by_xla, dtype), axes, axis_size=size)(x, weights, biases), (True,) * len(
            weights
        )

    return multiply(x, weights, biases)


@_few_rows.defjvp
def _(dtype: jnp.dtype, primals: Any, tangents: Any) -> tuple[Arrays, Arrays]:
    return jax.jvp(partial(_by_xla, dtype), primals, tangents)
