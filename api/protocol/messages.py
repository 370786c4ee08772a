"""Bodies of ``/v1/messages`` (Anthropic's API): a request, a message, and a token count.

Content blocks from clients are checked where they are read (:mod:`api.serving.message_input`); the models of
blocks here are what the server itself writes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.protocol.base import RequestModel, ResponseModel
from api.protocol.generation import TokenIds
from api.protocol.message_blocks import unknown_keys

Block = dict[str, Any]
Blocks = Annotated[list[Block], Field(max_length=4096)]

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class InputMessage(RequestModel):
    """One turn: a text, or blocks of text, tool use, tool results and thinking."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class ThinkingOptions(RequestModel):
    """ "enabled" and "disabled" reach the chat template as ``enable_thinking``; there is no budget."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputOptions(RequestModel):
    """``effort`` reaches the chat template; ``format`` is ``{"type": "json_schema", "schema": ...}``."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class PromptFields(RequestModel):
    """What makes the prompt; a count of tokens needs nothing else."""

    model: str
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=16384)]
    system: str | Blocks | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def unknown(self) -> set[str]:
        """Fields, and keys inside of blocks and tools, that nobody knows."""
        return super().unknown | set(unknown_keys(self))


class MessagesRequest(PromptFields):
    """A request for a message. The fields below ``metadata`` are this server's own, as for chats."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Field(max_length=1024)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None

    cache_salt: str | None = None
    request_id: str | None = None
    priority: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Annotated[list[str], Field(max_length=1024)] | None = None
    skip_special_tokens: bool | None = None


class TextBlock(ResponseModel):
    """Text of the answer."""

    type: str = "text"
    text: str


class ThinkingBlock(ResponseModel):
    """What the model wrote for itself. It is not signed: nobody checks it when it comes back."""

    type: str = "thinking"
    thinking: str
    signature: str = ""


class ToolUseBlock(ResponseModel):
    """A call of a tool."""

    type: str = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(ResponseModel):
    """Tokens. What was read from the prefix cache or written to it is not part of ``input_tokens``."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int


class Message(ResponseModel):
    """The answer."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock] = Field(default_factory=list)
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class TokenCount(ResponseModel):
    """What a request's prompt would weigh."""

    input_tokens: int
