"""What every request handler needs: the engine, the served names, the prompt maker and the settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import Request

from api.errors import ApiError, bad_request
from api.log_context import log_as
from api.protocol.generation import GenerationRequest
from api.server_config import ApiConfig, ServerConfig
from api.serving.background import BackgroundPlaces
from api.serving.beam_search import BeamSearchStream
from api.serving.bounded_threads import BoundedThreads
from api.serving.model_names import ServedModels
from api.serving.prompts import Prompt, PromptMaker
from api.serving.reading import AnswerFormats
from api.serving.request_id import choose_priority
from api.serving.response_store import ResponseStore
from api.serving.streams import Deltas
from api.tracing import RequestTracer
from vllm_jax.config import EngineConfig
from vllm_jax.engine.async_engine import AsyncEngine
from vllm_jax.engine.request import PreparedParams
from vllm_jax.errors import EngineDeadError
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.structured_output.trials import MAX_PROCESSES
from vllm_jax.tokenizer.chat_template import ChatTemplate, load_chat_template

logger = logging.getLogger(__name__)

GRAMMAR_TIMEOUT_S = 60.0
"""Time that a structured output may wait for a thread to be compiled in, and time to compile it there.
The compiler's own limits are shorter, and there are as many threads as it has places for grammars."""


@dataclass
class ServerContext:
    """One server. ``formats`` is what its model writes; ``draining`` is set when a shutdown has begun."""

    engine: AsyncEngine
    config: ServerConfig
    models: ServedModels
    prompts: PromptMaker
    responses: ResponseStore
    formats: AnswerFormats
    background: BackgroundPlaces
    tracer: RequestTracer | None = None
    draining: bool = False
    grammar_threads: BoundedThreads = field(
        default_factory=lambda: BoundedThreads(MAX_PROCESSES, GRAMMAR_TIMEOUT_S, name="grammar")
    )

    def close(self) -> None:
        """Ends the threads and sends the last traces."""
        self.prompts.close()
        if self.tracer is not None:
            self.tracer.close()

    @property
    def healthy(self) -> bool:
        """Whether new requests are served."""
        return not (self.engine.dead or self.draining)

    async def start(
        self,
        request: Request,
        request_id: str,
        body: GenerationRequest,
        prompts: Sequence[Prompt],
        params: SamplingParams,
    ) -> list[Deltas]:
        """Starts one engine request a prompt; if one is refused, the others are aborted.

        Raises:
            InvalidRequestError: a prompt cannot be served as it is.
            OverloadedError: too many requests wait already.
            EngineDeadError: the engine has failed.
            ApiError: 503, the server is shutting down.
        """
        log_as(request_id)
        priority = choose_priority(request, body.priority)
        if body.use_beam_search:
            for prompt in prompts:
                self._log_request(request_id, prompt, params)
            return [
                BeamSearchStream(self.engine, request_id, prompt, body, params, priority=priority)
                for prompt in prompts
            ]
        prepared = await self._prepare(params)
        streams: list[Deltas] = []
        try:
            for prompt in prompts:
                self._log_request(request_id, prompt, params)
                stream: Deltas = self.engine.generate(
                    request_id,
                    prompt.token_ids,
                    params,
                    prompt=prompt.text,
                    priority=priority,
                    cache_salt=body.cache_salt,
                    prepared=prepared,
                )
                if self.tracer is not None:
                    stream = self.tracer.follow(
                        stream,
                        request.headers,
                        request_id=request_id,
                        model=self.models.names[0],
                        params=params,
                        num_prompt_tokens=len(prompt.token_ids),
                    )
                streams.append(stream)
        except Exception as error:
            for started in streams:
                await started.aclose()
            if isinstance(error, EngineDeadError) and not self.engine.dead:
                raise ApiError(503, "The server is shutting down.") from None
            raise
        return streams

    async def _prepare(self, params: SamplingParams) -> PreparedParams:
        """Holds the parameters to the model, once for all prompts and off the event loop.

        Many long ``bad_words`` take their time. A grammar that has to be compiled gets one of a few threads
        of its own, so that expensive ones wait for each other and nobody else does.

        Raises:
            InvalidRequestError: they cannot be honoured.
            OverloadedError: too many grammars are being compiled.
        """
        output = params.structured_output
        if output is None or self.engine.knows_grammar(output):
            return await asyncio.to_thread(self.engine.prepare_params, params)
        try:
            return await self.grammar_threads.run(lambda: self.engine.prepare_params(params))
        except TimeoutError:
            raise bad_request(
                f"{output.param}: the {output.kind} could not be compiled within {GRAMMAR_TIMEOUT_S:g} s.",
                output.param,
            ) from None

    def _log_request(self, request_id: str, prompt: Prompt, params: SamplingParams) -> None:
        if not self.config.log.enable_log_requests:
            return
        most = self.config.log.max_log_len
        shown = prompt.token_ids[:most] if prompt.text is None else prompt.text[:most]
        logger.info("%s: %d prompt tokens, %s, prompt %r", request_id, len(prompt.token_ids), params, shown)


async def get_context(request: Request) -> ServerContext:
    """FastAPI dependency; ``async`` so that it does not go through a thread."""
    context: ServerContext = request.app.state.context
    return context


def make_context(engine: AsyncEngine, engine_config: EngineConfig, config: ServerConfig) -> ServerContext:
    """Puts a server together around a started engine; warns where the generic chat template has to serve.

    Raises:
        ConfigError: the chat template is not valid, or traces need an extra that is not installed.
    """
    model, max_model_len = engine_config.model.model, engine.info.max_model_len
    template = _choose_template(engine, config.api)
    return ServerContext(
        engine,
        config,
        ServedModels.choose(model, config.api.served_model_name, max_model_len),
        PromptMaker(engine.tokenizer, template, config.api, max_model_len),
        ResponseStore(
            entries=config.api.responses_store_size,
            max_bytes=config.api.responses_store_bytes,
            ttl_s=config.api.responses_store_ttl,
        ),
        AnswerFormats.choose(config.api, template),
        BackgroundPlaces(config.api.max_background_responses),
        RequestTracer(config.log.otlp_traces_endpoint) if config.log.otlp_traces_endpoint else None,
    )


def _choose_template(engine: AsyncEngine, config: ApiConfig) -> ChatTemplate | None:
    if engine.tokenizer is None:
        return None
    info = engine.info
    template = load_chat_template(
        engine.tokenizer,
        config.chat_template,
        model_type=info.model_type,
        model_name=info.model,
        content_format=config.chat_template_content_format,
    )
    if not template.is_default:
        return template
    if not config.default_chat_template:
        return None
    logger.warning(
        "the model has no chat template: a plain transcript serves (System: … User: … Assistant:). "
        "Give it the right one with --chat-template, or refuse chats with --no-default-chat-template"
    )
    return template
