"""The offline engine for scripts and notebooks: ``LLM(model).generate(prompts)``.

Knows prompts of every form and a progress bar. Runs the engine in the caller's own thread: no server, no
asyncio, no background thread.
"""

from __future__ import annotations

import itertools
import operator
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypedDict, cast

from prometheus_client.metrics_core import Metric
from tqdm.auto import tqdm

from vllm_jax.config import EngineConfig
from vllm_jax.engine.beam_search import BeamSearch, BeamSearchParams
from vllm_jax.engine.info import ModelInfo
from vllm_jax.engine.loading import load_engine
from vllm_jax.engine.request import Request
from vllm_jax.errors import ConfigError, InvalidRequestError
from vllm_jax.outputs import EmbeddingOutput, EmbeddingRequestOutput, RequestOutput
from vllm_jax.progress import no_progress, progress_bars
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.chat_template import load_chat_template


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str


class TokensPrompt(TypedDict):
    """A prompt as token ids."""

    prompt_token_ids: list[int]


Prompt = str | TextPrompt | TokensPrompt
Message = Mapping[str, Any]

_COMPATIBLE_SETTINGS: Mapping[str, tuple[object, ...]] = {
    "tokenizer_mode": ("auto",),
    "quantization": (None,),
    "enable_lora": (False,),
    "enforce_eager": (False, True),
    "disable_log_stats": (False, True),
}
"""Settings of other engines that scripts pass along, and the values that mean what this engine does anyway.
``enforce_eager`` has no effect: every program is compiled before the first request."""

_POOLING = "there are embed() and text generation"
_NOT_SUPPORTED: Mapping[str, str] = {
    "encode": _POOLING,
    "classify": _POOLING,
    "score": _POOLING,
    "collective_rpc": "there are no worker processes to call",
    "sleep": "weights and cache stay on the device",
    "wake_up": "weights and cache stay on the device",
    "enqueue": "generate() takes any number of prompts at once",
    "enqueue_chat": "chat() takes any number of conversations at once",
    "wait_for_completion": "generate() returns when all is done",
    "start_profile": "use jax.profiler.start_trace(directory)",
    "stop_profile": "use jax.profiler.stop_trace()",
}
"""Methods that scripts for vLLM may call, and why they are not here."""


