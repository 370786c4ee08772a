"""Clauses: subject, verb and tense put together in both languages.

Knows auxiliaries, word order, agreement and times. Does not know which kinds of sentences there are.
"""

from __future__ import annotations

from random import Random

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb
from examples.demo_model.grammar import (
    NP,
    Sentence,
    capital,
    subject,
    words,
)
from examples.demo_model.verb_phrases import VP, verb_phrase

FORMS = ("present", "progressive", "past", "future")
MODALS = {"can": lx.POSSO, "must": lx.DEVO, "should": lx.DOVREI, "have to": lx.DEVO, "want to": lx.VOGLIO,
          "would like to": lx.VORREI, "need to": (), "going to": (), "could": lx.POTREI}  # fmt: skip
_OWN_OBJECT = {"io": "me", "tu": "you", "noi": "us", "voi": "you"}


def be(s: NP) -> str:
    """am, are or is."""
    if s.person == it.IO:
        return "am"
    return "is" if s.person == it.LUI else "are"


def is_third(s: NP) -> bool:
    """Whether the verb takes the third person singular."""
    return s.person == it.LUI


def english(s: NP, vp: VP, form: str, *, negative: bool = False, question: bool = False) -> str:
    """The English clause from subject to the verb's tail; a question begins with its auxiliary."""
    no = "not" if negative else ""
    verb = vp.en.base
    if form == "progressive":
        auxiliary, verb = be(s), vp.en.ing
    elif form == "going to":
        auxiliary, verb = be(s), f"going to {vp.en.base}"
    elif form == "future":
        auxiliary = "will"
    elif form in ("can", "could", "must", "should"):
        auxiliary = form
    elif form == "would like to":
        auxiliary, verb = "would", f"like to {vp.en.base}"
    else:
        if form in ("have to", "want to", "need to"):
            first, _, rest = form.partition(" ")
            third = {"have": "has", "want": "wants", "need": "needs"}[first]
            finite, verb = f"{third if is_third(s) else first} {rest} {verb}", f"{form} {verb}"
        elif form == "past":
            finite = vp.en.past
        else:
            finite = vp.en.third_person if is_third(s) else vp.en.base
        if not negative and not question:
            return words(s.en, finite, vp.en_tail)
        auxiliary = "did" if form == "past" else ("does" if is_third(s) else "do")
    if question:
        return words(auxiliary, s.en, no, verb, vp.en_tail)
    if auxiliary == "can" and negative:
        auxiliary, no = "cannot", ""
    return words(s.en, auxiliary, no, verb, vp.en_tail)


def italian_verb(s: NP, vp: VP, form: str) -> str:
    """The Italian verb group without its tail: clitic, finite verb, infinitive or participle."""
    if form == "present":
        group = vp.it.present_form(s.person)
    elif form == "progressive":
        group = f"{it.STARE.present_form(s.person)} {vp.it.gerund_form()}"
    elif form == "past" and vp.clitic:
        return _past_with_clitic(s, vp)
    elif form == "past":
        group = vp.it.past_form(s.person, s.gender, s.plural)
    elif form in ("future", "going to"):
        group = vp.it.future_form(s.person)
    elif form == "need to":
        group = f"{it.AVERE.present_form(s.person)} bisogno di {vp.it.infinitive}"
    else:
        group = f"{MODALS[form][s.person]} {vp.it.infinitive}"
    return words(vp.clitic, group)


def _past_with_clitic(s: NP, vp: VP) -> str:
    """lo and la elide before avere, and the participle agrees with lo, la and li: ``l'ho vista``."""
    auxiliary = it.AVERE.present_form(s.person)
    participle = vp.it.participle_form("f" if vp.clitic == "la" else "m", vp.clitic == "li")
    if vp.clitic in ("lo", "la"):
        return f"l'{auxiliary} {participle}"
    return f"{vp.clitic} {auxiliary} {participle}"


def italian(s: NP, vp: VP, form: str, *, negative: bool = False, adverb: str = "") -> str:
    """The Italian clause in statement order, which is that of yes-or-no questions too."""
    group = italian_verb(s, vp, form)
    if adverb:  # always present: after the finite verb
        group = f"{group} {adverb}"
    return words(s.it, "non" if negative else "", group, vp.it_tail)


def usable(s: NP, vp: VP, form: str) -> bool:
    """Whether the verb phrase can stand in this form behind this subject."""
    if vp.clitic and (_OWN_OBJECT.get(s.it) == vp.en_tail or (not s.pronoun and vp.en_tail == "it")):
        return False
    if vp.clitic and form == "need to":
        return False
    if form == "going to" and vp.en.base == "work" and not vp.en_tail:
        return False  # "I am going to work" means the place
    return not (form == "past" and not vp.past)


def when(rng: Random, form: str, rate: float = 0.22) -> tuple[str, str]:
    """Now and then a time or manner that fits the form, in English and Italian; else two empty texts."""
    if rng.random() >= rate:
        return "", ""
    if form in ("past",):
        table = tb.TIMES_PAST if rng.random() < 0.7 else tb.TIMES_ANY
    elif form == "future":
        table = tb.TIMES_FUTURE if rng.random() < 0.7 else tb.TIMES_ANY
    elif form == "progressive":
        table = {"now": "adesso", **tb.TIMES_ANY}
    elif form == "present":
        roll = rng.random()
        if roll < 0.25:
            day = rng.choice(tuple(tb.DAYS))
            return f"on {day}", tb.DAYS[day]
        if roll < 0.4:
            table = tb.MANNERS
        elif roll < 0.5:
            hour = rng.choice(tuple(tb.NUMBERS)[:12])
            return f"at {hour}", "all'una" if hour == "one" else f"alle {tb.NUMBERS[hour]}"
        else:
            table = tb.TIMES_PRESENT if rng.random() < 0.7 else tb.TIMES_ANY
    else:
        table = {**tb.TIMES_ANY, **tb.TIMES_FUTURE, "now": "adesso"}
    key = rng.choice(tuple(table))
    return key, table[key]


def made(en: str, italian_text: str, end: str = "", links: tuple = ()) -> Sentence:
    """A sentence with its first letters in upper case."""
    return Sentence(capital(en), capital(italian_text), end, tuple(links))


def fitting(rng: Random, form: str) -> tuple[NP, VP]:
    """A subject and a verb phrase that go together in this form."""
    while True:
        s, vp = subject(rng), verb_phrase(rng)
        if usable(s, vp, form):
            return s, vp


def plain_vp(rng: Random) -> VP:
    """A verb phrase without object pronoun."""
    while True:
        vp = verb_phrase(rng)
        if not vp.clitic:
            return vp
