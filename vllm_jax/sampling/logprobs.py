"""Log-probabilities and ranks under the model's own distribution.

Knows raw logits. Does not know sampling parameters: vLLM's default, too, reports what the model said before
any processor or temperature.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vllm_jax.sampling.inputs import SampledLogprobs
from vllm_jax.sampling.processors import clean


def gather_logprobs(
    logits: jax.Array, tokens: jax.Array, num_logprobs: int, listed_ids: jax.Array | None = None
) -> SampledLogprobs:
    """Logprob and rank of one token a row, and of the most likely ones.

    Args:
        logits: ``[S, V]`` float32, untouched; for prompt logprobs the rows are positions.
        tokens: ``[S]`` int32.
        num_logprobs: Static ``K``; more than ``V`` means ``V``. 0 leaves the top arrays empty.
        listed_ids: ``[S, C]`` int32 further ids to report, or None.
    """
    logits = clean(logits)
    peak = jnp.max(logits, axis=-1, keepdims=True)
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    total = jnp.sum(jnp.exp(logits - peak), axis=-1, keepdims=True)
    log_total = jnp.where(total > 0, jnp.log(total), 0)  # a row of -inf has no distribution

    def logprob(logit: jax.Array) -> jax.Array:
        return (logit - peak) - log_total  # in this order large logits lose no precision

    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)
    top_logits, top_ids = lax.top_k(logits, min(num_logprobs, logits.shape[-1]))
    return SampledLogprobs(
        token_logprob=logprob(chosen)[:, 0],
        rank=1 + jnp.sum(logits > chosen, axis=-1, dtype=jnp.int32),
        top_ids=top_ids.astype(jnp.int32),
        top_logprobs=logprob(top_logits),
        listed_logprobs=(
            None if listed_ids is None else logprob(jnp.take_along_axis(logits, listed_ids, axis=-1))
        ),
    )
