"""What an attention kernel costs, for the compiler: it sees the call, not what is in it.

Knows sizes. Does not know the batch, whose lengths no compiler sees: a kernel is said to cost what it costs
where every row's page table is full. The figures are those of the whole call, on one device.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl


@dataclass(frozen=True)
class AttentionCost:
    """Sizes from which both kernels' costs follow.

    Attributes:
        num_heads: query heads.
        head_dim: features of a head.
        token_bytes: of one token's keys and values in the pages.
        context: keys that a page table has room for, or that a window shows.
        q_bytes: of one number of the queries.
    """

    num_heads: int
    head_dim: int
    token_bytes: int
    context: int
    q_bytes: int

    @classmethod
    def of(
        cls, q: jax.Array, kv_pages: jax.Array, page_table: jax.Array, page_size: int, window: int | None
    ) -> AttentionCost:
        """For queries ``[T, H, D]``, one layer's pages ``[N, ...]`` and a table ``[S, P]``."""
        context = page_table.shape[1] * page_size
        return cls(
            q.shape[1],
            q.shape[2],
            kv_pages.size // (kv_pages.shape[0] * page_size) * kv_pages.dtype.itemsize,
            context if window is None else min(context, window),
            jnp.dtype(q.dtype).itemsize,
        )

    def decode(self, rows: int) -> pl.CostEstimate:
        """``rows`` sequences of one query token each."""
        return self._cost(rows * self.context, rows * self.context, rows)

    def prefill(self, num_tokens: int, rows: int) -> pl.CostEstimate:
        """A step of ``num_tokens``: chunks that end where the contexts do, of as few rows as hold them."""
        chunk = min(num_tokens, self.context)
        rows = min(rows, -(-num_tokens // chunk))
        pairs = num_tokens * self.context - num_tokens * (chunk - 1) // 2
        return self._cost(pairs, rows * self.context, num_tokens)

    def _cost(self, pairs: int, keys: int, num_tokens: int) -> pl.CostEstimate:
        """For pairs of a query and a key it sees, keys that are read, and query tokens."""
        features = self.num_heads * self.head_dim
        return pl.CostEstimate(
            flops=4 * pairs * features,
            bytes_accessed=keys * self.token_bytes + 2 * num_tokens * features * self.q_bytes,
            transcendentals=pairs * self.num_heads,
        )
