"""Bodies of ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from api.protocol.base import RequestModel, ResponseModel
from api.protocol.chat import ChatTemplateFields, Messages
from api.protocol.generation import MAX_LIST


class TokenizeRequest(ChatTemplateFields):
    """Either ``prompt`` or ``messages``. Special tokens are added by default to a prompt only."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeResponse(ResponseModel):
    """``token_strs`` are the vocabulary's own strings, where they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class TokenizerInfo(ResponseModel):
    """What a client needs to count tokens and render conversations itself.

    The special tokens are those with a role ("bos_token", "eos_token", ...), by role; ``chat_template`` is
    the Jinja text that this server renders conversations with, or null.
    """

    model_config = ConfigDict(extra="allow")

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    truncation_side: str
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    chat_template: str | None


class DetokenizeRequest(RequestModel):
    """Token ids to decode."""

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_LIST, fail_fast=True)]


class DetokenizeResponse(ResponseModel):
    """Their text."""

    prompt: str
