"""A small client of the OpenAI API for the commands that talk to a server: streamed text, errors in one line.

Knows the HTTP of completions and chats. Does not know terminals.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from vllm_jax.errors import ConfigError


@dataclass(frozen=True)
class ConnectionConfig:
    """The server."""

    url: str = "http://localhost:8000/v1"
    """Base URL of the API, with /v1."""
    model_name: str | None = None
    """Model to ask for. The default is the first that the server lists."""
    api_key: str | None = None
    """Key for the server. The default is the variable VLLM_JAX_API_KEY, then OPENAI_API_KEY."""


@dataclass(frozen=True)
class AnswerConfig:
    """The answers."""

    max_tokens: int | None = None
    """Most tokens of an answer. The default is the server's."""
    temperature: float | None = None
    """Sampling temperature; 0 is greedy. The default is the model's."""
    top_p: float | None = None
    """Nucleus sampling. The default is the model's."""
    seed: int | None = None
    """Seed, for the same answer again."""
    stats: bool = False
    """Say on stderr how long the first token took, and the tokens a second."""

    @property
    def body(self) -> dict[str, Any]:
        """What is set, as fields of a request."""
        fields = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "seed")}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass
class Piece:
    """Something new of an answer."""

    text: str = ""
    reasoning: str = ""


@dataclass
class Stats:
    """Times of one answer, seconds, and its tokens as the server counted them."""

    began: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    last_s: float = 0.0
    tokens: int | None = None

    def __str__(self) -> str:
        if self.first_s is None:
            return "no text"
        said = f"first token after {self.first_s:.2f} s"
        if self.tokens is not None and self.tokens > 1 and self.last_s > self.first_s:
            rate = (self.tokens - 1) / (self.last_s - self.first_s)
            said += f", {self.tokens} tokens, {rate:.1f} tokens a second"
        return said


class OpenAIClient:
    """Asks one server. Every failure is a ConfigError whose text is for a person."""

    def __init__(self, config: ConnectionConfig):
        key = config.api_key or os.environ.get("VLLM_JAX_API_KEY") or os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(
                base_url=config.url.rstrip("/"), headers=headers, timeout=httpx.Timeout(10, read=None)
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise ConfigError(f"--url {config.url} or the API key is not valid: {error}") from None
        self._url = config.url
        self.model = config.model_name or self._first_model()
        self.stats = Stats()
        """Of the last answer."""

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def chat(self, messages: list[dict[str, str]], body: dict[str, Any]) -> Iterator[Piece]:
        """Streams the answer to a conversation. Raises ConfigError."""
        for choice in self._stream("/chat/completions", {"messages": messages, **body}):
            delta = choice.get("delta") or {}
            yield Piece(delta.get("content") or "", delta.get("reasoning") or "")

    def complete(self, prompt: str, body: dict[str, Any]) -> Iterator[Piece]:
        """Streams the completion of a text. Raises ConfigError."""
        for choice in self._stream("/completions", {"prompt": prompt, **body}):
            yield Piece(choice.get("text") or "")

    def _first_model(self) -> str:
        try:
            answer = self._http.get("/models")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        listed = self._json(answer).get("data") or []
        if answer.status_code != 200:
            raise ConfigError(self._refusal(answer))
        if not listed:
            raise ConfigError(f"{self._url} lists no model: name one with --model-name")
        return str(listed[0]["id"])

    def _stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The first choice of every event."""
        whole = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}, **body}
        stats = self.stats = Stats()
        try:
            with self._http.stream("POST", path, json=whole) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise ConfigError(self._refusal(answer))
                for line in answer.iter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line[5:].strip()
                    if data == "[DONE]":
                        return
                    event = json.loads(data)
                    if event.get("error"):
                        raise ConfigError(f"the server broke off: {event['error'].get('message')}")
                    if event.get("usage"):
                        stats.tokens = event["usage"].get("completion_tokens")
                    for choice in (event.get("choices") or [])[:1]:
                        now = time.perf_counter() - stats.began
                        stats.first_s = now if stats.first_s is None else stats.first_s
                        stats.last_s = now
                        yield choice
                raise ConfigError("the server broke off in the middle of its answer")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        except (ValueError, AttributeError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{self._url} does not answer as an OpenAI server: {error}") from None

    def _unreachable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"cannot reach {self._url}: {error}. Start a server (vllm-jax serve) or name one with --url"
        )

    def _refusal(self, answer: httpx.Response) -> str:
        error = self._json(answer).get("error")
        message = error.get("message") if isinstance(error, dict) else None
        return f"the server says ({answer.status_code}): {message or answer.reason_phrase}"

    @staticmethod
    def _json(answer: httpx.Response) -> dict[str, Any]:
        try:
            content = answer.json()
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}
