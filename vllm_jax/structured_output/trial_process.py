"""Compiles grammars to see whether that ends: a script for a process that dies of those that do not.

Knows nothing of this package, so that it starts in a tenth of a second; :mod:`.trials` starts it and speaks
with it over pipes. The first line is a JSON object:

    {"seconds": 10, "bytes": 1073741824, "limits": {…}, "size": 32000, "special": {"0": "<s>", …}}

Then each line is a grammar as a JSON string. The answer to each line is a byte, written when the process is
ready, and when a grammar has been compiled or refused. Whatever takes more time or memory ends the process
instead, and so does a nesting that the native stack cannot hold: nothing else can end a compilation.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

STACK_BYTES = 4 << 20
"""Of the compiling thread: half of what the server has for the same grammar afterwards."""


class _Bytes:
    """A tokenizer with the special tokens of the model's; its only texts are the 256 bytes.

    What a vocabulary adds to a compilation is bounded by the engine's own limits.
    """

    bos_token_id = None

    def __init__(self, size: int, special: dict[int, str]):
        tokens = [special.get(i, "").encode() for i in range(size)]
        tokens += [bytes([i]) for i in range(256)]
        self.eos_token_id = len(tokens)
        self.tokens = [*tokens, b"<|end of text|>"]
        self.special_token_ids = [*sorted(special), self.eos_token_id]
        self._first = size

    def __call__(self, text: Any) -> list[int]:
        return [self._first + byte for byte in (text if isinstance(text, bytes) else text.encode())]


def main() -> None:
    """Serves until its input ends."""
    setup = json.loads(sys.stdin.readline())
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY or most > setup["bytes"]:
        resource.setrlimit(resource.RLIMIT_DATA, (setup["bytes"], most))
    tokens = _Bytes(setup["size"], {int(i): text for i, text in setup["special"].items()})
    tokenizer = LLTokenizer(TokenizerWrapper(tokens), eos_token=[tokens.eos_token_id])
    limits = LLParserLimits(**setup["limits"])
    threading.stack_size(STACK_BYTES)
    _answer()
    for line in sys.stdin:
        # Processor time, so that a busy machine refuses nothing. The signal ends the process, wherever it is.
        signal.setitimer(signal.ITIMER_PROF, setup["seconds"])
        thread = threading.Thread(target=_compile, args=(tokenizer, json.loads(line), limits))
        thread.start()
        thread.join()
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer()


def _answer() -> None:
    sys.stdout.write(".")
    sys.stdout.flush()


def _compile(tokenizer: LLTokenizer, grammar: str, limits: LLParserLimits) -> None:
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()


if __name__ == "__main__":
    main()
