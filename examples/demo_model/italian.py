"""Italian morphology: articles, contracted prepositions, plurals, agreement, conjugation.

Knows the regular rules and takes the exceptions as arguments. Knows no lexicon and no English.
The rules are those of any school grammar (e.g. Treccani, "La grammatica italiana").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Gender = Literal["m", "f"]

VOWELS = "aeiouàèéìòù"

IO, TU, LUI, NOI, VOI, LORO = range(6)
"""Grammatical persons, in the order of every conjugation table here."""

_ARTICULATED = {
    "di": {
        "il": "del",
        "lo": "dello",
        "l'": "dell'",
        "la": "della",
        "i": "dei",
        "gli": "degli",
        "le": "delle",
    },
    "a": {"il": "al", "lo": "allo", "l'": "all'", "la": "alla", "i": "ai", "gli": "agli", "le": "alle"},
    "da": {
        "il": "dal",
        "lo": "dallo",
        "l'": "dall'",
        "la": "dalla",
        "i": "dai",
        "gli": "dagli",
        "le": "dalle",
    },
    "in": {
        "il": "nel",
        "lo": "nello",
        "l'": "nell'",
        "la": "nella",
        "i": "nei",
        "gli": "negli",
        "le": "nelle",
    },
    "su": {
        "il": "sul",
        "lo": "sullo",
        "l'": "sull'",
        "la": "sulla",
        "i": "sui",
        "gli": "sugli",
        "le": "sulle",
    },
}


def starts_with_vowel(word: str) -> bool:
    """Whether a preceding article elides: a vowel, or a mute h."""
    w = word.lower()
    if w[0] == "i" and len(w) > 1 and w[1] in VOWELS:
        return False  # a semiconsonant, as in "lo iogurt"
    return w[0] in VOWELS or w[0] == "h"


def takes_lo(word: str) -> bool:
    """Whether a masculine word takes "lo"/"uno": s + consonant, z, gn, ps, pn, x, y, i + vowel."""
    w = word.lower()
    if w[0] == "s" and len(w) > 1 and w[1] not in VOWELS:
        return True
    if w[0] == "i" and len(w) > 1 and w[1] in VOWELS:
        return True
    return w[0] in "zxy" or w[:2] in ("gn", "ps", "pn")


def definite_article(word: str, gender: Gender, plural: bool) -> str:
    """The definite article before ``word``: il, lo, l', la, i, gli or le."""
    if gender == "f":
        return "le" if plural else ("l'" if starts_with_vowel(word) else "la")
    if starts_with_vowel(word) or takes_lo(word):
        return "gli" if plural else ("l'" if starts_with_vowel(word) else "lo")
    return "i" if plural else "il"


def indefinite_article(word: str, gender: Gender) -> str:
    """The indefinite article before ``word``: un, uno, una or un'."""
    if gender == "f":
        return "un'" if starts_with_vowel(word) else "una"
    return "uno" if takes_lo(word) else "un"


def glue(article: str, phrase: str) -> str:
    """Joins an article and what follows; an elided article takes no space."""
    return article + phrase if article.endswith("'") else f"{article} {phrase}"


def with_definite(phrase: str, gender: Gender, plural: bool) -> str:
    """``amico`` -> ``l'amico``."""
    return glue(definite_article(phrase, gender, plural), phrase)


def with_indefinite(phrase: str, gender: Gender) -> str:
    """``amica`` -> ``un'amica``."""
    return glue(indefinite_article(phrase, gender), phrase)


def with_preposition(preposition: str, phrase: str, gender: Gender, plural: bool) -> str:
    """A preposition, the definite article and ``phrase``, contracted where Italian contracts.

    ``di`` + ``acqua`` -> ``dell'acqua``; ``con`` + ``amico`` -> ``con l'amico``;
    ``vicino a`` + ``stazione`` -> ``vicino alla stazione``.
    """
    article = definite_article(phrase, gender, plural)
    head, _, last = preposition.rpartition(" ")
    contracted = _ARTICULATED.get(last)
    if contracted is None:
        return f"{preposition} {glue(article, phrase)}"
    return f"{head} {glue(contracted[article], phrase)}".strip()


def before(preposition: str, phrase: str) -> str:
    """A preposition before a phrase without definite article; "a" becomes "ad" before another a."""
    if preposition.split()[-1] == "a" and phrase[0].lower() == "a":
        preposition += "d"
    return f"{preposition} {phrase}"


def joined(first: str, second: str) -> str:
    """``first e second``, with "ed" before another e."""
    return f"{first} {'ed' if second[0].lower() in 'eè' else 'e'} {second}"


def quello(phrase: str, gender: Gender, plural: bool, stem: str = "que") -> str:
    """The demonstrative "quello" before ``phrase``; with ``stem="be"`` the adjective "bello"."""
    endings = {"il": "l", "lo": "llo", "l'": "ll'", "la": "lla", "i": "i", "gli": "gli", "le": "lle"}
    return glue(stem + endings[definite_article(phrase, gender, plural)], phrase)


def questo(gender: Gender, plural: bool) -> str:
    """The demonstrative "questo", agreeing."""
    return agree("questo", gender, plural)


