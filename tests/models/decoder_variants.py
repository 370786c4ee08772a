"""Randomly initialised transformers models for the Llama family's tests, and how they are saved and run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from vllm_jax.models.load import LoadedModel, load_model

VOCAB = 160
LENGTH = 40

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(**settings) -> transformers.PreTrainedConfig:
    return transformers.LlamaConfig(**{**SIZES, **settings})


def rope(rope_type: str, **settings) -> transformers.PreTrainedConfig:
    return llama(rope_parameters={"rope_type": rope_type, "rope_theta": 5e3, **settings})


VARIANTS: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "llama": lambda: llama(num_key_value_heads=4),
    "llama_biases": lambda: llama(
        attention_bias=True, mlp_bias=True, head_dim=24, hidden_act="gelu", tie_word_embeddings=True
    ),
    "llama_rope_linear": lambda: rope("linear", factor=3.0),
    "llama_rope_dynamic": lambda: rope("dynamic", factor=2.0),
    "llama_rope_llama3": lambda: rope(
        "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
    ),
    "llama_rope_yarn": lambda: rope(
        "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=8.0, truncate=False
    ),
    "mistral_window": lambda: transformers.MistralConfig(**SIZES, sliding_window=7),
    "mistral_full": lambda: transformers.MistralConfig(**SIZES, sliding_window=None, head_dim=32),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2_some_windows": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=32),
    "qwen3_biases": lambda: transformers.Qwen3Config(**SIZES, attention_bias=True, tie_word_embeddings=True),
}


@cache
def oracle(variant: str) -> transformers.PreTrainedModel:
    """The transformers model of a variant, with every parameter random (norms and biases too)."""
    torch.manual_seed(1 + sorted(VARIANTS).index(variant))
    config = VARIANTS[variant]()
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.3)
            elif parameter.ndim == 1:
                parameter.normal_(0.0, 0.3)
            elif "embed" in name:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, 1.2 * parameter.shape[1] ** -0.5)
    return model


def save(model: transformers.PreTrainedModel, directory: Path, **settings) -> dict:
    """Writes a checkpoint as users have it; returns its config.json."""
    model.save_pretrained(directory, **settings)
    return json.loads((directory / "config.json").read_text())


def load(directory: Path, dtype: str = "float32", **settings) -> LoadedModel:
    config = json.loads((directory / "config.json").read_text())
    return load_model(directory, config, dtype=jnp.dtype(dtype), **settings)


def random_tokens(length: int = LENGTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, length, dtype=np.int32)


def oracle_logits(model: transformers.PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    """``[T]`` -> ``[T, V]`` float32."""
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long)[None]).logits[0].float().numpy()


@jax.jit
def dense_logits(model, tokens: jax.Array) -> jax.Array:
    """``[T]`` -> ``[T, V]`` without pages."""
    hidden, _ = model(tokens)
    return model.logits(hidden)