class LLM:
    """A loaded model that completes prompts. For one thread at a time.

    Args:
        model: a local directory, a hub id, or "demo" for the bundled model.
        chat_template: a Jinja template, or the path of one, instead of the model's own.
        show_progress: draw bars while loading and warming up.
        **settings: any setting of :class:`~vllm_jax.config.EngineConfig` by its own name, for example
            ``max_model_len=2048, max_num_seqs=8, dtype="float32", skip_tokenizer_init=True, seed=0``.

    Raises:
        ConfigError: a setting or the checkpoint cannot be honoured.
        TypeError: a setting has an unknown name.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        chat_template: str | None = None,
        show_progress: bool = True,
        **settings: Any,
    ):
        for name, accepted in _COMPATIBLE_SETTINGS.items():
            if name in settings and settings.pop(name) not in accepted:
                raise ConfigError(f"{name} must be one of {accepted}: nothing else is supported")
        config = EngineConfig.from_flat(model=str(model), **settings)
        if show_progress:
            with progress_bars() as progress:
                self._engine = load_engine(config, progress)
        else:
            self._engine = load_engine(config, no_progress)
        self._chat_template = chat_template
        self._ids = itertools.count()

    @property
    def info(self) -> ModelInfo:
        """Facts about the loaded model and its cache."""
        return self._engine.info

    @property
    def model(self) -> Any:
        """The Flax NNX module with the served weights, as a pure function to look into.

        ``hidden, _ = llm.model(tokens)`` runs it over ``tokens [T]`` int32 as one sequence without pages;
        ``llm.model.logits(hidden)`` is ``[T, V]`` float32.
        """
        return self._engine.model

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ConfigError with ``skip_tokenizer_init``."""
        if self._engine.tokenizer is None:
            raise ConfigError("there is no tokenizer: the engine was started with skip_tokenizer_init")
        return self._engine.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Sampling parameters from the model's generation config, over OpenAI's defaults."""
        return SamplingParams(**self._engine.info.default_sampling)

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes; whether none was in use (those drain with their sequences)."""
        return self._engine.reset_prefix_cache()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Completes every prompt, batched together.

        Args:
            prompts: one prompt or a list: text, ``{"prompt": text}`` or ``{"prompt_token_ids": ids}``.
            sampling_params: one for all, one a prompt, or None for the model's own defaults.
            use_tqdm: show a progress bar.
            lora_request: must be None: adapters are not supported.
            priority: one a prompt, where the engine runs with ``scheduling_policy="priority"``.

        Returns:
            one finished output a prompt, in the order of the prompts.

        Raises:
            InvalidRequestError: a prompt or parameter cannot be honoured; then nothing has been run.
        """
        if lora_request is not None:
            raise InvalidRequestError("LoRA adapters are not supported", "lora_request")
        many = [prompts] if isinstance(prompts, str | Mapping) else _list("prompts", prompts)
        params = self._one_each(sampling_params, len(many))
        priorities = [0] * len(many) if priority is None else _list("priority", priority)
        if len(priorities) != len(many):
            raise InvalidRequestError(f"{len(many)} prompts, but {len(priorities)} priorities", "priority")
        requests = [
            self._request(prompt, p, rank) for prompt, p, rank in zip(many, params, priorities, strict=True)
        ]
        return self._run(requests, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: None = None,
        chat_template: str | None = None,
        chat_template_content_format: Literal["auto", "string", "openai"] = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation, or each of a list of conversations.

        The conversation is rendered by ``chat_template``, else by the one given to the constructor, else by
        the model's own. What ends a turn in that template ends the answer, unless EOS is ignored. The other
        arguments are as for :meth:`generate`.
        """
        conversations = cast(
            "list[Sequence[Message]]",
            [messages] if messages and isinstance(messages[0], Mapping) else list(messages),
        )
        tokenizer = self.get_tokenizer()
        template = load_chat_template(
            tokenizer,
            chat_template or self._chat_template,
            model_type=self.info.model_type,
            model_name=self.info.model,
            content_format=chat_template_content_format,
        )
        prompts: list[Prompt] = []
        for conversation in conversations:
            text = template.render(
                conversation,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                template_kwargs=chat_template_kwargs,
            )
            prompts.append({"prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)})
        ends = [i for i in map(tokenizer.token_to_id, template.stop_tokens) if i is not None]
        params = [
            p if p.ignore_eos or not ends else replace(p, stop_token_ids=[*p.stop_token_ids, *ends])
            for p in self._one_each(sampling_params, len(prompts))
        ]
        return self.generate(prompts, params, use_tqdm=use_tqdm, lora_request=lora_request)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        """Completes every prompt with its ``params.beam_width`` best continuations.

        Returns:
            one finished output a prompt, in order; its ``outputs`` are the beams, best first.

        Raises:
            InvalidRequestError: a prompt or parameter cannot be honoured; then nothing has been run.
        """
        many = [prompts] if isinstance(prompts, str | Mapping) else _list("prompts", prompts)
        requests = [self._request(prompt, SamplingParams(), 0) for prompt in many]
        info = self.info
        searches = []
        for request in requests:
            self._engine.prepare(request)
            room = info.max_model_len - len(request.prompt_token_ids)
            limit = room if params.max_tokens is None else min(params.max_tokens, room)
            searches.append(BeamSearch(params, info.eos_token_ids, limit))
        with tqdm(total=len(requests), desc="Searching", disable=not use_tqdm) as bar:
            while open_ones := [i for i, search in enumerate(searches) if not search.done]:
                steps = [
                    replace(
                        requests[i],
                        request_id=str(next(self._ids)),
                        prompt_token_ids=[*requests[i].prompt_token_ids, *beam.tokens],
                        params=searches[i].step_params(),
                    )
                    for i in open_ones
                    for beam in searches[i].running
                ]
                found = (output.outputs[0] for output in self._run(steps, use_tqdm=False))
                for i in open_ones:
                    count = len(searches[i].running)
                    searches[i].step([(next(found).logprobs or [{}])[0] for _ in range(count)])
                    bar.update(searches[i].done)
        return [
            RequestOutput(
                request.request_id,
                request.prompt,
                request.prompt_token_ids,
                search.outputs(request.prompt_token_ids, self._engine.tokenizer, logprobs=True),
                finished=True,
            )
            for request, search in zip(requests, searches, strict=True)
        ]

    def embed(
        self, prompts: Prompt | Sequence[Prompt], *, use_tqdm: bool = True
    ) -> list[EmbeddingRequestOutput]:
        """Embeds every prompt, batched together: ``output.outputs.embedding`` is a list of floats.

        Raises:
            InvalidRequestError: the model is no embedding model, or a prompt cannot be served.
        """
        params = SamplingParams.for_embedding()
        found = []
        for output in self.generate(prompts, params, use_tqdm=use_tqdm):
            assert output.embedding is not None
            embedding = EmbeddingOutput(output.embedding.tolist())
            found.append(EmbeddingRequestOutput(output.request_id, output.prompt_token_ids, embedding))
        return found

    def get_metrics(self) -> list[Metric]:
        """The engine's Prometheus metric families, with their samples."""
        return list(self._engine.metrics.registry.collect())

    def __getattr__(self, name: str) -> Any:
        """Says why a method that scripts may look for is not there."""
        why = _NOT_SUPPORTED.get(name)
        raise AttributeError(f"LLM has no {name}()" + (f": {why}" if why else ""))

    def _one_each(
        self, given: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> list[SamplingParams]:
        if given is None:
            return [self.get_default_sampling_params()] * count
        if isinstance(given, SamplingParams):
            return [given] * count
        if len(given) != count:
            raise InvalidRequestError(f"{count} prompts, but {len(given)} sampling_params", "sampling_params")
        return list(given)

    def _request(self, prompt: Prompt, params: SamplingParams, priority: int) -> Request:
        given: Any = {"prompt": prompt} if isinstance(prompt, str) else prompt
        if not isinstance(given, Mapping) or not given.keys() & {"prompt", "prompt_token_ids"}:
            raise InvalidRequestError(
                'a prompt is text, {"prompt": text} or {"prompt_token_ids": ids}, not '
                + type(prompt).__name__,
                "prompts",
            )
        if "prompt_token_ids" in given:
            text, ids = None, _token_ids(given["prompt_token_ids"])
        else:
            text = given["prompt"]
            ids = self.get_tokenizer().encode(text, add_special_tokens=True)
        return Request(str(next(self._ids)), ids, params, text, priority)

    def _run(self, requests: list[Request], use_tqdm: bool) -> list[RequestOutput]:
        engine = self._engine
        prepared = [engine.prepare(request) for request in requests]
        answers: dict[str, RequestOutput] = {}
        with interrupts_between_steps() as check_interrupt:
            try:
                for each in prepared:
                    engine.add_request(each)
                with tqdm(total=len(requests), desc="Completing prompts", disable=not use_tqdm) as bar:
                    while engine.has_work:
                        for delta in engine.step():
                            if delta.request_id in answers:
                                answers[delta.request_id].merge(delta)
                            else:
                                answers[delta.request_id] = delta
                            bar.update(delta.finished)
                        check_interrupt()
            finally:  # An interrupted notebook cell leaves nothing running.
                for request in requests:
                    engine.abort_request(request.request_id)
                while engine.has_work:
                    engine.step()
        return [answers[request.request_id] for request in requests]


def _token_ids(value: Any) -> list[int]:
    try:
        return [operator.index(i) for i in _list("prompt_token_ids", value)]
    except TypeError as error:
        raise InvalidRequestError(f"prompt_token_ids must be integers: {error}", "prompt_token_ids") from None


def _list(name: str, value: Any) -> list[Any]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InvalidRequestError(f"{name} must be a list, not {type(value).__name__}", name)
    return list(value)


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Holds Ctrl-C back until the function it yields is called.

    A KeyboardInterrupt inside a step would come between giving buffers to the device and keeping what comes
    back, and the engine would be broken for good. Python delivers signals to the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    waiting: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: waiting.append((number, frame)))

    def check() -> None:
        if waiting:
            arguments = waiting.pop()
            if callable(before):
                before(*arguments)

    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
