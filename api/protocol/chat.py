"""Bodies of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from api.protocol.base import RequestModel, ResponseModel, Usage
from api.protocol.generation import GenerationRequest
from vllm_jax.outputs import FinishReason

ChatFinishReason = FinishReason | Literal["tool_calls", "function_call"]


class ChatMessage(RequestModel):
    """One turn. Further fields go to the chat template as they are."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[str | dict[str, Any]], Field(max_length=4096)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    tool_call_id: str | None = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=16384)]


class ChatTemplateFields(RequestModel):
    """How messages become a prompt; shared with ``/tokenize``."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Annotated[list[dict[str, Any]], Field(max_length=4096)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    reasoning_effort: str | None = None


class ChatCompletionRequest(GenerationRequest, ChatTemplateFields):
    """A chat request."""

    messages: Messages
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    """Deprecated by OpenAI: ``tools``."""
    function_call: str | dict[str, Any] | None = None
    """Deprecated by OpenAI: ``tool_choice``."""
    include_reasoning: bool | None = None


class TopLogprob(ResponseModel):
    """A candidate: its text, natural-log probability and UTF-8 bytes."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    """A sampled token with the top candidates of its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(ResponseModel):
    """One entry a token."""

    content: list[ChatLogprob] | None = None


class FunctionCall(ResponseModel):
    """A call's name and its arguments: JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(ResponseModel):
    """A call with the id that its result will bear."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatResponseMessage(ResponseModel):
    """The answer's turn. ``reasoning_content`` is the older name of ``reasoning``."""

    role: str
    content: str | None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None
    function_call: FunctionCall | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @model_serializer(mode="wrap")
    def _without_null_calls(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Other nulls are shown, but clients ask whether this one is there.
        shown: dict[str, Any] = serialize(self)
        if self.tool_calls is None:
            shown.pop("tool_calls", None)
        return shown


class ChatChoice(ResponseModel):
    """One of the ``n`` answers."""

    index: int
    message: ChatResponseMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatCompletionResponse(ResponseModel):
    """The answer to a request that does not stream. ``created`` is in seconds since the epoch."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: Usage
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    prompt_token_ids: list[int] | None = None
    kv_transfer_params: dict[str, Any] | None = None
    metrics: dict[str, float] | None = None


class FunctionCallDelta(ResponseModel):
    """What is new of a call: the name once, the arguments in pieces."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(ResponseModel):
    """What is new of call number ``index``: id and type once."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class ChatDelta(ResponseModel):
    """What is new in a chunk."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    function_call: FunctionCallDelta | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(ResponseModel):
    """What is new in one of the ``n`` answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatCompletionChunk(ResponseModel):
    """One event of a stream."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    system_fingerprint: str | None = None
    usage: Usage | None = None
    metrics: dict[str, float] | None = None
    prompt_token_ids: list[int] | None = None
