"""From a request's text or messages to prompt token ids, off the event loop.

Knows templates, special tokens and truncation. Does not know what is generated from the ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from api.errors import bad_request
from api.protocol.chat import ChatCompletionRequest, ChatMessage, ChatTemplateFields
from api.protocol.completions import MAX_PROMPTS, CompletionRequest
from api.protocol.generation import GenerationRequest
from api.server_config import ApiConfig
from api.serving.bounded_threads import BoundedThreads
from api.serving.tools import check_tools
from vllm_jax.tokenizer.base import Tokenizer, TruncationSide
from vllm_jax.tokenizer.chat_template import ChatTemplate, request_chat_template

T = TypeVar("T")
Tools = Sequence[Mapping[str, Any]] | None

_THREADS = 4
_TEMPLATE_THREADS = 4
TEMPLATE_TIMEOUT_S = 30.0
"""Seconds that the rendering of a request's own template may take."""
_TEXT_SLACK = 4
"""Tokenizers may drop characters (runs of spaces, say): only texts far above the limit are refused unread."""
_WHOLE_CHARS = 1 << 20
"""Texts up to this length are always encoded whole before they are truncated: that takes below a second."""
_MARGIN = 64
"""Tokens beside a cut through a text that may be others than in the whole text."""


@dataclass(frozen=True)
class Prompt:
    """Token ids, and the text they came from where there was one."""

    token_ids: list[int]
    text: str | None = None


