"""Sentences with "to be": qualities, professions, ages, places, identity, existence.

Knows that Italian has hunger and years where English is hungry and years old.
"""

from __future__ import annotations

from random import Random

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb
from examples.demo_model.clauses import (
    be,
    english,
    italian,
    made,
)
from examples.demo_model.english import EnglishVerb, article
from examples.demo_model.grammar import (
    IT,
    NP,
    PRONOUNS,
    Sentence,
    determined,
    name,
    owned_by,
    subject,
    thing_phrase,
    words,
)
from examples.demo_model.verb_phrases import VP, city_name, generic, location, position

_IMPERFECT = {
    "essere": ("ero", "eri", "era", "eravamo", "eravate", "erano"),
    "avere": ("avevo", "avevi", "aveva", "avevamo", "avevate", "avevano"),
}


def _professions(gender: it.Gender) -> list[lx.Noun]:
    """The professions that the lexicon has a form of this gender for."""
    pool = lx.BY_KIND["profession"]
    if gender == "f":
        return [n for n in pool if n.it.endswith(("nante", "tante", "ista", "medico", "infermiera"))]
    return [n for n in pool if n.gender == "m"]


def being(rng: Random) -> Sentence:
    """I want to be a doctor; you must be careful; it can be cold."""
    form = rng.choice(("want to", "would like to", "can", "could", "must", "should", "have to", "going to"))
    s = subject(rng)
    roll = rng.random()
    if roll < 0.4:
        if s.plural:
            s = PRONOUNS[0]
        noun = rng.choice(_professions(s.gender))
        gender: it.Gender = "m" if noun.it == "medico" else s.gender
        en, text = f"{article(noun.en)} {noun.en}", it.with_indefinite(noun.it, gender)
    elif roll < 0.85:
        adjective = rng.choice([a for a in lx.ADJECTIVES if "p" in a.of])
        en, text = adjective.en, adjective.form(s.gender, s.plural)
    else:
        en, text, _ = location(rng)
    vp = VP(EnglishVerb("be"), it.ESSERE, en, text)
    mode = rng.choices(("plain", "not", "ask"), (65, 20, 15))[0]
    if form == "must" and mode == "ask":
        form = "have to"
    en = english(s, vp, form, negative=mode == "not", question=mode == "ask")
    return made(en, italian(s, vp, form, negative=mode == "not"), "?" if mode == "ask" else "")


def _copula(
    rng: Random, s: NP, en_tail: str, it_tail: str, verb: it.Verb = it.ESSERE, links: tuple = ()
) -> Sentence:
    mode = rng.choices(("plain", "not", "ask"), (60, 20, 20))[0]
    tense = rng.choices(("present", "past", "future"), (84, 10, 6))[0]
    if verb.infinitive not in _IMPERFECT:
        tense = "present"
    no = "not" if mode == "not" else ""
    if tense == "present":
        finite, group, rest = be(s), verb.present_form(s.person), ""
    elif tense == "past":
        finite, group, rest = (
            "was" if s.person in (it.IO, it.LUI) else "were",
            _IMPERFECT[verb.infinitive][s.person],
            "",
        )
    else:
        finite, group, rest = "will", verb.future_form(s.person), "be"
    en = words(finite, s.en, rest, en_tail) if mode == "ask" else words(s.en, finite, no, rest, en_tail)
    return made(en, words(s.it, "non" if no else "", group, it_tail), "?" if mode == "ask" else "", links)


def quality(rng: Random) -> Sentence:
    """Somebody or something is big, very tired, tired but happy."""
    if rng.random() < 0.6:
        s, wanted = subject(rng), "p"
    else:
        roll = rng.random()
        s, wanted = IT if roll < 0.2 else thing_phrase(rng), "t"
        if roll > 0.85:
            s = generic(rng)
        elif roll > 0.8:
            s = city_name(rng)
    pool = [a for a in lx.ADJECTIVES if wanted in a.of]
    adjective = rng.choice(pool)
    en, text = adjective.en, adjective.form(s.gender, s.plural)
    links = tuple((adjective.en, w) for w in s.words) + s.links
    roll = rng.random()
    if roll < 0.2 and not adjective.en[0].isupper():
        degree = rng.choice(tuple(tb.DEGREES))
        en, text = f"{degree} {en}", f"{tb.DEGREES[degree]} {text}"
    elif roll < 0.28:
        other = rng.choice(pool)
        if other != adjective:
            second = other.form(s.gender, s.plural)
            if rng.random() < 0.5:
                en, text = f"{en} but {other.en}", f"{text} ma {second}"
            else:
                en, text = f"{en} and {other.en}", it.joined(text, second)
    if wanted == "p" and rng.random() < 0.12:
        when = rng.choice(("today", "this morning", "this evening", "now"))
        en, text = f"{en} {when}", f"{text} { {**tb.TIMES_ANY, 'now': 'adesso'}[when] }"
    return _copula(rng, s, en, text, links=links)


def profession(rng: Random) -> Sentence:
    """I am a teacher, they are students."""
    s = subject(rng)
    noun = rng.choice(_professions(s.gender))
    links = tuple((noun.en, w) for w in s.words)
    gender = s.gender
    if s.plural:
        plural = noun.it_plural
        if s.gender == "f" and noun.it.endswith("ista"):
            plural = noun.it[:-1] + "e"
        return _copula(rng, s, noun.en_plural, plural, links=links)
    if noun.it == "medico":
        gender = "m"
    return _copula(rng, s, f"{article(noun.en)} {noun.en}", it.with_indefinite(noun.it, gender), links=links)


