"""Closed tables: names, places, numbers, times, possessives and fixed verb phrases in both languages."""

from __future__ import annotations

from examples.demo_model.english import EnglishVerb
from examples.demo_model.italian import Gender, Verb, agree

MEN = ("Marco", "Luca", "Paolo", "Pietro", "Giovanni", "John", "Tom", "Peter", "David", "Andrea")
WOMEN = ("Maria", "Anna", "Giulia", "Laura", "Sara", "Francesca", "Mary", "Elena", "Lucy", "Emma")

LANGUAGES = {
    "Italian": "italiano", "English": "inglese", "French": "francese", "German": "tedesco",
    "Spanish": "spagnolo", "Chinese": "cinese", "Japanese": "giapponese", "Russian": "russo",
}  # fmt: skip
CITIES = {
    "Rome": "Roma", "Milan": "Milano", "Florence": "Firenze", "Venice": "Venezia", "Naples": "Napoli",
    "Turin": "Torino", "Paris": "Parigi", "London": "Londra", "Berlin": "Berlino", "Madrid": "Madrid",
    "New York": "New York", "Bologna": "Bologna",
}  # fmt: skip
COUNTRIES = {
    "Italy": ("Italia", "f"), "France": ("Francia", "f"), "Germany": ("Germania", "f"),
    "Spain": ("Spagna", "f"), "England": ("Inghilterra", "f"), "America": ("America", "f"),
    "China": ("Cina", "f"), "Japan": ("Giappone", "m"), "Greece": ("Grecia", "f"),
    "Switzerland": ("Svizzera", "f"), "Europe": ("Europa", "f"),
}  # fmt: skip

PLACES = {
    "the station": "alla stazione", "the airport": "all'aeroporto", "the restaurant": "al ristorante",
    "the hospital": "in ospedale", "the church": "in chiesa", "the bank": "in banca",
    "the library": "in biblioteca", "the museum": "al museo", "the park": "al parco",
    "the beach": "in spiaggia", "the market": "al mercato", "the supermarket": "al supermercato",
    "the pharmacy": "in farmacia", "the office": "in ufficio", "the university": "all'università",
    "the theater": "a teatro", "the cinema": "al cinema", "the hotel": "in hotel",
    "the mountains": "in montagna", "the sea": "al mare", "the bar": "al bar",
}  # fmt: skip
"""Where Italian says both "at" and "to" with one phrase of its own."""

INTERIOR = {
    "in the kitchen": "in cucina", "in the bathroom": "in bagno", "in the garden": "in giardino",
    "at home": "a casa", "at school": "a scuola", "at work": "al lavoro", "in the city": "in città",
}  # fmt: skip

BUILDINGS = ("bank", "hospital", "office", "restaurant", "school", "hotel", "shop", "museum", "library",
             "house", "castle", "village", "city", "pharmacy")  # fmt: skip
BARE_SINGULAR = ("pizza", "ice cream", "cake", "salad")
"""Countable, but also said like a mass: ``I love pizza``."""

PREPOSITIONS = {
    "on": "su", "under": "sotto", "near": "vicino a", "behind": "dietro", "in front of": "davanti a",
    "next to": "accanto a", "in": "in",
}  # fmt: skip

POSSESSIVES = {
    "my": "mio", "your": "tuo", "his": "suo", "her": "suo", "our": "nostro", "their": "loro",
}  # fmt: skip
_MASCULINE_PLURAL = {"mio": "miei", "tuo": "tuoi", "suo": "suoi", "nostro": "nostri", "loro": "loro"}


def possessive(en: str, gender: Gender, plural: bool) -> str:
    """``my`` -> mio, mia, miei or mie; "loro" does not change."""
    it = POSSESSIVES[en]
    if it == "loro":
        return it
    return agree(it, gender, plural, _MASCULINE_PLURAL[it])


NUMBERS = {
    "one": "uno", "two": "due", "three": "tre", "four": "quattro", "five": "cinque", "six": "sei",
    "seven": "sette", "eight": "otto", "nine": "nove", "ten": "dieci", "eleven": "undici",
    "twelve": "dodici", "thirteen": "tredici", "fourteen": "quattordici", "fifteen": "quindici",
    "sixteen": "sedici", "seventeen": "diciassette", "eighteen": "diciotto", "nineteen": "diciannove",
    "twenty": "venti",
}  # fmt: skip

_TENS = {
    "twenty": "venti", "thirty": "trenta", "forty": "quaranta", "fifty": "cinquanta", "sixty": "sessanta",
    "seventy": "settanta", "eighty": "ottanta",
}  # fmt: skip


