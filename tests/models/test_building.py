"""Building a model before there are weights: the random ones, and the work it takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vllm_jax.models.registry import build_model, resolve


def llama(layers: int) -> Mapping[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 64,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }


def test_random_weights_are_those_of_flax_rngs():
    family = resolve(llama(2))
    config = family.read_config(llama(2))
    ours = nnx.state(build_model(family, config, dtype=jnp.float32, seed=3))
    theirs = nnx.state(family.build(config, dtype=jnp.float32, rngs=nnx.Rngs(3)))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    table, *others = (leaf for leaf in jax.tree.leaves(ours) if leaf.ndim == 2)
    assert len(others) == 14 and all(not np.array_equal(table, other) for other in others)


def test_the_work_to_trace_a_model_grows_with_its_layers_and_not_with_their_square():
    def calls(layers: int) -> int:
        family = resolve(llama(layers))
        config = family.read_config(llama(layers))
        count = 0

        def note(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            nnx.eval_shape(lambda: build_model(family, config, dtype=jnp.float32, seed=0))
        finally:
            sys.setprofile(before)
        return count

    calls(1)  # What is traced once and kept is not counted.
    few, many = calls(6), calls(24)
    assert few > 1000
    assert many < 4.4 * few
