"""Italian morphology against a school grammar's examples, written out by hand."""

import pytest

from examples.demo_model import italian as it
from examples.demo_model import lexicon as lx
from examples.demo_model import tables as tb


@pytest.mark.parametrize(
    ("noun", "gender", "singular", "plural", "one"),
    [
        ("libro", "m", "il libro", "i libri", "un libro"),
        ("studente", "m", "lo studente", "gli studenti", "uno studente"),
        ("zaino", "m", "lo zaino", "gli zaini", "uno zaino"),
        ("psicanalista", "m", "lo psicanalista", "gli psicanalisti", "uno psicanalista"),
        ("gnomo", "m", "lo gnomo", "gli gnomi", "uno gnomo"),
        ("specchio", "m", "lo specchio", "gli specchi", "uno specchio"),
        ("albero", "m", "l'albero", "gli alberi", "un albero"),
        ("hotel", "m", "l'hotel", "gli hotel", "un hotel"),
        ("casa", "f", "la casa", "le case", "una casa"),
        ("idea", "f", "l'idea", "le idee", "un'idea"),
        ("università", "f", "l'università", "le università", "un'università"),
        ("strada", "f", "la strada", "le strade", "una strada"),
        ("sale", "m", "il sale", "i sali", "un sale"),
        ("chiave", "f", "la chiave", "le chiavi", "una chiave"),
        ("arancia", "f", "l'arancia", "le arance", "un'arancia"),
        ("spiaggia", "f", "la spiaggia", "le spiagge", "una spiaggia"),
        ("valigia", "f", "la valigia", "le valigie", "una valigia"),
        ("banca", "f", "la banca", "le banche", "una banca"),
        ("lago", "m", "il lago", "i laghi", "un lago"),
        ("negozio", "m", "il negozio", "i negozi", "un negozio"),
        ("turista", "m", "il turista", "i turisti", "un turista"),
        ("bar", "m", "il bar", "i bar", "un bar"),
    ],
)
def test_articles_and_plurals(noun, gender, singular, plural, one):
    assert it.with_definite(noun, gender, False) == singular
    assert it.with_definite(it.plural_of(noun, gender), gender, True) == plural
    assert it.with_indefinite(noun, gender) == one


@pytest.mark.parametrize(
    ("preposition", "phrase", "gender", "plural", "expected"),
    [
        ("di", "acqua", "f", False, "dell'acqua"),
        ("di", "libri", "m", True, "dei libri"),
        ("a", "studente", "m", False, "allo studente"),
        ("da", "amici", "m", True, "dagli amici"),
        ("in", "scatola", "f", False, "nella scatola"),
        ("su", "tavolo", "m", False, "sul tavolo"),
        ("su", "sedie", "f", True, "sulle sedie"),
        ("vicino a", "stazione", "f", False, "vicino alla stazione"),
        ("con", "amico", "m", False, "con l'amico"),
        ("sotto", "letto", "m", False, "sotto il letto"),
    ],
)
def test_contracted_prepositions(preposition, phrase, gender, plural, expected):
    assert it.with_preposition(preposition, phrase, gender, plural) == expected


def test_euphonic_d():
    assert it.before("a", "Anna") == "ad Anna" and it.before("a", "Roma") == "a Roma"
    assert it.joined("Marco", "Elena") == "Marco ed Elena" and it.joined("pane", "vino") == "pane e vino"


def test_adjectives_before_the_noun():
    assert it.quello("libro", "m", False) == "quel libro"
    assert it.quello("studente", "m", False) == "quello studente"
    assert it.quello("amico", "m", False) == "quell'amico"
    assert it.quello("alberi", "m", True) == "quegli alberi"
    assert it.quello("libri", "m", True) == "quei libri"
    assert it.quello("casa", "f", False, stem="be") == "bella casa"
    assert it.quello("amici", "m", True, stem="be") == "begli amici"
    assert (
        it.buono("libro", "m", False) == "buon libro" and it.buono("studente", "m", False) == "buono studente"
    )
    assert it.buono("idea", "f", False) == "buona idea" and it.buono("idee", "f", True) == "buone idee"


