"""Rotary embeddings against transformers: every kind of scaling, far positions, both config layouts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from vllm_jax.errors import ConfigError
from vllm_jax.layers.rotary import apply_rotary
from vllm_jax.models.hf_config import FieldReader
from vllm_jax.models.rope_config import read_rope

MAX_POSITION = 4096

KINDS = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "llama3 without a length": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 8.0, "original_max_position_embeddings": 512},
    "yarn untruncated": {"factor": 8.0, "original_max_position_embeddings": 512, "truncate": False},
    "yarn betas": {"factor": 2.5, "beta_fast": 20, "beta_slow": 2},
    "yarn one beta": {"factor": 16.0, "beta_fast": 1.0, "beta_slow": 1.0, "truncate": False},
    "yarn attention_factor": {"factor": 8.0, "attention_factor": 0.75},
    "yarn mscale": {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0},
}


def read(config: dict, head_dim: int = 64):
    return read_rope(FieldReader(config, "test config"), head_dim, MAX_POSITION)


def theirs(kind: str, head_dim: int, theta: float) -> LlamaRotaryEmbedding:
    config = transformers.LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=MAX_POSITION,
        rope_parameters={"rope_type": kind.split()[0], "rope_theta": theta, **KINDS[kind]},
    )
    return LlamaRotaryEmbedding(config)


@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_and_angles(kind, head_dim):
    settings = {"rope_type": kind.split()[0], "rope_theta": 5e5, **KINDS[kind]}
    rotary, _ = read({"rope_parameters": settings}, head_dim)
    oracle = theirs(kind, head_dim, 5e5)
    assert rotary.attention_scaling == pytest.approx(oracle.attention_scaling, rel=1e-12)
    # One unit in the last place of float32 is 1.2e-7.
    np.testing.assert_allclose(rotary.inv_freq, oracle.inv_freq.numpy(), rtol=2.5e-7, atol=0)

    positions = np.array([0, 1, 7, 100, 1023, MAX_POSITION - 1], np.int32)
    cos, sin = oracle(torch.zeros(1), torch.tensor(positions)[None])
    ours = rotary.cos_sin(jnp.asarray(positions), jnp.float32)
    for actual, expected in zip(ours, (cos, sin), strict=True):
        np.testing.assert_allclose(jnp.tile(actual, 2), expected[0].numpy(), rtol=0, atol=1e-3)
        np.testing.assert_allclose(jnp.tile(actual, 2)[:4], expected[0, :4].numpy(), rtol=0, atol=3e-5)


def test_angles_of_far_positions_are_exact():
    """XLA reduces large float32 arguments properly: against float64 with the same frequencies."""
    rotary, _ = read({"rope_theta": 1e6})
    positions = np.array([131_071, 1_000_003], np.int32)
    angles = (positions[:, None].astype(np.float32) * np.float32(rotary.inv_freq)).astype(np.float64)
    cos, sin = rotary.cos_sin(jnp.asarray(positions), jnp.float32)
    np.testing.assert_allclose(cos, np.cos(angles), rtol=0, atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angles), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotation(dtype):
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(5, heads, 64)).astype(np.float32) for heads in (4, 2))
    rotary, _ = read({})
    cos, sin = rotary.cos_sin(jnp.arange(5), jnp.dtype(dtype))
    oracle = theirs("default", 64, 1e4)
    tq, tk = (torch.tensor(x, dtype=getattr(torch, dtype)).transpose(0, 1)[None] for x in (q, k))
    expected = apply_rotary_pos_emb(tq, tk, *oracle(tq, torch.arange(5)[None]))
    for x, their in zip((q, k), expected, strict=True):
        actual = apply_rotary(jnp.asarray(x, dtype), cos, sin)
        assert actual.dtype == dtype
        want = their[0].transpose(0, 1).float().numpy()
        np.testing.assert_allclose(
            actual.astype(jnp.float32), want, rtol=0, atol=1e-5 if dtype == "float32" else 0.04
        )


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "llama3", "yarn"])
def test_the_layouts_of_transformers_4_and_5_mean_the_same(kind):
    new = read({"rope_parameters": {"rope_type": kind, "rope_theta": 7e4, **KINDS[kind]}})
    for name in ("rope_type", "type"):
        old = {"rope_theta": 7e4, "rope_scaling": {name: kind, **KINDS[kind]}}
        assert read(old) == new
    assert read({"rope_theta": 7e4, "rope_scaling": {"type": kind, "rope_type": kind, **KINDS[kind]}}) == new
    if kind == "default":
        assert read({"rope_theta": 7e4, "rope_scaling": None}) == read({"rope_theta": 7e4}) == new


def test_the_pretraining_length_beside_the_object_wins():
    inside = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}
    outside = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 99}
    assert (
        read({"rope_parameters": inside})[0]
        == read({"rope_parameters": outside, "original_max_position_embeddings": 512})[0]
    )


@pytest.mark.parametrize(
    ("settings", "reach"),
    [
        ({}, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 16384),
        ({"rope_type": "dynamic", "factor": 4.0}, 4096),
        ({"rope_type": "llama3", **KINDS["llama3"]}, 4096),
        ({"rope_type": "yarn", "factor": 4.0}, 16384),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
    ],
)
def test_how_far_a_kind_reaches(settings, reach):
    assert read({"rope_parameters": settings})[1] == reach


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "longrope"),
        ({"rope_scaling": {"type": "su"}}, "'su'"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "factor"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}}, "rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "alpha": 3}}, "alpha = 3"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 1}}, "high_freq_factor"),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 2,
                    "low_freq_factor": 4,
                    "high_freq_factor": 4,
                }
            },
            "low_freq_factor",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}}, "beta_fast"),
        ({"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}}, "mrope_section"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ({"rope_parameters": {"rope_theta": 1.0}, "rope_scaling": {"type": "dynamic", "factor": 2}}, "both"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        ({"rope_theta": -1}, "rope_theta"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(config, message):
    with pytest.raises(ConfigError, match=message):
        read(config)
