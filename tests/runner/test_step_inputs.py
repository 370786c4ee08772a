"""From a ScheduledBatch to the arrays of its step: positions, pages, padding, variants."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from vllm_jax.runner.buckets import ShapeRegistry, StepShape
from vllm_jax.runner.programs import StepLayout
from vllm_jax.runner.slots import SlotTable
from vllm_jax.runner.step_inputs import TAKE_FROM_HISTORY, StepInputBuilder
from vllm_jax.sampling.mask import prepare_constraints
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.scheduled_batch import ScheduledBatch, ScheduledSequence
from vllm_jax.sequence import Sequence

VOCAB, HISTORY, PAGES = 50, 64, 4
GREEDY = SamplingParams(temperature=0)


@pytest.fixture
def builder() -> StepInputBuilder:
    return StepInputBuilder(ShapeRegistry(8, 32), SlotTable(8, PAGES, VOCAB), HISTORY)


def row(prompt, output=(), *, start, count, slot, blocks, params=GREEDY, seed=0, resumed=True, pending=0):
    seq = Sequence(
        "s", "r", 0, list(prompt), params, seed, output_token_ids=list(output), num_pending=pending
    )
    samples = start + count == seq.num_tokens
    return ScheduledSequence(seq, start, count, samples, slot, list(blocks), resumed)


def fields(builder: StepInputBuilder, rows, num_decodes=0):
    inputs = builder.build(ScheduledBatch(rows, num_decodes))
    return inputs, builder.layout(inputs.shape).unpack(inputs.packed)


def test_layout_covers_the_vector_without_a_gap() -> None:
    layout = StepLayout(num_tokens=5, num_rows=3, pages_per_seq=2)
    packed = np.arange(layout.size)
    parts = layout.unpack(packed)
    assert [p.shape for p in parts] == [(5,), (3, 2), (3,), (4,), (3,)]
    assert np.concatenate([p.ravel() for p in parts]).tolist() == packed.tolist()


def test_decodes_take_their_tokens_from_the_device_and_chunks_of_one_token_from_the_host(builder) -> None:
    rows = [
        row([1, 2, 3], [7], start=3, count=1, slot=5, blocks=[9]),
        row([1, 2, 3], [], start=3, count=1, slot=2, blocks=[4], pending=1),
        row([1], [], start=0, count=1, slot=0, blocks=[6]),
    ]
    inputs, (tokens, table, kv_lens, cu_q_lens, slots) = fields(builder, rows, num_decodes=2)
    assert inputs.shape == StepShape(4, 4, True)
    assert tokens.tolist() == [TAKE_FROM_HISTORY, TAKE_FROM_HISTORY, 1, 0]
    assert kv_lens.tolist() == [4, 4, 1, 0]
    assert cu_q_lens.tolist() == [0, 1, 2, 3, 3]
    assert slots.tolist() == [5, 2, 0, 0]
    assert table[:3, 0].tolist() == [9, 4, 6]
    assert inputs.sampler.variant == "greedy"
    ints = inputs.sampler.arguments[0]
    assert ints[1].tolist() == [4, 4, 1, HISTORY]  # the padding row's token is dropped


def test_chunks_and_decodes_mix_and_only_full_prompts_sample(builder) -> None:
    rows = [
        row([1, 2], [3], start=2, count=1, slot=0, blocks=[0]),
        row(range(20), start=4, count=10, slot=1, blocks=[1]),
        row(range(30, 35), start=0, count=5, slot=2, blocks=[2]),
    ]
    inputs, (tokens, _, kv_lens, cu_q_lens, _) = fields(builder, rows)
    assert inputs.shape == StepShape(16, 8, False)
    assert tokens.tolist() == [3, *range(4, 14), *range(30, 35)]
    assert kv_lens[:3].tolist() == [3, 14, 5] and cu_q_lens.tolist() == [0, 1, 11, 16, 16, 16, 16, 16, 16]
    assert inputs.sampler.arguments[0][1].tolist()[:4] == [3, HISTORY, 5, HISTORY]
    assert inputs.score_targets is None


def test_what_was_computed_before_a_preemption_comes_from_the_host_again(builder) -> None:
    back = row([1, 2, 3], [7, 8], start=4, count=1, slot=1, blocks=[3])
    inputs, (tokens, _, kv_lens, _, _) = fields(builder, [back])
    assert tokens.tolist() == [8] and kv_lens.tolist() == [5]
    assert inputs.sampler.arguments[0].tolist() == [[1], [5]]


def test_a_step_without_a_sample_needs_no_sampler(builder) -> None:
    inputs, _ = fields(builder, [row(range(20), start=0, count=10, slot=1, blocks=[1])])
    assert inputs.sampler is None


def test_pages_of_a_slot_grow_and_start_anew_on_an_admission(builder) -> None:
    def pages(blocks, *, resumed):
        _, (_, table, *_) = fields(
            builder, [row([1], start=0, count=1, slot=3, blocks=blocks, resumed=resumed)]
        )
        return table[0].tolist()

    assert pages([5, 6], resumed=True)[:2] == [5, 6]
    assert pages([5, 6, 7], resumed=False)[:3] == [5, 6, 7]
    assert pages([8], resumed=True)[:1] == [8]
    assert pages([8, 9], resumed=False)[:2] == [8, 9]


def test_the_cheapest_sampler_that_honours_every_row(builder) -> None:
    def variant(*params: SamplingParams) -> tuple[str, int]:
        rows = [row([1], start=0, count=1, slot=i, blocks=[i], params=p) for i, p in enumerate(params)]
        inputs, _ = fields(builder, rows)
        return inputs.sampler.variant, inputs.sampler.num_rows

    warm, biased = SamplingParams(), SamplingParams(logit_bias={3: 1.0})
    assert variant(GREEDY, GREEDY) == ("greedy", 2)
    assert variant(GREEDY, warm) == ("random", 8)
    assert variant(warm) == ("random", 1)
    assert variant(GREEDY, warm, biased) == ("full", 8)


def test_a_grammar_brings_its_mask_and_only_where_it_samples(builder) -> None:
    def held(allowed: int, slot: int, count: int = 1, **values) -> ScheduledSequence:
        one = row([1, 2], start=0, count=count, slot=slot, blocks=[slot], params=SamplingParams(**values))
        one.seq.grammar = SimpleNamespace(mask=np.array([allowed, 0], np.uint32))
        constraints = prepare_constraints(
            one.seq.params, vocab_size=VOCAB, eos_token_ids={4}, encode=lambda text: [3]
        )
        one.seq.token_constraints = constraints
        return one

    free = row([1], start=0, count=1, slot=0, blocks=[0], params=GREEDY)
    inputs, _ = fields(builder, [free, held(0b11000, 1, 2), held(0b100, 2)])
    assert (inputs.sampler.variant, inputs.sampler.num_rows) == ("masked", 8)
    _, _, allowed = inputs.sampler.arguments
    everything = [0xFFFFFFFF, (1 << VOCAB - 32) - 1]
    assert allowed.tolist()[:4] == [everything, [0b11000, 0], everything, everything]

    # EOS (4) is banned before min_tokens, and so is a bad word (3), while anything else is left.
    rows = [
        held(0b11010, 0, 2, min_tokens=3),
        held(0b11000, 1, 2, min_tokens=3, bad_words=["x"]),
    ]
    inputs, _ = fields(builder, rows)
    assert inputs.sampler.variant == "full"
    assert inputs.sampler.arguments[4].tolist()[:2] == [[0b01010, 0], [0b11000, 0]]


def test_settings_are_those_of_the_slots_sequence(builder) -> None:
    params = SamplingParams(
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.5,
        logit_bias={7: 2.0},
        min_tokens=2,
    )
    one = row([1, 2], start=0, count=2, slot=6, blocks=[0], params=params, seed=(5 << 32) | 0xFFFFFFFF)
    one.seq.token_constraints = prepare_constraints(params, vocab_size=VOCAB, eos_token_ids={4}, encode=None)
    plain = row([1], start=0, count=1, slot=0, blocks=[1])
    inputs, _ = fields(builder, [plain, one])
    ints, floats, bias_ids, bias_values, allowed, _ = inputs.sampler.arguments
    assert ints[:, 1].view(np.uint32).tolist() == [6, 2, 3, 5, 0xFFFFFFFF, 2, 2]
    np.testing.assert_allclose(floats[:, 1], [0.5, 0.9, 0.1, 0, 0, 1.5])
    assert ints[6, 0] == 0, "rows without penalties count no history"
    assert bias_ids[1, 0] == 7 and bias_ids[1, 1] == VOCAB and bias_values[1, 0] == 2.0
    assert bias_ids[0, 0] == VOCAB
    assert allowed[1, 0] == 0xFFFFFFFF & ~(1 << 4) and allowed[0, 0] == 0xFFFFFFFF

    later, _ = fields(builder, [row([1], start=0, count=1, slot=6, blocks=[0], params=params)])
    again, _ = fields(
        builder, [row([1], start=0, count=1, slot=6, blocks=[0], params=SamplingParams(logprobs=1))]
    )
    assert later.sampler.arguments[2][0, 0] == 7 and again.sampler.arguments[2][0, 0] == VOCAB


def test_prompt_positions_are_scored_against_the_token_that_follows(builder) -> None:
    params = SamplingParams(temperature=0, prompt_logprobs=1)
    decode = row([1], [2], start=1, count=1, slot=0, blocks=[0])
    first = row(range(10, 16), start=0, count=4, slot=1, blocks=[1], params=params)
    inputs, _ = fields(builder, [decode, first])
    assert inputs.score_targets.tolist()[:5] == [0, 11, 12, 13, 14]
    last = row(range(10, 16), start=4, count=2, slot=1, blocks=[1], params=params, resumed=False)
    inputs, _ = fields(builder, [decode, last])
    assert inputs.score_targets.tolist()[:3] == [0, 15, 0]
    one = row([5, 6], start=0, count=1, slot=1, blocks=[1], params=params)
    inputs, _ = fields(builder, [one])
    assert not inputs.shape.decode_only and inputs.score_targets[0] == 6