def test_agreement():
    forms = [it.agree("rosso", g, p) for g in "mf" for p in (False, True)]
    assert forms == ["rosso", "rossi", "rossa", "rosse"]
    assert [it.agree("bianco", g, True) for g in "mf"] == ["bianchi", "bianche"]
    assert [it.agree("vecchio", g, True) for g in "mf"] == ["vecchi", "vecchie"]
    assert it.agree("simpatico", "m", True, "simpatici") == "simpatici"
    assert it.agree("verde", "f", True) == "verdi" and it.agree("blu", "f", True) == "blu"


@pytest.mark.parametrize(
    ("infinitive", "present"),
    [
        ("amare", "amo ami ama amiamo amate amano"),
        ("mangiare", "mangio mangi mangia mangiamo mangiate mangiano"),
        ("cercare", "cerco cerchi cerca cerchiamo cercate cercano"),
        ("pagare", "pago paghi paga paghiamo pagate pagano"),
        ("studiare", "studio studi studia studiamo studiate studiano"),
        ("vendere", "vendo vendi vende vendiamo vendete vendono"),
        ("leggere", "leggo leggi legge leggiamo leggete leggono"),
        ("dormire", "dormo dormi dorme dormiamo dormite dormono"),
        ("aprire", "apro apri apre apriamo aprite aprono"),
        ("capire", "capisco capisci capisce capiamo capite capiscono"),
        ("andare", "vado vai va andiamo andate vanno"),
        ("bere", "bevo bevi beve beviamo bevete bevono"),
    ],
)
def test_present(infinitive, present):
    assert [_verb(infinitive).present_form(p) for p in range(6)] == present.split()


@pytest.mark.parametrize(
    ("infinitive", "first", "they", "gerund", "participle", "command"),
    [
        ("amare", "amerò", "ameranno", "amando", "amato", "ama"),
        ("mangiare", "mangerò", "mangeranno", "mangiando", "mangiato", "mangia"),
        ("cercare", "cercherò", "cercheranno", "cercando", "cercato", "cerca"),
        ("studiare", "studierò", "studieranno", "studiando", "studiato", "studia"),
        ("vendere", "venderò", "venderanno", "vendendo", "venduto", "vendi"),
        ("scrivere", "scriverò", "scriveranno", "scrivendo", "scritto", "scrivi"),
        ("finire", "finirò", "finiranno", "finendo", "finito", "finisci"),
        ("vedere", "vedrò", "vedranno", "vedendo", "visto", "vedi"),
        ("bere", "berrò", "berranno", "bevendo", "bevuto", "bevi"),
        ("venire", "verrò", "verranno", "venendo", "venuto", "vieni"),
        ("fare", "farò", "faranno", "facendo", "fatto", "fai"),
    ],
)
def test_other_forms(infinitive, first, they, gerund, participle, command):
    verb = _verb(infinitive)
    assert (verb.future_form(it.IO), verb.future_form(it.LORO)) == (first, they)
    assert (verb.gerund_form(), verb.participle_form(), verb.imperative_form()) == (
        gerund,
        participle,
        command,
    )


def test_compound_past_agrees_with_essere_only():
    assert _verb("mangiare").past_form(it.LUI, "f", False) == "ha mangiato"
    assert _verb("andare").past_form(it.LUI, "f", False) == "è andata"
    assert _verb("partire").past_form(it.LORO, "m", True) == "sono partiti"


def test_possessives():
    assert tb.possessive("my", "m", False) == "mio" and tb.possessive("my", "m", True) == "miei"
    assert tb.possessive("her", "f", True) == "sue" and tb.possessive("their", "f", True) == "loro"


def _verb(infinitive: str) -> it.Verb:
    known = [entry.it for table in (lx.VERBS, lx.MOTION, lx.LIKING) for entry in table.values()]
    known += tb.ACTIVITY_ITALIAN.values()
    return next((verb for verb in known if verb.infinitive == infinitive), it.Verb(infinitive))
