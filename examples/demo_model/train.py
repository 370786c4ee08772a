"""Trains the demo model and writes its checkpoint: ``python -m examples.demo_model.train OUTPUT_DIRECTORY``.

Training has two stages: the long one, and a short polish from its checkpoint that shows more single words.

Knows batches, loss, optimiser and the files of a Hugging Face checkpoint. The model is the project's own MPT
(:mod:`vllm_jax.models.mpt`), computed as one causal sequence a row. Everything is drawn from one seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import nnx
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from examples.demo_model.card import write_card
from examples.demo_model.chats import ChatMaker, known_words
from examples.demo_model.evaluate import evaluate, held_out_cases, translations
from examples.demo_model.tokens import (
    CHAT_TEMPLATE,
    EOS,
    EOS_ID,
    PAD,
    PAD_ID,
    Encoded,
    encode_chat,
    train_tokenizer,
)
from vllm_jax.models import mpt
from vllm_jax.models.load import load_model

BUCKETS = (32, 48, 64, 96, 144, 320)
"""Row lengths in tokens; a longer chat is left out."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of a stage of training; the defaults are those of the bundled checkpoint's first."""

    seed: int = 0
    vocab_size: int = 3328
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    max_seq_len: int = 1024
    steps: int = 4500
    batch_tokens: int = 4096
    learning_rate: float = 5e-3
    warmup_steps: int = 60
    weight_decay: float = 0.05
    untranslatable_rate: float = 0.22
    average_decay: float = 0.99
    word_rate: float = 0.0


POLISH = Recipe(seed=1, steps=800, learning_rate=1e-3, warmup_steps=20, word_rate=0.25)
"""The second stage."""


