"""The phrase grammar: determinism, the split, and sentences a person has checked."""

from random import Random

import pytest

from examples.demo_model.chats import ChatMaker, known_words, seed_chats
from examples.demo_model.english import EnglishVerb, contract
from examples.demo_model.grammar import SEEDS, Sentence, is_held_out, pair_is_held_out
from examples.demo_model.phrases import FIXED, fixed_phrases
from examples.demo_model.questions import random_sentence


@pytest.fixture(scope="module")
def sentences() -> list[Sentence]:
    rng = Random(7)
    return [random_sentence(rng) for _ in range(30_000)]


def test_a_sentence_has_one_translation(sentences):
    seen: dict[str, str] = {}
    for sentence in sentences:
        italian = sentence.it + sentence.end
        assert seen.setdefault(sentence.en.lower(), italian) == italian, sentence


def test_the_same_seed_gives_the_same_sentences(sentences):
    rng = Random(7)
    assert [random_sentence(rng) for _ in range(500)] == sentences[:500]


def test_sentences_are_tidy(sentences):
    for sentence in sentences:
        for text in (sentence.en, sentence.it):
            assert text == text.strip() and "  " not in text and text[0].isupper(), sentence
            assert text[-1] not in ".?!", sentence
        assert "' " not in sentence.it.lower().replace("di' ", ""), sentence  # an elided article is glued


def test_training_and_evaluation_share_no_sentence_and_no_held_out_pair():
    train, test = ChatMaker(held_out=False), ChatMaker(held_out=True)
    rng = Random(3)
    shown = [train.sentence(rng) for _ in range(8_000)]
    asked = [test.sentence(rng) for _ in range(2_000)]
    assert not {s.en.lower() for s in shown} & {s.en.lower() for s in asked}
    assert not {pair for s in shown for pair in s.links if pair_is_held_out(pair)}
    assert all(is_held_out(s) for s in asked)
    assert not {s.en.lower() for s in asked} & set(FIXED)


def test_the_split_depends_on_the_words_alone():
    sentence = Sentence("I eat an apple", "Io mangio una mela")
    assert is_held_out(sentence) == is_held_out(Sentence("I eat an apple", "anything", "?"))
    assert not any(is_held_out(Sentence(en, "")) for en in SEEDS)


def test_unknown_words_stay_apart():
    train, test = ChatMaker(held_out=False).untranslatable, ChatMaker(held_out=True).untranslatable
    for kind in ("nouns", "verbs", "adjectives", "names", "languages", "requests", "foreign", "code"):
        shown, asked = set(getattr(train, kind)), set(getattr(test, kind))
        assert shown and asked and not shown & asked, kind
    vocabulary = known_words()
    assert (
        not {w.lower() for u in (train, test) for w in (*u.nouns, *u.verbs, *u.adjectives, *u.names)}
        & vocabulary
    )


def test_fixed_phrases_are_unique():
    english = [phrase.en.lower() for phrase in fixed_phrases()]
    assert len(english) == len(set(english))


def test_the_seed_is_among_the_chats():
    assert {chat.turns[-1][1] for chat in seed_chats()} == {"Io amo programmare"}


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("I am tired", "I'm tired"),
        ("I do not know", "I don't know"),
        ("He is not here", "He isn't here"),
        ("It is red", "It's red"),
        ("Where is the station", "Where's the station"),
        ("Do not open the door", "Don't open the door"),
        ("I cannot swim", "I can't swim"),
        ("I would like a coffee", "I'd like a coffee"),
        ("Maria is at home", "Maria is at home"),
    ],
)
def test_contractions(full, short):
    assert contract(full) == short


@pytest.mark.parametrize(
    ("verb", "third", "ing", "past"),
    [
        (EnglishVerb("watch"), "watches", "watching", "watched"),
        (EnglishVerb("study"), "studies", "studying", "studied"),
        (EnglishVerb("play"), "plays", "playing", "played"),
        (EnglishVerb("swim", "swam", doubles=True), "swims", "swimming", "swam"),
        (EnglishVerb("wait for"), "waits for", "waiting for", "waited for"),
        (EnglishVerb("go", "went"), "goes", "going", "went"),
        (EnglishVerb("smoke"), "smokes", "smoking", "smoked"),
    ],
)
def test_english_verbs(verb, third, ing, past):
    assert (verb.third_person, verb.ing, verb.past) == (third, ing, past)