class PromptMaker:
    """Renders and tokenizes in a small pool of threads."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        template: ChatTemplate | None,
        config: ApiConfig,
        max_model_len: int,
    ):
        self._tokenizer = tokenizer
        self._template = template
        self._config = config
        self._max_model_len = max_model_len
        self._max_chars = _TEXT_SLACK * max_model_len * _longest_piece(tokenizer) if tokenizer else 0
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="prompt")
        # Templates from requests stay out of the pool: one that loops for ever must not take its threads.
        self._template_threads = BoundedThreads(_TEMPLATE_THREADS, TEMPLATE_TIMEOUT_S)

    @property
    def has_template(self) -> bool:
        """Whether conversations can be rendered."""
        return self._template is not None

    @property
    def template_knows_tools(self) -> bool:
        """Whether tools are the template's own business."""
        return self._template is not None and self._template.knows_tools

    @property
    def template_text(self) -> str | None:
        """The Jinja text that renders conversations, or None."""
        return None if self._template is None else self._template.text

    @property
    def turn_end_ids(self) -> list[int]:
        """Tokens that end an answer by the template's own format, beside the model's EOS."""
        if self._template is None or self._tokenizer is None:
            return []
        found = [self._tokenizer.token_to_id(token) for token in self._template.stop_tokens]
        return [token_id for token_id in found if token_id is not None]

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- for the endpoints ------------------------------------------------------------------------

    async def chat(self, body: ChatCompletionRequest, tools: Tools = None) -> Prompt:
        """The prompt of a conversation, with ``tools`` as the template gets them.

        Raises:
            ApiError, InvalidRequestError: there is no template or tokenizer, or the messages do not fit it.
        """
        limit = self._truncation(body)

        def make() -> Prompt:
            text = self._render(body, body.messages, tools)
            side = self._side(body.truncation_side)
            ids = self._encode(text, bool(body.add_special_tokens), "messages", limit=limit, side=side)
            return Prompt(_truncate(ids, limit, side), text)

        return await self._rendered(body, make)

    async def completion(self, body: CompletionRequest, *, most: int = MAX_PROMPTS) -> list[Prompt]:
        """The prompts of a text completion, ``most`` at most, in order.

        Their text is there where they are to be echoed.

        Raises:
            ApiError: 400, a prompt is empty, or a text without a tokenizer.
        """
        limit = self._truncation(body)
        given = _prompt_list(body, most)

        def make() -> list[Prompt]:
            return [self._completion_prompt(prompt, body, limit) for prompt in given]

        return await self._in_pool(make)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. Raises ApiError (400) without a tokenizer."""
        return await self._in_pool(lambda: self._encode(text, add_special_tokens, "prompt"))

    async def encode_chat(
        self, body: ChatTemplateFields, messages: list[ChatMessage], *, add_special_tokens: bool
    ) -> list[int]:
        """Token ids of a conversation. Raises as :meth:`chat`."""
        tools = None if body.tools is None else [tool.declared for tool in check_tools(body.tools)]
        return await self._rendered(
            body, lambda: self._encode(self._render(body, messages, tools), add_special_tokens, "messages")
        )

    async def decode(self, token_ids: list[int]) -> str:
        """Text of token ids, special tokens included. Raises ApiError (400) without a tokenizer."""
        tokenizer = self._need_tokenizer("tokens")
        return await self._in_pool(lambda: tokenizer.decode(token_ids, skip_special_tokens=False))

    def token_text(self, token_id: int) -> str | None:
        """Text of one token, or None without a tokenizer."""
        return None if self._tokenizer is None else self._tokenizer.token_str(token_id)

    def token_bytes(self, token_id: int) -> bytes | None:
        """Bytes of one token, which may be a part of a character; None without a tokenizer."""
        return None if self._tokenizer is None else self._tokenizer.token_bytes(token_id)

    def pieces(self, token_ids: list[int]) -> list[str]:
        """The vocabulary's own spelling of each token; empty for an id it lacks."""
        return [self._need_tokenizer("tokens").id_to_piece(i) or "" for i in token_ids]

    # --- in the threads ---------------------------------------------------------------------------

    def _completion_prompt(
        self, prompt: str | list[int], body: CompletionRequest, limit: int | None
    ) -> Prompt:
        side = self._side(body.truncation_side)
        if isinstance(prompt, str):
            add_special_tokens = body.add_special_tokens is not False
            ids = self._encode(prompt, add_special_tokens, "prompt", limit=limit, side=side)
        else:
            ids = prompt
        cut = _truncate(ids, limit, side)
        if isinstance(prompt, str) and len(cut) == len(ids):
            return Prompt(cut, prompt)
        if body.echo and self._tokenizer is not None:
            return Prompt(cut, self._tokenizer.decode(cut, skip_special_tokens=False))
        return Prompt(cut)

    def _render(self, body: ChatTemplateFields, messages: list[ChatMessage], tools: Tools) -> str:
        template = self._template
        tokenizer = self._need_tokenizer("messages")
        if body.chat_template is not None:
            if not self._config.trust_request_chat_template:
                raise bad_request(
                    "chat_template: this server refuses an untrusted chat template; it was not started with "
                    "--trust-request-chat-template.",
                    "chat_template",
                )
            template = request_chat_template(
                tokenizer, body.chat_template, content_format=self._config.chat_template_content_format
            )
        if template is None:
            raise bad_request(
                "The model has no chat template, and the server runs with --no-default-chat-template. "
                "Start it with --chat-template, or use /v1/completions.",
                "messages",
            )
        continuing = bool(body.continue_final_message)
        opened = body.add_generation_prompt
        return template.render(
            [message.given for message in messages],
            tools=tools,
            documents=body.documents,
            add_generation_prompt=not continuing if opened is None else opened,
            continue_final_message=continuing,
            template_kwargs=self._template_kwargs(body),
        )

    def _template_kwargs(self, body: ChatTemplateFields) -> dict[str, Any]:
        kwargs: dict[str, Any] = dict(self._config.default_chat_template_kwargs)
        if body.reasoning_effort is not None:
            kwargs["reasoning_effort"] = body.reasoning_effort
            kwargs["enable_thinking"] = body.reasoning_effort != "none"
        return kwargs | (body.chat_template_kwargs or {})

    def _encode(
        self,
        text: str,
        add_special_tokens: bool,
        field: str,
        *,
        limit: int | None = None,
        side: TruncationSide = "left",
    ) -> list[int]:
        """Token ids of a text.

        Where ``limit`` of them are to be kept of a very long text, only its ``side`` that is kept is encoded,
        with so much more that the cut does not reach them; they are more than ``limit`` then.
        """
        tokenizer = self._need_tokenizer(field)
        if limit is not None:
            most = max(self._max_chars, _WHOLE_CHARS)
            while True:
                kept = _kept_text(text, most, side)
                ids = tokenizer.encode(kept, add_special_tokens=add_special_tokens)
                if len(kept) == len(text) or len(ids) >= limit + _MARGIN:
                    return ids
                most *= 4
        if len(text) > self._max_chars:  # would only cost time: it cannot fit
            raise bad_request(
                f"This model's maximum context length is {self._max_model_len} tokens. However, your prompt "
                f"contains {len(text)} characters, which cannot fit. Please shorten the prompt.",
                "input_tokens",
            )
        return tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def _need_tokenizer(self, field: str) -> Tokenizer:
        if self._tokenizer is None:
            raise bad_request(
                f"{field} needs a tokenizer, and this server runs with --skip-tokenizer-init: "
                "send token ids to /v1/completions.",
                field,
            )
        return self._tokenizer

    def _truncation(self, body: GenerationRequest) -> int | None:
        """Most prompt tokens to keep, or None. Raises ApiError (400)."""
        limit = body.truncate_prompt_tokens
        if limit is None:
            return None
        if limit == -1:
            return self._max_model_len - 1
        if not 1 <= limit <= self._max_model_len:
            raise bad_request(
                f"truncate_prompt_tokens must be -1, or between 1 and the maximum context length of "
                f"{self._max_model_len} tokens, got {limit}.",
                "truncate_prompt_tokens",
            )
        return limit

    def _side(self, asked: TruncationSide | None) -> TruncationSide:
        """Where a prompt is cut off: "left" keeps its end."""
        return asked or (self._tokenizer.truncation_side if self._tokenizer is not None else "left")

    async def _rendered(self, body: ChatTemplateFields, make: Callable[[], T]) -> T:
        """Runs ``make``, which renders. Raises ApiError (400): the request's own template takes too long."""
        if body.chat_template is None:
            return await self._in_pool(make)
        try:
            return await self._template_threads.run(make)
        except TimeoutError:
            raise bad_request(
                f"chat_template: rendering took longer than {TEMPLATE_TIMEOUT_S:g} s.", "chat_template"
            ) from None

    async def _in_pool(self, make: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, make)


