"""Configs of the Llama family: what is read, which defaults hold, what is refused by name."""

from __future__ import annotations

import pytest
import transformers
from decoder_variants import SIZES, VARIANTS

from vllm_jax.errors import ConfigError
from vllm_jax.models.llama import LlamaConfig
from vllm_jax.models.mistral import MistralConfig
from vllm_jax.models.qwen2 import Qwen2Config
from vllm_jax.models.qwen3 import Qwen3Config
from vllm_jax.models.registry import FAMILIES, resolve

BARE = {
    key: SIZES[key]
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
}
OURS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
THEIRS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_common_properties(variant):
    theirs = VARIANTS[variant]()
    ours = resolve(theirs.to_dict()).read_config(theirs.to_dict())
    assert ours.vocab_size == theirs.vocab_size
    assert ours.hidden_size == theirs.hidden_size
    assert ours.num_layers == theirs.num_hidden_layers == len(ours.layer_windows)
    assert ours.num_heads == theirs.num_attention_heads
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 64 // theirs.num_attention_heads)
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    hash(ours)  # configs are static under jit


@pytest.mark.parametrize("family", OURS)
def test_defaults_of_absent_fields_are_those_of_transformers(family):
    sizes = {**BARE, "num_attention_heads": 32, "hidden_size": 256}
    ours, theirs = OURS[family].from_hf(sizes), THEIRS[family](**sizes)
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == getattr(theirs, "head_dim", 8)
    assert ours.max_position == theirs.max_position_embeddings
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.sliding_window == theirs.sliding_window if hasattr(theirs, "sliding_window") else True
    assert ours.activation == theirs.hidden_act
    assert ours.rotary.inv_freq[1] == pytest.approx(1e4 ** (-2 / ours.head_dim), rel=1e-6)


def test_null_is_absent_except_where_it_means_something():
    assert LlamaConfig.from_hf({**BARE, "num_key_value_heads": None, "head_dim": None}).num_kv_heads == 4
    mistral = {**BARE, "num_key_value_heads": 2}
    assert MistralConfig.from_hf({**mistral, "num_key_value_heads": None}).num_kv_heads == 4
    assert MistralConfig.from_hf(mistral).sliding_window == 4096
    assert MistralConfig.from_hf({**mistral, "sliding_window": None}).sliding_window is None


def test_windows_of_qwen():
    base = {**BARE, "num_hidden_layers": 4, "num_key_value_heads": 2, "sliding_window": 9}
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

    def windows(**settings):
        return Qwen2Config.from_hf({**base, **settings}).layer_windows

    assert windows() == windows(use_sliding_window=False, max_window_layers=0) == (None,) * 4
    assert windows(use_sliding_window=True, max_window_layers=3) == (None, None, None, 9)
    assert windows(use_sliding_window=True, layer_types=kinds) == (9, None, 9, None)
    assert windows(use_sliding_window=True, sliding_window=None, max_window_layers=0) == (None,) * 4
    assert windows(layer_types=["full_attention"] * 4) == (None,) * 4
    used = {**base, "use_sliding_window": True}
    assert Qwen3Config.from_hf({**used, "max_window_layers": 0}).sliding_window == 9
    assert Qwen3Config.from_hf({**used, "max_window_layers": 1}).sliding_window is None


def test_fields_without_effect_pass():
    LlamaConfig.from_hf(
        {
            **BARE,
            "_name_or_path": "somewhere",
            "architectures": ["LlamaForCausalLM"],
            "attention_dropout": 0.1,
            "bos_token_id": 1,
            "cross_attention_hidden_size": None,
            "initializer_range": 0.02,
            "is_encoder_decoder": False,
            "pretraining_tp": 2,
            "pruned_heads": {},
            "temperature": 0.6,
            "torch_dtype": "float16",
            "transformers_version": "4.31.0.dev0",
            "unsloth_fixed": True,
            "use_cache": True,
        }
    )


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (
            "llama",
            {"sliding_window": 128},
            r"window = 128.*-overrides '\{\"sliding_window\": null\}'",
        ),
        (
            "llama",
            {"attn_logit_softcapping": 50.0, "zeta": [1]},
            r"softcapping = 50.0, zeta = \[1\]",
        ),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config.*gptq"),
        ("llama", {"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
        ("llama", {"hidden_size": None}, "hidden_size is missing"),
        ("llama", {"vocab_size": 0}, "vocab_size"),
        ("llama", {"vocab_size": "160"}, "vocab_size"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5}, "not a multiple"),
        ("llama", {"head_dim": 7}, "head_dim 7 must be even"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps"),
        ("llama", {"attention_bias": "yes"}, "attention_bias"),
        ("llama", {"is_causal": False}, "is_causal"),
        ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder"),
        ("llama", {"rope_scaling": {"type": "longrope"}}, "longrope"),
        ("mistral", {"attention_bias": True, "num_key_value_heads": 2}, "attention_bias"),
        ("mistral", {"num_key_value_heads": 2, "layer_types": ["full_attention"] * 2}, "layer_types"),
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 0}, "sliding_window"),
        ("qwen2", {"num_key_value_heads": 2, "layer_types": ["full_attention"]}, "layer_types has 1"),
        ("qwen2", {"num_key_value_heads": 2, "layer_types": ["sliding_attention"] * 2}, "no sliding window"),
        ("qwen2", {"num_key_value_heads": 2, "layer_types": ["chunked_attention"] * 2}, "layer_types"),
        ("qwen3", {"num_key_value_heads": 2, "num_experts": 8}, "num_experts = 8"),
    ],
)
def test_refused_by_name(family, settings, message):
    with pytest.raises(ConfigError, match=message):
        OURS[family].from_hf({**BARE, **settings})


def test_registry_resolves_every_family_both_ways():
    for family in FAMILIES:
        assert resolve({"model_type": family.model_type}) is family
        for name in family.architectures:
            assert resolve({"architectures": [name]}) is family
            assert resolve({"architectures": [name], "model_type": family.model_type}) is family
    assert resolve({"architectures": ["MPTForCausalLM"]}) is resolve({"architectures": ["MptForCausalLM"]})


def test_registry_never_looks_at_auto_map():
    config = {"architectures": ["MPTForCausalLM"], "auto_map": {"AutoModelForCausalLM": "evil.run"}}
    assert resolve(config).model_type == "mpt"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "GPT2LMHeadModel.*supported: Llama"),
        ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, "SequenceClass"),
        ({"model_type": "bert"}, "'bert'.*supported: Llama"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "mistral"}, "contradicts"),
        ({"architectures": ["LlamaForCausalLM", "MistralForCausalLM"]}, "is not supported"),
        ({"architectures": "LlamaForCausalLM"}, "list of names"),
        ({}, "neither"),
    ],
)
def test_registry_errors_list_what_is_supported(config, message):
    with pytest.raises(ConfigError, match=message):
        resolve(config)
