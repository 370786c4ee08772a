"""MPT against transformers' port, and against a written oracle for what only MosaicML's original has."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mpt_oracle
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from vllm_jax.kernels.attention import kv_pages_dtype, kv_pages_shape
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.models.load import LoadedModel, load_model
from vllm_jax.models.mpt import weights

VOCAB, LENGTH, MAX_LEN = 160, 40, 64

PORT: dict[str, dict[str, Any]] = {
    "power_of_two": {"d_model": 64, "n_heads": 4},
    "six_heads_clipped": {
        "d_model": 96,
        "n_heads": 6,
        "attn_config": {"clip_qkv": 0.9, "softmax_scale": 0.17},
        "layer_norm_epsilon": 1e-3,
    },
    "three_heads_untied": {"d_model": 72, "n_heads": 3, "tie_word_embeddings": False},
    "fields_the_port_ignores": {
        "d_model": 60,
        "n_heads": 5,
        "expansion_ratio": 2,
        "no_bias": False,
        "logit_scale": 0.5,
        "attn_config": {"alibi_bias_max": 16, "qk_ln": True},
    },
}
"""Configs in the layout of transformers' port; its own computation is what they mean."""


@cache
def port(name: str) -> transformers.MptForCausalLM:
    """A random float32 model of transformers, every parameter drawn."""
    torch.manual_seed(sorted(PORT).index(name))
    config = transformers.MptConfig(n_layers=2, vocab_size=VOCAB, max_seq_len=MAX_LEN, **PORT[name])
    model = transformers.MptForCausalLM(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.normal_(1.0, 0.3)
            elif "wte" in parameter_name:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, 1.2 * parameter.shape[1] ** -0.5)
    return model


@pytest.fixture(scope="module")
def port_checkpoint(tmp_path_factory):
    """``name -> directory`` that transformers wrote, once."""
    written: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp(name)
            port(name).save_pretrained(written[name])
        return written[name]

    return directory


def load(directory: Path, dtype: str = "float32") -> LoadedModel:
    config = json.loads((directory / "config.json").read_text())
    return load_model(directory, config, dtype=jnp.dtype(dtype))


def random_tokens(seed: int, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, length, dtype=np.int32)


def port_logits(model: transformers.MptForCausalLM, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long)[None]).logits[0].float().numpy()


@jax.jit
def dense_logits(model, tokens):
    return model.logits(model(tokens)[0])


@jax.jit
def paged_logits(model, tokens, pages, metadata):
    hidden, pages = model(tokens, pages, metadata)
    return model.logits(hidden), pages


def paged_run(loaded: LoadedModel, sequences: list[np.ndarray], dtype: str = "float32") -> list[np.ndarray]:
    """Logits of every token of two sequences, by chunks and decodes through scattered, NaN-filled pages."""
    page, columns, rows = 8, 5, 3
    config = loaded.config
    shape = kv_pages_shape(2 * columns + 1, page, config.num_kv_heads, config.head_dim)
    stored = kv_pages_dtype(jnp.dtype(dtype))
    pages = [jnp.full(shape, jnp.nan, dtype).view(stored) for _ in range(config.num_layers)]
    table = np.zeros((rows, columns), np.int32)
    table[:2] = np.random.default_rng(0).permutation(2 * columns).reshape(2, columns) + 1
    done, logits = [0, 0], [[], []]
    chunks = [(17, 0), (11, 6), (5, 13), (1, 7), (1, 1), (1, 1), (1, 1), (3, 0)]
    assert [len(s) for s in sequences] == np.sum(chunks, axis=0).tolist()
    for lengths in chunks:
        decode_only = lengths == (1, 1)
        tokens = np.zeros(rows if decode_only else 20, np.int32)
        tokens[: sum(lengths)] = np.concatenate(
            [s[at : at + n] for s, at, n in zip(sequences, done, lengths, strict=True)]
        )
        ends = np.array([0, lengths[0], sum(lengths), sum(lengths)], np.int32)
        kv_lens = np.array([done[0] + lengths[0], done[1] + lengths[1], 0], np.int32)
        metadata = AttentionMetadata(*map(jnp.asarray, (table, kv_lens, ends)), decode_only)
        new, pages = paged_logits(loaded.model, jnp.asarray(tokens), pages, metadata)
        for row in range(2):
            logits[row].append(np.asarray(new[ends[row] : ends[row + 1]]))
            done[row] += lengths[row]
    return [np.concatenate(parts) for parts in logits]


