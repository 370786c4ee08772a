"""SentencePiece directories against the sentencepiece package and transformers' LlamaTokenizer."""

from __future__ import annotations

import json

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import LLAMA, TEXTS, sentencepiece_directory, train_sentencepiece
from transformers import AutoTokenizer

from vllm_jax.errors import CheckpointError, ConfigError, InvalidRequestError
from vllm_jax.tokenizer.loader import load_tokenizer

MODELS = {
    "llama": LLAMA,
    "unigram": {"model_type": "unigram"},
    "bpe_nfkc": {"model_type": "bpe"},
    "no_prefix": {**LLAMA, "add_dummy_prefix": False},
    "no_bytes": {"model_type": "unigram", "byte_fallback": False, "vocab_size": 200},
    "symbols": {**LLAMA, "user_defined_symbols": ["[TOOL]"], "control_symbols": ["<ctl>"]},
}


@pytest.fixture(scope="module")
def models():
    return {name: train_sentencepiece(**options) for name, options in MODELS.items()}


@pytest.fixture(params=MODELS, scope="module")
def pair(request, models, tmp_path_factory):
    """Our tokenizer of a directory with nothing but the model, and sentencepiece's own."""
    model = models[request.param]
    directory = sentencepiece_directory(tmp_path_factory.mktemp(request.param), model)
    return load_tokenizer(directory), sentencepiece.SentencePieceProcessor(model_proto=model)


def _spells_a_special_token(text: str) -> bool:
    return any(token in text for token in ("<s>", "</s>", "<unk>"))


def test_encodes_as_sentencepiece(pair):
    ours, own = pair
    for text in TEXTS:
        if not _spells_a_special_token(text):
            assert ours.encode(text) == own.encode(text), text


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30).filter(lambda text: not _spells_a_special_token(text)))
def test_encodes_any_text_as_sentencepiece(pair, text):
    ours, own = pair
    assert ours.encode(text) == own.encode(text)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_decodes_any_ids_as_sentencepiece(pair, data):
    ours, own = pair
    shown = [i for i in range(own.get_piece_size()) if not own.is_unknown(i)]
    ids = data.draw(st.lists(st.sampled_from(shown), max_size=12))
    # Only of pieces does sentencepiece drop a leading space; of a byte 0x20 it does not, transformers does.
    space = own.piece_to_id("<0x20>")
    while space in ids:
        ids.remove(space)
    # Special tokens go before anything is decoded, as in transformers; to sentencepiece they part bytes.
    assert ours.decode(ids) == own.decode([i for i in ids if not own.is_control(i)])


def test_facts(pair):
    ours, own = pair
    assert ours.vocab_size == own.get_piece_size() == ours.max_token_id + 1
    assert (ours.bos_token_id, ours.eos_token_id) == (own.bos_id(), own.eos_id())
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert ours.id_to_piece(10) == own.id_to_piece(10)
    assert ours.id_to_piece(own.get_piece_size()) is None
    assert ours.token_to_id("no such piece") is None
    assert ours.token_bytes(own.get_piece_size()) == b""


def test_special_tokens_in_a_text_become_ids(models, tmp_path):
    tokenizer = load_tokenizer(sentencepiece_directory(tmp_path, models["symbols"]))
    ids = tokenizer.encode("<s>hi</s>[TOOL]<ctl>")
    assert tokenizer.id_to_piece(ids[0]) == "<s>"
    assert tokenizer.eos_token_id in ids
    assert tokenizer.token_to_id("[TOOL]") in ids
    assert tokenizer.token_to_id("<ctl>") not in ids  # control symbols cannot be written
    assert tokenizer.token_to_id("<ctl>") in tokenizer.special_token_ids


