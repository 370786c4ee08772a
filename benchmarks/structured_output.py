"""What structured output costs the host: compiling, and the next masks of many sequences, in milliseconds.

    python benchmarks/structured_output.py [--tokenizer DIRECTORY] [--sequences 64] [--steps 60]

Without a directory the vocabulary is made up of 128,000 byte strings from the Python sources installed here.
Sequences sample uniformly among the allowed tokens, which is harder than a model's answer: strings get long
and strange.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sysconfig
import time
from collections import Counter
from pathlib import Path

import numpy as np

from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.grammar import GrammarState, MaskMaker
from vllm_jax.structured_output.vocabulary import TokenTexts, Vocabulary
from vllm_jax.structured_output_params import StructuredOutput
from vllm_jax.tokenizer.loader import load_tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}},
        "address": {
            "anyOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "properties": {
                        "street": {"type": "string"},
                        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
                    },
                    "required": ["street", "zip"],
                    "additionalProperties": False,
                },
            ]
        },
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}

CASES = {
    "schema": StructuredOutput(json_schema=json.dumps(PERSON)),
    "any object": StructuredOutput(json_object=True),
    "e-mail": StructuredOutput(regex=r"[a-z0-9._-]{1,30}@[a-z0-9-]{1,30}\.(com|org|net)"),
    "words": StructuredOutput(regex=r"(\w+[ ,.])*"),
    "choice of 1000": StructuredOutput(choice=tuple(f"option {i}" for i in range(1000))),
    "arithmetic": StructuredOutput(
        grammar='start: term ("+" term)*\nterm: factor ("*" factor)*\nfactor: /[0-9]+/ | "(" start ")"'
    ),
}


class MadeUpTokens:
    """128,000 tokens: every byte, and the most frequent words of the installed Python sources."""

    special_token_ids = frozenset({0})

    def __init__(self, size: int = 128_000):
        words: Counter[str] = Counter()
        for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py"))[:6000]:
            words.update(
                re.findall(
                    r" ?[A-Za-z]+| ?\d{1,3}|\s+| ?[^\sA-Za-z0-9]{1,4}", path.read_text(errors="ignore")
                )
            )
        single = [bytes([i]) for i in range(256)]
        frequent = [word.encode()[:32] for word, _ in words.most_common()]
        tokens = dict.fromkeys([b"</s>", *single, *frequent])
        self.tokens = list(tokens)[:size]

    def token_bytes(self, token_id: int) -> bytes:
        return self.tokens[token_id]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [1 + byte for byte in text.encode()]


def pick(state: GrammarState, rng: np.random.Generator) -> int:
    return int(rng.choice(np.flatnonzero(np.unpackbits(state.mask.view(np.uint8), bitorder="little"))))


def measure(compiler: GrammarCompiler, case: StructuredOutput, sequences: int, steps: int) -> str:
    started = time.perf_counter()
    grammar = compiler.compile(case)
    compiled = time.perf_counter() - started
    rng, masks = np.random.default_rng(0), MaskMaker(os.cpu_count() or 1)
    states = [grammar.start(frozenset({0}), frozenset()) for _ in range(sequences)]
    seconds = []
    for _ in range(steps):
        picks = []
        for i, state in enumerate(states):
            token = pick(state, rng)
            if token == 0 or state.finished:
                states[i] = grammar.start(frozenset({0}), frozenset())
                token = pick(states[i], rng)
            picks.append(token)
        started = time.perf_counter()
        masks.make([state for state, token in zip(states, picks, strict=True) if state.consume(token)])
        seconds.append(time.perf_counter() - started)
    ms = np.array(seconds) * 1e3
    return (
        f"compile {compiled * 1e3:8.1f}   step median {np.median(ms):6.2f}   mean {ms.mean():6.2f}   "
        f"max {ms.max():6.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, help="a directory with a tokenizer")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    if args.tokenizer is None:
        made_up = MadeUpTokens()
        texts: TokenTexts = made_up
        vocabulary = Vocabulary(texts, len(made_up.tokens), {0})
    else:
        tokenizer = load_tokenizer(args.tokenizer)
        vocabulary = Vocabulary(tokenizer, tokenizer.max_token_id + 1, {tokenizer.eos_token_id or 0})
    compiler = GrammarCompiler(vocabulary)
    started = time.perf_counter()
    compiler.compile(StructuredOutput(regex="a"))  # views of the vocabulary, and the process for trials
    print(f"{vocabulary.size} tokens, prepared in {(time.perf_counter() - started) * 1e3:.0f} ms")
    print(f"{args.sequences} sequences, {os.cpu_count()} threads; milliseconds")
    for name, case in CASES.items():
        print(f"{name:16} {measure(compiler, case, args.sequences, args.steps)}")


if __name__ == "__main__":
    main()
