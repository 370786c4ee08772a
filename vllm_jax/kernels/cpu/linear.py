"""Products of a few rows with weights ``[out, in]``, by the native kernel in ``native/linear.cc``.

Knows shapes and dtypes. Does not know when this is the best form: ``layers/linear.py`` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def products(
    x: jax.Array,
    weights: Sequence[jax.Array],
    biases: Sequence[jax.Array] | None = None,
    *,
    dtype: jnp.dtype,
) -> list[jax.Array]:
    """``x [rows, in] @ weight[out_i, in].T (+ bias[out_i])`` for each weight, in one pass over all of them.

    Args:
        x: float32 or bfloat16.
        weights: in the dtype of ``x``; read once, whatever the number of rows.
        biases: one a weight, float32 or bfloat16, or None.
        dtype: of the results, float32 or bfloat16. Sums are float32, rounded once.

    Returns:
        ``[rows, out_i]`` for each weight. A row's numbers do not depend on the other rows, bit for bit.
        Where the CPU has an instruction for bfloat16, it takes subnormal inputs for zero.
    """
    shapes = [jax.ShapeDtypeStruct((x.shape[0], weight.shape[0]), dtype) for weight in weights]
    call = jax.ffi.ffi_call("vllm_jax_linear", shapes)
    return list(call(x, *weights, *(biases or ()), bias=biases is not None))
