"""Llama, Mistral, Qwen2 and Qwen3 against transformers, loaded from checkpoints that transformers wrote."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from decoder_variants import (
    LENGTH,
    VARIANTS,
    dense_logits,
    load,
    oracle,
    oracle_logits,
    random_tokens,
    save,
)

from vllm_jax.kernels.attention import kv_pages_shape
from vllm_jax.kernels.metadata import AttentionMetadata

PAGE = 4
PAGES_A_SEQUENCE = 12


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """``variant -> directory`` with a checkpoint, written once."""
    written = {}

    def directory(variant: str):
        if variant not in written:
            written[variant] = tmp_path_factory.mktemp(variant)
            save(oracle(variant), written[variant])
        return written[variant]

    return directory


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_logits(variant, checkpoints):
    tokens = random_tokens()
    expected = oracle_logits(oracle(variant), tokens)
    assert np.abs(expected).max() > 1, "logits too small to tell anything"
    logits = dense_logits(load(checkpoints(variant)).model, jnp.asarray(tokens))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ["llama_biases", "mistral_window", "qwen2_some_windows", "qwen3_biases"])
def test_bfloat16_logits(variant, checkpoints):
    tokens = random_tokens(seed=1)
    exact = oracle_logits(oracle(variant), tokens)
    rounding = np.abs(oracle_logits(copy.deepcopy(oracle(variant)).bfloat16(), tokens) - exact)
    model = load(checkpoints(variant), "bfloat16").model
    error = np.abs(np.asarray(dense_logits(model, jnp.asarray(tokens))) - exact)
    assert error.max() <= 2 * rounding.max()
    assert error.mean() <= 2 * rounding.mean()


@jax.jit
def paged_step(model, tokens, pages, metadata):
    hidden, pages = model(tokens, pages, metadata)
    return model.logits(hidden), pages


class PagedRun:
    """Two sequences in scattered pages, driven step by step."""

    def __init__(self, loaded, sequences: list[np.ndarray], rows: int):
        config = loaded.config
        self.model, self.sequences, self.rows = loaded.model, sequences, rows
        count = len(sequences) * PAGES_A_SEQUENCE
        shape = kv_pages_shape(count + 1, PAGE, config.num_kv_heads, config.head_dim)
        self.pages = [jnp.full(shape, jnp.nan, jnp.float32) for _ in range(config.num_layers)]
        shuffled = np.random.default_rng(3).permutation(count) + 1
        self.tables = shuffled.reshape(len(sequences), PAGES_A_SEQUENCE)
        self.done = [0] * len(sequences)
        self.logits = [[] for _ in sequences]

    def step(self, lengths: list[int], padded: int, decode_only: bool = False) -> None:
        """Computes the next ``lengths[i]`` tokens of each sequence in one flat batch of ``padded`` tokens."""
        parts = [seq[at : at + n] for seq, at, n in zip(self.sequences, self.done, lengths, strict=True)]
        tokens = np.zeros(padded, np.int32)
        tokens[: sum(lengths)] = np.concatenate(parts)
        ends = np.cumsum([0, *lengths] + [0] * (self.rows - len(lengths)))
        kv_lens = np.zeros(self.rows, np.int32)
        kv_lens[: len(lengths)] = [at + n for at, n in zip(self.done, lengths, strict=True)]
        table = np.zeros((self.rows, PAGES_A_SEQUENCE), np.int32)
        table[: len(lengths)] = self.tables
        metadata = AttentionMetadata(
            jnp.asarray(table), jnp.asarray(kv_lens), jnp.asarray(ends, jnp.int32), decode_only=decode_only
        )
        logits, self.pages = paged_step(self.model, jnp.asarray(tokens), self.pages, metadata)
        for i, n in enumerate(lengths):
            self.logits[i].append(np.asarray(logits[ends[i] : ends[i] + n]))
            self.done[i] += n


@pytest.mark.parametrize("variant", ["llama_rope_yarn", "mistral_window", "qwen2_some_windows", "qwen3"])
def test_chunked_prefill_and_decode_through_the_pages(variant, checkpoints):
    sequences = [random_tokens(LENGTH, seed=5), random_tokens(30, seed=6)]
    run = PagedRun(load(checkpoints(variant)), sequences, rows=3)
    for lengths in [(17, 0), (11, 6), (5, 13), (1, 7)]:  # chunks alone, mixed, and beside a decode
        run.step(list(lengths), padded=20)
    for _ in range(4):
        run.step([1, 1], padded=3, decode_only=True)
    for _ in range(2):
        run.step([1, 0], padded=20)
    assert run.done == [LENGTH, 30]
    for sequence, logits in zip(sequences, run.logits, strict=True):
        expected = oracle_logits(oracle(variant), sequence)
        np.testing.assert_allclose(np.concatenate(logits), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ["llama_biases", "mistral_window", "qwen2", "qwen3_biases"])
def test_each_submodule(variant, checkpoints):
    theirs = oracle(variant).model
    model = load(checkpoints(variant)).model
    x = np.random.default_rng(7).normal(size=(LENGTH, 64)).astype(np.float32)
    cos, sin = model.config.rotary.cos_sin(jnp.arange(LENGTH), jnp.float32)
    with torch.no_grad():
        tx = torch.tensor(x)[None]
        turns = theirs.rotary_emb(tx, torch.arange(LENGTH)[None])
        distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)[None]
        hidden_keys = (distance < 0) | (distance >= (model.config.sliding_window or LENGTH))
        mask = torch.zeros(LENGTH, LENGTH).masked_fill(hidden_keys, torch.finfo(torch.float32).min)[
            None, None
        ]
        layer = theirs.layers[0]
        expected = {
            "cos": turns[0],
            "sin": turns[1],
            "norm": layer.input_layernorm(tx),
            "mlp": layer.mlp(tx),
            "attention": layer.self_attn(tx, position_embeddings=turns, attention_mask=mask)[0],
            "layer": layer(tx, position_embeddings=turns, attention_mask=mask),
        }
    ours = model.layers[0]
    actual = {
        "cos": jnp.tile(cos, 2),
        "sin": jnp.tile(sin, 2),
        "norm": ours.attn_norm(x),
        "mlp": ours.mlp(x),
        "attention": ours.attn(jnp.asarray(x), cos, sin)[0],
        "layer": ours(jnp.asarray(x), cos, sin)[0],
    }
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array[0].numpy(), rtol=0, atol=2e-5, err_msg=name)


def test_greedy_tokens_are_those_of_generate(checkpoints):
    """The dense forward, extended token by token; the engine's own tests do this through the scheduler."""
    prompt = random_tokens(9, seed=8)
    model = load(checkpoints("qwen3")).model
    tokens = np.zeros(LENGTH, np.int32)  # causal: what lies behind a position does not change it
    tokens[:9] = prompt
    for at in range(9, LENGTH):
        tokens[at] = int(jnp.argmax(dense_logits(model, jnp.asarray(tokens))[at - 1]))
    generated = oracle("qwen3").generate(
        torch.tensor(prompt, dtype=torch.long)[None],
        max_new_tokens=LENGTH - 9,
        min_new_tokens=LENGTH - 9,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert tokens.tolist() == generated[0].tolist()


def test_a_batch_is_a_vmap(checkpoints):
    model = load(checkpoints("llama")).model
    batch = np.stack([random_tokens(seed=seed) for seed in range(3)])
    logits = jax.vmap(lambda tokens: model.logits(model(tokens)[0]))(jnp.asarray(batch))
    for row, tokens in zip(logits, batch, strict=True):
        np.testing.assert_allclose(row, oracle_logits(oracle("llama"), tokens), rtol=0, atol=1e-4)


def test_pages_and_metadata_go_together(checkpoints):
    model = load(checkpoints("llama")).model
    with pytest.raises(ValueError, match="go together"):
        model(jnp.zeros(4, jnp.int32), kv_pages=[jnp.zeros(1)] * 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dummy_weights_are_finite_seeded_and_in_the_dtype(dtype, tmp_path):
    save(oracle("qwen3"), tmp_path)
    first, again, other = (load(tmp_path, dtype, load_format="dummy", seed=seed) for seed in (0, 0, 1))
    assert first.info.dtype == dtype
    tokens = jnp.asarray(random_tokens(8))
    logits = [np.asarray(loaded.model.logits(loaded.model(tokens)[0])) for loaded in (first, again, other)]
    assert np.isfinite(logits[0]).all() and 1e-3 < logits[0].std() < 1e2
    assert (logits[0] == logits[1]).all() and (logits[0] != logits[2]).any()
