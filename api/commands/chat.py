"""``vllm-jax chat`` and ``vllm-jax complete``: talk to a server from a terminal or a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from api.commands.arguments import parse
from api.commands.openai_client import AnswerConfig, ConnectionConfig, OpenAIClient, Piece
from vllm_jax.errors import ConfigError

_ALIASES = {"-q": "--quick", "--model": "--model-name"}
_HINT = "Ctrl-C stops an answer, Ctrl-D leaves."

CHAT = """Chat with a server. The conversation is kept; answers are streamed.

In a conversation: /clear forgets it, /exit leaves, Ctrl-C stops an answer.

One answer: vllm-jax chat --quick "Good morning!", or echo "Good morning!" | vllm-jax chat"""

COMPLETE = """Complete texts with a server, one after the other; without a chat template.

One completion: vllm-jax complete --quick "Once upon a time", or vllm-jax complete < text.txt"""


@dataclass(frozen=True)
class ChatConfig:
    """The conversation."""

    system_prompt: str | None = None
    """System message at its start."""
    quick: str | None = None
    """Send this message, print the answer and leave. Also -q."""


@dataclass(frozen=True)
class Chat:
    """The flags of ``vllm-jax chat``."""

    chat: ChatConfig = field(default_factory=ChatConfig)
    server: ConnectionConfig = field(default_factory=ConnectionConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)


@dataclass(frozen=True)
class CompleteConfig:
    """The text."""

    quick: str | None = None
    """Complete this text, print the completion and leave. Also -q."""


@dataclass(frozen=True)
class Complete:
    """The flags of ``vllm-jax complete``."""

    complete: CompleteConfig = field(default_factory=CompleteConfig)
    server: ConnectionConfig = field(default_factory=ConnectionConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)


def chat(argv: Sequence[str]) -> int:
    """Runs ``vllm-jax chat ARGV``; the exit code.

    Raises:
        ConfigError: the server cannot be reached or refuses; not within a conversation, which goes on.
    """
    config = parse(Chat, argv, prog="vllm-jax chat", description=CHAT, aliases=_ALIASES)
    system = config.chat.system_prompt
    start = [] if system is None else [{"role": "system", "content": system}]
    messages = list(start)
    client = OpenAIClient(config.server)

    def answer(text: str) -> None:
        messages.append({"role": "user", "content": text})
        said = ""
        try:
            said = _show(client.chat(messages, config.answer.body))
        finally:
            if said:
                messages.append({"role": "assistant", "content": said})
            else:
                messages.pop()  # a message without an answer would be sent again and again
        _say_stats(client, config.answer.stats)

    def clear() -> None:
        messages[:] = start

    return _talk(client, config.chat.quick, answer, clear)


def complete(argv: Sequence[str]) -> int:
    """Runs ``vllm-jax complete ARGV``; the exit code.

    Raises:
        ConfigError: as :func:`chat`.
    """
    config = parse(Complete, argv, prog="vllm-jax complete", description=COMPLETE, aliases=_ALIASES)
    client = OpenAIClient(config.server)

    def answer(text: str) -> None:
        _show(client.complete(text, config.answer.body))
        _say_stats(client, config.answer.stats)

    return _talk(client, config.complete.quick, answer, lambda: None)


def _talk(
    client: OpenAIClient, quick: str | None, answer: Callable[[str], None], clear: Callable[[], None]
) -> int:
    try:
        if quick is None and not sys.stdin.isatty():
            quick = sys.stdin.read().strip("\n")
            if not quick:
                raise ConfigError("there is nothing to answer: the input is empty")
        if quick is not None:
            answer(quick)
            return 0
        print(f"{client.model}. /clear forgets, /exit leaves. {_HINT}", file=sys.stderr)
        for text in _typed():
            if text == "/clear":
                clear()
                continue
            try:
                answer(text)
            except ConfigError as error:
                print(f"vllm-jax: error: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                print("\n(stopped)", file=sys.stderr)
        return 0
    finally:
        client.close()


def _typed() -> Iterator[str]:
    """What is typed, line by line, until /exit or the end."""
    with contextlib.suppress(ImportError):  # not everywhere; lines can be edited where it is
        import readline  # noqa: F401
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print(f"\n({_HINT})", file=sys.stderr)
            continue
        if text in ("/exit", "/quit"):
            return
        if text:
            yield text


def _show(pieces: Iterator[Piece]) -> str:
    """Prints an answer as it comes and returns its text; reasoning goes to stderr."""
    said = ""
    thinking = False
    try:
        for piece in pieces:
            if piece.reasoning:
                thinking = True
                print(_harmless(piece.reasoning, sys.stderr.isatty()), end="", file=sys.stderr, flush=True)
            if piece.text:
                if thinking:
                    print(file=sys.stderr, flush=True)
                    thinking = False
                said += piece.text
                print(_harmless(piece.text, sys.stdout.isatty()), end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print(" (stopped)", file=sys.stderr, end="")
    print(flush=True)
    return said


def _harmless(text: str, terminal: bool) -> str:
    """``text`` without control characters where a terminal would obey them."""
    if not terminal:
        return text
    return "".join(c for c in text if c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f"))


def _say_stats(client: OpenAIClient, wanted: bool) -> None:
    if wanted:
        print(f"({client.stats})", file=sys.stderr)