def having(rng: Random) -> Sentence:
    """I am hungry -> Io ho fame; I am ten years old -> Io ho dieci anni."""
    s = subject(rng)
    if rng.random() < 0.4:
        number, italian_number = tb.age(rng.randint(2, 80))
        years = f"{italian_number[:-1]}'anni" if number.endswith("ty") else f"{italian_number} anni"
        return _copula(rng, s, f"{number} years old", years, it.AVERE)
    en = rng.choice(tuple(tb.HAVING))
    if rng.random() < 0.2 and en in ("hungry", "thirsty", "sleepy"):
        gender_form = "molto" if en == "sonno" else "molta"
        degree = "molto" if en == "sleepy" else gender_form
        return _copula(rng, s, f"very {en}", f"{degree} {tb.HAVING[en]}", it.AVERE)
    return _copula(rng, s, en, tb.HAVING[en], it.AVERE)


def whereabouts(rng: Random) -> Sentence:
    """The book is on the table; my mother is at home."""
    if rng.random() < 0.5:
        s = subject(rng)
        en, text, _ = location(rng)
    else:
        s = IT if rng.random() < 0.15 else thing_phrase(rng)
        en, text, place = position(rng) if rng.random() < 0.75 else location(rng)
        if set(place) & set(s.words):
            return whereabouts(rng)
    return _copula(rng, s, en, text)


def origin(rng: Random) -> Sentence:
    """I am from Rome -> Io sono di Roma; I am from Italy -> Io vengo dall'Italia."""
    if rng.random() < 0.45:
        country = rng.choice(tuple(tb.COUNTRIES))
        core, gender = tb.COUNTRIES[country]
        whence = it.with_preposition("da", core, "f" if gender == "f" else "m", False)
        return _copula(rng, subject(rng), f"from {country}", whence, lx.MOTION["come"].it)
    city = rng.choice(tuple(tb.CITIES))
    return _copula(rng, subject(rng), f"from {city}", f"di {tb.CITIES[city]}")


def identity(rng: Random) -> Sentence:
    """This is my book; he is my brother; she is Maria's sister; it is a cat."""
    roll = rng.random()
    if roll < 0.55:
        kinds = ("thing", "family", "animal", "vehicle", "clothes", "reading", "place", "food", "person")
        noun = rng.choice(lx.BY_KIND[rng.choice(kinds)])
        near = rng.random() < 0.55
        plural = not noun.mass and rng.random() < 0.25
        if noun.kind == "family" or plural or rng.random() < 0.6:
            determiner = rng.choice(tuple(tb.POSSESSIVES))
        else:
            determiner = "a" if not noun.mass else "my"
        if rng.random() < 0.12 and not plural:
            what = owned_by(rng, noun)
        else:
            what = determined(rng, noun, plural=plural, determiner=determiner, adjective_rate=0.15)
        if rng.random() < 0.25 and not plural:
            s = IT
        else:
            word = ("these" if plural else "this") if near else ("those" if plural else "that")
            text = it.agree("questo" if near else "quello", what.gender, plural, None if near else "quelli")
            s = NP(word, text, what.gender, plural, it.LORO if plural else it.LUI)
        return _copula(rng, s, what.en, what.it, links=what.links)
    s = rng.choice([PRONOUNS[2], PRONOUNS[3], name(rng)])
    relatives = [
        n for n in (*lx.BY_KIND["family"], lx.NOUN["boss"], lx.NOUN["neighbor"]) if n.gender == s.gender
    ]
    noun = rng.choice([n for n in relatives if n.kind == "family"] if s.gender == "f" else relatives)
    if rng.random() < 0.3:
        what = owned_by(rng, noun)
    else:
        determiner = rng.choice(tuple(tb.POSSESSIVES))
        what = determined(rng, noun, plural=False, determiner=determiner, adjective_rate=0)
    if rng.random() < 0.1:
        s = city_name(rng)
        what = determined(rng, lx.NOUN["city"], plural=False, determiner="a", adjective_rate=0.9)
    return _copula(rng, s, what.en, what.it)


def existence(rng: Random) -> Sentence:
    """There is a cat on the table."""
    kinds = ("animal", "thing", "place", "food", "drink", "person", "reading", "vehicle", "clothes")
    noun = rng.choice(lx.BY_KIND[rng.choice(kinds)])
    mode = rng.choices(("plain", "not", "ask"), (65, 15, 20))[0]
    plural = not noun.mass and rng.random() < 0.4
    if noun.mass:
        what = determined(
            rng, noun, plural=False, determiner="some" if mode == "plain" else "bare", adjective_rate=0
        )
    elif plural:
        determiner = rng.choice(("some", *tuple(tb.NUMBERS)[1:10])) if mode == "plain" else "bare"
        what = determined(rng, noun, plural=True, determiner=determiner, adjective_rate=0.1)
    else:
        what = determined(rng, noun, plural=False, determiner="a", adjective_rate=0.15)
    verb = "are" if plural else "is"
    en = (
        words(verb, "there", what.en)
        if mode == "ask"
        else words("there", verb, "not" if mode == "not" else "", what.en)
    )
    text = words("non" if mode == "not" else "", "ci sono" if plural else "c'è", what.it)
    if rng.random() < 0.6:
        place_en, place_it, place = position(rng) if rng.random() < 0.6 else location(rng)
        if not set(place) & set(what.words):
            en, text = f"{en} {place_en}", f"{text} {place_it}"
    return made(en, text, "?" if mode == "ask" else "", what.links)
