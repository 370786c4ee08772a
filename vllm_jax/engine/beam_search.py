"""Beam search over the engine's logprobs: each step asks for one token of each beam, in requests of its own.

Knows beams and scores. Does not know how requests are run; prefix caching makes the repeated prompts cheap.

The rules are those of transformers with ``early_stopping=False``: candidates are ranked by the sum of their
logprobs; one that ends (at EOS, or at the limit) counts if it is among the first ``width``, with its sum
divided by ``length ** length_penalty``; the first ``width`` others go on; and the search is over when the
best beam, at its present length, is no better than the worst of ``width`` ended ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Real

from vllm_jax.errors import InvalidRequestError
from vllm_jax.outputs import CompletionOutput, PositionLogprobs
from vllm_jax.sampling_params import MAX_N, SamplingParams
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.detokenizer import IncrementalDetokenizer


@dataclass(frozen=True, kw_only=True)
class BeamSearchParams:
    """What a beam search is told.

    Attributes:
        beam_width: Beams that are kept, and outputs that are returned.
        max_tokens: Most output tokens; None means as many as the context allows.
        ignore_eos: Do not end beams at EOS.
        length_penalty: The exponent of the length in a score: above 0 favours long outputs.
        stop_token_ids: Ids that end a beam like EOS does.
        include_stop_str_in_output: Keep the text of the token that ended a beam.
        skip_special_tokens: Leave special tokens out of the text.

    Raises:
        InvalidRequestError: a value is out of range; ``param`` names the field.
    """

    beam_width: int
    max_tokens: int | None = 16
    ignore_eos: bool = False
    length_penalty: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name, least, most in (("beam_width", 1, MAX_N), ("max_tokens", 1, 2**63)):
            value = getattr(self, name)
            if name == "max_tokens" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InvalidRequestError(
                    f"{name} must be an integer of at least {least} and at most {most}", name
                )
        penalty = self.length_penalty
        if not isinstance(penalty, Real) or isinstance(penalty, bool) or not -10 <= penalty <= 10:
            raise InvalidRequestError("length_penalty must be a number between -10 and 10", "length_penalty")


@dataclass(frozen=True)
class Beam:
    """Output tokens so far, the sum of their logprobs, and what was known at each position."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    positions: tuple[PositionLogprobs, ...] = ()


class BeamSearch:
    """The beams of one prompt.

    Args:
        params: the request's.
        eos_token_ids: the model's.
        max_tokens: most output tokens; ``params.max_tokens``, cut to the context.
    """

    def __init__(self, params: BeamSearchParams, eos_token_ids: Collection[int], max_tokens: int):
        self._params = params
        self._max_tokens = max_tokens
        self._eos = frozenset() if params.ignore_eos else frozenset(eos_token_ids)
        self._ends = self._eos | set(params.stop_token_ids)
        self._finished: list[tuple[float, Beam]] = []
        self.running = [Beam()]
        self.done = False

    def step_params(self, shown: int = 0) -> SamplingParams:
        """Sampling parameters of the requests of a step; ``shown`` logprobs are to be kept in any case.

        The best candidates of all beams are among the best ``width`` of each, and as many more as may end.
        """
        wanted = max(self._params.beam_width + len(self._ends), shown)
        return SamplingParams(max_tokens=1, temperature=0, logprobs=wanted, ignore_eos=True)

    def step(self, positions: Sequence[PositionLogprobs]) -> None:
        """Takes the candidates for the next token of each running beam (in order) and moves on."""
        width = self._params.beam_width
        candidates = sorted(
            (
                (beam.logprob + candidate.logprob, index, token)
                for index, (beam, position) in enumerate(zip(self.running, positions, strict=True))
                for token, candidate in position.items()
            ),
            key=lambda c: (-c[0], c[1], c[2]),
        )
        length = len(self.running[0].tokens) + 1
        scale = length**self._params.length_penalty
        at_limit = length >= self._max_tokens
        running: list[Beam] = []
        for rank, (logprob, index, token) in enumerate(candidates):
            before = self.running[index]
            beam = Beam((*before.tokens, token), logprob, (*before.positions, positions[index]))
            if at_limit or token in self._ends:
                if rank < width:
                    self._finished.append((logprob / scale, beam))
            else:
                running.append(beam)
            if rank + 1 >= width and (at_limit or len(running) >= width):
                break
        self._finished = sorted(self._finished, key=lambda f: -f[0])[:width]
        self.running = running[:width]
        full = len(self._finished) == width
        self.done = not self.running or (full and self.running[0].logprob / scale <= self._finished[-1][0])

    def outputs(
        self, prompt_token_ids: Sequence[int], tokenizer: Tokenizer | None, *, logprobs: bool
    ) -> list[CompletionOutput]:
        """The ended beams, best first."""
        return [
            self._output(index, beam, prompt_token_ids, tokenizer, logprobs)
            for index, (_, beam) in enumerate(self._finished)
        ]

    def _output(
        self,
        index: int,
        beam: Beam,
        prompt_token_ids: Sequence[int],
        tokenizer: Tokenizer | None,
        logprobs: bool,
    ) -> CompletionOutput:
        last, params = beam.tokens[-1], self._params
        ended = last in self._ends
        text = ""
        if tokenizer is not None:
            stream = IncrementalDetokenizer(
                tokenizer, prompt_token_ids, skip_special_tokens=params.skip_special_tokens
            )
            silent = last in self._eos and not params.include_stop_str_in_output
            shown = beam.tokens[:-1] if silent else beam.tokens
            text = "".join(map(stream.push, shown)) + stream.flush()
        return CompletionOutput(
            index,
            text,
            list(beam.tokens),
            cumulative_logprob=beam.logprob,
            logprobs=[
                {token: position[token], **position}
                for token, position in zip(beam.tokens, beam.positions, strict=True)
            ]
            if logprobs
            else None,
            finish_reason="stop" if ended else "length",
            stop_reason=last if ended and last not in self._eos else None,
        )
