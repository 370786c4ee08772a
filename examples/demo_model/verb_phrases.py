"""Verb phrases: a verb with its object, place, company or activity, in both languages.

Knows what goes with which verb. Does not know subjects, tenses or word order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb
from examples.demo_model.english import EnglishVerb
from examples.demo_model.grammar import (
    CLITICS,
    NP,
    bare_noun,
    both_of,
    definite,
    determined,
    name,
    noun_phrase,
    person_phrase,
    words,
)


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
        language = rng.choice(tuple(tb.LANGUAGES))
        italian = tb.LANGUAGES[language]
        if entry.en.base == "speak":
            return NP(language, italian, words=(language,))
        return definite(language, italian, "m", False, words=(language,))
    if kind == "city":
        city = rng.choice(tuple(tb.CITIES))
        return NP(city, tb.CITIES[city], words=(city,))
    if kind == "country":
        country = rng.choice(tuple(tb.COUNTRIES))
        core, gender = tb.COUNTRIES[country]
        return definite(country, core, gender, False, words=(country,))  # type: ignore[arg-type]
    if kind in ("person", "family", "profession") and rng.random() < 0.35:
        return name(rng)
    if entry.en.base == "have" and kind in ("family", "person"):
        noun = rng.choice(lx.BY_KIND[kind])
        if rng.random() < 0.5:
            one = determined(
                rng, noun, plural=False, determiner=rng.choice(("a", "a", "one")), adjective_rate=0.1
            )
            other = rng.choice(lx.BY_KIND[kind])
            if rng.random() < 0.2 and other != noun:
                number = rng.choice(("a", "two", "three"))
                second = determined(rng, other, plural=number != "a", determiner=number, adjective_rate=0)
                return rng.choice((both_of(one, second), both_of(second, one)))
            return one
        number = rng.choice(tuple(tb.NUMBERS)[1:6])
        return determined(rng, noun, plural=True, determiner=number, adjective_rate=0.1)
    phrase = noun_phrase(rng, (kind,))
    if rng.random() < 0.08 and kind in ("food", "thing", "clothes", "animal"):
        added = noun_phrase(rng, (kind,), adjective_rate=0)
        if phrase.words != added.words:
            both = both_of(phrase, added)
            return replace(both, words=phrase.words + added.words, links=phrase.links)
    return phrase


def generic(rng: Random) -> NP:
    """A bare noun that means the kind: ``coffee`` -> ``il caffè``, ``books`` -> ``i libri``."""
    roll = rng.random()
    if roll < 0.15:
        language = rng.choice(tuple(tb.LANGUAGES))
        return definite(language, tb.LANGUAGES[language], "m", False, words=(language,))
    if roll < 0.25:
        country = rng.choice(tuple(tb.COUNTRIES))
        core, gender = tb.COUNTRIES[country]
        return definite(country, core, gender, False, words=(country,))  # type: ignore[arg-type]
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
    plural = not noun.mass and not (noun.en in tb.BARE_SINGULAR and rng.random() < 0.6)
    en, core, gender, found = bare_noun(rng, noun, plural, 0.1)
    return definite(en, core, gender, plural, **found)


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
        place = rng.choice(tuple(tb.PLACES))
        return f"{rng.choice(('at', 'at', 'in'))} {place}", tb.PLACES[place], (place,)
    if roll < 0.37:
        noun = lx.NOUN[rng.choice(tb.BUILDINGS)]
        building = determined(rng, noun, plural=False, determiner="a", adjective_rate=0.1)
        return f"in {building.en}", f"in {building.it}", building.words
    if roll < 0.53:
        en = rng.choice(tuple(tb.INTERIOR))
        return en, tb.INTERIOR[en], (en,)
    if roll < 0.69:
        city = rng.choice(tuple(tb.CITIES))
        return f"in {city}", it.before("a", tb.CITIES[city]), (city,)
    if roll < 0.8:
        country = rng.choice(tuple(tb.COUNTRIES))
        return f"in {country}", f"in {tb.COUNTRIES[country][0]}", (country,)
    return position(rng)


def position(rng: Random) -> tuple[str, str, tuple[str, ...]]:
    """``under the table``, ``near the station``."""
    preposition = rng.choice(tuple(tb.PREPOSITIONS))
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
    return f"{preposition} {phrase.en}", phrase.after(tb.PREPOSITIONS[preposition]), phrase.words


def destination(rng: Random) -> tuple[str, str, tuple[str, ...]]:
    """Where one goes: English with its preposition, Italian, its words."""
    roll = rng.random()
    if roll < 0.5:
        place = rng.choice(tuple(tb.PLACES))
        return f"to {place}", tb.PLACES[place], (place,)
    if roll < 0.65:
        en, italian = rng.choice(
            (("home", "a casa"), ("to school", "a scuola"), ("to work", "al lavoro"), ("to bed", "a letto"))
        )
        return en, italian, (en,)
    if roll < 0.85:
        city = rng.choice(tuple(tb.CITIES))
        return f"to {city}", it.before("a", tb.CITIES[city]), (city,)
    country = rng.choice(tuple(tb.COUNTRIES))
    return f"to {country}", f"in {tb.COUNTRIES[country][0]}", (country,)


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
        return VP(entry.en, entry.it, en, clitic=CLITICS[en], past=entry.past, links=((base, en),))
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
    key = rng.choice(tuple(tb.ACTIVITIES))
    en, en_tail, italian, it_tail = tb.ACTIVITIES[key]
    return VP(tb.ACTIVITY_ENGLISH[en], tb.ACTIVITY_ITALIAN[italian], en_tail, it_tail)


def city_name(rng: Random) -> NP:
    """A city as a subject; Italian cities are feminine."""
    en = rng.choice(tuple(tb.CITIES))
    return NP(en, tb.CITIES[en], "f", words=(en,))


def _chained_vp(rng: Random) -> VP:
    """``learn to swim`` -> ``imparare a nuotare``."""
    base, preposition = rng.choice((("learn", "a"), ("start", "a"), ("forget", "di")))
    entry = lx.VERBS[base]
    inner = rng.choice((_simple_vp, _activity_vp))(rng)
    while inner.clitic:
        inner = _simple_vp(rng)
    tail = it.before(preposition, words(inner.it.infinitive, inner.it_tail))
    return VP(entry.en, entry.it, words("to", inner.en.base, inner.en_tail), tail, links=inner.links)


def verb_phrase(rng: Random) -> VP:
    """Any verb phrase that takes tense."""
    roll = rng.random()
    if roll < 0.72:
        return _simple_vp(rng)
    if roll < 0.85:
        return _motion_vp(rng)
    if roll < 0.88:
        return _chained_vp(rng)
    return _activity_vp(rng)
