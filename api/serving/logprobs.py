"""Logprobs in the shapes of the chat and the completions endpoint, and of ``prompt_logprobs``.

Positions come as :data:`~vllm_jax.outputs.PositionLogprobs`: the token itself first, then the top candidates
by rank, or instead candidates asked for by id, which have no rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from api.protocol.chat import ChatLogprob, ChatLogprobs, TopLogprob
from api.protocol.completions import CompletionLogprobs
from vllm_jax.outputs import Logprob, PositionLogprobs
from vllm_jax.sampling_params import SamplingParams

FLOOR = -9999.0
"""Stands for minus infinity, which JSON does not have."""


class ChatLogprobsFormat:
    """Per token its logprob, its bytes, and its candidates.

    These are the best ones, as many as were asked for; or the token itself and those asked for by id.
    """

    def __init__(self, params: SamplingParams, *, as_ids: bool, token_bytes: Callable[[int], bytes | None]):
        self._top = -1 if params.logprob_token_ids else params.logprobs or 0
        self._as_ids = as_ids
        self._token_bytes = token_bytes

    def __call__(self, positions: Iterable[PositionLogprobs]) -> ChatLogprobs:
        """One entry a position."""
        content = []
        for position in positions:
            sampled = self._entry(*next(iter(position.items())))
            candidates = [TopLogprob(**self._entry(i, c)) for i, c in _top(position, self._top)]
            content.append(ChatLogprob(**sampled, top_logprobs=candidates))
        return ChatLogprobs(content=content)

    def _entry(self, token_id: int, candidate: Logprob) -> dict[str, Any]:
        data = self._token_bytes(token_id)
        return {
            "token": token_name(token_id, candidate.decoded_token, self._as_ids),
            "logprob": finite(candidate.logprob),
            "bytes": None if data is None else list(data),
        }


def prompt_logprobs(
    positions: Sequence[PositionLogprobs | None], top: int
) -> list[dict[str, dict[str, Any]] | None]:
    """Null for the first token, then token id (as a string) -> logprob, rank, decoded_token."""
    return [
        None
        if position is None
        else {
            str(i): {"logprob": finite(c.logprob), "rank": c.rank, "decoded_token": c.decoded_token}
            for i, c in [next(iter(position.items())), *_top(position, top)]
        }
        for position in positions
    ]


class CompletionLogprobsFormat:
    """Builds the lists of one choice, or of a piece of it.

    ``top`` is the number asked for: each position shows the token itself and the ``top`` candidates.
    """

    def __init__(self, top: int, as_ids: bool):
        self._top = top
        self._as_ids = as_ids

    def __call__(
        self,
        positions: Iterable[PositionLogprobs | None],
        token_ids: Iterable[int],
        text_offset: list[int],
        first_text: str | None = None,
    ) -> CompletionLogprobs:
        """The lists for ``token_ids``; a prompt's first token has no position, its text is ``first_text``."""
        piece = CompletionLogprobs(text_offset=text_offset, token_logprobs=[], tokens=[], top_logprobs=[])
        for position, token_id in zip(positions, token_ids, strict=True):
            own = None if position is None else position[token_id]
            token = token_name(token_id, own.decoded_token if own else first_text, self._as_ids)
            piece.tokens.append(token)
            piece.token_logprobs.append(finite(own.logprob) if own else None)
            piece.top_logprobs.append(None if position is None else self._candidates(position))
        return piece

    def _candidates(self, position: PositionLogprobs) -> dict[str, float]:
        found: dict[str, float] = {}
        # Different tokens may have the same text (parts of a character): the likelier one is kept.
        for i, c in [next(iter(position.items())), *_top(position, self._top)]:
            name, logprob = token_name(i, c.decoded_token, self._as_ids), finite(c.logprob)
            found[name] = max(logprob, found.get(name, logprob))
        return found


def finite(logprob: float) -> float:
    """``logprob``, not below the floor."""
    return max(logprob, FLOOR)


def token_name(token_id: int, text: str | None, as_ids: bool) -> str:
    """How a token is shown: its text, or ``token_id:N`` where that is asked for or there is no text."""
    return f"token_id:{token_id}" if as_ids or text is None else text


def _top(position: PositionLogprobs, top: int) -> list[tuple[int, Logprob]]:
    """The best ``top`` candidates in order (-1: all), then those that were asked for by their id."""
    ranked = [(i, c) for i, c in position.items() if c.rank is not None and (top == -1 or c.rank <= top)]
    ranked.sort(key=lambda item: item[1].rank or 0)
    return ranked + [(i, c) for i, c in position.items() if c.rank is None]