def hf_config(recipe: Recipe) -> dict:
    """config.json in the transformers layout."""
    return {
        "architectures": ["MptForCausalLM"],
        "model_type": "mpt",
        "attn_config": {
            "alibi": True, "alibi_bias_max": 8, "attn_pdrop": 0, "attn_type": "multihead_attention",
            "clip_qkv": None, "prefix_lm": False, "qk_ln": False, "softmax_scale": None,
        },
        "d_model": recipe.d_model,
        "n_heads": recipe.n_heads,
        "n_layers": recipe.n_layers,
        "expansion_ratio": 4,
        "max_seq_len": recipe.max_seq_len,
        "vocab_size": recipe.vocab_size,
        "no_bias": True,
        "layer_norm_epsilon": 1e-5,
        "norm_type": "low_precision_layernorm",
        "resid_pdrop": 0,
        "emb_pdrop": 0,
        "learned_pos_emb": False,
        "logit_scale": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": EOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "torch_dtype": "bfloat16",
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one length, and the places where an answer token is predicted.

    Attributes:
        tokens: ``[B, L]`` int32, padded at the end.
        places: ``[K]`` int32 flat indices into ``B * L``; ``K`` depends on the shape alone.
        targets: ``[K]`` int32 the token that follows each place.
        weights: ``[K]`` float32, 0 for the places that only fill up.
    """

    tokens: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def make_batch(rows: list[Encoded], length: int) -> Batch:
    """Pads ``rows`` to ``length``."""
    tokens = np.full((len(rows), length), PAD_ID, np.int32)
    places, targets = [], []
    for r, row in enumerate(rows):
        tokens[r, : len(row.ids)] = row.ids
        for i, answer in enumerate(row.answer):
            if answer:
                places.append(r * length + i - 1)
                targets.append(row.ids[i])
    size = tokens.size // 2
    found = min(len(places), size)
    fill = [0] * (size - found)
    weights = np.asarray([1.0] * found + fill, np.float32)
    return Batch(
        tokens,
        np.asarray(places[:size] + fill, np.int32),
        np.asarray(targets[:size] + fill, np.int32),
        weights,
    )


def batches(maker: ChatMaker, tokenizer: Tokenizer, recipe: Recipe) -> Iterator[Batch]:
    """Endless training batches; every chat is drawn anew."""
    rng = Random(recipe.seed + 1)
    waiting: dict[int, list[Encoded]] = {length: [] for length in BUCKETS}
    while True:
        row = encode_chat(tokenizer, maker.chat(rng, recipe.untranslatable_rate))
        length = next((b for b in BUCKETS if len(row.ids) <= b), None)
        if length is None:
            continue
        waiting[length].append(row)
        if len(waiting[length]) == max(1, recipe.batch_tokens // length):
            yield make_batch(waiting[length], length)
            waiting[length] = []


def build_model(recipe: Recipe) -> mpt.MptForCausalLM:
    """A freshly initialised float32 model; what writes to the residual stream starts small."""
    model = mpt.MptForCausalLM(
        mpt.MptConfig.from_hf(hf_config(recipe)), dtype=jnp.float32, rngs=nnx.Rngs(recipe.seed)
    )
    for block in model.blocks:
        for writer in (block.attn.out_proj, block.ffn.down_proj):
            writer.weight[...] = writer.weight[...] / (2 * recipe.n_layers) ** 0.5
    return model


Params = dict[str, jax.Array]
"""Parameters by their path in the model, for example ``blocks.0.attn.qkv.weight``."""


def flatten(state: nnx.State) -> Params:
    """The parameters of a model as a plain dictionary."""
    return {".".join(str(k) for k in path): leaf[...] for path, leaf in nnx.to_flat_state(state)}


def make_gradient(template: nnx.Module):
    """The jitted loss and gradient: ``(params, tokens, places, targets, weights) -> (loss, gradient)``.

    Parameters are float32 and the products bfloat16; the loss is the mean over the answer tokens.
    """
    graph, state = nnx.split(template)
    paths = [path for path, _ in nnx.to_flat_state(state)]

    def loss_fn(params: Params, tokens, places, targets, weights):
        half = {path: params[".".join(str(k) for k in path)].astype(jnp.bfloat16) for path in paths}
        model: Any = nnx.merge(
            graph, nnx.from_flat_state({path: nnx.Param(value) for path, value in half.items()})
        )
        hidden = jax.vmap(lambda row: model(row)[0])(tokens)
        hidden = hidden.reshape(-1, hidden.shape[-1])[places]
        losses = optax.softmax_cross_entropy_with_integer_labels(model.logits(hidden), targets)
        return jnp.sum(losses * weights) / jnp.sum(weights)

    return jax.jit(jax.value_and_grad(loss_fn))


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Muon for the matrices of the blocks, AdamW for embedding and norms; warm-up, then cosine to zero."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.warmup_steps, max(recipe.steps, recipe.warmup_steps + 1)
    )
    muon = optax.contrib.muon(
        schedule, weight_decay=recipe.weight_decay, consistent_rms=0.2, adam_b2=0.98,
        muon_weight_dimension_numbers=lambda params: {
            path: optax.contrib.MuonDimensionNumbers() if "blocks." in path and "norm" not in path else None
            for path in params
        },
    )  # fmt: skip
    return optax.chain(optax.clip_by_global_norm(1.0), muon)


def make_update(optimizer: optax.GradientTransformation, decay: float):
    """The jitted update: ``(params, average, opt_state, gradient) -> the first three anew``."""

    @jax.jit
    def update(params: Params, average: Params, opt_state, gradient: Params):
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        return params, average, opt_state

    return update


def save_checkpoint(directory: Path, recipe: Recipe, tokenizer: Tokenizer, params: Params) -> None:
    """Writes the checkpoint in Hugging Face layout, weights in bfloat16."""
    directory.mkdir(parents=True, exist_ok=True)
    by_path = {path: np.asarray(value) for path, value in params.items()}
    table = mpt.weights(mpt.MptConfig.from_hf(hf_config(recipe)))
    tensors = {w.name: by_path.pop(w.path).astype(jnp.bfloat16) for w in table.weights}
    if by_path:
        raise AssertionError(f"parameters outside the weight table: {sorted(by_path)}")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone
    tokenizer.save(str(directory / "tokenizer.json"))
    files = {
        "config.json": hf_config(recipe),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": recipe.max_seq_len,
            "bos_token": EOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
        "special_tokens_map.json": {"bos_token": EOS, "eos_token": EOS, "pad_token": PAD},
        "generation_config.json": {
            "bos_token_id": EOS_ID,
            "eos_token_id": EOS_ID,
            "pad_token_id": PAD_ID,
            "do_sample": True,
            "temperature": 0.2,
        },
    }
    for name, content in files.items():
        (directory / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def make_tokenizer(recipe: Recipe) -> Tokenizer:
    """Trains the tokenizer on chats of the recipe's seed."""
    maker, rng = ChatMaker(held_out=False), Random(recipe.seed)
    return train_tokenizer((maker.chat(rng) for _ in range(40_000)), known_words(), recipe.vocab_size)


def train(recipe: Recipe, output: Path, *, start: Path | None = None, save_every: int = 100) -> None:
    """Trains one stage, from nothing or from the checkpoint ``start``; leaves its average in ``output``."""
    maker = ChatMaker(held_out=False, word_rate=recipe.word_rate)
    if start is None:
        tokenizer = make_tokenizer(recipe)
        model: nnx.Module = build_model(recipe)
    else:
        tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
        model = load_model(start, hf_config(recipe), dtype=jnp.float32).model
    params = flatten(nnx.state(model, nnx.Param))
    gradient, optimizer = make_gradient(model), make_optimizer(recipe)
    update = make_update(optimizer, recipe.average_decay)
    opt_state, average = optimizer.init(params), params
    print(
        f"{sum(p.size for p in jax.tree.leaves(params)):,} parameters, {tokenizer.get_vocab_size()} tokens",
        flush=True,
    )
    started, tokens, recent = time.time(), 0, []
    for n, batch in enumerate(batches(maker, tokenizer, recipe), start=1):
        loss, grads = gradient(params, batch.tokens, batch.places, batch.targets, batch.weights)
        params, average, opt_state = update(params, average, opt_state, grads)
        tokens += batch.tokens.size
        recent.append(loss)
        if n % 50 == 0:
            seconds = time.time() - started
            rate = f"{seconds:.0f} s, {tokens / seconds:.0f} tokens/s"
            print(f"step {n}/{recipe.steps} loss {np.mean(recent):.4f} {rate}", flush=True)
            recent = []
        if n % save_every == 0 or n == recipe.steps:
            save_checkpoint(output, recipe, tokenizer, average)
        if n == recipe.steps:
            return


def main() -> None:
    """Command line: trains, evaluates, writes the model card. The recipe's fields are flags."""
    parser = argparse.ArgumentParser(description="Trains the demo model and writes its checkpoint.")
    parser.add_argument("output", type=Path, help="directory for the checkpoint")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    arguments = vars(parser.parse_args())
    output = arguments.pop("output")
    recipe = Recipe(**arguments)
    started = time.time()
    train(recipe, output)
    shape = ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len")
    polish = dataclasses.replace(POLISH, **{name: getattr(recipe, name) for name in shape})
    train(polish, output, start=output)
    report(recipe, output, time.time() - started)


def report(recipe: Recipe, output: Path, seconds: float, remark: str = "") -> None:
    """Evaluates the checkpoint in ``output``, prints the figures and writes the model card."""
    tallies = evaluate(output, held_out_cases(4000), jnp.dtype(jnp.bfloat16))
    for measure, tally in {**tallies, "all held-out translations": translations(tallies)}.items():
        print(f"{measure:26} {tally.right:5} of {tally.total:5}  {100 * tally.rate:6.2f} %", flush=True)
    write_card(
        output,
        tallies,
        dtype="bfloat16",
        parameters=sum(p.size for p in flatten(nnx.state(build_model(recipe), nnx.Param)).values()),
        vocab=recipe.vocab_size,
        steps=f"{recipe.steps} and then {POLISH.steps}",
        batch_tokens=recipe.batch_tokens,
        seconds=seconds,
        remark=remark,
    )


if __name__ == "__main__":
    main()
