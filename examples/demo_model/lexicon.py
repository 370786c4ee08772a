"""The words the demo model knows, in English and Italian.

Knows words, their gender, irregular forms and what goes with what. Does not know how sentences are built.
Every table is one entry a line; columns are separated by ``|`` or spaces as each parser says.
"""

from __future__ import annotations

from dataclasses import dataclass

from examples.demo_model.english import EnglishVerb, add_s
from examples.demo_model.italian import AVERE, Gender, Verb, agree, plural_of


@dataclass(frozen=True)
class Noun:
    """A noun in both languages. ``plural_gender`` differs for the likes of "uovo, uova"."""

    en: str
    en_plural: str
    it: str
    it_plural: str
    gender: Gender
    plural_gender: Gender
    kind: str
    mass: bool = False


@dataclass(frozen=True)
class Adjective:
    """An adjective; ``of`` tells what it may qualify, ``place`` where it stands in Italian."""

    en: str
    it: str
    of: str
    masculine_plural: str | None = None
    place: str = "after"

    def form(self, gender: Gender, plural: bool) -> str:
        """The agreeing Italian form."""
        return agree(self.it, gender, plural, self.masculine_plural)


@dataclass(frozen=True)
class VerbEntry:
    """A verb in both languages.

    Attributes:
        objects: kinds of nouns it takes ("" if it takes none).
        bare: it may stand without an object.
        clitic: it takes a direct object pronoun (``I see him`` -> ``Io lo vedo``).
        past: usable in the past affirmative (not where the English past looks like the present).
    """

    en: EnglishVerb
    it: Verb
    objects: tuple[str, ...] = ()
    bare: bool = False
    clitic: bool = False
    past: bool = True


