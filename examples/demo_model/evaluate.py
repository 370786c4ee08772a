"""Measures a demo checkpoint on what training never showed.

    python -m examples.demo_model.evaluate [DIRECTORY]

Knows the measures: exact match of whole greedy answers on held-out sentences, and the fallback rate on
held-out untranslatable inputs. Does not generate token by token: a greedy answer equals the reference if and
only if every reference token, EOS included, is the most likely one behind the reference's own prefix.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers import Tokenizer

from examples.demo_model.chats import Chat, ChatMaker, seed_chats
from examples.demo_model.grammar import Sentence, pair_is_held_out
from examples.demo_model.questions import single_word
from examples.demo_model.tokens import PAD_ID, encode_chat
from examples.demo_model.untranslatable import FALLBACK
from vllm_jax.models.load import load_model

SEED = 20_240
ROWS = 32


@dataclass
class Tally:
    """How many of a kind were right, and the wrong ones as ``(prompt, expected, most likely tokens)``."""

    right: int = 0
    total: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Fraction that was right."""
        return self.right / max(self.total, 1)


@dataclass(frozen=True)
class Case:
    """A chat whose last answer is judged, and the measure it counts for."""

    measure: str
    chat: Chat


def _kind(sentence: Sentence) -> str:
    return "pairs" if any(pair_is_held_out(pair) for pair in sentence.links) else "sentences"


def held_out_cases(count: int, seed: int = SEED) -> list[Case]:
    """Cases of every measure: ``count`` translations, and half as many untranslatable inputs."""
    maker, rng = ChatMaker(held_out=True), Random(seed)
    cases = []
    for _ in range(count):
        sentence = maker.sentence(rng)
        text, answer = maker.surface(rng, sentence)
        turn = (maker.wrapped(rng, text), answer)
        cases.append(Case(_kind(sentence), Chat((turn,), rng.choice((None, *_systems())))))
    for _ in range(count // 4):
        text = maker.wrapped(rng, maker.untranslatable.user_message(rng))
        cases.append(Case("untranslatable", Chat(((text, FALLBACK),), rng.choice((None, *_systems())))))
    for _ in range(count // 8):
        text, _ = maker.translation(rng)
        chat = Chat(((maker.to_another_language(rng, text), FALLBACK),))
        cases.append(Case("other languages", chat))
    for _ in range(count // 8):
        turns = tuple(maker.turn(rng, 0.1) for _ in range(3))
        cases.append(Case("third turns", Chat(turns, rng.choice((None, *_systems())))))
    for _ in range(count // 16):
        chat = maker.chat(rng, 0.1)
        if chat.raw:
            cases.append(Case("bare prompts", chat))
    vocabulary = {single_word(rng) for _ in range(20 * count)}
    for word in sorted(vocabulary, key=lambda w: w.en)[: count // 4]:
        cases.append(Case("single words", Chat(((word.en, word.it),))))
    return cases + [Case("seed conversations", chat) for chat in seed_chats()]


def _systems() -> tuple[str, ...]:
    return ("You are a helpful assistant that translates English to Italian.", "You are a helpful assistant.")


def evaluate(directory: Path, cases: list[Case], dtype: jnp.dtype) -> dict[str, Tally]:
    """Judges every case by the checkpoint in ``directory``, computed in ``dtype``."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    model = load_model(directory, config, dtype=dtype).model
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    graph, state = nnx.split(model)

    @partial(jax.jit, static_argnums=2)
    def most_likely(state: nnx.State, tokens: jax.Array, tail: int) -> jax.Array:
        merged: Any = nnx.merge(graph, state)
        hidden = jax.vmap(lambda row: merged(row)[0])(tokens)[:, -tail:]
        return jnp.argmax(merged.logits(hidden), axis=-1)

    tallies: dict[str, Tally] = defaultdict(Tally)
    encoded = [(case, encode_chat(tokenizer, case.chat)) for case in cases]
    by_length = defaultdict(list)
    for case, row in encoded:
        by_length[-(-len(row.ids) // 32) * 32].append((case, row))
    for length, group in sorted(by_length.items()):
        for start in range(0, len(group), ROWS):
            part = group[start : start + ROWS]
            tokens = np.full((ROWS, length), PAD_ID, np.int32)
            for r, (_, row) in enumerate(part):
                tokens[r, : len(row.ids)] = row.ids
            chosen = np.asarray(most_likely(state, tokens, length))
            for r, (case, row) in enumerate(part):
                first = len(row.ids) - 1
                while row.answer[first - 1]:
                    first -= 1
                guess = chosen[r, first - 1 : len(row.ids) - 1].tolist()
                tally = tallies[case.measure]
                tally.total += 1
                if guess == row.ids[first:]:
                    tally.right += 1
                else:
                    user, answer = case.chat.turns[-1]
                    tally.wrong.append((user, answer, tokenizer.decode(guess).strip()))
    return dict(tallies)


def translations(tallies: dict[str, Tally]) -> Tally:
    """The headline figure: all held-out translations of single sentences together."""
    both = [tallies[m] for m in ("sentences", "pairs") if m in tallies]
    return Tally(sum(t.right for t in both), sum(t.total for t in both))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", default=Path("vllm_jax/demo/mpt-demo-en-it"))
    parser.add_argument("--count", type=int, default=4000, help="held-out translations to judge")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--show", type=int, default=10, help="wrong answers to print for each measure")
    arguments = parser.parse_args()
    tallies = evaluate(arguments.directory, held_out_cases(arguments.count), jnp.dtype(arguments.dtype))
    for measure, tally in tallies.items():
        for user, answer, guess in tally.wrong[: arguments.show]:
            print(f"  [{measure}] {user!r}\n      expected {answer!r}\n      most likely {guess!r}")
    for measure, tally in {**tallies, "all single translations": translations(tallies)}.items():
        print(f"{measure:24} {tally.right:5} of {tally.total:5}  {100 * tally.rate:6.2f} %")


if __name__ == "__main__":
    main()
