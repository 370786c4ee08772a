"""Logits processors: pure functions ``logits [S, V] float32 -> logits [S, V] float32``.

Each one costs next to nothing at run time where no row of the batch uses it. Knows the formulas of OpenAI's
and vLLM's parameters. Does not know what is done with the logits afterwards.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vllm_jax.sampling.inputs import FullInputs

_CHUNK = 256
"""Tokens of the history counted at a time: the work follows the longest history, not the array's width."""


def process(logits: jax.Array, f: FullInputs) -> jax.Array:
    """Applies the token mask, the logit bias and the penalties, in vLLM's order; cleans the logits first."""
    logits = apply_mask(clean(logits), f.allowed_mask)
    logits = apply_logit_bias(logits, f.bias_ids, f.bias_values)
    return apply_penalties(logits, f)


def clean(logits: jax.Array) -> jax.Array:
    """Makes NaN count as impossible and +inf as the largest finite number, so that no arithmetic breaks."""
    return jnp.nan_to_num(logits, nan=-jnp.inf, posinf=jnp.finfo(logits.dtype).max, neginf=-jnp.inf)


def apply_mask(logits: jax.Array, allowed_mask: jax.Array) -> jax.Array:
    """Sets forbidden tokens to -inf.

    Args:
        logits: ``[S, V]`` float32.
        allowed_mask: ``[S, ceil(V / 32)]`` uint32 packed bits, see :class:`FullInputs`.
    """
    rows, vocab = logits.shape
    bits = allowed_mask[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)
    allowed = (bits & 1).astype(bool).reshape(rows, -1)[:, :vocab]
    return jnp.where(allowed, logits, -jnp.inf)


def apply_logit_bias(logits: jax.Array, ids: jax.Array, values: jax.Array) -> jax.Array:
    """Adds ``values [S, B]`` to the logits of ``ids [S, B]``; ids outside the vocabulary are padding."""
    rows, vocab = logits.shape

    def add(logits: jax.Array) -> jax.Array:
        return logits.at[jnp.arange(rows)[:, None], ids].add(values, mode="drop")

    return lax.cond(jnp.any(ids < vocab), add, lambda logits: logits, logits)


def apply_penalties(logits: jax.Array, f: FullInputs) -> jax.Array:
    """Applies the repetition, frequency and presence penalties.

    The repetition penalty (Keskar et al., arXiv:1909.05858) divides positive and multiplies negative logits
    of tokens in prompt or output. The other two follow OpenAI's definition and count output tokens only.
    """
    presence, frequency, repetition = f.presence[:, None], f.frequency[:, None], f.repetition[:, None]
    used = (presence != 0) | (frequency != 0) | (repetition != 1)
    total_lens = jnp.where(used[:, 0], f.total_lens, 0)  # tokens that are not counted change nothing

    def penalise(logits: jax.Array) -> jax.Array:
        seen, counts = _count_tokens(f.history, f.prompt_lens, total_lens, logits.shape[1])
        scale = jnp.where(logits > 0, 1 / repetition, repetition)
        logits = jnp.where(seen, logits * scale, logits)
        return logits - frequency * counts - presence * (counts > 0)

    return lax.cond(jnp.any(total_lens > 0), penalise, lambda logits: logits, logits)


def _count_tokens(
    history: jax.Array, prompt_lens: jax.Array, total_lens: jax.Array, vocab: int
) -> tuple[jax.Array, jax.Array]:
    """``[S, V]`` bool "in prompt or output" and ``[S, V]`` float32 number of occurrences in the output."""
    rows, length = history.shape
    chunk = min(_CHUNK, length)
    row_index = jnp.arange(rows)[:, None]

    def add_chunk(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        seen, counts = state
        start = jnp.minimum(i * chunk, length - chunk)  # the last chunk overlaps the one before it
        position = (start + jnp.arange(chunk, dtype=jnp.int32))[None]
        tokens = lax.dynamic_slice_in_dim(history, start, chunk, axis=1)
        valid = (position >= i * chunk) & (position < total_lens[:, None])
        tokens = jnp.where(valid, tokens, vocab)
        output = valid & (position >= prompt_lens[:, None])
        seen = seen.at[row_index, tokens].set(True, mode="drop")
        return seen, counts.at[row_index, tokens].add(output.astype(jnp.float32), mode="drop")

    chunks = (jnp.max(total_lens) + chunk - 1) // chunk
    empty = jnp.zeros((rows, vocab), bool), jnp.zeros((rows, vocab), jnp.float32)
    return lax.fori_loop(0, chunks, add_chunk, empty)
