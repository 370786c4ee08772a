"""The phrase grammar: random simple English sentences with their Italian translations.

Knows how noun phrases, verb phrases and sentences are built in both languages at once. Does not know fixed
phrases, chats, tokens or what cannot be translated. Every English sentence has exactly one Italian one:

* the subject pronoun is kept in statements and yes-or-no questions (``Io amo programmare``), "it" has none;
  questions with a question word keep only lui, lei and loro, whose verb forms do not tell them apart;
* "you" is the informal "tu", "you all" is "voi"; adjectives of I, you, we and they are masculine;
* attributive adjectives follow the noun, except "buono" and "bello".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb
from examples.demo_model.english import article
from examples.demo_model.italian import LUI, Gender

HELD_OUT_SENTENCES = 10
"""One English sentence in this many is held out, by its hash."""
HELD_OUT_PAIRS = 40
"""One pair of content words in this many is held out in every sentence they meet in, by its hash."""

SEEDS = ("I love programming", "I love to program", "I like programming")


@dataclass(frozen=True)
class Sentence:
    """A translation pair without final punctuation.

    Attributes:
        en: English, uncontracted.
        it: Italian.
        end: ``""`` for a statement, ``"?"`` for a question.
        links: the pairs of content words that meet in it, e.g. ``("eat", "apple")``.
    """

    en: str
    it: str
    end: str = ""
    links: tuple[tuple[str, str], ...] = ()


def _bucket(text: str, buckets: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % buckets


def pair_is_held_out(pair: tuple[str, str]) -> bool:
    """Whether this pair of content words never meets in training."""
    return _bucket("pair " + " ".join(pair).lower(), HELD_OUT_PAIRS) == 0


def is_held_out(sentence: Sentence) -> bool:
    """Whether a sentence belongs to the evaluation: a matter of its words alone, so it is reproducible."""
    if sentence.en in SEEDS or " " not in sentence.en:
        return False  # the seed; and a single word is no combination
    if any(pair_is_held_out(pair) for pair in sentence.links):
        return True
    return _bucket(sentence.en.lower(), HELD_OUT_SENTENCES) == 0


@dataclass(frozen=True)
class NP:
    """A noun phrase in both languages.

    ``core`` is the Italian phrase without its definite article where it has one (so that prepositions can
    contract), and ``it`` the whole phrase.
    """

    en: str
    it: str
    gender: Gender = "m"
    plural: bool = False
    person: int = LUI
    core: str | None = None
    pronoun: bool = False
    dative: str = ""
    parts: tuple[NP, ...] = ()
    words: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def after(self, preposition: str) -> str:
        """The phrase after an Italian preposition, which is repeated before both parts of "A and B"."""
        if self.parts:
            first, second = (part.after(preposition) for part in self.parts)
            return it.joined(first, second)
        if self.core is not None:
            return it.with_preposition(preposition, self.core, self.gender, self.plural)
        return it.before(preposition, self.it)


PRONOUNS = [
    NP("I", "io", person=it.IO, pronoun=True, dative="mi"),
    NP("you", "tu", person=it.TU, pronoun=True, dative="ti"),
    NP("he", "lui", person=it.LUI, pronoun=True, dative="gli"),
    NP("she", "lei", gender="f", person=it.LUI, pronoun=True, dative="le"),
    NP("we", "noi", plural=True, person=it.NOI, pronoun=True, dative="ci"),
    NP("you all", "voi", plural=True, person=it.VOI, pronoun=True, dative="vi"),
    NP("they", "loro", plural=True, person=it.LORO, pronoun=True, dative="a loro"),
]
_PRONOUN_WEIGHTS = (34, 20, 12, 12, 10, 4, 10)
IT = NP("it", "", pronoun=True)
CLITICS = {"me": "mi", "you": "ti", "him": "lo", "her": "la", "us": "ci", "them": "li", "it": "lo"}


def capital(text: str) -> str:
    """First letter in upper case."""
    return text[0].upper() + text[1:]


def words(*parts: str) -> str:
    """Joins the non-empty parts with spaces."""
    return " ".join(part for part in parts if part)


# ---------------------------------------------------------------- noun phrases


def definite(en: str, core: str, gender: it.Gender, plural: bool, **more: object) -> NP:
    """A phrase with the definite article; ``core`` is the Italian without it."""
    whole = it.with_definite(core, gender, plural)
    person = it.LORO if plural else it.LUI
    return NP(en, whole, gender, plural, person, core=core, **more)  # type: ignore[arg-type]


def _adjective_for(rng: Random, noun: lx.Noun) -> lx.Adjective:
    wanted = "p" if noun.kind in ("person", "profession", "family", "animal") else "t"
    while True:
        adjective = rng.choice(lx.ADJECTIVES)
        if wanted in adjective.of:
            return adjective


def bare_noun(
    rng: Random, noun: lx.Noun, plural: bool, adjective_rate: float
) -> tuple[str, str, it.Gender, dict]:
    """English and Italian noun, perhaps with an adjective, without a determiner."""
    gender = noun.plural_gender if plural else noun.gender
    en, core = (noun.en_plural, noun.it_plural) if plural else (noun.en, noun.it)
    found: dict = {"words": (noun.en,)}
    if rng.random() < adjective_rate:
        adjective = _adjective_for(rng, noun)
        if adjective.it == "buono":
            core = it.buono(core, gender, plural)
        elif adjective.it == "bello":
            core = it.quello(core, gender, plural, stem="be")
        else:
            core = f"{core} {adjective.form(gender, plural)}"
        en = f"{adjective.en} {en}"
        found = {"words": (noun.en, adjective.en), "links": ((adjective.en, noun.en),)}
    return en, core, gender, found


def determined(
    rng: Random, noun: lx.Noun, *, plural: bool, determiner: str, adjective_rate: float = 0.2
) -> NP:
    """A noun with a determiner: the, a, some, bare, this, that, number, or a possessive."""
    en, core, gender, found = bare_noun(rng, noun, plural, adjective_rate)
    person = it.LORO if plural else it.LUI
    if determiner == "the":
        return definite(f"the {en}", core, gender, plural, **found)
    if determiner == "a":
        return NP(f"{article(en)} {en}", it.with_indefinite(core, gender), gender, **found)
    if determiner == "some":
        return NP(
            f"some {en}", it.with_preposition("di", core, gender, plural), gender, plural, person, **found
        )
    if determiner in ("many", "a lot of"):
        many = it.agree("molto", gender, plural)
        return NP(f"{determiner} {en}", f"{many} {core}", gender, plural, person, **found)
    if determiner == "bare":
        return NP(en, core, gender, plural, person, **found)
    if determiner == "this":
        near = it.questo(gender, plural)
        return NP(f"{'these' if plural else 'this'} {en}", f"{near} {core}", gender, plural, person, **found)
    if determiner == "that":
        far = it.quello(core, gender, plural)
        return NP(f"{'those' if plural else 'that'} {en}", far, gender, plural, person, **found)
    if determiner in tb.NUMBERS:
        if determiner == "one":
            return NP(f"one {en}", it.with_indefinite(core, gender), gender, **found)
        return NP(f"{determiner} {en}", f"{tb.NUMBERS[determiner]} {core}", gender, True, it.LORO, **found)
    owned = tb.possessive(determiner, gender, plural)
    if noun.kind == "family" and not plural and determiner != "their" and "links" not in found:
        return NP(f"{determiner} {en}", f"{owned} {core}", gender, plural, person, **found)
    return definite(f"{determiner} {en}", f"{owned} {core}", gender, plural, **found)


def name(rng: Random) -> NP:
    """A first name."""
    if rng.random() < 0.5:
        chosen, gender = rng.choice(tb.MEN), "m"
    else:
        chosen, gender = rng.choice(tb.WOMEN), "f"
    return NP(chosen, chosen, gender, words=(chosen,))  # type: ignore[arg-type]


def noun_phrase(rng: Random, kinds: tuple[str, ...], adjective_rate: float = 0.15) -> NP:
    """A noun phrase of one of these kinds, with a determiner that suits it."""
    noun = rng.choice(lx.BY_KIND[rng.choice(kinds)])
    if noun.kind == "drink" and rng.random() < 0.18:
        return container(rng)
    if noun.mass or (noun.en in tb.BARE_SINGULAR and rng.random() < 0.25):
        determiner = rng.choices(("the", "some", "bare", "my", "a lot of"), (8, 6, 10, 2, 1))[0]
        if determiner == "bare":
            adjective_rate = 0.0
        return determined(rng, noun, plural=False, determiner=determiner, adjective_rate=adjective_rate)
    if noun.kind == "family":
        if rng.random() < 0.2:
            return owned_by(rng, noun)
        return determined(
            rng,
            noun,
            plural=rng.random() < 0.15,
            determiner=rng.choice(tuple(tb.POSSESSIVES)),
            adjective_rate=adjective_rate / 3,
        )
    plural = rng.random() < 0.3
    if plural:
        weights = {
            "the": 10,
            "some": 4,
            "bare": 6,
            "these": 4,
            "number": 6,
            "possessive": 4,
            "many": 2,
            "a lot of": 1,
        }
    else:
        weights = {"the": 20, "a": 16, "these": 6, "possessive": 8, "owned": 4, "one": 1}
    determiner = rng.choices(tuple(weights), tuple(weights.values()))[0]
    if determiner == "owned":
        return owned_by(rng, noun)
    if determiner == "these":
        determiner = rng.choice(("this", "that"))
    elif determiner == "number":
        determiner = rng.choice(tuple(tb.NUMBERS)[1:])
    elif determiner == "possessive":
        determiner = rng.choice(tuple(tb.POSSESSIVES))
    return determined(rng, noun, plural=plural, determiner=determiner, adjective_rate=adjective_rate)


def container(rng: Random) -> NP:
    """``a glass of water``, ``two bottles of wine``."""
    drink = rng.choice(lx.BY_KIND["drink"])
    holder = lx.NOUN[rng.choice(("glass", "cup", "bottle"))]
    of = f"d'{drink.it}" if it.starts_with_vowel(drink.it) else f"di {drink.it}"
    if rng.random() < 0.7:
        whole = it.with_indefinite(f"{holder.it} {of}", holder.gender)
        return NP(f"a {holder.en} of {drink.en}", whole, holder.gender, words=(holder.en, drink.en))
    number = rng.choice(tuple(tb.NUMBERS)[1:6])
    en = f"{number} {holder.en_plural} of {drink.en}"
    whole = f"{tb.NUMBERS[number]} {holder.it_plural} {of}"
    return NP(en, whole, holder.gender, True, it.LORO, words=(holder.en, drink.en))


def owned_by(rng: Random, noun: lx.Noun) -> NP:
    """``Maria's book``, ``my brother's book``."""
    if rng.random() < 0.7:
        owner = name(rng)
    else:
        relative = rng.choice(lx.BY_KIND["family"])
        owner = determined(
            rng, relative, plural=False, determiner=rng.choice(("my", "your")), adjective_rate=0
        )
    core = f"{noun.it} {owner.after('di')}"
    return definite(f"{owner.en}'s {noun.en}", core, noun.gender, False, words=(noun.en, *owner.words))


def person_phrase(rng: Random, adjective_rate: float = 0.1) -> NP:
    """Someone with a definite determiner."""
    roll = rng.random()
    if roll < 0.4:
        return name(rng)
    kind = rng.choices(("family", "person", "profession"), (5, 4, 3))[0]
    noun = rng.choice(lx.BY_KIND[kind])
    if kind == "family":
        determiner = rng.choice(tuple(tb.POSSESSIVES))
    else:
        determiner = rng.choices(("the", "this", "my", "your", "our"), (8, 1, 2, 1, 1))[0]
    return determined(
        rng, noun, plural=rng.random() < 0.2, determiner=determiner, adjective_rate=adjective_rate
    )


def both_of(first: NP, second: NP) -> NP:
    """``Marco and my mother``: plural, feminine only if both are."""
    gender: Gender = "f" if first.gender == second.gender == "f" else "m"
    whole = it.joined(first.it, second.it)
    return NP(f"{first.en} and {second.en}", whole, gender, True, it.LORO, parts=(first, second))


def subject(rng: Random) -> NP:
    """A subject: mostly pronouns."""
    roll = rng.random()
    if roll < 0.62:
        return rng.choices(PRONOUNS, _PRONOUN_WEIGHTS)[0]
    if roll < 0.66:
        first, second = name(rng), name(rng)
        if first.en != second.en:
            return both_of(first, second)
        return first
    first = person_phrase(rng)
    if roll > 0.98:
        second = person_phrase(rng, adjective_rate=0)
        if not set(first.words) & set(second.words):
            return both_of(first, second)
    return first


def thing_phrase(rng: Random) -> NP:
    """A definite thing, place, animal or vehicle that something can be said of."""
    kinds = ("thing", "place", "vehicle", "clothes", "reading", "animal", "food", "talk", "art")
    kind = rng.choice((*kinds, *kinds, "nature", "body"))
    noun = rng.choice(lx.BY_KIND[kind])
    if rng.random() < 0.1:
        return owned_by(rng, noun)
    plural = not noun.mass and rng.random() < 0.25
    determiner = rng.choices(("the", "this", "that", "possessive"), (6, 2, 1, 3))[0]
    if determiner == "possessive":
        determiner = rng.choice(tuple(tb.POSSESSIVES))
    return determined(rng, noun, plural=plural, determiner=determiner, adjective_rate=0.05)