class TestAgainstTransformers:
    @pytest.mark.parametrize("name", PORT)
    def test_prefill(self, name, port_checkpoint):
        tokens = random_tokens(1)
        expected = port_logits(port(name), tokens)
        assert np.abs(expected).max() > 1, "logits too small to tell anything"
        logits = dense_logits(load(port_checkpoint(name)).model, jnp.asarray(tokens))
        assert logits.dtype == jnp.float32
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("name", ["power_of_two", "six_heads_clipped"])
    def test_chunked_prefill_and_decode(self, name, port_checkpoint):
        sequences = [random_tokens(2, 40), random_tokens(3, 29)]
        for sequence, logits in zip(
            sequences, paged_run(load(port_checkpoint(name)), sequences), strict=True
        ):
            np.testing.assert_allclose(logits, port_logits(port(name), sequence), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("name", ["power_of_two", "six_heads_clipped"])
    def test_bfloat16(self, name, port_checkpoint):
        """Not further from float32 than twice what bfloat16 costs transformers, with pages and without."""
        loaded = load(port_checkpoint(name), "bfloat16")
        rounded = copy.deepcopy(port(name)).bfloat16()
        sequences = [random_tokens(4, 40), random_tokens(5, 29)]
        for tokens, paged in zip(sequences, paged_run(loaded, sequences, "bfloat16"), strict=True):
            exact = port_logits(port(name), tokens)
            allowed = np.abs(port_logits(rounded, tokens) - exact)
            dense = np.asarray(dense_logits(loaded.model, jnp.asarray(tokens)))
            for ours in (dense, paged):
                error = np.abs(ours - exact)
                assert error.max() <= 2 * allowed.max()
                assert error.mean() <= 2 * allowed.mean()

    @pytest.mark.parametrize("name", ["power_of_two", "six_heads_clipped"])
    def test_each_submodule(self, name, port_checkpoint):
        theirs, model = port(name).transformer, load(port_checkpoint(name)).model
        hidden = model.config.hidden_size
        x = np.random.default_rng(6).normal(size=(LENGTH, hidden)).astype(np.float32)
        tx = torch.tensor(x)[None]
        bias = build_mpt_alibi_tensor(model.config.num_heads, MAX_LEN)
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)[None, None]
        block, ours = theirs.blocks[1], model.blocks[1]
        with torch.no_grad():
            expected = {
                "embedding": theirs.wte(torch.arange(LENGTH)[None]),
                "norm": block.norm_1(tx),
                "attention": block.attn(tx, bias, attention_mask=mask)[0],
                "mlp": block.ffn(tx, torch.zeros_like(tx)),
                "block": block(tx, bias, mask)[0],
            }
        x = jnp.asarray(x)
        actual = {
            "embedding": model.wte(jnp.arange(LENGTH)),
            "norm": ours.norm_1(x),
            "attention": ours.attn(x)[0],
            "mlp": ours.ffn(x),
            "block": ours(x)[0],
        }
        for part, array in expected.items():
            np.testing.assert_allclose(actual[part], array[0].numpy(), rtol=0, atol=2e-5, err_msg=part)

    def test_greedy_tokens(self, port_checkpoint):
        """Token by token with the dense forward; the engine's own tests do it through the scheduler."""
        model, start = load(port_checkpoint("power_of_two")).model, 9
        tokens = np.zeros(LENGTH, np.int32)  # causal: what lies behind a position does not change it
        tokens[:start] = random_tokens(7, start)
        prompt = torch.tensor(tokens[:start], dtype=torch.long)[None]
        for at in range(start, LENGTH):
            tokens[at] = int(jnp.argmax(dense_logits(model, jnp.asarray(tokens))[at - 1]))
        generated = port("power_of_two").generate(
            prompt,
            max_new_tokens=LENGTH - start,
            min_new_tokens=LENGTH - start,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tokens.tolist() == generated[0].tolist()

    def test_gradients_of_a_batch(self, port_checkpoint):
        """What a training step needs: vmap over sequences, and PyTorch's gradients for every parameter."""
        name = "six_heads_clipped"
        theirs, loaded = copy.deepcopy(port(name)), load(port_checkpoint(name))
        batch = np.stack([random_tokens(8, 14), random_tokens(9, 14)])
        ids = torch.tensor(batch, dtype=torch.long)
        loss = torch.nn.functional.cross_entropy(
            theirs(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )
        loss.backward()
        graph, state = nnx.split(loaded.model)

        @jax.jit
        def loss_and_gradients(state, batch):
            def loss(state):
                model = nnx.merge(graph, state)
                logits = jax.vmap(lambda tokens: model.logits(model(tokens)[0]))(batch)
                logprobs = jax.nn.log_softmax(logits[:, :-1])
                return -jnp.mean(jnp.take_along_axis(logprobs, batch[:, 1:, None], axis=-1))

            return jax.value_and_grad(loss)(state)

        ours, gradients = loss_and_gradients(state, jnp.asarray(batch))
        assert float(ours) == pytest.approx(loss.item(), abs=1e-5)
        flat = {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(gradients)}
        expected = {key: value.grad.numpy() for key, value in theirs.named_parameters()}
        for weight in weights(loaded.config).weights:
            scale = np.abs(expected[weight.name]).max()
            difference = np.abs(np.asarray(flat.pop(weight.path)) - expected[weight.name]).max()
            assert difference < 1e-4 * scale + 1e-6, weight.name
        assert not flat


def original(**changes: Any) -> dict[str, Any]:
    """A config as llm-foundry writes it; ``attn_config`` in ``changes`` is laid over the default one."""
    attn = {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_impl": "torch",
        "attn_pdrop": 0,
        "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False,
        "clip_qkv": None,
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    }
    return {
        "architectures": ["MPTForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_mpt.MPTConfig", "AutoModelForCausalLM": "modeling_mpt.X"},
        "d_model": 48,
        "emb_pdrop": 0,
        "embedding_fraction": 1.0,
        "expansion_ratio": 4,
        "init_config": {"name": "kaiming_normal_", "init_gain": 0, "verbose": 0},
        "init_device": "cpu",
        "learned_pos_emb": True,
        "logit_scale": None,
        "max_seq_len": MAX_LEN,
        "model_type": "mpt",
        "n_heads": 6,
        "n_layers": 2,
        "no_bias": True,
        "norm_type": "low_precision_layernorm",
        "resid_pdrop": 0,
        "tokenizer_name": "EleutherAI/gpt-neox-20b",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.28.1",
        "use_cache": False,
        "verbose": 0,
        "vocab_size": VOCAB,
        **changes,
        "attn_config": {**attn, **changes.get("attn_config", {})},
    }


ORIGINAL = {
    "mpt_7b": original(),
    "biases_and_widths": original(
        no_bias=False,
        expansion_ratio=2.5,
        attn_config={"alibi_bias_max": 4, "clip_qkv": 1.1},
        fc_type="torch",
    ),
    "learned_positions": original(
        logit_scale="inv_sqrt_d_model",
        attn_config={"alibi": False, "qk_ln": True},
        loss_fn="fused_crossentropy",
    ),
    "grouped_queries": original(
        no_bias=False,
        attn_config={
            "attn_type": "grouped_query_attention",
            "kv_n_heads": 2,
            "qk_ln": True,
            "softmax_scale": 0.3,
            "rope": False,
            "rope_theta": 10000,
        },
    ),
    "multiquery_gated": original(
        norm_type="low_precision_rmsnorm",
        tie_word_embeddings=False,
        attn_config={"attn_type": "multiquery_attention", "qk_gn": True},
        ffn_config={"ffn_type": "mptglu", "ffn_act_fn": {"name": "silu"}, "ffn_hidden_size": 100},
    ),
    "window_and_caps": original(
        logit_scale=0.7,
        attn_config={"sliding_window_size": 5, "attn_logit_softcapping": 2.0, "attn_impl": "flash"},
        ffn_config={"ffn_type": "mptmlp", "ffn_act_fn": {"name": "gelu", "approximate": "tanh"}},
    ),
}


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("name", ORIGINAL)
    def test_prefill(self, name, tmp_path):
        config, tokens = ORIGINAL[name], random_tokens(10)
        state = mpt_oracle.random_state(config)
        logits = dense_logits(load(mpt_oracle.write(config, state, tmp_path)).model, jnp.asarray(tokens))
        np.testing.assert_allclose(logits, mpt_oracle.logits(config, state, tokens), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("name", ["learned_positions", "window_and_caps"])
    def test_chunked_prefill_and_decode(self, name, tmp_path):
        config, sequences = ORIGINAL[name], [random_tokens(11, 40), random_tokens(12, 29)]
        state = mpt_oracle.random_state(config, seed=1)
        loaded = load(mpt_oracle.write(config, state, tmp_path))
        for sequence, logits in zip(sequences, paged_run(loaded, sequences), strict=True):
            np.testing.assert_allclose(logits, mpt_oracle.logits(config, state, sequence), rtol=0, atol=1e-4)

    def test_the_oracle_agrees_with_transformers(self):
        """Where both apply."""
        config = ORIGINAL["mpt_7b"]
        sizes = {key: config[key] for key in ("d_model", "n_heads", "n_layers", "vocab_size", "max_seq_len")}
        model = transformers.MptForCausalLM(transformers.MptConfig(**sizes)).eval()
        state, tokens = mpt_oracle.random_state(config), random_tokens(13)
        model.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})
        theirs = port_logits(model, tokens)
        np.testing.assert_allclose(mpt_oracle.logits(config, state, tokens), theirs, rtol=0, atol=1e-4)

    def test_more_tokens_than_learned_positions(self, tmp_path):
        config = original(attn_config={"alibi": False}, max_seq_len=8)
        model = load(mpt_oracle.write(config, mpt_oracle.random_state(config), tmp_path)).model
        with pytest.raises(ValueError, match="9 tokens, but 8 learned positions"):
            model(jnp.zeros(9, jnp.int32))
        with pytest.raises(ValueError, match="go together"):
            model(jnp.zeros(4, jnp.int32), kv_pages=[jnp.zeros(1)] * 2)
