"""Small random checkpoints that transformers writes, with a tokenizer trained on the spot.

The models are random but decided: their weights are drawn wide enough that the best two tokens are rarely
close, so that greedy answers do not hang on the last bit of a float.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 384
MAX_LEN = 256

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "Io amo programmare. L'amico è in città, perché l'università è chiusa.",
    "def add(a, b):\n    return a + b\n",
    "Where is the station? It is near the church, on the left side of the street.",
    "One two three four five six seven eight nine ten eleven twelve.",
    "System: You are a helpful assistant.\nUser: Hello!\nAssistant: Hi, how are you?",
    "日本語とemoji 🎉🚀 and naïve café.",
]


@cache
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE of :data:`VOCAB` tokens with BOS, EOS and no chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS * 4, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_LEN,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}


def _mpt(**changes: Any) -> transformers.PreTrainedModel:
    sizes = {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": MAX_LEN,
        "vocab_size": VOCAB,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "initializer_range": 0.2,
    }
    return transformers.MptForCausalLM(transformers.MptConfig(**{**sizes, **changes}))


FAMILIES = {
    "mpt": _mpt,
    "llama": lambda **c: transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**_SIZES, **c})),
    "mistral": lambda **c: transformers.MistralForCausalLM(
        transformers.MistralConfig(**{**_SIZES, "sliding_window": 24, **c})
    ),
    "qwen2": lambda **c: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**_SIZES, **c})),
    "qwen3": lambda **c: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**{**_SIZES, "head_dim": 16, **c})
    ),
}


def make(family: str, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """A random float32 model of a family, in eval mode; ``changes`` go into its config."""
    torch.manual_seed(seed)
    model = FAMILIES[family](**changes).float().eval()
    with torch.no_grad():  # Norm weights of exactly one would hide a missing norm.
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def save(model: transformers.PreTrainedModel, directory: Path, *, with_tokenizer: bool = True) -> Path:
    """Writes a checkpoint as users find them; returns ``directory``."""
    model.save_pretrained(directory)
    if with_tokenizer:
        tokenizer().save_pretrained(directory)
    return directory


def greedy(model: transformers.PreTrainedModel, prompt: list[int], max_new_tokens: int) -> list[int]:
    """What transformers generates after ``prompt``, EOS ignored."""
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=max_new_tokens,
            min_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return ids[0, len(prompt) :].tolist()


def logprobs(model: transformers.PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """``[T, V]`` float32 log-probabilities of the token after each position."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0].float(), dim=-1)