# english | italian gender [plural] [(gender of the plural)]; English irregular plurals follow a slash
_NOUNS = {
    "profession": """
        student|studente m; teacher|insegnante m; doctor|medico m medici; waiter|cameriere m
        chef|cuoco m; engineer|ingegnere m; lawyer|avvocato m; nurse|infermiera f; actor|attore m
        writer|scrittore m; programmer|programmatore m; journalist|giornalista m; artist|artista m
        farmer|contadino m; singer|cantante m; baker|panettiere m; policeman/policemen|poliziotto m
        tourist|turista m; photographer|fotografo m; scientist|scienziato m""",
    "person": """
        boy|ragazzo m; girl|ragazza f; man/men|uomo m uomini; woman/women|donna f
        child/children|bambino m; friend|amico m amici; family|famiglia f; person/people|persona f
        neighbor|vicino m; guest|ospite m; colleague|collega m colleghi; boss|capo m""",
    "family": """
        mother|madre f; mom|mamma f; dad|papà m; parent|genitore m; father|padre m; brother|fratello m
        sister|sorella f; son|figlio m; daughter|figlia f; grandmother|nonna f; grandfather|nonno m
        uncle|zio m zii; aunt|zia f; cousin|cugino m; husband|marito m; wife/wives|moglie f mogli""",
    "animal": """
        dog|cane m; cat|gatto m; horse|cavallo m; bird|uccello m; cow|mucca f; duck|anatra f
        pig|maiale m; rabbit|coniglio m; mouse/mice|topo m; lion|leone m; elephant|elefante m
        bear|orso m; wolf/wolves|lupo m""",
    "food": """
        apple|mela f; banana|banana f; lemon|limone m; strawberry|fragola f; pear|pera f
        tomato|pomodoro m; potato|patata f; onion|cipolla f; carrot|carota f; egg|uovo m uova f
        cake|torta f; sandwich|panino m; cookie|biscotto m; pizza|pizza f; salad|insalata f
        ice cream|gelato m; steak|bistecca f; mushroom|fungo m""",
    "food-mass": """
        bread|pane m; food|cibo m; cheese|formaggio m; meat|carne f; fish|pesce m; rice|riso m
        soup|zuppa f; pasta|pasta f; chocolate|cioccolato m; butter|burro m; sugar|zucchero m
        salt|sale m; honey|miele m; ham|prosciutto m; fruit|frutta f; chicken|pollo m""",
    "drink-mass": """
        water|acqua f; coffee|caffè m; tea|tè m; milk|latte m; wine|vino m; beer|birra f
        orange juice|succo d'arancia m; lemonade|limonata f""",
    "reading": """
        book|libro m; newspaper|giornale m; letter|lettera f; magazine|rivista f; story|storia f
        email|email f email; message|messaggio m; menu|menù m""",
    "thing": """
        key|chiave f; table|tavolo m; chair|sedia f; door|porta f; window|finestra f; bed|letto m
        lamp|lampada f; phone|telefono m; computer|computer m; pen|penna f; pencil|matita f; bag|borsa f
        box|scatola f; bottle|bottiglia f; glass|bicchiere m; cup|tazza f; plate|piatto m
        fork|forchetta f; knife/knives|coltello m; spoon|cucchiaio m; ticket|biglietto m
        suitcase|valigia f; clock|orologio m; mirror|specchio m; photo/photos|foto f foto
        camera|macchina fotografica f macchine fotografiche; umbrella|ombrello m; flower|fiore m
        tree|albero m; ball|palla f; gift|regalo m; map|mappa f; wall|muro m; passport|passaporto m
        guitar|chitarra f; picture|quadro m; dictionary|dizionario m; backpack|zaino m; mistake|errore m
        game|gioco m giochi""",
    "clothes": """
        shirt|camicia f camicie; dress|vestito m; jacket|giacca f; shoe|scarpa f; hat|cappello m
        skirt|gonna f; sweater|maglione m; coat|cappotto m; scarf/scarves|sciarpa f""",
    "vehicle": """
        car|macchina f; bus|autobus m autobus; train|treno m; bicycle|bicicletta f; bike|bicicletta f
        plane|aereo m; boat|barca f; airplane|aereo m; motorcycle|motocicletta f; taxi|taxi m taxi
        ship|nave f""",
    "place": """
        house|casa f; train station|stazione ferroviaria f stazioni ferroviarie; school|scuola f
        station|stazione f; airport|aeroporto m; hotel|hotel m hotel; restaurant|ristorante m
        hospital|ospedale m; church|chiesa f; bank|banca f; library|biblioteca f; museum|museo m
        park|parco m; beach|spiaggia f; market|mercato m; supermarket|supermercato m; shop|negozio m
        pharmacy|farmacia f; square|piazza f; street|strada f; city|città f; kitchen|cucina f
        bathroom|bagno m; garden|giardino m; office|ufficio m; room|stanza f; university|università f
        bridge|ponte m; sea|mare m; mountain|montagna f; lake|lago m; river|fiume m; theater|teatro m
        castle|castello m; village|paese m""",
    "nature": """
        sky/skies|cielo m; sun|sole m; moon|luna f; star|stella f; world|mondo m; forest|foresta f
        cloud|nuvola f""",
    "body": """
        hand|mano f mani; eye|occhio m; head|testa f; heart|cuore m; face|faccia f""",
    "art": """
        song|canzone f; movie|film m film""",
    "talk": """
        word|parola f; problem|problema m; party|festa f; color|colore m; language|lingua f
        lesson|lezione f; question|domanda f; answer|risposta f; day|giorno m; night|notte f
        week|settimana f; idea|idea f; name|nome m""",
}

# english | italian | what it qualifies (p: people, t: things) | place, or an irregular plural
_ADJECTIVES = """
    red|rosso|t; white|bianco|t; black|nero|t; green|verde|t; yellow|giallo|t; blue|blu|t
    gray|grigio|t; big|grande|pt; small|piccolo|pt; new|nuovo|pt; old|vecchio|pt; young|giovane|p
    tall|alto|p; short|basso|p; long|lungo|t; beautiful|bello|pt|before; ugly|brutto|pt
    good|buono|pt|before; bad|cattivo|pt; happy|felice|p; sad|triste|p; tired|stanco|p; sick|malato|p
    rich|ricco|p; poor|povero|p; strong|forte|p; weak|debole|p; intelligent|intelligente|p
    kind|gentile|p; nice|simpatico|p|simpatici; angry|arrabbiato|p; busy|occupato|p; ready|pronto|pt
    famous|famoso|pt; important|importante|pt; different|diverso|pt; expensive|costoso|t
    cheap|economico|t|economici; easy|facile|t; difficult|difficile|t; hot|caldo|t; cold|freddo|t
    clean|pulito|t; dirty|sporco|t; open|aperto|t; closed|chiuso|t; full|pieno|t; empty|vuoto|t
    fast|veloce|t; slow|lento|t; heavy|pesante|t; light|leggero|t; delicious|delizioso|t
    interesting|interessante|t; boring|noioso|t; dangerous|pericoloso|pt; quiet|tranquillo|pt
    modern|moderno|t; ancient|antico|t|antichi; lazy|pigro|p; honest|onesto|p; alone|solo|p
    married|sposato|p; worried|preoccupato|p; curious|curioso|p; Italian|italiano|pt
    English|inglese|pt; French|francese|pt; German|tedesco|pt; Spanish|spagnolo|pt
    American|americano|pt; Chinese|cinese|pt; Japanese|giapponese|pt
"""

