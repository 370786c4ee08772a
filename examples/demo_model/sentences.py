"""Whole sentences from the phrase grammar: statements, negations, questions, commands, in many forms.

Knows word order, auxiliaries and agreement between subject and predicate. Does not know fixed phrases.
"""

from __future__ import annotations

from random import Random

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb
from examples.demo_model.english import EnglishVerb, article
from examples.demo_model.grammar import (
    CLITICS,
    IT,
    NP,
    PRONOUNS,
    Sentence,
    capital,
    determined,
    name,
    noun_phrase,
    owned_by,
    person_phrase,
    subject,
    thing_phrase,
    words,
)
from examples.demo_model.verb_phrases import VP, liked, location, position, verb_phrase

FORMS = ("present", "progressive", "past", "future")
MODALS = {"can": lx.POSSO, "must": lx.DEVO, "should": lx.DOVREI, "have to": lx.DEVO, "want to": lx.VOGLIO,
          "would like to": lx.VORREI, "need to": (), "going to": ()}  # fmt: skip
_IMPERFECT = {
    "essere": ("ero", "eri", "era", "eravamo", "eravate", "erano"),
    "avere": ("avevo", "avevi", "aveva", "avevamo", "avevate", "avevano"),
}
_OWN_OBJECT = {"io": "me", "tu": "you", "noi": "us", "voi": "you"}


def be(s: NP) -> str:
    """am, are or is."""
    if s.person == it.IO:
        return "am"
    return "is" if s.person == it.LUI else "are"


def _third(s: NP) -> bool:
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
    elif form in ("can", "must", "should"):
        auxiliary = form
    elif form == "would like to":
        auxiliary, verb = "would", f"like to {vp.en.base}"
    else:
        if form in ("have to", "want to", "need to"):
            first, _, rest = form.partition(" ")
            third = {"have": "has", "want": "wants", "need": "needs"}[first]
            finite, verb = f"{third if _third(s) else first} {rest} {verb}", f"{form} {verb}"
        elif form == "past":
            finite = vp.en.past
        else:
            finite = vp.en.third_person if _third(s) else vp.en.base
        if not negative and not question:
            return words(s.en, finite, vp.en_tail)
        auxiliary = "did" if form == "past" else ("does" if _third(s) else "do")
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
    elif form == "past":
        group = vp.it.past_form(s.person, s.gender, s.plural)
    elif form in ("future", "going to"):
        group = vp.it.future_form(s.person)
    elif form == "need to":
        group = f"{it.AVERE.present_form(s.person)} bisogno di {vp.it.infinitive}"
    else:
        group = f"{MODALS[form][s.person]} {vp.it.infinitive}"
    return words(vp.clitic, group)


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
    form = rng.choices(tuple(MODALS), (20, 12, 10, 12, 26, 14, 8, 8))[0]
    s, vp = fitting(rng, form)
    mode = rng.choices(("plain", "not", "ask"), (60, 20, 20))[0]
    if form == "must" and mode == "ask":
        form = "have to"
    when_en, when_it = when(rng, form, 0.15)
    en = english(s, vp, form, negative=mode == "not", question=mode == "ask")
    italian_text = italian(s, vp, form, negative=mode == "not")
    if form == "can" and mode == "ask" and not when_en and rng.random() < 0.25:
        when_en, when_it = ", please", ", per favore"
    en, italian_text = words(en, when_en).replace(" ,", ","), words(italian_text, when_it).replace(" ,", ",")
    return made(en, italian_text, "?" if mode == "ask" else "", vp.links)


def frequency(rng: Random) -> Sentence:
    """always, often, never."""
    s, vp = fitting(rng, "present")
    adverb = rng.choice(tuple(tb.FREQUENCY))
    finite = vp.en.third_person if _third(s) else vp.en.base
    en = words(s.en, adverb, finite, vp.en_tail)
    return made(
        en, italian(s, vp, "present", negative=adverb == "never", adverb=tb.FREQUENCY[adverb]), links=vp.links
    )


def plain_vp(rng: Random) -> VP:
    """A verb phrase without object pronoun."""
    while True:
        vp = verb_phrase(rng)
        if not vp.clitic:
            return vp


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


def _professions(gender: it.Gender) -> list[lx.Noun]:
    """The professions that the lexicon has a form of this gender for."""
    pool = lx.BY_KIND["profession"]
    if gender == "f":
        return [n for n in pool if n.it.endswith(("nante", "tante", "ista", "medico", "infermiera"))]
    return [n for n in pool if n.gender == "m"]


def being(rng: Random) -> Sentence:
    """I want to be a doctor; you must be careful; it can be cold."""
    form = rng.choice(("want to", "would like to", "can", "must", "should", "have to", "going to"))
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


# ---------------------------------------------------------------- to be


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
        s, wanted = (IT if rng.random() < 0.25 else thing_phrase(rng)), "t"
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
    if rng.random() < 0.3:
        number = rng.choice(tuple(tb.NUMBERS)[1:])
        years = "vent'anni" if number == "twenty" else f"{tb.NUMBERS[number]} anni"
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
