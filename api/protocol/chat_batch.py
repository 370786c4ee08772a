"""Bodies of ``/v1/chat/completions/batch``: the answers are those of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from api.protocol.chat import ChatCompletionRequest, Messages

MAX_CONVERSATIONS = 1024
"""Conversations of one request at most."""


class ChatBatchRequest(ChatCompletionRequest):
    """A chat request with a list of conversations. There are no tools, one answer each, and no streams."""

    messages: Annotated[  # type: ignore[assignment]
        list[Messages], Field(min_length=1, max_length=MAX_CONVERSATIONS)
    ]

    def conversation(self, index: int) -> ChatCompletionRequest:
        """The chat request of one conversation."""
        declared = self.model_fields_set & ChatCompletionRequest.model_fields.keys() - {"messages"}
        fields = {name: getattr(self, name) for name in declared}
        return ChatCompletionRequest.model_construct(messages=self.messages[index], **fields)
