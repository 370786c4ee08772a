"""Incremental text is one-shot text, for any tokens, any prompt and any split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_tokenizers import TEXTS

from vllm_jax.tokenizer.base import WindowDecoding
from vllm_jax.tokenizer.detokenizer import IncrementalDetokenizer
from vllm_jax.tokenizer.json_tokenizer import clean_up_spaces
from vllm_jax.tokenizer.utf8 import Utf8Decoder, decode_utf8

KINDS = [
    "byte_level",
    "gpt_neox",
    "unigram",
    "byte_fallback",
    "words",
    "word_piece",
    "sp_bpe",
    "sp_unigram",
]


DEFAULTS = {"skip_special_tokens": True, "spaces_between_special_tokens": True}


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request, tokenizer_of):
    return tokenizer_of(request.param)


def one_shot(tokenizer, prompt, output, **options):
    """What decode(prompt + output) shows behind its longest common beginning with decode(prompt)."""

    def decode(ids):
        if isinstance(tokenizer.decoding, WindowDecoding):  # the clean-up is of the completion's own text
            kept = [
                i for i in ids if not (options["skip_special_tokens"] and i in tokenizer.special_token_ids)
            ]
            return tokenizer.decoding.decode(kept, options["spaces_between_special_tokens"])
        return tokenizer.decode(ids, **options)

    before, whole = decode(prompt), decode([*prompt, *output])
    same = next((k for k, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), None)
    added = whole[min(len(before), len(whole)) if same is None else same :]
    cleans_up = isinstance(tokenizer.decoding, WindowDecoding) and tokenizer.decoding.clean_up
    return clean_up_spaces(added) if cleans_up else added


def stream(tokenizer, prompt, output, **options):
    detokenizer = IncrementalDetokenizer(tokenizer, prompt, **options)
    pieces = []
    for token_id in output:
        assert detokenizer.text_length == sum(map(len, pieces))
        pieces.append(detokenizer.push(token_id))
    pieces.append(detokenizer.flush())
    assert detokenizer.text_length == sum(map(len, pieces))
    return pieces


def options_strategy():
    return st.fixed_dictionaries(
        {"skip_special_tokens": st.booleans(), "spaces_between_special_tokens": st.booleans()}
    )


def interesting_ids(tokenizer):
    """Any ids, but often those that hold parts of characters, spaces, and special tokens."""
    pieces = [f"<0x{byte:02X}>" for byte in b" \xc3\xa9\xe2\x82\xac\xf0"] + list("Ã©Ġ▁.'n")
    found = [tokenizer.token_to_id(piece) for piece in pieces]
    chosen = [i for i in found if i is not None] + sorted(tokenizer.special_token_ids)
    any_id = st.integers(0, tokenizer.max_token_id + 2)
    return st.lists(any_id | st.sampled_from(chosen) if chosen else any_id, max_size=14)


@settings(max_examples=250, deadline=None)
@given(data=st.data(), options=options_strategy())
def test_any_tokens(tokenizer, data, options):
    ids = data.draw(interesting_ids(tokenizer))
    cut = data.draw(st.integers(0, len(ids)))
    prompt, output = ids[:cut], ids[cut:]
    pieces = stream(tokenizer, prompt, output, **options)
    assert "".join(pieces) == one_shot(tokenizer, prompt, output, **options)
    if not prompt:
        assert "".join(pieces) == tokenizer.decode(output, **options)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), text=st.text(max_size=25) | st.sampled_from(TEXTS), options=options_strategy())
def test_any_text_split_anywhere(tokenizer, data, text, options):
    text = text.replace("\ufffd", "\u20ac")  # half of U+FFFD decodes to U+FFFD: the oracle cannot tell
    ids = tokenizer.encode(text, add_special_tokens=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(ids)))
    pieces = stream(tokenizer, ids[:cut], ids[cut:], **options)
    assert "".join(pieces) == one_shot(tokenizer, ids[:cut], ids[cut:], **options)


def test_a_completion_keeps_its_leading_space(tokenizer_of):
    for kind in ("byte_level", "unigram", "byte_fallback", "sp_bpe"):
        tokenizer = tokenizer_of(kind)
        whole = tokenizer.encode("I love programming", add_special_tokens=False)
        prompt = tokenizer.encode("I", add_special_tokens=False)
        assert whole[: len(prompt)] == prompt
        pieces = stream(tokenizer, prompt, whole[len(prompt) :])
        assert "".join(pieces) == " love programming"
        # Special tokens at the prompt's end do not make the completion the beginning of a text.
        pieces = stream(tokenizer, [*prompt, tokenizer.eos_token_id], whole[len(prompt) :])
        assert "".join(pieces) == " love programming"


def test_partial_characters_wait(tokenizer_of):
    for kind in ("gpt_neox", "sp_bpe"):
        tokenizer = tokenizer_of(kind)
        prompt = tokenizer.encode("I", add_special_tokens=False)
        ids = tokenizer.encode("I🙈", add_special_tokens=False)[len(prompt) :]
        assert stream(tokenizer, prompt, ids) == [*[""] * (len(ids) - 1), "🙈", ""]
        assert stream(tokenizer, [*prompt, *ids[:-1]], ids[-1:]) == ["🙈", ""]


def test_a_run_of_byte_tokens_waits_for_its_end(tokenizer_of):
    tokenizer = tokenizer_of("byte_fallback")
    a, b, first, second = map(tokenizer.token_to_id, ("a", "b", "<0xC3>", "<0xA9>"))
    assert stream(tokenizer, [a], [first, second, b]) == ["", "", "éb", ""]
    assert stream(tokenizer, [a], [first, second]) == ["", "", "é"]
    assert stream(tokenizer, [a], [first, second, first, b]) == ["", "", "", "\ufffd" * 3 + "b", ""]


def test_most_text_comes_at_once(tokenizer_of):
    """Holding back is the exception: of plain text, each token shows its own."""
    for kind in KINDS:
        tokenizer = tokenizer_of(kind)
        ids = tokenizer.encode("I love programming", add_special_tokens=False)
        pieces = stream(tokenizer, ids[:1], ids[1:])
        held = " 'nvr" if kind in ("unigram", "word_piece") else ""
        for k in range(1, len(ids)):
            shown = one_shot(tokenizer, ids[:1], ids[1 : k + 1], **DEFAULTS)
            assert "".join(pieces[:k]) == (shown.rstrip(held) if held else shown)


@pytest.mark.parametrize("each", [True, False])
@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=12) | st.text(max_size=6).map(str.encode), cuts=st.lists(st.integers(0, 12)))
@example(data=b"\xe2\x82", cuts=[1])
@example(data=b"\xf0\x9f\x98a\xed\xa0\x80\xc0\x80\xf4\x90", cuts=[])
def test_utf8_in_pieces(each, data, cuts):
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = Utf8Decoder(each_invalid_byte=each)
    text = "".join(decoder.push(data[a:b]) for a, b in pairwise(bounds))
    text += decoder.push(b"", final=True)
    assert text == decode_utf8(data, each_invalid_byte=each)
    if not each:
        assert text == data.decode("utf-8", "replace")


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=" .?!,'ntmsverex", max_size=20))
def test_clean_up_is_that_of_transformers(text):
    from transformers import PreTrainedTokenizerFast

    assert clean_up_spaces(text) == PreTrainedTokenizerFast.clean_up_tokenization(None, text)
