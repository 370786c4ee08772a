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
from dataclasses import dataclass, field
from random import Random

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model.english import EnglishVerb, article
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
    if sentence.en in SEEDS:
        return False
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
    words: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def after(self, preposition: str) -> str:
        """The phrase after an Italian preposition."""
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


def _definite(en: str, core: str, gender: it.Gender, plural: bool, **more: object) -> NP:
    whole = it.with_definite(core, gender, plural)
    person = it.LORO if plural else it.LUI
    return NP(en, whole, gender, plural, person, core=core, **more)  # type: ignore[arg-type]


def _adjective_for(rng: Random, noun: lx.Noun) -> lx.Adjective:
    wanted = "p" if noun.kind in ("person", "profession", "family", "animal") else "t"
    while True:
        adjective = rng.choice(lx.ADJECTIVES)
        if wanted in adjective.of:
            return adjective


def _core(
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
    en, core, gender, found = _core(rng, noun, plural, adjective_rate)
    person = it.LORO if plural else it.LUI
    if determiner == "the":
        return _definite(f"the {en}", core, gender, plural, **found)
    if determiner == "a":
        return NP(f"{article(en)} {en}", it.with_indefinite(core, gender), gender, **found)
    if determiner == "some":
        return NP(
            f"some {en}", it.with_preposition("di", core, gender, plural), gender, plural, person, **found
        )
    if determiner == "bare":
        return NP(en, core, gender, plural, person, **found)
    if determiner == "this":
        near = it.questo(gender, plural)
        return NP(f"{'these' if plural else 'this'} {en}", f"{near} {core}", gender, plural, person, **found)
    if determiner == "that":
        far = it.quello(core, gender, plural)
        return NP(f"{'those' if plural else 'that'} {en}", far, gender, plural, person, **found)
    if determiner in lx.NUMBERS:
        if determiner == "one":
            return NP(f"one {en}", it.with_indefinite(core, gender), gender, **found)
        return NP(f"{determiner} {en}", f"{lx.NUMBERS[determiner]} {core}", gender, True, it.LORO, **found)
    owned = lx.possessive(determiner, gender, plural)
    if noun.kind == "family" and not plural and determiner != "their" and "links" not in found:
        return NP(f"{determiner} {en}", f"{owned} {core}", gender, plural, person, **found)
    return _definite(f"{determiner} {en}", f"{owned} {core}", gender, plural, **found)


def name(rng: Random) -> NP:
    """A first name."""
    if rng.random() < 0.5:
        chosen, gender = rng.choice(lx.MEN), "m"
    else:
        chosen, gender = rng.choice(lx.WOMEN), "f"
    return NP(chosen, chosen, gender, words=(chosen,))  # type: ignore[arg-type]


def noun_phrase(rng: Random, kinds: tuple[str, ...], adjective_rate: float = 0.15) -> NP:
    """A noun phrase of one of these kinds, with a determiner that suits it."""
    noun = rng.choice(lx.BY_KIND[rng.choice(kinds)])
    if noun.mass:
        determiner = rng.choices(("the", "some", "bare", "my"), (4, 3, 5, 1))[0]
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
            determiner=rng.choice(tuple(lx.POSSESSIVES)),
            adjective_rate=adjective_rate / 3,
        )
    plural = rng.random() < 0.3
    if plural:
        choices, weights = ("the", "some", "bare", "these", "number", "possessive"), (5, 2, 3, 2, 3, 2)
    else:
        choices, weights = ("the", "a", "these", "possessive", "owned", "one"), (20, 16, 6, 8, 4, 1)
    determiner = rng.choices(choices, weights)[0]
    if determiner == "owned":
        return owned_by(rng, noun)
    if determiner == "these":
        determiner = rng.choice(("this", "that"))
    elif determiner == "number":
        determiner = rng.choice(tuple(lx.NUMBERS)[1:])
    elif determiner == "possessive":
        determiner = rng.choice(tuple(lx.POSSESSIVES))
    return determined(rng, noun, plural=plural, determiner=determiner, adjective_rate=adjective_rate)


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
    return _definite(f"{owner.en}'s {noun.en}", core, noun.gender, False, words=(noun.en, *owner.words))


def person_phrase(rng: Random, adjective_rate: float = 0.1) -> NP:
    """Someone with a definite determiner."""
    roll = rng.random()
    if roll < 0.4:
        return name(rng)
    kind = rng.choices(("family", "person", "profession"), (5, 4, 3))[0]
    noun = rng.choice(lx.BY_KIND[kind])
    if kind == "family":
        determiner = rng.choice(tuple(lx.POSSESSIVES))
    else:
        determiner = rng.choices(("the", "this", "my", "your", "our"), (8, 1, 2, 1, 1))[0]
    return determined(
        rng, noun, plural=rng.random() < 0.2, determiner=determiner, adjective_rate=adjective_rate
    )


