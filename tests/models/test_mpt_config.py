"""MPT's configs: both layouts are read, and what cannot be honoured is refused by name."""

from __future__ import annotations

import json

import pytest
import transformers

from vllm_jax.errors import ConfigError
from vllm_jax.models.mpt import MptConfig, weights
from vllm_jax.models.registry import resolve

MPT_7B = json.loads(
    """{
    "architectures": ["MPTForCausalLM"],
    "attn_config": {
        "alibi": true, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0,
        "attn_type": "multihead_attention", "attn_uses_sequence_id": false, "clip_qkv": null,
        "prefix_lm": false, "qk_ln": false, "softmax_scale": null
    },
    "auto_map": {
        "AutoConfig": "configuration_mpt.MPTConfig", "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"
    },
    "d_model": 4096, "emb_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4,
    "init_config": {
        "emb_init_std": null, "emb_init_uniform_lim": null, "fan_mode": "fan_in",
        "init_div_is_residual": true, "init_gain": 0, "init_nonlinearity": "relu", "init_std": 0.02,
        "name": "kaiming_normal_", "verbose": 0
    },
    "init_device": "cpu", "learned_pos_emb": true, "logit_scale": null, "max_seq_len": 2048,
    "model_type": "mpt", "n_heads": 32, "n_layers": 32, "no_bias": true,
    "norm_type": "low_precision_layernorm", "resid_pdrop": 0, "tokenizer_name": "EleutherAI/gpt-neox-20b",
    "torch_dtype": "bfloat16", "transformers_version": "4.28.1", "use_cache": false, "verbose": 0,
    "vocab_size": 50432
}"""
)
"""The config.json of mosaicml/mpt-7b."""


def with_attn(**fields):
    return {**MPT_7B, "attn_config": {**MPT_7B["attn_config"], **fields}}


def test_mpt_7b():
    config = resolve(MPT_7B).read_config(MPT_7B)
    assert config == MptConfig(
        vocab_size=50432,
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        ffn_size=16384,
        max_position=2048,
        alibi_bias_max=8.0,
        learned_positions=False,
        bias=False,
        rms=False,
        norm_eps=1e-5,
        qk_norm=None,
        clip_qkv=None,
        scale=1 / 128**0.5,
        sliding_window=None,
        soft_cap=None,
        gated=False,
        activation="gelu",
        logit_scale=1.0,
        tie_word_embeddings=True,
    )
    assert config.head_dim == 128
    hash(config)  # configs are static under jit
    table = weights(config)
    assert sum(len(w.shape) and _size(w.shape) for w in table.weights) == 6_649_286_656  # mpt-7b's own count
    assert table.weights[0].names == ("transformer.wte.weight", "lm_head.weight")


def _size(shape):
    product = 1
    for n in shape:
        product *= n
    return product


def test_both_layouts_mean_the_same():
    """The original config, and those transformers writes: short, full, nested with generic fields."""
    theirs = transformers.MptConfig(
        d_model=4096, n_heads=32, n_layers=32, vocab_size=50432, attn_config={"alibi": True}
    )
    expected = MptConfig.from_hf(MPT_7B)
    assert MptConfig.from_hf({**theirs.to_dict(), "architectures": ["MptForCausalLM"]}) == expected
    assert MptConfig.from_hf(theirs.to_dict()) == expected
    assert MptConfig.from_hf(theirs.to_diff_dict()) == expected
    assert MptConfig.from_hf({**theirs.to_diff_dict(), "attn_config": None}) == expected


def test_defaults_depend_on_the_layout():
    """The port has ALiBi and no biases, the original the reverse."""
    sizes = {"d_model": 64, "n_heads": 4, "n_layers": 1, "vocab_size": 10}
    theirs = MptConfig.from_hf({**sizes, "architectures": ["MptForCausalLM"]})
    assert theirs.alibi_bias_max == 8 and not theirs.bias and not theirs.learned_positions
    original = MptConfig.from_hf({**sizes, "architectures": ["MPTForCausalLM"]})
    assert original.alibi_bias_max is None and original.bias and original.learned_positions
    assert original.max_position == 2048 and original.ffn_size == 256


def test_windows_are_counted_as_here():
    """The original does not count the query itself."""
    assert MptConfig.from_hf(with_attn(sliding_window_size=-1)).sliding_window is None
    assert MptConfig.from_hf(with_attn(sliding_window_size=0)).sliding_window == 1
    assert MptConfig.from_hf(with_attn(sliding_window_size=128)).sliding_window == 129


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (with_attn(rope=True), "attn_config: rope = true"),
        (with_attn(prefix_lm=True), "prefix_lm = true"),
        (with_attn(fused_qkv=False), "fused_qkv = false"),
        (with_attn(kv_dim=64), "kv_dim = 64"),
        (with_attn(reuse_kv_layer_idx=-1), "reuse_kv_layer_idx = -1"),
        (with_attn(flex_attn_mod_list=[{"mod_name": "x"}]), "flex_attn_mod_list"),
        (with_attn(qk_ln=True, qk_gn=True), "exclude each other"),
        (with_attn(attn_type="grouped_query_attention"), "needs kv_n_heads"),
        (with_attn(attn_type="grouped_query_attention", kv_n_heads=5), "kv_n_heads 5"),
        (with_attn(attn_type="multiquery_attention", kv_n_heads=2), "contradicts"),
        (with_attn(attn_type="linear_attention"), "attn_type 'linear_attention'"),
        (with_attn(clip_qkv=-1), "clip_qkv"),
        (with_attn(alibi="yes"), "alibi must be true or false"),
        ({**MPT_7B, "attn_config": 3}, "attn_config must be an object"),
        ({**MPT_7B, "d_model": 4097}, "d_model 4097"),
        ({**MPT_7B, "n_layers": 0}, "n_layers"),
        ({**MPT_7B, "expansion_ratio": 1.00001}, "expansion_ratio"),
        ({**MPT_7B, "norm_type": "batchnorm"}, "norm_type 'batchnorm'"),
        ({**MPT_7B, "logit_scale": "half"}, "logit_scale 'half'"),
        ({**MPT_7B, "ffn_config": {"ffn_type": "mb_moe"}}, "ffn_type 'mb_moe'"),
        ({**MPT_7B, "ffn_config": {"ffn_type": "te_ln_mlp"}}, "ffn_type 'te_ln_mlp'"),
        ({**MPT_7B, "ffn_config": {"ffn_act_fn": {"name": "mish"}}}, "'mish'"),
        ({**MPT_7B, "ffn_config": {"ffn_act_fn": {"name": "relu", "inplace": True}}}, "inplace = true"),
        ({**MPT_7B, "residual_modification": "layer"}, "residual_modification"),
        ({**MPT_7B, "block_overrides": {"order": []}}, "block_overrides"),
        ({**MPT_7B, "final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        ({**MPT_7B, "quantization_config": {"bits": 4}}, "quantization_config"),
        ({"architectures": ["MptForCausalLM"], "attn_config": {"alibi": False}}, "alibi = false"),
        ({"architectures": ["MptForCausalLM"], "norm_type": "rmsnorm"}, "norm_type 'rmsnorm'"),
    ],
)
def test_what_cannot_be_honoured_is_named(config, text):
    with pytest.raises(ConfigError) as error:
        MptConfig.from_hf(config)
    assert text in str(error.value)
