"""Matrix products with the weight stored ``[out, in]``, the layout of the checkpoints, and what surrounds
them in a decoder layer: the norm before, the residual after, the gate or the activation of an MLP.

The one place that knows which form is best where:

* CPU: the native kernel, which reads each weight once at the memory's speed, or computes near the cores'
  limit where there are many rows, and does the rest on the way.
* CPU without the native kernels: XLA, with float32 accumulation and at least two rows (a single bfloat16 row
  falls into a naive path that is ten times slower).
* Elsewhere: XLA.

``benchmarks/kernels/cpu_linear.py`` measures the forms beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from vllm_jax.kernels.cpu.library import available
from vllm_jax.kernels.cpu.linear import products
from vllm_jax.layers.activation import activate
from vllm_jax.layers.norm import LayerNorm, RMSNorm, layer_norm, rms_norm

NATIVE_DTYPES = ("float32", "bfloat16")

Norm = RMSNorm | LayerNorm


def matmul(x: jax.Array, weight: jax.Array) -> jax.Array:
    """``x [..., in]`` times ``weight [out, in]`` transposed -> ``[..., out]`` float32 accumulator.

    float32 operands are multiplied as float32 on every backend: TPUs and GPUs would round them otherwise.
    """
    return _compute(_Form(jnp.dtype(jnp.float32)), _Operands(x, (weight,)))[0]


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``x [..., in] @ weight[out, in].T + bias[out]`` -> ``[..., out]`` in the dtype of ``x``."""
    return _compute(_Form(x.dtype), _Operands(x, (weight,), None if bias is None else (bias,)))[0]


class Linear(nnx.Module):
    """``weight [out, in]`` and an optional ``bias [out]``."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        scale = in_features**-0.5
        self.weight = nnx.Param(
            (jax.random.normal(rngs.params(), (out_features, in_features), jnp.float32) * scale).astype(dtype)
        )
        self.bias = nnx.Param(jnp.zeros((out_features,), dtype)) if bias else None

    def __call__(self, x: jax.Array, *, residual: jax.Array | None = None) -> jax.Array:
        """``x [..., in]`` -> ``[..., out]``, same dtype; ``residual [..., out]`` is added to it."""
        return _compute(_Form(x.dtype), _operands(x, (self,))._replace(residual=residual))[0]


def side_by_side(x: jax.Array, *layers: Linear, norm: Norm | None = None) -> list[jax.Array]:
    """``[layer(norm(x)) for layer in layers]``, in one pass. All layers have a bias, or none has."""
    return _compute(*_with_norm(_Form(x.dtype), _operands(x, layers), norm))


def gated(x: jax.Array, gate: Linear, up: Linear, *, norm: Norm | None = None) -> jax.Array:
    """``silu(gate(norm(x))) * up(norm(x))``. Both layers have a bias, or neither has."""
    return _compute(*_with_norm(_Form(x.dtype, gated=True), _operands(x, (gate, up)), norm))[0]


def activated(x: jax.Array, layer: Linear, activation: str, *, norm: Norm | None = None) -> jax.Array:
    """``activate(layer(norm(x)), activation)``, see ``layers/activation.py``."""
    return _compute(*_with_norm(_Form(x.dtype, activation=activation), _operands(x, (layer,)), norm))[0]


Arrays = tuple[jax.Array, ...]


@dataclass(frozen=True)
class _Form:
    """What is static about a product and what surrounds it; ``norm`` is a name in ``NORMS``, and
    ``activation`` one in ``ACTIVATIONS``."""

    dtype: jnp.dtype
    norm: str = "none"
    eps: float = 0.0
    gated: bool = False
    activation: str = "none"


class _Operands(NamedTuple):
    x: jax.Array
    weights: Arrays
    biases: Arrays | None = None
    norm_weight: jax.Array | None = None
    norm_bias: jax.Array | None = None
    residual: jax.Array | None = None


def _operands(x: jax.Array, layers: tuple[Linear, ...]) -> _Operands:
    biases = tuple(layer.bias[...] for layer in layers if layer.bias is not None)
    return _Operands(x, tuple(layer.weight[...] for layer in layers), biases or None)


def _with_norm(form: _Form, operands: _Operands, norm: Norm | None) -> tuple[_Form, _Operands]:
    if norm is None:
        return form, operands
    bias = None
    if isinstance(norm, LayerNorm):
        kind, bias = "layer", None if norm.bias is None else norm.bias[...]
    else:
        kind = "rms_float32" if norm.scale_in_float32 else "rms"
    return replace(form, norm=kind, eps=norm.eps), operands._replace(
        norm_weight=norm.weight[...], norm_bias=bias
    )


def _compute(form: _Form, operands: _Operands) -> list[jax.Array]:
    x = operands.x
    fits = x.ndim == 2 and x.dtype.name in NATIVE_DTYPES
    same = all(array.dtype == x.dtype for array in jax.tree.leaves(operands))
    return list((_native_on_cpu if fits and same and available() else _by_xla)(form, operands))


def _by_xla(form: _Form, operands: _Operands) -> Arrays:
    x, weights, biases, norm_weight, norm_bias, residual = operands
    if norm_weight is not None and form.norm == "layer":
        x = layer_norm(x, norm_weight, norm_bias, form.eps)
    elif norm_weight is not None:
        x = rms_norm(x, norm_weight, form.eps, scale_in_float32=form.norm == "rms_float32")
    ys = tuple(
        _product(x, weight, None if biases is None else biases[i], form.dtype)
        for i, weight in enumerate(weights)
    )
    if form.gated:
        ys = (jax.nn.silu(ys[0]) * ys[1],)
    if form.activation != "none":
        ys = tuple(activate(y, form.activation) for y in ys)
    return ys if residual is None else (residual + ys[0],)


def _product(x: jax.Array, weight: jax.Array, bias: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
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
def _native_on_cpu(form: _Form, operands: _Operands) -> Arrays:
    """The native kernel in programs for the CPU, XLA in others. ``operands.x [rows, in]``."""

    @jax.custom_batching.custom_vmap
    def compute(operands: _Operands) -> Arrays:
        return jax.lax.platform_dependent(
            operands, cpu=partial(_by_native_kernel, form), default=partial(_by_xla, form)
        )

    @compute.def_vmap
    def batched(size: int, is_batched: Any, operands: _Operands) -> tuple[Arrays, Any]:
        axes = jax.tree.map(lambda batched: 0 if batched else None, is_batched[0])
        ys = jax.vmap(partial(_by_xla, form), (axes,), axis_size=size)(operands)
        return ys, jax.tree.map(lambda _: True, ys)

    return compute(operands)


@_native_on_cpu.defjvp
def _(form: _Form, primals: Any, tangents: Any) -> tuple[Arrays, Arrays]:
    return jax.jvp(partial(_by_xla, form), primals, tangents)


def _by_native_kernel(form: _Form, operands: _Operands) -> Arrays:
    x, weights, biases, norm_weight, norm_bias, residual = operands
    return tuple(
        products(
            x,
            weights,
            biases,
            dtype=form.dtype,
            norm=form.norm,
            norm_weight=norm_weight,
            norm_bias=norm_bias,
            eps=form.eps,
            gated=form.gated,
            activation=form.activation,
            residual=residual,
        )
    )
