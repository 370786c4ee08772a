"""tokenizer.json directories against transformers' AutoTokenizer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import TEXTS
from transformers import AutoTokenizer

from vllm_jax.errors import InvalidRequestError

KINDS = ["byte_level", "gpt_neox", "unigram", "byte_fallback", "words", "word_piece"]


@pytest.fixture(params=KINDS, scope="module")
def pair(request, directory_of, tokenizer_of):
    """Ours and transformers' tokenizer of one directory."""
    return tokenizer_of(request.param), AutoTokenizer.from_pretrained(directory_of(request.param))


def test_encodes_as_transformers(pair):
    ours, theirs = pair
    for text in [*TEXTS, " ".join(TEXTS) * 20]:
        for add in (True, False):
            expected = theirs.encode(text, add_special_tokens=add)
            assert ours.encode(text, add_special_tokens=add) == expected, (text, add)


def test_decodes_texts_as_transformers(pair):
    ours, theirs = pair
    for text in TEXTS:
        ids = theirs.encode(text)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_decodes_any_ids_as_transformers(pair, data, skip):
    ours, theirs = pair
    ids = data.draw(st.lists(st.integers(0, ours.max_token_id + 3), max_size=12))
    assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_facts_are_those_of_transformers(pair):
    ours, theirs = pair
    assert ours.vocab_size == len(theirs)
    assert ours.max_token_id == max(theirs.get_vocab().values())
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )
    assert ours.special_tokens == theirs.special_tokens_map
    assert ours.special_token_ids >= set(theirs.all_special_ids)
    assert ours.truncation_side == theirs.truncation_side
    assert [ours.id_to_piece(i) for i in range(len(theirs))] == theirs.convert_ids_to_tokens(
        range(len(theirs))
    )
    assert ours.id_to_piece(ours.max_token_id + 1) is None
    assert ours.token_to_id(ours.id_to_piece(7)) == 7


def test_token_bytes_join_to_the_text(pair):
    ours, _ = pair
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=False)
        joined = b"".join(map(ours.token_bytes, ids)).decode("utf-8", "replace")
        whole = ours.decode(ids, skip_special_tokens=False)
        if type(ours.decoding).__name__ == "ByteDecoding":
            assert joined == whole
        else:  # less the clean-up, and the space that a text does not begin with
            assert joined.replace(" ", "") == whole.replace(" ", "")


def test_a_token_shows_what_it_adds_inside_a_text(tokenizer_of):
    for kind in ("byte_level", "unigram", "byte_fallback"):
        tokenizer = tokenizer_of(kind)
        ids = tokenizer.encode("I love programming", add_special_tokens=False)
        assert "".join(map(tokenizer.token_str, ids)).endswith("I love programming")
    tokenizer = tokenizer_of("byte_fallback")
    assert tokenizer.token_bytes(tokenizer.token_to_id("<0xF0>")) == b"\xf0"
    assert tokenizer.token_str(tokenizer.token_to_id("<0xF0>")) == "\ufffd"
    assert tokenizer.token_bytes(10**6) == b""


def test_mpt_directory(tokenizer_of):
    tokenizer = tokenizer_of("gpt_neox")
    assert tokenizer.eos_token_id == tokenizer.token_to_id("<|endoftext|>")
    assert tokenizer.max_length == 2048
    assert tokenizer.get_chat_template() is None
    assert tokenizer.decode(tokenizer.encode("a        b <|endoftext|>")) == "a        b "


def test_configured_length_and_side(tokenizer_of):
    assert tokenizer_of("byte_level").max_length == 2048
    assert tokenizer_of("byte_level").truncation_side == "left"
    assert tokenizer_of("unigram").max_length is None


def test_spaces_between_special_tokens(tokenizer_of):
    tokenizer = tokenizer_of("words")
    ids = [3, 1, 2, 4, 5, 7]
    plain = {"skip_special_tokens": False}
    assert tokenizer.decode(ids, **plain) == "I <s> </s> love programming [TOOL]"
    assert (
        tokenizer.decode(ids, **plain, spaces_between_special_tokens=False)
        == "I<s></s>love programming[TOOL]"
    )
    assert tokenizer.decode(ids, spaces_between_special_tokens=False) == "I love programming[TOOL]"


def test_text_that_is_no_unicode_is_refused(tokenizer_of):
    with pytest.raises(InvalidRequestError, match=r"U\+D83D at character 2"):
        tokenizer_of("byte_level").encode("ab\ud83d")


def test_ids_that_are_none_are_refused(tokenizer_of):
    with pytest.raises(InvalidRequestError, match="token id -1"):
        tokenizer_of("byte_level").decode([1, -1])


def test_threads_share_a_tokenizer(tokenizer_of):
    tokenizer = tokenizer_of("byte_level")
    texts = [text * 50 for text in TEXTS]
    expected = [(ids, tokenizer.decode(ids)) for ids in map(tokenizer.encode, texts)]

    def work(k: int) -> bool:
        text, (ids, decoded) = texts[k % len(texts)], expected[k % len(texts)]
        return tokenizer.encode(text) == ids and tokenizer.decode(ids) == decoded

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))
