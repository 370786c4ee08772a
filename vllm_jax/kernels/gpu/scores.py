"""The arithmetic that the decode and the prefill kernel share: one block of keys, and the end of a row.

Knows the online softmax of Milakov and Gimelshein (2018) over a tile of query rows. Does not know where the
tiles come from. Everything here is traced inside a kernel: rows M, keys C and features F are powers of two.

Scores live in units of log2, because the hardware's exponential is exp2: every factor is folded into a static
number, so that the inner loop multiplies once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

LOG2_E = math.log2(math.e)
MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
"""The score of a key that is not seen; finite, so that a row which has seen nothing yet makes no NaN."""
TENSOR_CORE_FLOAT32 = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
"""Three products of TensorFloat-32 keep about 21 of float32's 24 bits and run on the tensor cores. Products
in float32 itself need both operands in registers, which spill."""


@dataclass(frozen=True)
class Scoring:
    """What is static about scores and values.

    Attributes:
        scale: multiplies ``q . k`` (the scale of quantised keys included).
        value_scale: multiplies the result (the scale of quantised values).
        soft_cap: see ``kernels/attention.py``.
        window: keys a query sees, itself included, or None for all.
        has_alibi: whether the slopes are to be used.
        has_sinks: whether the sinks are to be used.
        precision: of products of float32.
    """

    scale: float
    value_scale: float
    soft_cap: float | None
    window: int | None
    has_alibi: bool
    has_sinks: bool
    precision: jax.lax.Precision | jax.lax.DotAlgorithmPreset


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RunningSoftmax:
    """The online softmax of M rows: the highest score so far, and sums relative to it. All float32.

    Attributes:
        peak: ``[M]`` in units of log2.
        total: ``[M]`` sum of the weights.
        acc: ``[M, F]`` weighted sum of the values.
    """

    peak: jax.Array
    total: jax.Array
    acc: jax.Array

    @classmethod
    def empty(cls, rows: int, features: int) -> RunningSoftmax:
        """The state before the first key."""
        return cls(
            jnp.full((rows,), MASKED, jnp.float32),
            jnp.zeros((rows,), jnp.float32),
            jnp.zeros((rows, features), jnp.float32),
        )


def product(a: jax.Array, b: jax.Array, scoring: Scoring, *, transposed: bool = False) -> jax.Array:
    """``a @ b`` (``a @ b.T``) accumulated in float32."""
    precision = scoring.precision if a.dtype == jnp.float32 else None
    contracting = ((1,), (1 if transposed else 0,))
    return jax.lax.dot_general(
        a, b, (contracting, ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def attend_block(
    state: RunningSoftmax,
    q: jax.Array,  # [M, F] bfloat16 or float32
    k: jax.Array,  # [C, F] in the dtype of q
    v: jax.Array,  # [C, F] in the dtype of q
    distance: jax.Array,  # [M, C] int32, key position - query position
    visible: jax.Array | None,  # [M, C] bool; None: every row sees every key
    slopes: jax.Array,  # [M] float32
    scoring: Scoring,
) -> RunningSoftmax:
    """Adds the keys and values of one block. Values that no row sees must be finite."""
    scores = product(q, k, scoring, transposed=True)
    if scoring.soft_cap is None:
        scores = scores * (scoring.scale * LOG2_E)
    else:
        scores = jnp.tanh(scores * (scoring.scale / scoring.soft_cap)) * (scoring.soft_cap * LOG2_E)
    if scoring.has_alibi:
        scores = scores + (slopes * LOG2_E)[:, None] * distance.astype(jnp.float32)
    if visible is not None:
        scores = jnp.where(visible, scores, MASKED)
    peak = jnp.maximum(state.peak, jnp.max(scores, axis=1))
    # While a row has seen nothing, its weights are exp2(0): the first key it sees fades them to exactly 0.
    weights = jnp.exp2(scores - peak[:, None])
    fade = jnp.exp2(state.peak - peak)
    return RunningSoftmax(
        peak,
        state.total * fade + jnp.sum(weights, axis=1),
        state.acc * fade[:, None] + product(weights.astype(v.dtype), v, scoring),
    )


def finish(state: RunningSoftmax, sinks: jax.Array, scoring: Scoring) -> jax.Array:
    """``[M, F]`` float32: the sinks ``[M]`` join the sums, and everything is divided. Zeros for no keys."""
    peak, total, acc = state.peak, state.total, state.acc
    if scoring.has_sinks:
        sinks = sinks * LOG2_E
        peak = jnp.maximum(peak, sinks)
        fade = jnp.exp2(state.peak - peak)
        total = total * fade + jnp.exp2(sinks - peak)
        acc = acc * fade[:, None]
    return acc * (scoring.value_scale / jnp.where(total == 0.0, 1.0, total))[:, None]
