"""The shape of a ragged batch, as every paged-attention implementation sees it.

    flat tokens  [T]    | seq 0: q_len 1 | seq 1: q_len 1 | seq 2: q_len 5          | padding |
    cu_q_lens    [S+1]  0                1                2                         7 7 7 ... 7
    kv_lens      [S]      12               40               5                         0 0 ...
    page_table   [S, P]   pages of seq 0   ...                                        0 0 ...

The query tokens of a sequence are its last ``q_len`` positions: token ``t`` of sequence ``s`` has position
``kv_lens[s] - q_len[s] + (t - cu_q_lens[s])``. Padding tokens (``t >= cu_q_lens[-1]``) belong to no
sequence: they write nothing and their output is unspecified but finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["page_table", "kv_lens", "cu_q_lens"],
    meta_fields=["decode_only", "implementation"],
)
@dataclass(frozen=True)
class AttentionMetadata:
    """Which tokens belong to which sequence, and where its keys and values lie. All arrays are int32.

    Attributes:
        page_table: ``[S, P]`` page numbers; entries behind a sequence's end are unspecified.
        kv_lens: ``[S]`` context lengths, the step's own tokens included; 0 for an empty row.
        cu_q_lens: ``[S + 1]`` running sum of the query lengths; constant behind the last sequence.
        decode_only: static; True promises that every query length is 0 or 1 and that token ``t`` is
            sequence ``t``'s (``T == S``), so that an implementation may skip the ragged part.
        implementation: static; name of the paged-attention implementation that owns the pages' layout
            (see ``kernels/attention.py``). It travels with the batch so that no global has to hold it.
    """

    page_table: jax.Array
    kv_lens: jax.Array
    cu_q_lens: jax.Array
    decode_only: bool = False
    implementation: str = "xla"

    @property
    def q_lens(self) -> jax.Array:
        """``[S]`` int32 query tokens of each row; 0 for an empty row."""
        return self.cu_q_lens[1:] - self.cu_q_lens[:-1]

    def sequence_of_token(self, num_tokens: int) -> jax.Array:
        """``[T]`` int32 row of each flat token; ``S`` for padding tokens."""
        tokens = jnp.arange(num_tokens, dtype=jnp.int32)
        if self.decode_only:
            return jnp.where(self.q_lens > 0, tokens, num_tokens)
        return jnp.sum(self.cu_q_lens[1:] <= tokens[:, None], axis=1, dtype=jnp.int32)

    def positions(self, num_tokens: int) -> jax.Array:
        """``[T]`` int32 position of each flat token in its sequence; 0 for padding tokens."""
        if self.decode_only:
            return jnp.where(self.q_lens > 0, self.kv_lens - 1, 0)
        seq = self.sequence_of_token(num_tokens)
        row = jnp.minimum(seq, self.kv_lens.shape[0] - 1)
        offset = jnp.arange(num_tokens, dtype=jnp.int32) - self.cu_q_lens[row]
        return jnp.where(seq < self.kv_lens.shape[0], self.kv_lens[row] - self.q_lens[row] + offset, 0)