def subject(rng: Random) -> NP:
    """A subject: mostly pronouns."""
    roll = rng.random()
    if roll < 0.62:
        return rng.choices(PRONOUNS, _PRONOUN_WEIGHTS)[0]
    if roll < 0.66:
        first, second = name(rng), name(rng)
        if first.en != second.en:
            gender: it.Gender = "f" if first.gender == second.gender == "f" else "m"
            both = it.joined(first.it, second.it)
            return NP(f"{first.en} and {second.en}", both, gender, True, it.LORO)
        return first
    first = person_phrase(rng)
    if roll > 0.98:
        second = person_phrase(rng, adjective_rate=0)
        both_feminine = first.gender == second.gender == "f"
        en, both = f"{first.en} and {second.en}", it.joined(first.it, second.it)
        if not set(first.words) & set(second.words):
            return NP(en, both, "f" if both_feminine else "m", True, it.LORO, core=None, words=())
    return first


def thing_phrase(rng: Random) -> NP:
    """A definite thing, place, animal or vehicle that something can be said of."""
    kind = rng.choice(("thing", "place", "vehicle", "clothes", "reading", "animal", "food", "talk", "art"))
    noun = rng.choice(lx.BY_KIND[kind])
    if rng.random() < 0.1:
        return owned_by(rng, noun)
    plural = not noun.mass and rng.random() < 0.25
    determiner = rng.choices(("the", "this", "that", "possessive"), (6, 2, 1, 3))[0]
    if determiner == "possessive":
        determiner = rng.choice(tuple(lx.POSSESSIVES))
    return determined(rng, noun, plural=plural, determiner=determiner, adjective_rate=0.05)


# ---------------------------------------------------------------- verb phrases


@dataclass(frozen=True)
class VP:
    """A verb with what follows it, in both languages; ``clitic`` stands before the Italian verb."""

    en: EnglishVerb
    it: it.Verb
    en_tail: str = ""
    it_tail: str = ""
    clitic: str = ""
    past: bool = True
    links: tuple[tuple[str, str], ...] = field(default=())


def _object(rng: Random, entry: lx.VerbEntry) -> NP:
    kind = rng.choice(entry.objects)
    if kind == "language":
        language = rng.choice(tuple(lx.LANGUAGES))
        italian = lx.LANGUAGES[language]
        if entry.en.base == "speak":
            return NP(language, italian, words=(language,))
        return _definite(language, italian, "m", False, words=(language,))
    if kind == "city":
        city = rng.choice(tuple(lx.CITIES))
        return NP(city, lx.CITIES[city], words=(city,))
    if kind == "country":
        country = rng.choice(tuple(lx.COUNTRIES))
        core, gender = lx.COUNTRIES[country]
        return _definite(country, core, gender, False, words=(country,))  # type: ignore[arg-type]
    if kind in ("person", "family", "profession") and rng.random() < 0.35:
        return name(rng)
    if entry.en.base == "have" and kind in ("family", "person"):
        noun = rng.choice(lx.BY_KIND[kind])
        if rng.random() < 0.5:
            return determined(rng, noun, plural=False, determiner="a", adjective_rate=0.1)
        number = rng.choice(tuple(lx.NUMBERS)[1:6])
        return determined(rng, noun, plural=True, determiner=number, adjective_rate=0.1)
    phrase = noun_phrase(rng, (kind,))
    if rng.random() < 0.08 and kind in ("food", "thing", "clothes", "animal"):
        other = noun_phrase(rng, (kind,), adjective_rate=0)
        if phrase.words != other.words:
            return NP(
                f"{phrase.en} and {other.en}",
                it.joined(phrase.it, other.it),
                plural=True,
                person=it.LORO,
                words=phrase.words + other.words,
                links=phrase.links,
            )
    return phrase


def generic(rng: Random) -> NP:
    """A bare noun that means the kind: ``coffee`` -> ``il caffè``, ``books`` -> ``i libri``."""
    roll = rng.random()
    if roll < 0.15:
        language = rng.choice(tuple(lx.LANGUAGES))
        return _definite(language, lx.LANGUAGES[language], "m", False, words=(language,))
    if roll < 0.25:
        country = rng.choice(tuple(lx.COUNTRIES))
        core, gender = lx.COUNTRIES[country]
        return _definite(country, core, gender, False, words=(country,))  # type: ignore[arg-type]
    kinds = (
        "food",
        "drink",
        "reading",
        "animal",
        "thing",
        "clothes",
        "vehicle",
        "art",
        "place",
        "food",
        "drink",
    )
    noun = rng.choice(lx.BY_KIND[rng.choice(kinds)])
    plural = not noun.mass
    en, core, gender, found = _core(rng, noun, plural, 0.1)
    return _definite(en, core, gender, plural, **found)


def liked(rng: Random) -> NP:
    """What one likes or loves: a kind, or something definite."""
    if rng.random() < 0.65:
        return generic(rng)
    kinds = ("food", "drink", "reading", "animal", "thing", "clothes", "vehicle", "art", "place")
    noun = rng.choice(lx.BY_KIND[rng.choice(kinds)])
    determiner = rng.choice(("the", "this", "that", "my", "your", "his", "her", "our", "their"))
    plural = not noun.mass and rng.random() < 0.3
    return determined(rng, noun, plural=plural, determiner=determiner)


