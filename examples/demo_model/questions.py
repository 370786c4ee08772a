"""Questions with a question word, commands, fragments and compounds.

Knows word order as :mod:`examples.demo_model.sentences` does, for the sentences that are no plain statements.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb
from examples.demo_model.clauses import (
    be,
    english,
    fitting,
    italian,
    italian_verb,
    made,
    plain_vp,
    usable,
    when,
)
from examples.demo_model.copulas import (
    being,
    existence,
    having,
    identity,
    origin,
    profession,
    quality,
    whereabouts,
)
from examples.demo_model.english import EnglishVerb
from examples.demo_model.grammar import (
    IT,
    NP,
    PRONOUNS,
    Sentence,
    determined,
    name,
    noun_phrase,
    person_phrase,
    subject,
    thing_phrase,
    words,
)
from examples.demo_model.sentences import frequency, liking, loving, modal, tensed, wishing
from examples.demo_model.verb_phrases import VP, destination


def _after_verb(s: NP) -> str:
    """The subject as it follows the verb of a question: dropped where the verb form tells it."""
    if s.pronoun and s.it not in ("lui", "lei", "loro"):
        return ""
    return s.it


def where(rng: Random) -> Sentence:
    """Where is the station?"""
    s = subject(rng) if rng.random() < 0.3 else thing_phrase(rng)
    if rng.random() < 0.06:
        s = IT
    verb = it.ESSERE.present_form(s.person)
    text = words("dov'è" if verb == "è" else f"dove {verb}", _after_verb(s))
    return made(words("where", be(s), s.en), text, "?", s.links)


def what_object(rng: Random) -> Sentence:
    """What do you eat? What is Maria reading? What do you want to buy?"""
    entries = [
        e
        for e in lx.VERBS.values()
        if e.objects and e.en.base not in ("live", "speak", "pay for", "wait for", "have")
    ]
    entry = rng.choice(entries)
    form = rng.choices(("present", "progressive", "past", "future", "want to", "can", "have to", "should"),
                       (8, 5, 4, 3, 4, 2, 2, 1))[0]  # fmt: skip
    s = subject(rng)
    vp = VP(entry.en, entry.it)
    when_en, when_it = when(rng, form, 0.12)
    en = words("what", english(s, vp, form, question=True), when_en)
    text = words("cosa", italian_verb(s, vp, form), _after_verb(s), when_it)
    links = tuple(("what", b) for b in (entry.en.base,))
    return made(en, text, "?", links)


def where_or_when(rng: Random) -> Sentence:
    """Where do you live? When does the train leave?"""
    word, asked = rng.choice((("where", "dove"), ("when", "quando")))
    s = subject(rng)
    if word == "where":
        base = rng.choice(("live", "work", "go", "eat", "sleep", "study", "swim", "walk", "run"))
    else:
        base = rng.choice(("work", "go", "arrive", "leave", "return", "eat", "sleep", "study", "travel"))
        if base in ("leave", "arrive") and rng.random() < 0.5:
            noun = lx.NOUN[rng.choice(("train", "bus", "airplane", "ship", "boat"))]
            s = determined(
                rng, noun, plural=False, determiner=rng.choice(("the", "the", "my", "your")), adjective_rate=0
            )
    entry = lx.VERBS.get(base) or lx.MOTION[base]
    forms = (
        ("present", "progressive", "past", "future", "want to")
        if word == "where"
        else ("present", "future", "want to", "past")
    )
    form = rng.choice(forms)
    vp = VP(entry.en, entry.it)
    en = words(word, english(s, vp, form, question=True))
    return made(en, words(asked, italian_verb(s, vp, form), _after_verb(s)), "?")


def why(rng: Random) -> Sentence:
    """Why are you sad? Why do you study Italian?"""
    if rng.random() < 0.45:
        s = subject(rng)
        adjective = rng.choice([a for a in lx.ADJECTIVES if "p" in a.of and not a.en[0].isupper()])
        lead = _after_verb(s)
        text = words("perché", lead, it.ESSERE.present_form(s.person), adjective.form(s.gender, s.plural))
        links = tuple((adjective.en, w) for w in s.words)
        return made(words("why", be(s), s.en, adjective.en), text, "?", links)
    form = rng.choice(("present", "present", "progressive", "past", "want to"))
    s, vp = fitting(rng, form)
    en = words("why", english(s, vp, form, question=True))
    return made(en, words("perché", _after_verb(s), italian_verb(s, vp, form), vp.it_tail), "?", vp.links)


def who(rng: Random) -> Sentence:
    """Who is that man? Who speaks Italian? Who are you?"""
    if rng.random() < 0.45:
        s = rng.choice(
            [*PRONOUNS[1:5], PRONOUNS[6], person_phrase(rng), person_phrase(rng), person_phrase(rng)]
        )
        return made(
            words("who", be(s), s.en), words("chi", it.ESSERE.present_form(s.person), _after_verb(s)), "?"
        )
    form = rng.choice(("present", "present", "progressive", "past", "future", "want to", "can"))
    s, vp = NP("who", "chi"), plain_vp(rng)
    while not usable(s, vp, form):
        vp = plain_vp(rng)
    return made(english(s, vp, form), italian(s, vp, form), "?", vp.links)


def how_much(rng: Random) -> Sentence:
    """How much is the coffee? How many brothers do you have?"""
    goods = ("food", "drink", "thing", "clothes", "reading", "vehicle")
    if rng.random() < 0.5:
        noun = rng.choice(lx.BY_KIND[rng.choice(goods)])
        plural = not noun.mass and rng.random() < 0.3
        determiner = rng.choice(("the", "the", "this", "that"))
        s = determined(rng, noun, plural=plural, determiner=determiner, adjective_rate=0.1)
        en = f"how much {be(s)} {s.en}"
        if rng.random() < 0.4:
            en = f"how much {'do' if plural else 'does'} {s.en} cost"
        return made(en, words("quanto", "costano" if plural else "costa", s.it), "?", s.links)
    noun = rng.choice(
        [n for n in lx.NOUNS if not n.mass and n.kind in (*goods, "animal", "family", "person")]
    )
    s = subject(rng)
    form, entry = rng.choice(
        (("have", lx.VERBS["have"]), ("see", lx.VERBS["see"]), ("want", None), ("buy", lx.VERBS["buy"]))
    )
    many = it.agree("quanto", noun.plural_gender, True)
    if form == "want":
        verb, vp = lx.VOGLIO[s.person], VP(EnglishVerb("want"), it.AVERE)
    else:
        assert entry is not None
        vp = VP(entry.en, entry.it)
        verb = vp.it.present_form(s.person)
    en = words("how many", noun.en_plural, english(s, vp, "present", question=True))
    return made(en, words(many, noun.it_plural, verb, _after_verb(s)), "?", ((form, noun.en),))


def how(rng: Random) -> Sentence:
    """How is your mother? -> Come sta tua madre?"""
    s = person_phrase(rng, 0.0) if rng.random() < 0.7 else rng.choice(PRONOUNS)
    return made(
        words("how", be(s), s.en), words("come", it.STARE.present_form(s.person), _after_verb(s)), "?"
    )


def command(rng: Random) -> Sentence:
    """Open the door; do not open the door; please, open the door."""
    while True:
        vp = plain_vp(rng)
        if vp.en.base not in ("have", "know", "lose", "receive", "live", "leave", "arrive", "forget", "hear"):
            break
    negative = rng.random() < 0.3
    en = words("do not" if negative else "", vp.en.base, vp.en_tail)
    text = words("non " + vp.it.infinitive if negative else vp.it.imperative_form(), vp.it_tail)
    if rng.random() < 0.35:
        return made(f"please {en}", f"per favore, {text}", links=vp.links)
    return made(en, text, links=vp.links)


def fragment(rng: Random) -> Sentence:
    """A noun phrase alone, or with please."""
    if rng.random() < 0.25:
        return single_word(rng)
    kinds = ("food", "drink", "thing", "animal", "place", "clothes", "vehicle", "reading", "person",
             "profession", "family", "art", "talk")  # fmt: skip
    phrase = noun_phrase(rng, kinds, adjective_rate=0.35)
    if rng.random() < 0.25:
        phrase = noun_phrase(rng, ("food", "drink"), adjective_rate=0.1)
        return made(f"{phrase.en}, please", f"{phrase.it}, per favore", links=phrase.links)
    return made(phrase.en, phrase.it, links=phrase.links)


def single_word(rng: Random) -> Sentence:
    """A noun, an adjective, a number, a day, a language."""
    roll = rng.random()
    if roll < 0.5:
        noun = rng.choice(lx.NOUNS)
        if not noun.mass and rng.random() < 0.3:
            return made(noun.en_plural, noun.it_plural)
        return made(noun.en, noun.it)
    if roll < 0.7:
        adjective = rng.choice([a for a in lx.ADJECTIVES if a.en != "light"])
        return made(adjective.en, adjective.it)
    if roll < 0.8:
        en = rng.choice(tuple(tb.NUMBERS))
        return made(en, tb.NUMBERS[en])
    if roll < 0.88:
        en = rng.choice(tuple(tb.DAYS))
        return made(en, tb.DAYS[en])
    if roll < 0.94:
        en = rng.choice(tuple(tb.COUNTRIES))
        return made(en, tb.COUNTRIES[en][0])
    table = {**tb.TIMES_ANY, **tb.TIMES_FUTURE, "now": "adesso", "yesterday": "ieri", **tb.FREQUENCY}
    en = rng.choice([k for k in table if k != "here"])
    return made(en, table[en])


def compound(rng: Random) -> Sentence:
    """Two short clauses joined by and, but or because."""
    en_join, it_join = rng.choice((("and", "e"), ("but", "ma"), ("because", "perché")))
    first, second = _short_clause(rng), _short_clause(rng)
    if second.it.lower().startswith(("e", "è")) and it_join == "e":
        it_join = "ed"
    keeps_capital = second.en.split()[0] in ("I", *tb.MEN, *tb.WOMEN)
    tail_en = second.en if keeps_capital else second.en[0].lower() + second.en[1:]
    it_first = second.it.split()[0]
    tail_it = second.it if it_first in (*tb.MEN, *tb.WOMEN) else second.it[0].lower() + second.it[1:]
    return Sentence(
        f"{first.en} {en_join} {tail_en}", f"{first.it} {it_join} {tail_it}", "", first.links + second.links
    )


def _short_clause(rng: Random) -> Sentence:
    builder = rng.choice((tensed, tensed, quality, having, modal, loving, liking, introduction))
    while True:
        sentence = builder(rng)
        if not sentence.end and "," not in sentence.en and len(sentence.en.split()) <= 6:
            return sentence


def introduction(rng: Random) -> Sentence:
    """My name is Maria -> Io mi chiamo Maria."""
    who_en = name(rng).en
    table = {"my": "io mi chiamo", "his": "lui si chiama", "her": "lei si chiama", "your": "tu ti chiami"}
    owner = rng.choice(("my", "my", "his", "her", "your"))
    roll = rng.random()
    if roll < 0.3:
        return made(f"I am {who_en}", f"io sono {who_en}")
    if roll < 0.6:
        en, text = rng.choice((("hello", "ciao"), ("hi", "ciao"), ("good morning", "buongiorno")))
        me_en, me_it = rng.choice((("", ""), (" my name is", " io mi chiamo"), (" I am", " io sono")))
        return made(f"{en},{me_en} {who_en}", f"{text},{me_it} {who_en}")
    return made(f"{owner} name is {who_en}", f"{table[owner]} {who_en}")


def going_to(rng: Random) -> Sentence:
    """I am going to Rome; let us go home."""
    en, text, _ = destination(rng)
    if rng.random() < 0.5:
        return made(f"let's go {en}", f"andiamo {text}")
    s = subject(rng)
    vp = VP(lx.MOTION["go"].en, lx.MOTION["go"].it, en, text)
    return made(english(s, vp, "progressive"), italian(s, vp, "progressive"))


BUILDERS: dict[Callable[[Random], Sentence], float] = {
    tensed: 26, modal: 12, frequency: 3, loving: 8, liking: 7, wishing: 6, quality: 9, profession: 3,
    having: 3, whereabouts: 5, origin: 1, identity: 5, existence: 4, where: 3, what_object: 4,
    where_or_when: 2.5, why: 2, who: 2.5, how_much: 2, how: 1.2, command: 4, fragment: 6, compound: 3.5,
    introduction: 1.5, going_to: 1, being: 2,
}  # fmt: skip
"""How often each kind of sentence comes."""


def random_sentence(rng: Random) -> Sentence:
    """One sentence of any kind."""
    return rng.choices(tuple(BUILDERS), tuple(BUILDERS.values()))[0](rng)