_FOOD = ("food",)
_GOODS = ("food", "drink", "thing", "clothes", "reading", "vehicle")
_PEOPLE = ("person", "family", "profession")
_SEEN = ("person", "animal", "thing", "place", "vehicle", "family", "nature", "body")

VERBS: dict[str, VerbEntry] = {
    entry.en.base: entry
    for entry in [
        VerbEntry(EnglishVerb("speak", "spoke"), Verb("parlare"), ("language",), bare=True),
        VerbEntry(EnglishVerb("eat", "ate"), Verb("mangiare"), _FOOD, bare=True),
        VerbEntry(
            EnglishVerb("drink", "drank"),
            Verb(
                "bere",
                present=("bevo", "bevi", "beve", "beviamo", "bevete", "bevono"),
                participle="bevuto",
                gerund="bevendo",
                future_stem="berr",
                imperative="bevi",
            ),
            ("drink",),
            bare=True,
        ),
        VerbEntry(
            EnglishVerb("read", "read"),
            Verb("leggere", participle="letto"),
            ("reading",),
            bare=True,
            past=False,
        ),
        VerbEntry(
            EnglishVerb("write", "wrote"), Verb("scrivere", participle="scritto"), ("reading",), bare=True
        ),
        VerbEntry(EnglishVerb("buy", "bought"), Verb("comprare"), _GOODS),
        VerbEntry(EnglishVerb("sell", "sold"), Verb("vendere"), _GOODS),
        VerbEntry(
            EnglishVerb("see", "saw"),
            Verb("vedere", participle="visto", future_stem="vedr"),
            _SEEN,
            clitic=True,
        ),
        VerbEntry(EnglishVerb("watch"), Verb("guardare"), ("movie", "animal", "person", "sea"), clitic=True),
        VerbEntry(EnglishVerb("hear", "heard"), Verb("sentire"), ("animal", "person", "art"), clitic=True),
        VerbEntry(EnglishVerb("open"), Verb("aprire", participle="aperto"), ("opening",)),
        VerbEntry(EnglishVerb("close"), Verb("chiudere", participle="chiuso"), ("opening",)),
        VerbEntry(
            EnglishVerb("find", "found"),
            Verb("trovare"),
            ("thing", "animal", "place", "clothes"),
            clitic=True,
        ),
        VerbEntry(
            EnglishVerb("look for"), Verb("cercare"), ("thing", "person", "place", "animal"), clitic=True
        ),
        VerbEntry(EnglishVerb("lose", "lost"), Verb("perdere", participle="perso"), ("thing", "clothes")),
        VerbEntry(
            EnglishVerb("take", "took"), Verb("prendere", participle="preso"), ("thing", "vehicle", "drink")
        ),
        VerbEntry(EnglishVerb("bring", "brought"), Verb("portare"), ("food", "thing", "drink", "clothes")),
        VerbEntry(EnglishVerb("send", "sent"), Verb("mandare"), ("reading", "gift")),
        VerbEntry(EnglishVerb("receive"), Verb("ricevere"), ("reading", "gift")),
        VerbEntry(EnglishVerb("use"), Verb("usare"), ("thing", "vehicle")),
        VerbEntry(EnglishVerb("break", "broke"), Verb("rompere", participle="rotto"), ("thing",)),
        VerbEntry(EnglishVerb("wash"), Verb("lavare"), ("clothes", "vehicle", "food", "body")),
        VerbEntry(EnglishVerb("clean"), Verb("pulire", isc=True), ("place", "thing")),
        VerbEntry(EnglishVerb("wear", "wore"), Verb("indossare"), ("clothes",)),
        VerbEntry(EnglishVerb("drive", "drove"), Verb("guidare"), ("vehicle",), bare=True),
        VerbEntry(EnglishVerb("cut", "cut", doubles=True), Verb("tagliare"), _FOOD, past=False),
        VerbEntry(EnglishVerb("prepare"), Verb("preparare"), _FOOD),
        VerbEntry(EnglishVerb("cook"), Verb("cucinare"), _FOOD, bare=True),
        VerbEntry(EnglishVerb("order"), Verb("ordinare"), ("food", "drink")),
        VerbEntry(EnglishVerb("pay for", "paid"), Verb("pagare"), ("food", "thing", "clothes", "drink")),
        VerbEntry(EnglishVerb("wait for"), Verb("aspettare"), ("person", "family", "vehicle"), clitic=True),
        VerbEntry(EnglishVerb("help"), Verb("aiutare"), _PEOPLE, clitic=True),
        VerbEntry(
            EnglishVerb("know", "knew"),
            Verb("conoscere", participle="conosciuto"),
            (*_PEOPLE, "place"),
            clitic=True,
        ),
        VerbEntry(EnglishVerb("meet", "met"), Verb("incontrare"), _PEOPLE, clitic=True),
        VerbEntry(EnglishVerb("visit"), Verb("visitare"), ("place", "city", "country")),
        VerbEntry(EnglishVerb("call"), Verb("chiamare"), _PEOPLE, clitic=True),
        VerbEntry(EnglishVerb("invite"), Verb("invitare"), _PEOPLE, clitic=True),
        VerbEntry(EnglishVerb("remember"), Verb("ricordare"), ("talk", "art", "person", "place")),
        VerbEntry(EnglishVerb("forget", "forgot", doubles=True), Verb("dimenticare"), ("thing", "talk")),
        VerbEntry(
            EnglishVerb("understand", "understood"),
            Verb("capire", isc=True),
            ("language", "talk"),
            clitic=True,
        ),
        VerbEntry(EnglishVerb("study"), Verb("studiare"), ("language",), bare=True),
        VerbEntry(EnglishVerb("learn"), Verb("imparare"), ("language",), bare=True),
        VerbEntry(EnglishVerb("teach", "taught"), Verb("insegnare"), ("language",), bare=True),
        VerbEntry(
            EnglishVerb("paint"),
            Verb("dipingere", participle="dipinto"),
            ("wall", "place", "nature", "body"),
            bare=True,
        ),
        VerbEntry(
            EnglishVerb("draw", "drew"), Verb("disegnare"), ("animal", "place", "nature", "body"), bare=True
        ),
        VerbEntry(EnglishVerb("start"), Verb("iniziare"), ("lesson", "game")),
        VerbEntry(EnglishVerb("finish"), Verb("finire", isc=True), ("lesson", "reading", "game")),
        VerbEntry(EnglishVerb("have", "had", third="has"), AVERE, (*_GOODS, "animal", "family", "person")),
        VerbEntry(EnglishVerb("work"), Verb("lavorare"), bare=True),
        VerbEntry(EnglishVerb("sleep", "slept"), Verb("dormire"), bare=True),
        VerbEntry(EnglishVerb("travel"), Verb("viaggiare"), bare=True),
        VerbEntry(EnglishVerb("walk"), Verb("camminare"), bare=True),
        VerbEntry(EnglishVerb("swim", "swam", doubles=True), Verb("nuotare"), bare=True),
        VerbEntry(EnglishVerb("dance"), Verb("ballare"), bare=True),
        VerbEntry(EnglishVerb("sing", "sang"), Verb("cantare"), ("song",), bare=True),
        VerbEntry(EnglishVerb("laugh"), Verb("ridere", participle="riso"), bare=True),
        VerbEntry(EnglishVerb("cry"), Verb("piangere", participle="pianto"), bare=True),
        VerbEntry(EnglishVerb("program", doubles=True), Verb("programmare"), bare=True),
        VerbEntry(EnglishVerb("smoke"), Verb("fumare"), bare=True),
        VerbEntry(EnglishVerb("rest"), Verb("riposare"), bare=True),
        VerbEntry(EnglishVerb("run", "ran", doubles=True), Verb("correre", participle="corso"), bare=True),
        VerbEntry(
            EnglishVerb("live"),
            Verb("vivere", participle="vissuto", future_stem="vivr"),
        ),
    ]
}
"""Verbs with avere, by their English base form."""

