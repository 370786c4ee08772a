"""JSON files of a checkpoint, and which dtype a model gets."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
import transformers

from vllm_jax.errors import CheckpointError, ConfigError
from vllm_jax.weights.dtype import resolve_dtype
from vllm_jax.weights.files import listed, read_config, read_generation_config, read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1,}', r"not valid JSON: .* in line 1, column"),
        (b"[1]", "JSON object, not list"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_json_names_the_file(tmp_path, content, message):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(tmp_path)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        read_config(tmp_path)
    assert read_generation_config(tmp_path) == {}
    with pytest.raises(CheckpointError, match="cannot read"):
        read_json(tmp_path)


def test_overrides_are_laid_over_the_config(tmp_path):
    transformers.LlamaConfig(hidden_size=64, num_attention_heads=4).save_pretrained(tmp_path)
    assert read_config(tmp_path)["hidden_size"] == 64
    config = read_config(tmp_path, {"hidden_size": 128, "head_dim": None})
    assert config["hidden_size"] == 128 and config["head_dim"] is None
    assert config["model_type"] == "llama"


def test_generation_config(tmp_path):
    transformers.GenerationConfig(temperature=0.6, do_sample=True).save_pretrained(tmp_path)
    assert read_generation_config(tmp_path)["temperature"] == 0.6


def test_listed():
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"


@pytest.mark.parametrize(
    ("requested", "config", "expected"),
    [
        ("auto", {"torch_dtype": "float16"}, "bfloat16"),
        ("auto", {"torch_dtype": "bfloat16"}, "bfloat16"),
        ("auto", {"dtype": "float32"}, "float32"),
        ("auto", {"dtype": "float32", "torch_dtype": "bfloat16"}, "float32"),
        ("auto", {"dtype": None, "torch_dtype": "float32"}, "float32"),
        ("auto", {"torch_dtype": "torch.float32"}, "float32"),
        ("auto", {"torch_dtype": "float64"}, "float32"),
        ("auto", {}, "bfloat16"),
        ("bfloat16", {"dtype": "float32"}, "bfloat16"),
        ("float16", {"dtype": "float32"}, "bfloat16"),
        ("float32", {"dtype": "float8_e4m3fn"}, "float32"),
    ],
)
def test_dtype(requested, config, expected):
    assert resolve_dtype(requested, config) == jnp.dtype(expected)


@pytest.mark.parametrize(
    ("requested", "config", "message"),
    [
        ("auto", {"torch_dtype": "int8"}, "torch_dtype 'int8'"),
        ("auto", {"dtype": {"text": "float32"}}, "dtype"),
        ("float8", {}, "--dtype float8"),
    ],
)
def test_dtypes_that_are_refused(requested, config, message):
    with pytest.raises(ConfigError, match=message):
        resolve_dtype(requested, config)
