"""Tokenizer directories of every kind the package reads, trained on a few sentences."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "I love programming, and I don't stop.",
    "Io amo programmare! Perché? È bello, è così.",
    "The quick brown fox isn't lazy ; we've seen 'em 1234 times.",
    "Ciao, come stai? Tutto bene, grazie. L'amico è qui.",
    "日本語のテキストです。こんにちは世界",
    "Привет, мир! Как дела?",
    "smile 🙂 and wave 👋 family 👨‍👩‍👧",
    "    indented\n\tcode = f(x)\r\n",
] * 8

TEXTS = [
    "",
    " ",
    "I love programming.",
    " Io amo programmare",
    "perché così è l'età",
    "日本語と English と العربية и русский",
    "🙂👨‍👩‍👧🏳️‍🌈 zero\u200bwidth",
    "two  spaces   three\n\nlines\ttab ",
    "I do n't , he 's ' ok ' . !",
    "<|endoftext|>x<s>y</s> z<unk> <|im_start|>user\nhi<|im_end|> [TOOL]a [TOOL] b",
    "e\u0301 vs é, ﬁ ligature, \ufffd, \x00\x7f",
    "▁underline▁ <0x0A> literal",
]
"""Multilingual, emoji, white space, punctuation, and tokens of the added vocabularies spelled out."""


def write_config(directory: Path, **config: Any) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _byte_level(tokens: list[str | AddedToken]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(tokens)
    return tokenizer


def byte_level(directory: Path) -> Path:
    """Byte-level BPE with special and other added tokens, BOS by template, truncation left in the file."""
    tokenizer = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("[TOOL]", lstrip=True), "   ", "è bello"])
    bos = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.save(str(directory / "tokenizer.json"))
    write_config(
        directory,
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        clean_up_tokenization_spaces=True,
        model_max_length=2048,
        truncation_side="left",
    )
    return directory


def gpt_neox(directory: Path) -> Path:
    """What mosaicml/mpt-7b has: the GPT-NeoX class, no pad token in the config, no chat template."""
    tokenizer = _byte_level(["<|endoftext|>", "<|padding|>"])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_config(
        directory,
        add_prefix_space=False,
        bos_token="<|endoftext|>",
        clean_up_tokenization_spaces=True,
        eos_token="<|endoftext|>",
        model_max_length=2048,
        tokenizer_class="GPTNeoXTokenizer",
        unk_token="<|endoftext|>",
    )
    named = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (directory / "special_tokens_map.json").write_text(json.dumps(named))
    auto_map = {"AutoConfig": "configuration_mpt.MPTConfig"}
    config = {"model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 2, "auto_map": auto_map}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def unigram(directory: Path) -> Path:
    """Unigram with Metaspace and the clean-up of spaces switched on."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=260, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["[TOOL]", " .", " n't"])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_config(
        directory,
        tokenizer_class="PreTrainedTokenizerFast",
        clean_up_tokenization_spaces=True,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    return directory


def byte_fallback(directory: Path) -> Path:
    """BPE over ▁ with byte fallback, as Llama 2's tokenizer.json and class have it."""
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *alphabet],
        limit_alphabet=60,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Trained as special tokens, to have them at all; in a checkpoint the bytes are ordinary tokens.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["content"].startswith("<0x")]
    content["pre_tokenizer"] = None
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    content["normalizer"] = json.loads(normalizer.__getstate__())
    content["decoder"] = json.loads(
        decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ).__getstate__()
    )
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    write_config(
        directory,
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        legacy=False,
    )
    return directory


def words(directory: Path) -> Path:
    """Whole words and no decoder: tokens are joined with spaces."""
    vocabulary = ["<unk>", "<s>", "</s>", "I", "love", "programming", ".", "[TOOL]"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens(["[TOOL]"])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_config(directory, tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>")
    return directory


def word_piece(directory: Path) -> Path:
    """WordPiece, whose decoder puts spaces between tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    write_config(directory, tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=True)
    return directory


def train_sentencepiece(**options: Any) -> bytes:
    """Returns a SentencePiece model trained on the corpus."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        minloglevel=2,
        hard_vocab_limit=False,
        **{"vocab_size": 500, "byte_fallback": True, **options},
    )
    return model.getvalue()


LLAMA = {
    "model_type": "bpe",
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
}
"""Options that Llama's model was trained with."""


def sentencepiece_directory(directory: Path, model: bytes, **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model)
    if config:
        write_config(directory, **config)
    return directory
