"""English word forms: third person, -ing, past, plural, "a" or "an", contractions. Knows no lexicon."""

from __future__ import annotations

from dataclasses import dataclass

VOWELS = "aeiou"


def add_s(word: str) -> str:
    """The third person of a verb or the plural of a noun."""
    if word.endswith(("s", "sh", "ch", "x", "z")) or (word.endswith("o") and word[-2] not in VOWELS):
        return word + "es"
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def article(phrase: str) -> str:
    """ "a" or "an" before ``phrase``, by sound."""
    word = phrase.split()[0].lower()
    if word.startswith(("uni", "use", "euro")):
        return "a"
    return "an" if word[0] in VOWELS or word == "hour" else "a"


@dataclass(frozen=True)
class EnglishVerb:
    """A verb, perhaps with a particle (``wait for``); only its first word is inflected.

    ``past`` and ``doubles`` (sit -> sitting) are given where they are irregular.
    """

    base: str
    past_form: str = ""
    doubles: bool = False
    third: str = ""

    def _inflect(self, form: str) -> str:
        _, _, particle = self.base.partition(" ")
        return f"{form} {particle}".strip()

    @property
    def _head(self) -> str:
        return self.base.split()[0]

    @property
    def third_person(self) -> str:
        """``goes``."""
        return self._inflect(self.third or add_s(self._head))

    @property
    def ing(self) -> str:
        """``going``."""
        head = self._head
        if self.doubles:
            head += head[-1]
        elif head.endswith("e") and not head.endswith("ee"):
            head = head[:-1]
        return self._inflect(head + "ing")

    @property
    def past(self) -> str:
        """``went``."""
        if self.past_form:
            return self._inflect(self.past_form)
        head = self._head
        if head.endswith("y") and head[-2] not in VOWELS:
            return self._inflect(head[:-1] + "ied")
        if self.doubles:
            head += head[-1]
        return self._inflect(head + ("d" if head.endswith("e") else "ed"))


_CONTRACTIONS = (
    ("I am ", "I'm "),
    ("I will ", "I'll "),
    ("I would ", "I'd "),
    ("you are ", "you're "),
    ("you will ", "you'll "),
    ("he is ", "he's "),
    ("she is ", "she's "),
    ("it is ", "it's "),
    ("that is ", "that's "),
    ("we are ", "we're "),
    ("we will ", "we'll "),
    ("they are ", "they're "),
    ("they will ", "they'll "),
    ("he will ", "he'll "),
    ("she will ", "she'll "),
    ("there is ", "there's "),
    ("where is ", "where's "),
    ("what is ", "what's "),
    ("who is ", "who's "),
    (" do not ", " don't "),
    (" does not ", " doesn't "),
    (" did not ", " didn't "),
    (" is not ", " isn't "),
    (" are not ", " aren't "),
    (" will not ", " won't "),
    (" would not ", " wouldn't "),
    (" was not ", " wasn't "),
    (" were not ", " weren't "),
    (" could not ", " couldn't "),
    (" cannot ", " can't "),
    (" must not ", " mustn't "),
    (" should not ", " shouldn't "),
)


def contract(sentence: str) -> str:
    """Contracts what spoken English contracts: ``I do not know`` -> ``I don't know``.

    One contraction a subject: ``he is not`` becomes ``he isn't``, not ``he's not``.
    """
    padded = " " + sentence[0].lower() + sentence[1:] if not sentence.startswith("I ") else " " + sentence
    for full, short in reversed(_CONTRACTIONS):
        stem = full if full.startswith(" ") else " " + full
        target = short if short.startswith(" ") else " " + short
        padded = padded.replace(stem, target)
    text = padded[1:]
    if text.startswith("do not "):
        text = "don't " + text[len("do not ") :]
    return text[0].upper() + text[1:]