MOTION: dict[str, VerbEntry] = {
    entry.en.base: entry
    for entry in [
        VerbEntry(
            EnglishVerb("go", "went"),
            Verb(
                "andare",
                present=("vado", "vai", "va", "andiamo", "andate", "vanno"),
                future_stem="andr",
                imperative="vai",
                essere=True,
            ),
        ),
        VerbEntry(EnglishVerb("return"), Verb("tornare", essere=True), bare=True),
        VerbEntry(EnglishVerb("arrive"), Verb("arrivare", essere=True), bare=True),
        VerbEntry(EnglishVerb("leave", "left"), Verb("partire", essere=True), bare=True),
        VerbEntry(
            EnglishVerb("come", "came"),
            Verb(
                "venire",
                present=("vengo", "vieni", "viene", "veniamo", "venite", "vengono"),
                participle="venuto",
                future_stem="verr",
                imperative="vieni",
                essere=True,
            ),
            bare=True,
        ),
    ]
}
"""Verbs of motion; their compound tenses take "essere" and the participle agrees with the subject."""

LIKING = {
    "love": VerbEntry(EnglishVerb("love"), Verb("amare"), clitic=True),
    "hate": VerbEntry(EnglishVerb("hate"), Verb("odiare"), clitic=True),
    "prefer": VerbEntry(EnglishVerb("prefer", doubles=True), Verb("preferire", isc=True)),
}
"""Verbs whose bare object is generic and takes the definite article in Italian; also with a gerund."""

