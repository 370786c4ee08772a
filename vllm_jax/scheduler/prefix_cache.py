"""Which full blocks hold which tokens after which prefix, so that equal prefixes share their blocks.

Knows keys and the blocks they lead to; the references and the order of eviction are the allocator's. Does
not know why a sequence wants blocks, nor what the device does with them.

The key of a block is made of the digest of everything before it and the block's own tokens, verbatim:

    key[i]    = digest[i-1] + tokens[i]
    digest[i] = blake2b(key[i], secret)       digest[-1] = blake2b(cache_salt, secret)

A lookup thus compares a block's tokens themselves, and its prefix by a 256-bit digest keyed with a secret of
this process: nobody can construct two prefixes that meet. Sequences with different ``cache_salt`` never meet.

Only blocks whose keys and values are in the pages, *or will be before anybody reads them*, may be found. The
device runs steps in the order in which they were scheduled, so a block that step ``k`` fills can be read from
step ``k + 1`` on, even while ``k`` is in flight. Within step ``k`` it cannot: rows of a step may run in any
order. Hence two phases: ``stage`` while a step is put together, ``commit`` at its end. Every scheduled step
must therefore be run, in order.
"""

from __future__ import annotations

import secrets
import sys
from array import array
from hashlib import blake2b

from vllm_jax.scheduler.block_allocator import BlockAllocator
from vllm_jax.sequence import Sequence

NEVER = sys.maxsize
"""``Sequence.num_published_blocks`` of a sequence whose blocks must not be published (any more)."""

_DIGEST_BYTES = 32


class PrefixCache:
    """The mapping from keys to blocks. Disabled, it finds and publishes nothing."""

    def __init__(
        self, allocator: BlockAllocator, block_size: int, *, enabled: bool = True, secret: bytes | None = None
    ):
        self.block_size = block_size
        self.enabled = enabled
        self.num_queried_tokens = 0
        """Tokens of the sequences that were looked up at their first admission."""
        self.num_hit_tokens = 0
        """Those of them that were found."""
        self._allocator = allocator
        allocator.on_evict = self._drop
        self._secret = secret or secrets.token_bytes(_DIGEST_BYTES)
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._staged: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Blocks that can be found."""
        return len(self._block_of)

    def match(self, seq: Sequence) -> tuple[list[int], bool]:
        """Blocks that hold the beginning of ``seq``, in order, and whether the next block is being filled.

        Takes no references. At least the last token is left to compute, because its logits are wanted. The
        second value is True where another row of the step that is being put together fills the first
        missing block: it can be found one step later.

        A sequence that wants prompt logprobs finds nothing: it needs the logits of its whole prompt.
        """
        if not self._reads(seq):
            return [], False
        keys = self._keys(seq, (seq.num_tokens - 1) // self.block_size)
        found: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                return found, key in self._staged
            found.append(block)
        return found, False

    def stage(self, seq: Sequence) -> None:
        """Notes the blocks of ``seq`` that the step being put together fills; ``commit`` publishes them.

        A block counts where its tokens are known and computed (dispatched). Until ``commit`` none of the
        sequence's blocks may be freed.
        """
        for key, block in self._fresh(seq):
            if key not in self._block_of:
                self._staged.setdefault(key, block)

    def commit(self) -> None:
        """Publishes what was staged: the step is complete."""
        for key, block in self._staged.items():
            self._publish(key, block)
        self._staged.clear()

    def publish(self, seq: Sequence) -> None:
        """Publishes the blocks of ``seq`` that steps already scheduled have filled."""
        for key, block in self._fresh(seq):
            if key not in self._block_of:
                self._publish(key, block)

    def count_lookup(self, seq: Sequence, num_hit_tokens: int) -> None:
        """Adds the tokens of ``seq``, which has just been admitted for the first time, to the counters."""
        if self._reads(seq):
            self.num_queried_tokens += seq.num_tokens
            self.num_hit_tokens += num_hit_tokens

    def reset(self) -> None:
        """Forgets every block. Referenced blocks stay with their sequences and become empty when freed.

        The caller sets ``num_published_blocks`` of the sequences that hold blocks to ``NEVER``.
        """
        for block in self._key_of:
            self._allocator.forget(block)
        self._block_of.clear()
        self._key_of.clear()

    def check_integrity(self) -> None:
        """Raises AssertionError where mapping and allocator disagree."""
        assert not self._staged, "a step was not committed"
        assert {block: key for key, block in self._block_of.items()} == self._key_of
        retained = {b for b in range(self._allocator.num_blocks) if self._allocator.retains(b)}
        assert retained == set(self._key_of), "retained blocks are not those that can be found"

    def _reads(self, seq: Sequence) -> bool:
        return self.enabled and seq.params.prompt_logprobs is None

    def _publish(self, key: bytes, block: int) -> None:
        self._allocator.retain(block)
        self._block_of[key] = block
        self._key_of[block] = key

    def _drop(self, block: int) -> None:
        del self._block_of[self._key_of.pop(block)]

    def _fresh(self, seq: Sequence) -> list[tuple[bytes, int]]:
        """Keys and blocks of ``seq`` that are full and were not seen yet; marks them as seen.

        Where an equal block is published already (two sequences computed it at once), the first stays and
        the other remains its sequence's own.
        """
        known = len(seq.prompt_token_ids) + len(seq.output_token_ids)
        first, full = seq.num_published_blocks, min(seq.num_computed_tokens, known) // self.block_size
        if not self.enabled or first >= full:
            return []
        seq.num_published_blocks = full
        return list(zip(self._keys(seq, full, first), seq.block_ids[first:full], strict=True))

    def _keys(self, seq: Sequence, count: int, first: int = 0) -> list[bytes]:
        """The keys of ``seq`` from ``first`` to ``count``; computed once, kept in ``seq.block_keys``."""
        keys, size = seq.block_keys, self.block_size
        while len(keys) < count:
            start = len(keys) * size
            before = self._digest(keys[-1]) if keys else self._salt_digest(seq.cache_salt)
            keys.append(before + array("q", seq.known_tokens(start, start + size)).tobytes())
        return keys[first:count]

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, digest_size=_DIGEST_BYTES, key=self._secret).digest()

    def _salt_digest(self, salt: str | None) -> bytes:
        # "person" keeps salts and keys apart, the leading byte keeps "no salt" and "" apart; a salt may hold
        # lone surrogates, which JSON allows.
        data = b"" if salt is None else b"\x01" + salt.encode("utf-8", "surrogatepass")
        return blake2b(data, digest_size=_DIGEST_BYTES, key=self._secret, person=b"cache_salt").digest()