def age(years: int) -> tuple[str, str]:
    """A number from 2 to 89 in English and Italian words (``ventuno, ventitré, ventotto``)."""
    ones = tuple(NUMBERS.items())
    if years <= 20:
        return ones[years - 1]
    tens, rest = tuple(_TENS.items())[years // 10 - 2], years % 10
    if not rest:
        return tens
    en, unit = ones[rest - 1]
    stem = tens[1][:-1] if unit[0] in "uo" else tens[1]
    return f"{tens[0]}-{en}", stem + ("tré" if unit == "tre" else unit)


DAYS = {
    "Monday": "lunedì", "Tuesday": "martedì", "Wednesday": "mercoledì", "Thursday": "giovedì",
    "Friday": "venerdì", "Saturday": "sabato", "Sunday": "domenica",
}  # fmt: skip

TIMES_ANY = {"today": "oggi", "this morning": "stamattina", "this evening": "stasera", "here": "qui"}
TIMES_PRESENT = {
    "now": "adesso", "every day": "ogni giorno", "every morning": "ogni mattina",
    "every evening": "ogni sera", "in the morning": "la mattina", "in the evening": "la sera",
    "in the afternoon": "il pomeriggio", "at night": "di notte", "in summer": "in estate",
    "in winter": "in inverno",
}  # fmt: skip
TIMES_PAST = {
    "yesterday": "ieri", "last week": "la settimana scorsa", "last year": "l'anno scorso",
    "two days ago": "due giorni fa", "last night": "ieri sera",
}  # fmt: skip
TIMES_FUTURE = {
    "tomorrow": "domani", "next week": "la settimana prossima", "next year": "l'anno prossimo",
    "soon": "presto", "later": "più tardi",
}  # fmt: skip
MANNERS = {"a lot": "molto", "well": "bene", "slowly": "lentamente", "together": "insieme"}
FREQUENCY = {"always": "sempre", "often": "spesso", "never": "mai"}
DEGREES = {"very": "molto", "too": "troppo", "so": "così"}

HAVING = {
    "hungry": "fame", "thirsty": "sete", "sleepy": "sonno", "afraid": "paura", "right": "ragione",
    "in a hurry": "fretta",
}  # fmt: skip
"""What English is and Italian has."""

ACTIVITIES = {
    "play football": ("play", "football", "giocare", "a calcio"),
    "play tennis": ("play", "tennis", "giocare", "a tennis"),
    "play the guitar": ("play", "the guitar", "suonare", "la chitarra"),
    "play the piano": ("play", "the piano", "suonare", "il pianoforte"),
    "play": ("play", "", "giocare", ""),
    "listen to music": ("listen", "to music", "ascoltare", "la musica"),
    "listen to the radio": ("listen", "to the radio", "ascoltare", "la radio"),
    "watch television": ("watch", "television", "guardare", "la televisione"),
    "have breakfast": ("have", "breakfast", "fare", "colazione"),
    "have lunch": ("have", "lunch", "pranzare", ""),
    "have dinner": ("have", "dinner", "cenare", ""),
    "do the homework": ("do", "the homework", "fare", "i compiti"),
    "take a shower": ("take", "a shower", "fare", "la doccia"),
    "take a photo": ("take", "a photo", "fare", "una foto"),
    "make a cake": ("make", "a cake", "fare", "una torta"),
    "make dinner": ("make", "dinner", "preparare", "la cena"),
    "tell the truth": ("tell", "the truth", "dire", "la verità"),
}
"""Whole verb phrases whose Italian verb depends on the object."""

ACTIVITY_ENGLISH = {
    "play": EnglishVerb("play", "played"), "listen": EnglishVerb("listen"),
    "watch": EnglishVerb("watch"), "have": EnglishVerb("have", "had", third="has"),
    "do": EnglishVerb("do", "did"), "take": EnglishVerb("take", "took"),
    "make": EnglishVerb("make", "made"), "tell": EnglishVerb("tell", "told"),
}  # fmt: skip
ACTIVITY_ITALIAN = {
    "giocare": Verb("giocare"), "suonare": Verb("suonare"), "ascoltare": Verb("ascoltare"),
    "guardare": Verb("guardare"), "pranzare": Verb("pranzare"), "cenare": Verb("cenare"),
    "preparare": Verb("preparare"),
    "fare": Verb(
        "fare", present=("faccio", "fai", "fa", "facciamo", "fate", "fanno"), participle="fatto",
        gerund="facendo", future_stem="far", imperative="fai",
    ),
    "dire": Verb(
        "dire", present=("dico", "dici", "dice", "diciamo", "dite", "dicono"), participle="detto",
        gerund="dicendo", imperative="di'",
    ),
}  # fmt: skip
