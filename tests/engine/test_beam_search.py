"""Beam search finds the beams that transformers finds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from vllm_jax import LLM, BeamSearchParams
from vllm_jax.engine.beam_search import BeamSearch
from vllm_jax.errors import InvalidRequestError
from vllm_jax.outputs import Logprob

PROMPTS = ["The quick brown", "Io amo programmare", "One two"]


@pytest.fixture(scope="module")
def llm(mpt_checkpoint: Path) -> LLM:
    return LLM(mpt_checkpoint, show_progress=False, max_num_seqs=8, max_num_batched_tokens=32)


@pytest.fixture(scope="module")
def oracle() -> Any:
    return tiny_models.make("mpt")


def transformers_beams(model: Any, prompt: list[int], width: int, **settings: Any) -> list[list[int]]:
    eos = settings.get("eos_token_id")
    with torch.no_grad():
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_beams=width,
            num_return_sequences=width,
            do_sample=False,
            early_stopping=False,
            pad_token_id=383,
            **settings,
        )
    beams = []
    for row in found[:, len(prompt) :].tolist():
        ends = [i for i, token in enumerate(row) if eos is not None and token in eos]
        beams.append(row[: ends[0] + 1] if ends else row)
    return beams


@pytest.mark.parametrize(
    ("width", "penalty", "eos"),
    [(1, 1.0, [1]), (3, 1.0, [1]), (4, 0.0, [1, 40, 75, 260, 300]), (5, 2.0, [1, 40, 75]), (4, -1.0, None)],
)
def test_the_beams_are_those_of_transformers(
    llm: LLM, oracle: Any, width: int, penalty: float, eos: list[int] | None
) -> None:
    params = BeamSearchParams(
        beam_width=width,
        max_tokens=12,
        length_penalty=penalty,
        ignore_eos=eos is None,
        stop_token_ids=tuple(eos[1:]) if eos else (),
    )
    outputs = llm.beam_search(PROMPTS, params, use_tqdm=False)
    for output in outputs:
        expected = transformers_beams(
            oracle,
            output.prompt_token_ids,
            width,
            max_new_tokens=12,
            length_penalty=penalty,
            eos_token_id=eos,
        )
        assert [beam.token_ids for beam in output.outputs] == expected
        for beam in output.outputs:
            ended = eos is not None and beam.token_ids[-1] in eos
            assert beam.finish_reason == ("stop" if ended else "length")
            assert beam.logprobs is not None and beam.cumulative_logprob == pytest.approx(
                sum(p[t].logprob for p, t in zip(beam.logprobs, beam.token_ids, strict=True))
            )


def test_some_beams_end_early() -> None:
    """The search alone, over a random table of logprobs, against all sequences there are."""
    rng = random.Random(3)
    vocab, limit = 4, 5
    table: dict[tuple[int, ...], dict[int, Logprob]] = {}

    def position(tokens: tuple[int, ...]) -> dict[int, Logprob]:
        if tokens not in table:
            weights = torch.log_softmax(torch.tensor([rng.gauss(0, 2) for _ in range(vocab)]), 0).tolist()
            table[tokens] = {i: Logprob(w) for i, w in enumerate(weights)}
        return table[tokens]

    def all_of(tokens: tuple[int, ...], logprob: float) -> list[tuple[float, tuple[int, ...]]]:
        if tokens and (tokens[-1] == 0 or len(tokens) == limit):
            return [(logprob, tokens)]
        return [
            found
            for token, candidate in position(tokens).items()
            for found in all_of((*tokens, token), logprob + candidate.logprob)
        ]

    # Wide enough, a beam search is exhaustive, and a penalty of 0 ranks by the whole probability.
    search = BeamSearch(BeamSearchParams(beam_width=128, length_penalty=0.0), {0}, limit)
    while not search.done:
        search.step([position(beam.tokens) for beam in search.running])
    best = [beam.token_ids for beam in search.outputs([], None, logprobs=False)][:20]
    expected = sorted(all_of((), 0.0), reverse=True)[:20]
    assert best == [list(tokens) for _, tokens in expected]
    assert len({len(tokens) for tokens in best}) > 1


def test_text_leaves_the_end_out(llm: LLM) -> None:
    (output,) = llm.beam_search(
        "The", BeamSearchParams(beam_width=2, max_tokens=4, ignore_eos=True), use_tqdm=False
    )
    tokenizer = llm.get_tokenizer()
    whole = tokenizer.decode([*output.prompt_token_ids, *output.outputs[0].token_ids])
    assert "The" + output.outputs[0].text == whole


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("beam_width", {"beam_width": 0}),
        ("beam_width", {"beam_width": True}),
        ("max_tokens", {"beam_width": 2, "max_tokens": 0}),
        ("length_penalty", {"beam_width": 2, "length_penalty": float("nan")}),
    ],
)
def test_bad_values_are_named(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        BeamSearchParams(**fields)
    assert caught.value.param == param


def test_a_search_that_is_too_wide_for_the_logprobs_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="at most 20"):
        llm.beam_search("The", BeamSearchParams(beam_width=30), use_tqdm=False)
    assert llm._engine.num_requests == 0
