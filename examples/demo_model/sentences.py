"""Sentences around a full verb: tenses, modal verbs, wishes, likes; affirmative, negative or asked.

Knows these kinds of sentences. Those with "to be" are in :mod:`examples.demo_model.copulas`.
"""

from __future__ import annotations

from random import Random

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb
from examples.demo_model.clauses import (
    FORMS,
    MODALS,
    english,
    fitting,
    is_third,
    italian,
    made,
    plain_vp,
    usable,
    when,
)
from examples.demo_model.english import EnglishVerb
from examples.demo_model.grammar import (
    CLITICS,
    Sentence,
    noun_phrase,
    person_phrase,
    subject,
    words,
)
from examples.demo_model.verb_phrases import VP, liked


def tensed(rng: Random) -> Sentence:
    """Subject, verb, object in a tense; affirmative, negative or a yes-or-no question."""
    form = rng.choices(FORMS, (50, 17, 18, 15))[0]
    s, vp = fitting(rng, form)
    mode = rng.choices(("plain", "not", "ask"), (60, 20, 20))[0]
    when_en, when_it = when(rng, form)
    en = english(s, vp, form, negative=mode == "not", question=mode == "ask")
    italian_text = italian(s, vp, form, negative=mode == "not")
    return made(words(en, when_en), words(italian_text, when_it), "?" if mode == "ask" else "", vp.links)


def modal(rng: Random) -> Sentence:
    """Modal verb and infinitive."""
    form = rng.choices(tuple(MODALS), (20, 12, 10, 12, 26, 14, 8, 8, 8))[0]
    s, vp = fitting(rng, form)
    mode = rng.choices(("plain", "not", "ask"), (60, 20, 20))[0]
    if form == "must" and mode == "ask":
        form = "have to"
    when_en, when_it = when(rng, form, 0.15)
    en = english(s, vp, form, negative=mode == "not", question=mode == "ask")
    italian_text = italian(s, vp, form, negative=mode == "not")
    if form in ("can", "could") and mode == "ask" and not when_en and rng.random() < 0.25:
        when_en, when_it = ", please", ", per favore"
    en, italian_text = words(en, when_en).replace(" ,", ","), words(italian_text, when_it).replace(" ,", ",")
    return made(en, italian_text, "?" if mode == "ask" else "", vp.links)


def frequency(rng: Random) -> Sentence:
    """always, often, never."""
    s, vp = fitting(rng, "present")
    adverb = rng.choice(tuple(tb.FREQUENCY))
    finite = vp.en.third_person if is_third(s) else vp.en.base
    en = words(s.en, adverb, finite, vp.en_tail)
    return made(
        en, italian(s, vp, "present", negative=adverb == "never", adverb=tb.FREQUENCY[adverb]), links=vp.links
    )


def loving(rng: Random) -> Sentence:
    """love, hate, prefer with a noun or with an activity."""
    s = subject(rng)
    entry = rng.choices(tuple(lx.LIKING.values()), (6, 2, 2))[0]
    base = entry.en.base
    mode = rng.choices(("plain", "not", "ask"), (70, 15, 15))[0]
    roll = rng.random()
    if roll < 0.4:
        inner = plain_vp(rng)
        gerund = base != "prefer" and rng.random() < 0.65
        en_tail = words(inner.en.ing if gerund else f"to {inner.en.base}", inner.en_tail)
        vp = VP(entry.en, entry.it, en_tail, words(inner.it.infinitive, inner.it_tail), links=inner.links)
    elif roll < 0.8 or base == "prefer":
        thing = liked(rng)
        links = (*((base, w) for w in thing.words), *thing.links)
        vp = VP(entry.en, entry.it, thing.en, thing.it, links=links)
    elif roll < 0.9:
        person = person_phrase(rng)
        vp = VP(entry.en, entry.it, person.en, person.it, links=person.links)
    else:
        en = rng.choice(("you", "him", "her", "us", "them", "me"))
        vp = VP(entry.en, entry.it, en, clitic=CLITICS[en], links=((base, en),))
        if not usable(s, vp, "present"):
            return loving(rng)
    en = english(s, vp, "present", negative=mode == "not", question=mode == "ask")
    return made(en, italian(s, vp, "present", negative=mode == "not"), "?" if mode == "ask" else "", vp.links)


def liking(rng: Random) -> Sentence:
    """The verb like: the thing liked becomes the Italian subject of piacere."""
    s = subject(rng)
    mode = rng.choices(("plain", "not", "ask"), (65, 18, 17))[0]
    if rng.random() < 0.4:
        vp = plain_vp(rng)
        en_tail = words(vp.en.ing, vp.en_tail) if rng.random() < 0.6 else words("to", vp.en.base, vp.en_tail)
        verb, pleasing, links = "piace", words(vp.it.infinitive, vp.it_tail), vp.links
    else:
        thing = liked(rng)
        en_tail, pleasing = thing.en, thing.it
        verb = "piacciono" if thing.plural else "piace"
        links = (*(("like", w) for w in thing.words), *thing.links)
    no = "non" if mode == "not" else ""
    if s.dative and s.dative != "a loro":
        text = words(no, s.dative, verb, pleasing)
    else:
        text = words(s.dative or s.after("a"), no, verb, pleasing)
    like = EnglishVerb("like")
    en = english(s, VP(like, it.ESSERE, en_tail), "present", negative=mode == "not", question=mode == "ask")
    return made(en, text, "?" if mode == "ask" else "", links)


def wishing(rng: Random) -> Sentence:
    """want, would like, need with a noun."""
    s = subject(rng)
    kinds = ("food", "drink", "thing", "clothes", "reading", "vehicle")
    form = rng.choice(("want", "would like", "need"))
    mode = rng.choices(("plain", "not", "ask"), (64, 18, 18))[0]
    while True:
        thing = noun_phrase(rng, kinds)
        if form != "need" or not thing.en.startswith("some "):
            break
    links = (*((form.split()[-1], w) for w in thing.words), *thing.links)
    if form == "would like":
        no = "not" if mode == "not" else ""
        en = words(s.en, "would", no, "like", thing.en)
        if mode == "ask":
            en = words("would", s.en, "like", thing.en)
        group = lx.VORREI[s.person]
    else:
        vp = VP(EnglishVerb(form), it.AVERE, thing.en)
        en = english(s, vp, "present", negative=mode == "not", question=mode == "ask")
        group = lx.VOGLIO[s.person] if form == "want" else f"{it.AVERE.present_form(s.person)} bisogno"
    tail = thing.after("di") if form == "need" else thing.it
    text = words(s.it, "non" if mode == "not" else "", group, tail)
    if form == "would like" and mode == "plain" and rng.random() < 0.3:
        en, text = f"{en}, please", f"{text}, per favore"
    return made(en, text, "?" if mode == "ask" else "", links)
