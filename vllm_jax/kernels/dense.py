"""Causal attention over one contiguous sequence, without pages: for training, notebooks and gradients.

Differentiable and fit for ``jax.vmap``; holds all scores at once, ``[H, T, T]`` float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def causal_attention(
    q: jax.Array,  # [T, H, D]
    k: jax.Array,  # [T, KH, D]
    v: jax.Array,  # [T, KH, D]
    *,
    scale: float,
    alibi_slopes: jax.Array | None = None,  # [H] float32
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,  # [H] float32
) -> jax.Array:
    """Attends causally over tokens at positions ``0 .. T - 1``.

    Args:
        q: ``[T, H, D]`` queries.
        k: ``[T, KH, D]`` keys; ``H`` is a multiple of ``KH``, neighbouring query heads share a KV head.
        v: ``[T, KH, D]`` values.
        scale: multiplies ``q . k``.
        alibi_slopes: ``[H]``; ``slope * (key_position - query_position)`` is added to the score.
        sliding_window: a key is visible iff ``query_position - window < key_position <= query_position``.
        soft_cap: ``cap * tanh(score / cap)`` is taken before the ALiBi bias.
        sinks: ``[H]``; a score in each head's softmax that has no value and that nothing else touches.

    Returns:
        ``[T, H, D]`` in the dtype of ``q``; products accumulate and the softmax runs in float32.
    """
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[1]
    queries = q.reshape(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = scale * jnp.einsum("tkgd,ckd->kgtc", queries, k, preferred_element_type=jnp.float32)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    position = jnp.arange(num_tokens, dtype=jnp.int32)
    distance = position[None, :] - position[:, None]
    if alibi_slopes is not None:
        slopes = alibi_slopes.astype(jnp.float32).reshape(num_kv_heads, -1)
        scores += slopes[:, :, None, None] * distance.astype(jnp.float32)
    visible = distance <= 0
    if sliding_window is not None:
        visible &= distance > -sliding_window
    scores = jnp.where(visible, scores, -jnp.inf)
    if sinks is not None:  # one more key for every token, dropped again before the values
        sink = sinks.astype(jnp.float32).reshape(num_kv_heads, -1)[:, :, None, None]
        sink = jnp.broadcast_to(sink, (*scores.shape[:3], 1))
        scores = jnp.concatenate([scores, sink], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., :num_tokens]
    out = jnp.einsum("kgtc,ckd->tkgd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out.reshape(num_tokens, num_heads, head_dim).astype(q.dtype)
