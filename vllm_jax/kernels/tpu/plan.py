"""What the kernels have to do, as small int32 arrays that are made before them and kept in scalar memory.

Knows the ragged batch. Does not know heads, pages' contents or how work is done. All of it depends on the
metadata alone, so that XLA computes it once for all layers of a model.

    q blocks (of B tokens)   | block 0            | block 1            | block 2      |
    sequences                | s0   | s1                  | s2 | s3 | s4              |
    pairs                     (0,s0) (0,s1)         (1,s1) (1,s2) (1,s3) ...

A *pair* is a block of queries and one of the sequences in it; the kernel walks over the pairs of a block, and
for each over the keys that the block's tokens of that sequence can see.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vllm_jax.kernels.metadata import AttentionMetadata


class Pairs(NamedTuple):
    """All int32. The first field is ``[n + 1]`` for n query blocks, the others ``[pairs]``.

    Attributes:
        first: pairs ``first[i] .. first[i + 1] - 1`` belong to grid step i.
        block: the query block of a grid step's pairs: which block of queries and results it is.
        seq: row of the page table.
        position: position in the sequence of the block's token 0 (below 0 where the sequence starts later).
        first_token: the sequence's first token in the block.
        end_token: one past its last.
        begin: first key that any of these tokens sees.
        end: one past the last.
    """

    first: jax.Array
    block: jax.Array
    seq: jax.Array
    position: jax.Array
    first_token: jax.Array
    end_token: jax.Array
    begin: jax.Array
    end: jax.Array


class RowGroups(NamedTuple):
    """Groups of neighbouring places of a page that get new tokens; all ``[W]`` int32.

    Attributes:
        page: page number.
        group: the group in the page, in units of a group.
        token: flat token of the group's first place; below 0 or another sequence's where that is not new.
        first: first place of the group that gets a token.
        end: one past the last.
    """

    page: jax.Array
    group: jax.Array
    token: jax.Array
    first: jax.Array
    end: jax.Array


def decoding_rows(metadata: AttentionMetadata) -> jax.Array:
    """``[S]`` bool: the rows with exactly one query token."""
    return metadata.q_lens == 1


def decode_pairs(metadata: AttentionMetadata, sliding_window: int | None) -> tuple[Pairs, jax.Array]:
    """A pair for every row with one query token, and how many there are; a query block is a row."""
    num_seqs = metadata.kv_lens.shape[0]
    decodes = decoding_rows(metadata)
    rows = jnp.argsort(~decodes, stable=True).astype(jnp.int32)
    count = jnp.sum(decodes, dtype=jnp.int32)
    kv_lens = metadata.kv_lens[rows]
    zeros = jnp.zeros(num_seqs, jnp.int32)
    return Pairs(
        first=jnp.minimum(jnp.arange(num_seqs + 1, dtype=jnp.int32), count),
        block=rows,
        seq=rows,
        position=kv_lens - 1,
        first_token=zeros,
        end_token=zeros + 1,
        begin=_first_key(kv_lens - 1, sliding_window),
        end=kv_lens,
    ), count


def prefill_pairs(
    metadata: AttentionMetadata, num_tokens: int, block: int, sliding_window: int | None
) -> Pairs:
    """The pairs of the rows with more than one query token; some blocks of the queries may have none."""
    num_seqs = metadata.kv_lens.shape[0]
    num_blocks = -(-num_tokens // block)
    q_lens = jnp.where(metadata.q_lens > 1, metadata.q_lens, 0)
    starts, ends = metadata.cu_q_lens[:-1], metadata.cu_q_lens[1:]
    first_block = starts // block
    counts = jnp.where(q_lens > 0, (ends - 1) // block + 1 - first_block, 0)
    seq, offset = _expand(counts, num_blocks + min(num_seqs, num_tokens // 2))
    row = jnp.minimum(seq, num_seqs - 1)
    of_block = jnp.where(seq < num_seqs, first_block[row] + offset, num_blocks)
    origin = of_block * block
    first_token = jnp.maximum(starts[row] - origin, 0)
    end_token = jnp.minimum(ends[row] - origin, block)
    position = metadata.kv_lens[row] - q_lens[row] + origin - starts[row]
    blocks = jnp.arange(num_blocks + 1, dtype=jnp.int32)
    return Pairs(
        first=jnp.sum(of_block < blocks[:, None], axis=1, dtype=jnp.int32),
        block=blocks[:-1],
        seq=row,
        position=position,
        first_token=first_token,
        end_token=end_token,
        begin=_first_key(position + first_token, sliding_window),
        end=position + end_token,
    )


def row_groups(
    metadata: AttentionMetadata, num_tokens: int, page_size: int, group: int
) -> tuple[RowGroups, jax.Array]:
    """The groups of ``group`` places that rows with more than one query token write, and their number."""
    num_seqs = metadata.kv_lens.shape[0]
    q_lens = jnp.where(metadata.q_lens > 1, metadata.q_lens, 0)
    begins = metadata.kv_lens - q_lens
    counts = jnp.where(q_lens > 0, (metadata.kv_lens - 1) // group + 1 - begins // group, 0)
    seq, offset = _expand(counts, num_tokens // group + 2 * min(num_seqs, num_tokens // 2))
    row = jnp.minimum(seq, num_seqs - 1)
    place = (begins[row] // group + offset) * group
    used = seq < num_seqs
    return RowGroups(
        page=jnp.where(used, metadata.page_table[row, jnp.where(used, place // page_size, 0)], 0),
        group=jnp.where(used, place % page_size // group, 0),
        token=jnp.where(used, metadata.cu_q_lens[row] + place - begins[row], 0),
        first=jnp.where(used, jnp.maximum(begins[row] - place, 0), 0),
        end=jnp.where(used, jnp.minimum(metadata.kv_lens[row] - place, group), 0),
    ), jnp.sum(counts, dtype=jnp.int32)


def _expand(counts: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Item i of ``counts[0]`` zeros, ``counts[1]`` ones ... and its number among its equals; ``[size]`` each.

    Items behind the last are ``len(counts)``.
    """
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    index = jnp.arange(max(size, 1), dtype=jnp.int32)
    item = jnp.sum(ends <= index[:, None], axis=1, dtype=jnp.int32)
    row = jnp.minimum(item, counts.shape[0] - 1)
    return item, index - ends[row] + counts[row]


def _first_key(position: jax.Array, sliding_window: int | None) -> jax.Array:
    if sliding_window is None:
        return jnp.zeros_like(position)
    return jnp.maximum(position - sliding_window + 1, 0)