def buono(phrase: str, gender: Gender, plural: bool) -> str:
    """The adjective "buono" before ``phrase``: un buon libro, un buono studente, una buona idea."""
    if plural:
        form = "buone" if gender == "f" else "buoni"
    elif gender == "f":
        form = "buona"
    else:
        form = "buono" if takes_lo(phrase) else "buon"
    return f"{form} {phrase}"


def plural_of(noun: str, gender: Gender) -> str:
    """The regular plural of a noun; exceptions (amico, uomo, mano, ...) belong to the lexicon."""
    if noun[-1] in "àèéìòù" or noun[-1] not in VOWELS:
        return noun
    stem = noun[:-1]
    if noun.endswith(("ca", "ga")):
        return stem + ("he" if gender == "f" else "hi")
    if noun.endswith(("co", "go")):
        return stem + "hi"
    if noun.endswith(("cia", "gia")):
        return noun[:-1] + "e" if noun[-4] in VOWELS else noun[:-2] + "e"
    if noun.endswith("io"):
        return stem
    if noun.endswith("a"):
        return stem + ("e" if gender == "f" else "i")
    return stem + "i"


def agree(adjective: str, gender: Gender, plural: bool, masculine_plural: str | None = None) -> str:
    """The form of an adjective given in the masculine singular.

    ``masculine_plural`` overrides the regular -co -> -chi (``simpatico`` -> ``simpatici``).
    """
    last = adjective[-1]
    if last == "e":
        return adjective[:-1] + "i" if plural else adjective
    if last != "o":
        return adjective  # blu, rosa, viola
    stem = adjective[:-1]
    if gender == "f":
        if not plural:
            return stem + "a"
        return stem + ("he" if stem[-1] in "cg" else "e")
    if not plural:
        return adjective
    return masculine_plural or plural_of(adjective, "m")


_PRESENT = {
    "are": ("o", "i", "a", "iamo", "ate", "ano"),
    "ere": ("o", "i", "e", "iamo", "ete", "ono"),
    "ire": ("o", "i", "e", "iamo", "ite", "ono"),
    "isc": ("isco", "isci", "isce", "iamo", "ite", "iscono"),
}
_FUTURE = ("ò", "ai", "à", "emo", "ete", "anno")


@dataclass(frozen=True)
class Verb:
    """An Italian verb; every irregular form is given, the others follow the rules.

    Attributes:
        infinitive: for example ``mangiare``.
        isc: a third-conjugation verb with -isc- (``finire``).
        present: six irregular present forms, or empty.
        participle, gerund, future_stem, imperative: the irregular form, or empty.
        essere: forms its compound tenses with "essere".
    """

    infinitive: str
    isc: bool = False
    present: tuple[str, ...] = field(default=())
    participle: str = ""
    gerund: str = ""
    future_stem: str = ""
    imperative: str = ""
    essere: bool = False

    @property
    def _stem(self) -> str:
        return self.infinitive[:-3]

    @property
    def _conjugation(self) -> str:
        return "isc" if self.isc else self.infinitive[-3:]

    def _with_ending(self, ending: str) -> str:
        """Stem and ending, keeping the sound of c and g and dropping a doubled i."""
        stem = self._stem
        if self.infinitive.endswith(("care", "gare")) and ending[0] in "ei":
            return stem + "h" + ending
        if stem.endswith("i") and (ending[0] == "i" or (ending[0] == "e" and stem[-2] in "cg")):
            return stem[:-1] + ending
        return stem + ending

    def present_form(self, person: int) -> str:
        """Presente indicativo."""
        if self.present:
            return self.present[person]
        return self._with_ending(_PRESENT[self._conjugation][person])

    def future_form(self, person: int) -> str:
        """Futuro semplice."""
        if self.future_stem:
            return self.future_stem + _FUTURE[person]
        vowel = "i" if self.infinitive.endswith("ire") else "e"
        return self._with_ending(vowel + "r") + _FUTURE[person]

    def gerund_form(self) -> str:
        """Gerundio presente."""
        return self.gerund or self._stem + ("ando" if self.infinitive.endswith("are") else "endo")

    def participle_form(self, gender: Gender = "m", plural: bool = False) -> str:
        """Participio passato, agreeing with ``gender`` and ``plural``."""
        regular = self._stem + {"are": "ato", "ere": "uto", "ire": "ito"}[self.infinitive[-3:]]
        return agree(self.participle or regular, gender, plural)

    def imperative_form(self) -> str:
        """Imperativo, second person singular."""
        if self.imperative:
            return self.imperative
        return self.present_form(LUI if self.infinitive.endswith("are") else TU)

    def past_form(self, person: int, gender: Gender, plural: bool) -> str:
        """Passato prossimo."""
        if self.essere:
            return f"{ESSERE.present_form(person)} {self.participle_form(gender, plural)}"
        return f"{AVERE.present_form(person)} {self.participle_form()}"


ESSERE = Verb(
    "essere",
    present=("sono", "sei", "è", "siamo", "siete", "sono"),
    participle="stato",
    future_stem="sar",
    essere=True,
)
AVERE = Verb(
    "avere", present=("ho", "hai", "ha", "abbiamo", "avete", "hanno"), participle="avuto", future_stem="avr"
)
STARE = Verb(
    "stare", present=("sto", "stai", "sta", "stiamo", "state", "stanno"), future_stem="star", essere=True
)
