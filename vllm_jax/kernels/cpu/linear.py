"""Products with weights ``[out, in]``, by the native kernel in ``native/linear.cc``.

Knows shapes, dtypes and what the kernel can do before and after a product. Does not know when this is the
best form: ``layers/linear.py`` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

TARGET = "vllm_jax_linear"

NORMS: Mapping[str, int] = MappingProxyType({"none": 0, "rms": 1, "rms_float32": 2, "layer": 3})
"""Norms the kernel can take of ``x`` first; what they round, and where, is in ``layers/norm.py``."""

ACTIVATIONS: Mapping[str, int] = MappingProxyType(
    {"none": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4}
)
"""What can be taken of the results; as in ``layers/activation.py``."""


def products(
    x: jax.Array,
    weights: Sequence[jax.Array],
    biases: Sequence[jax.Array] | None = None,
    *,
    dtype: jnp.dtype,
    norm: str = "none",
    norm_weight: jax.Array | None = None,
    norm_bias: jax.Array | None = None,
    eps: float = 0.0,
    gated: bool = False,
    activation: str = "none",
    residual: jax.Array | None = None,
) -> list[jax.Array]:
    """``norm(x) @ weight[out_i, in].T (+ bias[out_i])`` for each weight, in one pass over all of them.

    Args:
        x: ``[rows, in]`` float32 or bfloat16; everything else has its dtype. Rows of zeros at its end, as in
            a padded step, are not multiplied.
        weights: read from memory once, whatever the number of rows.
        biases: one a weight, or None.
        dtype: of the results, float32 or bfloat16. Sums are float32.
        norm: a name in :data:`NORMS`.
        norm_weight: ``[in]``, with a norm.
        norm_bias: ``[in]`` or None, with a layer norm.
        eps: of the norm.
        gated: the two weights are a gate and a value: the one result is ``silu(first) * second``.
        activation: a name in :data:`ACTIVATIONS`, taken in float32 of each rounded result, and rounded again;
            not together with ``gated`` or ``residual``.
        residual: ``[rows, out]`` is added to the one result, after rounding.

    Returns:
        ``[rows, out_i]`` for each weight (one if ``gated``). A row's numbers do not depend on the numbers of
        the other rows; up to 6 rows (2 without AVX-512) are added up in another order than more. The bfloat16
        instruction, where the CPU has it, takes subnormal numbers for zero.
    """
    outs = [weight.shape[0] for weight in (weights[:1] if gated else weights)]
    call = jax.ffi.ffi_call(TARGET, [jax.ShapeDtypeStruct((x.shape[0], n), dtype) for n in outs])
    around_norm = (
        () if norm_weight is None else (norm_weight,) if norm_bias is None else (norm_weight, norm_bias)
    )
    return list(
        call(
            x,
            *around_norm,
            *weights,
            *(biases or ()),
            *(() if residual is None else (residual,)),
            norm=np.int64(NORMS[norm] + (norm_bias is not None)),
            eps=np.float32(eps),
            bias=biases is not None,
            gated=gated,
            activation=np.int64(ACTIVATIONS[activation]),
            residual=residual is not None,
        )
    )