# Where a text (or with "legacy" a part of it) begins with a space, sentencepiece writes its own space before
# that one, and transformers' converted tokenizer does not: those texts are compared with sentencepiece only.
LLAMA_TEXTS = [text for text in TEXTS if not text.startswith((" ", "▁")) and "▁" not in text]
CONFIGS = [
    {},
    {"add_bos_token": True},
    {"add_bos_token": True, "add_eos_token": True, "legacy": False},
    {"add_bos_token": True, "legacy": True},
    {"add_prefix_space": False},
    {"legacy": False, "pad_token": "[PAD]", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]},
    {
        "legacy": False,
        "added_tokens_decoder": {
            "0": {"content": "<unk>", "special": True},
            "1": {"content": "<s>", "special": True},
            "2": {"content": "</s>", "special": True},
            "NEXT": {"content": "[TOOL]", "lstrip": True, "rstrip": True},
        },
    },
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_encodes_and_decodes_as_transformers(config, models, tmp_path):
    size = sentencepiece.SentencePieceProcessor(model_proto=models["llama"]).get_piece_size()
    config = json.loads(json.dumps(config).replace('"NEXT"', f'"{size}"'))
    sentencepiece_directory(tmp_path, models["llama"], tokenizer_class="LlamaTokenizer", **config)
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(theirs)
    assert ours.special_tokens == theirs.special_tokens_map
    assert ours.pad_token_id == theirs.pad_token_id
    for text in LLAMA_TEXTS:
        if config.get("legacy"):
            text = text.replace("> ", ">")
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_older_files_spread_the_tokens(models, tmp_path):
    sentencepiece_directory(tmp_path, models["llama"], tokenizer_class="LlamaTokenizer")
    size = sentencepiece.SentencePieceProcessor(model_proto=models["llama"]).get_piece_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": size + 1, "[TOOL]": size}))
    special = {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": "</s>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (
        (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id) == (size + 1, 2)
    )
    assert {1, 2, size + 1} <= ours.special_token_ids and size not in ours.special_token_ids
    text = "I love[TOOL]programming<|im_end|>"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.vocab_size == len(theirs) == size + 2


def test_single_word_and_strip_flags(models, tmp_path):
    size = sentencepiece.SentencePieceProcessor(model_proto=models["llama"]).get_piece_size()
    tokens = {
        str(size): {"content": "tool", "single_word": True},
        str(size + 1): {"content": "<mask>", "lstrip": True, "special": True},
    }
    sentencepiece_directory(tmp_path, models["llama"], added_tokens_decoder=tokens)
    tokenizer = load_tokenizer(tmp_path)
    assert size not in tokenizer.encode("toolbox stool")
    assert size in tokenizer.encode("a tool, please")
    ids = tokenizer.encode("lazy   <mask> fox")
    assert tokenizer.decode(ids, skip_special_tokens=False) == "lazy<mask> fox"


def test_byte_tokens(tokenizer_of):
    tokenizer = tokenizer_of("sp_bpe")
    ids = tokenizer.encode("🙈")
    assert b"".join(map(tokenizer.token_bytes, ids)) == " 🙈".encode()
    assert tokenizer.decode(ids) == "🙈"
    assert tokenizer.decode(ids[:-1]) == "\ufffd" * 3


def test_text_that_is_no_unicode_is_refused(tokenizer_of):
    with pytest.raises(InvalidRequestError, match=r"U\+D800"):
        tokenizer_of("sp_bpe").encode("\ud800")


def test_what_cannot_be_honoured_is_refused(tmp_path):
    model = train_sentencepiece(model_type="unigram", treat_whitespace_as_suffix=True)
    with pytest.raises(ConfigError, match="treat_whitespace_as_suffix"):
        load_tokenizer(sentencepiece_directory(tmp_path / "suffix", model))
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is no SentencePiece model"):
        load_tokenizer(sentencepiece_directory(tmp_path / "broken", b"IQ== 0\nIg== 1\n"))
    with pytest.raises(CheckpointError, match=r"tokens in .* are not in a known format"):
        load_tokenizer(sentencepiece_directory(tmp_path / "tokens", train_sentencepiece(), bos_token=3))
