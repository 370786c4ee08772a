"""Tiles: neighbouring query tokens of one sequence, the even pieces into which a ragged batch is cut.

Knows the ragged batch. Does not know heads, pages or what is done with a tile.

    flat tokens     | s0 | s1 | s2: 7 tokens      | s3: 2 |
    decode tiles      0    1    -                   -          one a row, empty where it is not of one token
    prefill tiles               | 0     | 1     |2| | 3   |    of up to B = 3 tokens, never of two sequences
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vllm_jax.kernels.metadata import AttentionMetadata


class Tiles(NamedTuple):
    """Tiles of up to B query tokens; all ``[n]`` int32. A tile that is not used has ``size`` 0.

    Attributes:
        seq: row of the batch.
        first_token: flat index of the first token.
        first_position: its position in the sequence.
        size: tokens of the tile.
    """

    seq: jax.Array
    first_token: jax.Array
    first_position: jax.Array
    size: jax.Array

    @property
    def end(self) -> jax.Array:
        """One past the last key that the tile sees."""
        return jnp.where(self.size > 0, self.first_position + self.size, 0)

    def padded(self, multiple: int) -> Tiles:
        """The tiles, and empty ones up to a multiple of ``multiple``."""
        missing = -self.seq.shape[0] % multiple
        return Tiles(*(jnp.pad(field, (0, missing)) for field in self))


def decode_tiles(metadata: AttentionMetadata) -> Tiles:
    """A tile for every row of the batch, empty where the row has not exactly one query token."""
    rows = jnp.arange(metadata.kv_lens.shape[0], dtype=jnp.int32)
    return Tiles(
        seq=rows,
        first_token=rows if metadata.decode_only else metadata.cu_q_lens[:-1],
        first_position=metadata.kv_lens - 1,
        size=(metadata.q_lens == 1).astype(jnp.int32),
    )


def prefill_tiles(metadata: AttentionMetadata, num_tokens: int, tile: int) -> Tiles:
    """Tiles of up to ``tile`` tokens over the rows with more than one, those of a row behind each other."""
    num_seqs = metadata.kv_lens.shape[0]
    q_lens = jnp.where(metadata.q_lens > 1, metadata.q_lens, 0)
    counts = (q_lens + tile - 1) // tile  # [S]
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    index = jnp.arange(-(-num_tokens // tile) + min(num_seqs, num_tokens // 2), dtype=jnp.int32)
    seq = jnp.sum(ends <= index[:, None], axis=1, dtype=jnp.int32)  # [n], S behind the last tile
    row = jnp.minimum(seq, num_seqs - 1)
    offset = (index - ends[row] + counts[row]) * tile
    return Tiles(
        seq=row,
        first_token=metadata.cu_q_lens[row] + offset,
        first_position=metadata.kv_lens[row] - q_lens[row] + offset,
        size=jnp.where(seq < num_seqs, jnp.clip(q_lens[row] - offset, 0, tile), 0),
    )
