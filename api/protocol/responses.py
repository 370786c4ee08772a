"""Bodies of ``/v1/responses``: a request, the items of a conversation, and a response.

Items from clients are checked where they are read (:mod:`api.serving.response_input`); the models here are
what the server itself writes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from api.protocol.base import RequestModel, ResponseModel
from api.protocol.chat import ChatLogprob
from api.protocol.generation import TokenIds

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Items = Annotated[list[dict[str, Any]], Field(max_length=16384)]


class ReasoningOptions(RequestModel):
    """``effort`` reaches the chat template; summaries are never made, reasoning is given as it is."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextOptions(RequestModel):
    """``format`` is ``{"type": "text"}``, ``json_object`` or ``json_schema`` with name and schema."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponseStreamOptions(RequestModel):
    """Obfuscation is padding against eavesdroppers of a wire without TLS; none is sent."""

    include_obfuscation: bool | None = None


class ResponsesRequest(RequestModel):
    """A request for a response. The fields below ``cache_salt`` are this server's own, as for chats."""

    model: str | None = None
    input: str | Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    include: Annotated[list[str], Field(max_length=64)] | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = None

    cache_salt: str | None = None
    request_id: str | None = None
    priority: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=1024)] | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Annotated[list[str], Field(max_length=1024)] | None = None
    skip_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_response_messages: bool | None = None


PASSED_ON = (
    "model",
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "user",
    *list(ResponsesRequest.model_fields)[list(ResponsesRequest.model_fields).index("cache_salt") :],
)
"""Fields that a chat request has under the same name and with the same meaning."""


class OutputText(ResponseModel):
    """A message's text, with the logprobs of its tokens where they were asked for."""

    type: str = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[ChatLogprob] | None = None


class ReasoningText(ResponseModel):
    """What the model wrote for itself."""

    type: str = "reasoning_text"
    text: str


class OutputMessage(ResponseModel):
    """The answer proper."""

    id: str
    type: str = "message"
    role: str = "assistant"
    status: Status
    content: list[OutputText] = Field(default_factory=list)


class ReasoningItem(ResponseModel):
    """The reasoning before it."""

    id: str
    type: str = "reasoning"
    summary: list[Any] = Field(default_factory=list)
    content: list[ReasoningText] = Field(default_factory=list)
    status: Status


class FunctionCall(ResponseModel):
    """A call of a tool; ``arguments`` is JSON text."""

    id: str
    type: str = "function_call"
    call_id: str
    name: str
    arguments: str = ""
    status: Status


OutputItem = OutputMessage | ReasoningItem | FunctionCall


class InputTokensDetails(ResponseModel):
    """Of the input: read from the prefix cache, and written to it (always counted as 0)."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(ResponseModel):
    """Of the output: tokens of reasoning."""

    reasoning_tokens: int


class ResponseUsage(ResponseModel):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class RawMessage(ResponseModel):
    """What the model was given or has generated: its text, and the tokens that it is made of."""

    type: str = "raw_message_tokens"
    message: str
    tokens: list[int]


class Response(ResponseModel):
    """A response. Times are in seconds since the epoch."""

    id: str
    object: str = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: bool
    error: dict[str, str] | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem] = Field(default_factory=list)
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    service_tier: str = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: str
    usage: ResponseUsage | None = None
    user: str | None
    input_messages: list[RawMessage] | None = None
    output_messages: list[RawMessage] | None = None

    @model_serializer(mode="wrap")
    def _without_null_messages(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # They are no part of OpenAI's API: shown only to those who asked for them.
        shown: dict[str, Any] = serialize(self)
        if self.input_messages is None:
            del shown["input_messages"], shown["output_messages"]
        return shown


class InputItemList(ResponseModel):
    """The input of a stored response, a page of it."""

    object: str = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(ResponseModel):
    """It is gone."""

    id: str
    object: str = "response"
    deleted: bool = True


class InputTokenCount(ResponseModel):
    """What a request's prompt would weigh."""

    object: str = "response.input_tokens"
    input_tokens: int