VORREI = ("vorrei", "vorresti", "vorrebbe", "vorremmo", "vorreste", "vorrebbero")
DOVREI = ("dovrei", "dovresti", "dovrebbe", "dovremmo", "dovreste", "dovrebbero")
VOGLIO = ("voglio", "vuoi", "vuole", "vogliamo", "volete", "vogliono")
POSSO = ("posso", "puoi", "può", "possiamo", "potete", "possono")
POTREI = ("potrei", "potresti", "potrebbe", "potremmo", "potreste", "potrebbero")
DEVO = ("devo", "devi", "deve", "dobbiamo", "dovete", "devono")


def _parse_nouns() -> list[Noun]:
    nouns = []
    for kind, table in _NOUNS.items():
        for entry in table.replace("\n", ";").split(";"):
            if not entry.strip():
                continue
            english, italian = entry.strip().split("|")
            singular, _, irregular = english.partition("/")
            words = italian.split()
            gender_at = next(i for i, w in enumerate(words) if w in ("m", "f") and i > 0)
            it, rest = " ".join(words[:gender_at]), words[gender_at + 1 :]
            gender: Gender = "f" if words[gender_at] == "f" else "m"
            plural_gender: Gender = "f" if rest[-1:] == ["f"] else gender
            nouns.append(
                Noun(
                    en=singular,
                    en_plural=irregular or add_s(singular),
                    it=it,
                    it_plural=" ".join(rest).removesuffix(" f") or plural_of(it, gender),
                    gender=gender,
                    plural_gender=plural_gender,
                    kind=kind.removesuffix("-mass"),
                    mass=kind.endswith("-mass"),
                )
            )
    return nouns


def _parse_adjectives() -> list[Adjective]:
    adjectives = []
    for entry in _ADJECTIVES.replace("\n", ";").split(";"):
        if not entry.strip():
            continue
        en, it, of, *extra = entry.strip().split("|")
        place = "before" if extra == ["before"] else "after"
        adjectives.append(Adjective(en, it, of, extra[0] if extra and place == "after" else None, place))
    return adjectives


NOUNS = _parse_nouns()
ADJECTIVES = _parse_adjectives()
NOUN = {noun.en: noun for noun in NOUNS}
BY_KIND: dict[str, list[Noun]] = {}
for _noun in NOUNS:
    BY_KIND.setdefault(_noun.kind, []).append(_noun)
for _name in ("gift", "wall", "song", "lesson", "game", "movie", "sea"):
    BY_KIND[_name] = [NOUN[_name]]
BY_KIND["opening"] = [
    NOUN[n] for n in ("door", "window", "box", "bottle", "book", "letter", "bag", "shop", "suitcase")
]
