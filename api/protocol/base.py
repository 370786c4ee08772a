"""What all request and answer models share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """A body from a client: unknown fields are kept (to be reported), NaN and infinity are refused."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())

    @property
    def given(self) -> dict[str, Any]:
        """Every field that the client set to something other than null, known or not, by name."""
        extra = self.model_extra or {}
        values = {n: extra[n] if n in extra else getattr(self, n) for n in self.model_fields_set}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def unknown(self) -> set[str]:
        """Names of the fields the model does not declare, of fields of its own too: "a", "a.b"."""
        extra = self.model_extra or {}
        names = set(extra)
        for name in self.model_fields_set - extra.keys():
            value = getattr(self, name)
            if isinstance(value, RequestModel):
                names |= {f"{name}.{inner}" for inner in value.unknown}
        return names


class ResponseModel(BaseModel):
    """An answer: built by the server from values that are right already."""

    model_config = ConfigDict(protected_namespaces=())


class StreamOptions(RequestModel):
    """``continuous_usage_stats`` sends usage with every chunk and means nothing without ``include_usage``."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class PromptTokensDetails(ResponseModel):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class CompletionTokensDetails(ResponseModel):
    """What the answer's tokens are."""

    reasoning_tokens: int


class Usage(ResponseModel):
    """Tokens of a request; a prompt counts once, however many sequences continue it."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None
