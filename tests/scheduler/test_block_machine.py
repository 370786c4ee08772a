"""Random walks over allocator and prefix cache, compared with a model that is too simple to be wrong."""

from __future__ import annotations

from fake_device import make_sequence
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_jax.scheduler.block_allocator import BlockAllocator, OutOfBlocksError
from vllm_jax.scheduler.prefix_cache import NEVER, PrefixCache

BLOCKS, SIZE = 10, 2

# Few tokens and short prompts, so that prefixes meet often.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=9)
salts = st.sampled_from([None, "salt"])


class BlockMachine(RuleBasedStateMachine):
    """Sequences come, grow and go as the scheduler makes them.

    The model: what each block holds (the salt and all tokens up to the block's end, or None), who holds it,
    and the free blocks with findable content in the order in which they became free.
    """

    def __init__(self):
        super().__init__()
        self.allocator = BlockAllocator(BLOCKS)
        self.cache = PrefixCache(self.allocator, SIZE)
        self.live = []
        self.content: list[tuple | None] = [None] * BLOCKS
        self.findable: dict[tuple, int] = {}
        self.free_order: list[int] = []

    def content_of(self, seq, index):
        return seq.cache_salt, tuple(seq.known_tokens(0, (index + 1) * SIZE))

    def taken(self, blocks):
        """The model's side of handing out ``blocks``."""
        for block in blocks:
            if block in self.free_order:
                assert self.free_order[0] == block, "not the least recently used block was evicted"
                self.free_order.pop(0)
                del self.findable[self.content[block]]
            self.content[block] = None

    def publish(self, seq):
        """Publishes the blocks that are full and new; of equal blocks the first stays."""
        first = seq.num_published_blocks
        self.cache.publish(seq)
        for index in range(first, seq.num_tokens // SIZE):
            content = self.content_of(seq, index)
            if self.findable.setdefault(content, seq.block_ids[index]) == seq.block_ids[index]:
                self.content[seq.block_ids[index]] = content

    @rule(prompt=prompts, salt=salts)
    def start(self, prompt, salt):
        seq = make_sequence(prompt, cache_salt=salt)
        found, being_filled = self.cache.match(seq)
        assert not being_filled
        wanted = []
        for index in range((len(prompt) - 1) // SIZE):
            if self.content_of(seq, index) not in self.findable:
                break
            wanted.append(self.findable[self.content_of(seq, index)])
        assert found == wanted
        needed = -(-len(prompt) // SIZE) - len(found)
        if needed + self.allocator.num_free_of(found) > self.allocator.num_free:
            return
        self.allocator.share(found)
        self.free_order = [block for block in self.free_order if block not in found]
        new = self.allocator.allocate(needed)
        self.taken(new)
        seq.block_ids = found + new
        seq.num_computed_tokens = len(prompt)
        seq.num_published_blocks = len(found)
        self.publish(seq)
        self.live.append(seq)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token=st.integers(0, 1))
    def grow(self, data, token):
        seq = self.live[data.draw(st.integers(0, len(self.live) - 1))]
        if len(seq.block_ids) * SIZE == seq.num_tokens:
            if not self.allocator.num_free:
                return
            new = self.allocator.allocate(1)
            self.taken(new)
            seq.block_ids += new
        seq.output_token_ids.append(token)
        seq.num_computed_tokens += 1
        self.publish(seq)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data):
        seq = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.allocator.free(seq.block_ids)
        held = {block for other in self.live for block in other.block_ids}
        for block in reversed(seq.block_ids):
            if block not in held and self.content[block] is not None:
                self.free_order.append(block)

    @rule()
    def reset(self):
        self.cache.reset()
        for seq in self.live:
            seq.num_published_blocks = NEVER
        self.content = [None] * BLOCKS
        self.findable.clear()
        self.free_order.clear()

    @rule(extra=st.integers(1, 5))
    def ask_for_too_much(self, extra):
        free = self.allocator.num_free
        try:
            self.allocator.allocate(free + extra)
        except OutOfBlocksError:
            assert self.allocator.num_free == free
        else:
            raise AssertionError("more blocks than there are")

    @invariant()
    def agrees(self):
        self.allocator.check_integrity()
        self.cache.check_integrity()
        references = [0] * BLOCKS
        for seq in self.live:
            for block in seq.block_ids:
                references[block] += 1
        assert [self.allocator.num_references(block) for block in range(BLOCKS)] == references
        assert self.allocator.num_free == references.count(0)
        assert self.allocator.num_cached == len(self.free_order)
        assert len(self.cache) == len(self.findable)


TestBlockMachine = BlockMachine.TestCase
TestBlockMachine.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
