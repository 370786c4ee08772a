"""From the device's logprob arrays to the dicts that a client gets."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_jax.outputs import Logprob, PositionLogprobs
from vllm_jax.runner.model_runner import RowLogprobs, RowPromptLogprobs
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.sequence import Sequence
from vllm_jax.tokenizer.base import Tokenizer


def position_logprobs(
    row: RowLogprobs, token: int, params: SamplingParams, tokenizer: Tokenizer | None
) -> PositionLogprobs:
    """The sampled token first, then ``logprob_token_ids``, or else the asked number of top candidates."""
    wanted = len(row.top_ids) if params.logprobs == -1 else params.logprobs or 0
    if params.logprob_token_ids:
        wanted = 0
    found = _dict(token, row.logprob, row.rank, row.top_ids[:wanted], row.top_logprobs[:wanted], tokenizer)
    for listed, logprob in zip(params.logprob_token_ids or (), row.listed, strict=False):
        found.setdefault(listed, Logprob(float(logprob), None, _text(listed, tokenizer)))
    return found


def prompt_position_logprobs(
    positions: list[PositionLogprobs | None],
    part: RowPromptLogprobs,
    seq: Sequence,
    tokenizer: Tokenizer | None,
) -> None:
    """Fills ``positions`` (mutated; one entry a prompt token) with the part that one step has scored."""
    asked = seq.params.prompt_logprobs or 0
    wanted = part.top_ids.shape[1] if asked == -1 else asked
    for i, logprob in enumerate(part.logprobs):
        position = part.first + i
        positions[position] = _dict(
            seq.prompt_token_ids[position],
            float(logprob),
            int(part.ranks[i]),
            part.top_ids[i, :wanted],
            part.top_logprobs[i, :wanted],
            tokenizer,
        )


def _dict(
    token: int,
    logprob: float,
    rank: int,
    top_ids: Iterable[int],
    top_logprobs: Iterable[float],
    tokenizer: Tokenizer | None,
) -> PositionLogprobs:
    found = {token: Logprob(logprob, rank, _text(token, tokenizer))}
    for place, (candidate, value) in enumerate(zip(top_ids, top_logprobs, strict=True), start=1):
        found.setdefault(int(candidate), Logprob(float(value), place, _text(int(candidate), tokenizer)))
    return found


def _text(token: int, tokenizer: Tokenizer | None) -> str | None:
    return None if tokenizer is None else tokenizer.token_str(token)
