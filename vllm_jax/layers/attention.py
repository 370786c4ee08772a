"""The part of attention that has no weights and that all models share.

Knows heads, scale, bias and window, and whether there are pages. Does not know how queries, keys and values
are made, nor which kernel runs: the metadata carries its name.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vllm_jax.kernels.attention import get_implementation, paged_attention
from vllm_jax.kernels.dense import causal_attention
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.layers.rotary import apply_rotary


@dataclass(frozen=True)
class Attention:
    """Scaled dot-product attention with what a model adds to it. Static: hashable, holds no arrays.

    Attributes:
        num_heads: query heads.
        num_kv_heads: key/value heads; a divisor of ``num_heads``.
        head_dim: features of a head.
        scale: multiplies ``q . k``.
        alibi_slopes: one slope a query head (see ``layers/alibi.py``), or None.
        sliding_window: keys a query sees, itself included, or None for all.
        soft_cap: ``cap * tanh(score / cap)``, or None.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    alibi_slopes: tuple[float, ...] | None = None
    sliding_window: int | None = None
    soft_cap: float | None = None

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        kv_pages: jax.Array | None = None,
        metadata: AttentionMetadata | None = None,
        *,
        rotary: tuple[jax.Array, jax.Array] | None = None,
        sinks: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Attends over the pages, or without pages over the tokens as one sequence.

        Args:
            q: ``[T, num_heads * head_dim]`` or ``[T, num_heads, head_dim]``.
            k: ``[T, num_kv_heads * head_dim]`` or ``[T, num_kv_heads, head_dim]``.
            v: as ``k``.
            kv_pages: one layer's pages, or None.
            metadata: the batch; needed with pages.
            rotary: cosines and sines ``[T, head_dim / 2]`` that turn ``q`` and ``k`` (``layers/rotary.py``).
            sinks: ``[num_heads]``, a learned score in each head's softmax that has no value (gpt-oss).

        Returns:
            ``(out [T, num_heads * head_dim] in q's dtype, updated pages or None)``.
        """
        num_tokens = q.shape[0]
        q = q.reshape(num_tokens, self.num_heads, self.head_dim)
        k = k.reshape(num_tokens, self.num_kv_heads, self.head_dim)
        v = v.reshape(num_tokens, self.num_kv_heads, self.head_dim)
        rotates = metadata is not None and get_implementation(metadata.implementation).rotates
        if rotary is not None and not rotates:
            q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
            rotary = None
        slopes = None if self.alibi_slopes is None else jnp.asarray(self.alibi_slopes, jnp.float32)
        if kv_pages is None:
            out = causal_attention(
                q,
                k,
                v,
                scale=self.scale,
                alibi_slopes=slopes,
                sliding_window=self.sliding_window,
                soft_cap=self.soft_cap,
                sinks=sinks,
            )
        else:
            if metadata is None:
                raise ValueError("kv_pages without metadata: the batch is unknown")
            out, kv_pages = paged_attention(
                q,
                k,
                v,
                kv_pages,
                metadata,
                scale=self.scale,
                alibi_slopes=slopes,
                sliding_window=self.sliding_window,
                soft_cap=self.soft_cap,
                sinks=sinks,
                rotary=rotary,
                implementation=metadata.implementation,
            )
        return out.reshape(num_tokens, self.num_heads * self.head_dim), kv_pages
