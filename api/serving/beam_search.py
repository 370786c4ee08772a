"""Beam search behind the completion endpoints: a stream that runs the search and gives one whole output.

Knows which fields go with ``use_beam_search``. How beams are chosen is the engine's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from api.errors import bad_request
from api.protocol.generation import GenerationRequest
from api.serving.prompts import Prompt
from api.serving.streams import collect
from vllm_jax.engine.async_engine import AsyncEngine
from vllm_jax.engine.beam_search import BeamSearch, BeamSearchParams
from vllm_jax.outputs import RequestOutput
from vllm_jax.sampling_params import SamplingParams

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "stop": ("", []),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "prompt_logprobs": (),
    "logprob_token_ids": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json_object": (False,),
}
"""Fields that do not go with beam search, and the values that ask for nothing. ``seed`` and ``temperature``
change nothing: nothing is drawn, and candidates are ranked by the model's own logprobs."""


def check_beam_search(body: GenerationRequest) -> None:
    """Refuses what does not go with ``use_beam_search``, or asks for it without. Raises ApiError (400)."""
    if not body.use_beam_search:
        if body.length_penalty is not None and body.length_penalty != 1:
            raise bad_request("length_penalty needs use_beam_search.", "length_penalty")
        return
    wrong = [
        name
        for name, neutral in _NEUTRAL.items()
        if (value := getattr(body, name, None)) is not None and value not in neutral
    ]
    if body.response_format is not None and body.response_format.type != "text":
        wrong.append("response_format")
    if body.echo and getattr(body, "logprobs", None) is not None:
        wrong.append("echo")
    if wrong:
        raise bad_request(f"{wrong[0]} cannot be combined with use_beam_search.", wrong[0])


class BeamSearchStream:
    """The answer to one prompt, as a stream of one delta."""

    def __init__(
        self,
        engine: AsyncEngine,
        request_id: str,
        prompt: Prompt,
        body: GenerationRequest,
        params: SamplingParams,
        *,
        priority: int,
    ):
        info = engine.info
        room = info.max_model_len - len(prompt.token_ids)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        if limit < 1:
            raise bad_request(
                f"This model's maximum context length is {info.max_model_len} tokens; the prompt has "
                f"{len(prompt.token_ids)}, which leaves no room for output.",
                "input_tokens",
            )
        penalty = 1.0 if body.length_penalty is None else body.length_penalty
        beams = BeamSearchParams(
            beam_width=params.n,
            max_tokens=limit,
            ignore_eos=params.ignore_eos,
            length_penalty=penalty,
            stop_token_ids=tuple(params.stop_token_ids),
            include_stop_str_in_output=params.include_stop_str_in_output,
            skip_special_tokens=params.skip_special_tokens,
        )
        self._engine = engine
        self._request_id = request_id
        self._prompt = prompt
        self._params = params
        self._search = BeamSearch(beams, info.eos_token_ids, limit)
        self._step_params = self._search.step_params(max(0, params.logprobs or 0))
        most = info.vocab_size if info.max_logprobs == -1 else info.max_logprobs
        if self._step_params.logprobs > most:  # type: ignore[operator]
            raise bad_request(
                f"use_beam_search with n={params.n} compares {self._step_params.logprobs} candidates a beam, "
                f"but this server gives at most {most} logprobs (--max-logprobs).",
                "n",
            )
        self._options: dict[str, Any] = {"priority": priority, "cache_salt": body.cache_salt}
        self._open = True

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        """Runs the search; closing or cancelling aborts the step in flight."""
        if not self._open:
            raise StopAsyncIteration
        self._open = False
        prompt = self._prompt
        prepared = self._engine.prepare_params(self._step_params)
        cached = 0
        while not self._search.done:
            outputs = await collect(
                [
                    self._engine.generate(
                        self._request_id,
                        [*prompt.token_ids, *beam.tokens],
                        self._step_params,
                        prepared=prepared,
                        **self._options,
                    )
                    for beam in self._search.running
                ]
            )
            if not self._search.running[0].tokens:
                cached = outputs[0].num_cached_tokens
            if any(o.outputs[0].finish_reason == "abort" for o in outputs):
                return self._output([], cached)
            self._search.step([(o.outputs[0].logprobs or [{}])[0] for o in outputs])
        beams = self._search.outputs(
            prompt.token_ids, self._engine.tokenizer, logprobs=self._params.logprobs is not None
        )
        return self._output(beams, cached)

    async def aclose(self) -> None:
        """Nothing outlives the call that runs the search."""
        self._open = False

    def _output(self, beams: list[Any], cached: int) -> RequestOutput:
        prompt = self._prompt
        return RequestOutput(
            self._request_id, prompt.text, prompt.token_ids, beams, True, num_cached_tokens=cached
        )
