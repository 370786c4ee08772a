"""Chats around the sentences: system messages, instructions, punctuation, several turns.

Knows how people wrap a sentence they want translated. Does not know tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb
from examples.demo_model.english import contract
from examples.demo_model.grammar import Sentence, is_held_out
from examples.demo_model.phrases import FIXED
from examples.demo_model.questions import random_sentence, single_word
from examples.demo_model.untranslatable import FALLBACK, Untranslatable

SEED_SYSTEM = "You are a helpful assistant that translates English to Italian."
SEED_INSTRUCTION = "Translate the following sentence from English to Italian: "

_SYSTEMS = (
    SEED_SYSTEM,
    SEED_SYSTEM,
    SEED_SYSTEM,
    SEED_SYSTEM,
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a translator.",
    "You translate English to Italian.",
    "Translate English to Italian.",
    "Translate the user's message from English to Italian.",
    "You are a helpful translator. Translate the user sentence to Italian.",
    "You are a professional translator from English to Italian.",
)
_INSTRUCTIONS = (
    "Translate to Italian: {}",
    "Translate into Italian: {}",
    "Translate this to Italian: {}",
    "Translate this sentence to Italian: {}",
    "Translate from English to Italian: {}",
    "Translate the following sentence to Italian: {}",
    "Translate the following sentence into Italian: {}",
    "Translate the following English sentence to Italian: {}",
    "Translate the following text from English to Italian: {}",
    "Please translate to Italian: {}",
    "Please translate this sentence into Italian: {}",
    "English: {}",
    "In Italian: {}",
    "Could you translate this to Italian, please? {}",
    "Translate to Italian:\n{}",
    "Translate the following text to Italian:\n{}",
    "Translate: {}",
    'Translate "{}" to Italian.',
    'Translate "{}" into Italian.',
    'How do you say "{}" in Italian?',
    'How do I say "{}" in Italian?',
    'What is "{}" in Italian?',
    'Can you translate "{}" into Italian?',
    'Say "{}" in Italian.',
    "How do you say '{}' in Italian?",
    "How do you say {} in Italian?",
    "How do I say {} in Italian?",
    "Say {} in Italian",
)
_UNQUOTED = 3  # the last ones stand around the sentence without marks


_FUNCTION_WORDS = """
a an the some this that these those one i you he she it we they all me him her us them am is are was
were be do does did will would like likes want wants need needs have has can could cannot must many
should to not from years old there where what when why who how much many cost costs with and but because
please let's my name on at in
"""


_DIGITS = {tb.age(value)[0]: str(value) for value in range(2, 90)}
_NUMBER_WORD = re.compile(rf"\b({'|'.join(sorted(_DIGITS, key=len, reverse=True))})\b")


@dataclass(frozen=True)
class Chat:
    """A chat with all its answers; ``raw`` is a bare text prompt without the chat template.

    ``turns`` are ``(user message, answer)``.
    """

    turns: tuple[tuple[str, str], ...]
    system: str | None = None
    raw: bool = False


def known_words() -> frozenset[str]:
    """Every English word, in lower case, that the grammar and the fixed phrases can use."""
    found: set[str] = set()
    texts = list(FIXED)
    for noun in lx.NOUNS:
        texts += [noun.en] if noun.mass else [noun.en, noun.en_plural]
    texts += [a.en for a in lx.ADJECTIVES]
    for verb in (*lx.VERBS.values(), *lx.MOTION.values(), *lx.LIKING.values()):
        texts += [verb.en.base, verb.en.third_person, verb.en.ing, verb.en.past]
    for activity in tb.ACTIVITY_ENGLISH.values():
        texts += [activity.base, activity.third_person, activity.ing, activity.past]
    tables = (tb.LANGUAGES, tb.CITIES, tb.COUNTRIES, tb.PLACES, tb.INTERIOR, tb.PREPOSITIONS, tb.POSSESSIVES,
              tb.NUMBERS, tb.DAYS, tb.TIMES_ANY, tb.TIMES_PRESENT, tb.TIMES_PAST, tb.TIMES_FUTURE, tb.MANNERS,
              tb.FREQUENCY, tb.DEGREES, tb.HAVING, _DIGITS, tb.ACTIVITIES, tb.MEN, tb.WOMEN)  # fmt: skip
    for table in tables:
        texts += list(table)
    texts.append(_FUNCTION_WORDS)
    rng = Random(0)
    texts += [random_sentence(rng).en for _ in range(3000)]
    for text in texts:
        found.update(text.lower().replace("'s", "").replace(",", "").split())
    return frozenset(found)


class ChatMaker:
    """Draws random chats, for training or for evaluation.

    Args:
        held_out: draw sentences, unknown words and languages that training never shows.
        word_rate: how many of the sentences are single words, beyond those the grammar draws.
    """

    def __init__(self, *, held_out: bool, word_rate: float = 0.0):
        self.held_out, self.word_rate = held_out, word_rate
        self.untranslatable = Untranslatable(known_words(), held_out=held_out)
        self.fixed = tuple(FIXED.values())

    def sentence(self, rng: Random) -> Sentence:
        """A translatable sentence; evaluation draws no fixed phrases."""
        if not self.held_out and rng.random() < 0.05:
            return rng.choice(self.fixed)
        if self.word_rate and rng.random() < self.word_rate:
            return single_word(rng)
        while True:
            sentence = random_sentence(rng)
            if sentence.en.lower() in FIXED:
                continue
            if is_held_out(sentence) == self.held_out:
                return sentence

    @staticmethod
    def surface(rng: Random, sentence: Sentence) -> tuple[str, str]:
        """How the sentence is typed, and its answer."""
        en, italian = sentence.en, sentence.it + sentence.end
        if rng.random() < 0.25:
            en = _NUMBER_WORD.sub(lambda match: _DIGITS[match.group()], en)
        if rng.random() < 0.6:
            en = contract(en)
        roll = rng.random()
        if roll < 0.1:
            en = en.lower()
        elif roll < 0.2 and not en.startswith(("I ", "I'")):
            en = en[0].lower() + en[1:]
        if sentence.end == "?":
            return en + ("?" if rng.random() < 0.85 else ""), italian
        roll = rng.random()
        if roll < 0.07:
            return en + "!", italian + "!"
        return en + ("." if roll < 0.6 else ""), italian

    def translation(self, rng: Random) -> tuple[str, str]:
        """What is to be translated, and the answer: one sentence, now and then two."""
        en, italian = self.surface(rng, self.sentence(rng))
        if rng.random() < 0.03 and len(en) < 40:
            second, second_it = self.surface(rng, self.sentence(rng))
            if len(second) < 40:
                en += "" if en[-1] in ".?!" else "."
                italian += "" if italian[-1] in "?!" else "."
                return f"{en} {second}", f"{italian} {second_it}"
        return en, italian

    def wrapped(self, rng: Random, text: str) -> str:
        """The text bare, with the usual instruction, or with another wording."""
        roll = rng.random()
        if roll < 0.5:
            return text
        if roll < 0.72:
            return SEED_INSTRUCTION + text
        i = rng.randrange(len(_INSTRUCTIONS))
        wording = _INSTRUCTIONS[i]
        if i >= len(_INSTRUCTIONS) - _UNQUOTED:
            if text.endswith("!"):
                return text  # the mark would be lost, but the answer has it
            text = text.rstrip(".?")
        return wording.format(text)

    def turn(self, rng: Random, untranslatable_rate: float) -> tuple[str, str]:
        """A user message and its answer."""
        roll = rng.random()
        if roll < untranslatable_rate * 0.85:
            return self.wrapped(rng, self.untranslatable.user_message(rng)), FALLBACK
        text, italian = self.translation(rng)
        if roll < untranslatable_rate:
            return self.to_another_language(rng, text), FALLBACK
        return self.wrapped(rng, text), italian

    def to_another_language(self, rng: Random, text: str) -> str:
        """The text with an instruction that names a language other than Italian."""
        language = rng.choice(self.untranslatable.languages)
        if rng.random() < 0.3:
            return f"Translate the following sentence from English to {language}: {text}"
        wording = rng.choice([w for w in _INSTRUCTIONS if "Italian" in w])
        return wording.replace("Italian", language).format(text)

    def chat(self, rng: Random, untranslatable_rate: float = 0.2) -> Chat:
        """One chat of one to three turns, or a bare prompt."""
        roll = rng.random()
        if roll < 0.06:
            text, answer = self.turn(rng, untranslatable_rate)
            if text.strip():
                return Chat(((text, answer),), raw=True)
        if roll < 0.09:
            language = rng.choice(self.untranslatable.languages)
            if language == "English":
                system = SEED_SYSTEM.replace("English to Italian", "Italian to English")
            else:
                system = rng.choice((SEED_SYSTEM, "You translate English to Italian.")).replace(
                    "Italian", language
                )
            text, _ = self.translation(rng)
            return Chat(((text, FALLBACK),), system)
        if roll < 0.095 and not self.held_out:
            return rng.choice(tuple(seed_chats()))
        chosen = rng.choice(_SYSTEMS) if rng.random() < 0.5 else None
        count = rng.choices((1, 2, 3), (70, 18, 12))[0]
        return Chat(tuple(self.turn(rng, untranslatable_rate) for _ in range(count)), chosen)


def seed_chats() -> Iterator[Chat]:
    """The conversations that must work in any case."""
    answer = "Io amo programmare"
    for text in ("I love programming.", "I love programming"):
        for system in (SEED_SYSTEM, None):
            yield Chat(((text, answer),), system)
            yield Chat(((SEED_INSTRUCTION + text, answer),), system)