def _truncate(ids: list[int], limit: int | None, side: TruncationSide) -> list[int]:
    if limit is None or len(ids) <= limit:
        return ids
    return ids[-limit:] if side == "left" else ids[:limit]


def _kept_text(text: str, most: int, side: TruncationSide) -> str:
    """At most ``most`` characters of a text, cut in front of a space where one is near: words stay whole."""
    if len(text) <= most:
        return text
    if side == "left":
        start = len(text) - most
        return text[max(start, text.find(" ", start, start + most // 4)) :]
    space = text.rfind(" ", most - most // 4, most)
    return text[: space if space != -1 else most]


def _longest_piece(tokenizer: Tokenizer) -> int:
    """Most characters of one token."""
    return max(len(tokenizer.id_to_piece(i) or "") for i in range(tokenizer.max_token_id + 1))


def _prompt_list(body: CompletionRequest, most: int) -> list[str | list[int]]:
    """The prompts one by one. Raises ApiError (400): there is none, one is empty, or there are too many."""
    prompt = body.prompt
    prompts: list[Any]
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        prompts = [prompt]
    else:
        prompts = list(prompt or ())
    if not prompts or any(not p for p in prompts):
        raise bad_request("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if len(prompts) > most:
        raise bad_request(f"prompt must have at most {most} prompts, got {len(prompts)}.", "prompt")
    return prompts