def location(rng: Random) -> tuple[str, str, tuple[str, ...]]:
    """A place phrase: English, Italian, its words."""
    roll = rng.random()
    if roll < 0.3:
        place = rng.choice(tuple(lx.PLACES))
        return f"at {place}", lx.PLACES[place], (place,)
    if roll < 0.5:
        en = rng.choice(tuple(lx.INTERIOR))
        return en, lx.INTERIOR[en], (en,)
    if roll < 0.62:
        city = rng.choice(tuple(lx.CITIES))
        return f"in {city}", it.before("a", lx.CITIES[city]), (city,)
    if roll < 0.72:
        country = rng.choice(tuple(lx.COUNTRIES))
        return f"in {country}", f"in {lx.COUNTRIES[country][0]}", (country,)
    return position(rng)


def position(rng: Random) -> tuple[str, str, tuple[str, ...]]:
    """``under the table``, ``near the station``."""
    preposition = rng.choice(tuple(lx.PREPOSITIONS))
    if preposition in ("in", "on"):
        inside = (
            "box",
            "bag",
            "suitcase",
            "room",
            "car",
            "bottle",
            "backpack",
            "glass",
            "cup",
            "street",
            "water",
        )
        onto = ("table", "chair", "bed", "plate", "wall", "bridge", "bus", "train", "boat", "beach", "box")
        noun = lx.NOUN[rng.choice(inside if preposition == "in" else onto)]
    else:
        noun = rng.choice(lx.BY_KIND[rng.choice(("thing", "place", "place", "vehicle"))])
    determiner = rng.choices(("the", "my", "your", "a"), (8, 1, 1, 1))[0]
    phrase = determined(rng, noun, plural=False, determiner=determiner, adjective_rate=0.05)
    return f"{preposition} {phrase.en}", phrase.after(lx.PREPOSITIONS[preposition]), phrase.words


def destination(rng: Random) -> tuple[str, str, tuple[str, ...]]:
    """Where one goes: English with its preposition, Italian, its words."""
    roll = rng.random()
    if roll < 0.5:
        place = rng.choice(tuple(lx.PLACES))
        return f"to {place}", lx.PLACES[place], (place,)
    if roll < 0.65:
        en, italian = rng.choice(
            (("home", "a casa"), ("to school", "a scuola"), ("to work", "al lavoro"), ("to bed", "a letto"))
        )
        return en, italian, (en,)
    if roll < 0.85:
        city = rng.choice(tuple(lx.CITIES))
        return f"to {city}", it.before("a", lx.CITIES[city]), (city,)
    country = rng.choice(tuple(lx.COUNTRIES))
    return f"to {country}", f"in {lx.COUNTRIES[country][0]}", (country,)


def companion(rng: Random) -> tuple[str, str]:
    """``with my brother``."""
    person = person_phrase(rng, adjective_rate=0)
    return f"with {person.en}", person.after("con")


def _simple_vp(rng: Random) -> VP:
    """A verb with an object, or without one."""
    entry = lx.VERBS[rng.choice(tuple(lx.VERBS))]
    base = entry.en.base
    if base == "live" or (not entry.objects and rng.random() < 0.45):
        en, italian, place = location(rng) if rng.random() < 0.75 or base == "live" else (*companion(rng), ())
        return VP(entry.en, entry.it, en, italian, links=tuple((base, w) for w in place), past=entry.past)
    if not entry.objects or (entry.bare and rng.random() < 0.15):
        return VP(entry.en, entry.it, past=entry.past)
    if entry.clitic and rng.random() < 0.2:
        en = rng.choice(("you", "him", "her", "us", "them", "me"))
        return VP(entry.en, entry.it, en, clitic=CLITICS[en], past=False, links=((base, en),))
    thing = _object(rng, entry)
    links = (*((base, word) for word in thing.words), *thing.links)
    return VP(entry.en, entry.it, thing.en, thing.it, past=entry.past, links=links)


def _motion_vp(rng: Random) -> VP:
    entry = rng.choices(tuple(lx.MOTION.values()), (10, 2, 2, 2, 2))[0]
    base = entry.en.base
    if entry.bare and (base in ("leave", "arrive") or rng.random() < 0.3):
        return VP(entry.en, entry.it)
    en, italian, place = destination(rng)
    return VP(entry.en, entry.it, en, italian, links=tuple((base, w) for w in place))


def _activity_vp(rng: Random) -> VP:
    key = rng.choice(tuple(lx.ACTIVITIES))
    en, en_tail, italian, it_tail = lx.ACTIVITIES[key]
    return VP(lx.ACTIVITY_ENGLISH[en], lx.ACTIVITY_ITALIAN[italian], en_tail, it_tail)


def verb_phrase(rng: Random) -> VP:
    """Any verb phrase that takes tense."""
    roll = rng.random()
    if roll < 0.72:
        return _simple_vp(rng)
    if roll < 0.86:
        return _motion_vp(rng)
    return _activity_vp(rng)
