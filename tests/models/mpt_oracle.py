"""MosaicML's original MPT in a page of PyTorch, for what transformers' port leaves out.

Written from the model's definition: fused projection in the order queries, keys, values; clipping before the
query/key norms; ALiBi on top of scaled scores; layer norms of PyTorch; RMS norms that scale before rounding;
a window of flash-attention's kind, which counts the keys before the query.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch.nn import functional as F

State = dict[str, torch.Tensor]


def ffn_size(config: dict[str, Any]) -> int:
    return config.get("ffn_config", {}).get("ffn_hidden_size") or int(
        config["expansion_ratio"] * config["d_model"]
    )


def kv_heads(config: dict[str, Any]) -> int:
    kind = config["attn_config"].get("attn_type", "multihead_attention")
    return {"multihead_attention": config["n_heads"], "multiquery_attention": 1}.get(kind) or config[
        "attn_config"
    ]["kv_n_heads"]


def random_state(config: dict[str, Any], seed: int = 0) -> State:
    """Every tensor of a checkpoint, random enough that nothing can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    hidden, attn = config["d_model"], config["attn_config"]
    width = hidden // config["n_heads"]
    state: State = {}

    def draw(name: str, *shape: int, mean: float = 0.0, std: float = 0.3) -> None:
        state[name] = torch.randn(*shape, generator=generator) * std + mean

    def linear(name: str, outputs: int, inputs: int) -> None:
        draw(f"{name}.weight", outputs, inputs, std=1.2 * inputs**-0.5)
        if not config["no_bias"]:
            draw(f"{name}.bias", outputs)

    def norm(name: str, size: int) -> None:
        draw(f"{name}.weight", size, mean=1.0)
        if not config["no_bias"] and "rms" not in config["norm_type"]:
            draw(f"{name}.bias", size)

    draw("transformer.wte.weight", config["vocab_size"], hidden, std=0.5)
    if not attn["alibi"]:
        draw("transformer.wpe.weight", config["max_seq_len"], hidden)
    for i in range(config["n_layers"]):
        block = f"transformer.blocks.{i}"
        norm(f"{block}.norm_1", hidden)
        linear(f"{block}.attn.Wqkv", hidden + 2 * kv_heads(config) * width, hidden)
        if attn.get("qk_ln"):
            norm(f"{block}.attn.q_ln", hidden)
            norm(f"{block}.attn.k_ln", kv_heads(config) * width)
        if attn.get("qk_gn"):
            norm(f"{block}.attn.q_ln", width)
            norm(f"{block}.attn.k_ln", width)
        linear(f"{block}.attn.out_proj", hidden, hidden)
        norm(f"{block}.norm_2", hidden)
        linear(f"{block}.ffn.up_proj", ffn_size(config), hidden)
        if config.get("ffn_config", {}).get("ffn_type") == "mptglu":
            linear(f"{block}.ffn.gate_proj", ffn_size(config), hidden)
        linear(f"{block}.ffn.down_proj", hidden, ffn_size(config))
    norm("transformer.norm_f", hidden)
    if not config.get("tie_word_embeddings", True):
        linear_std = hidden**-0.5
        draw("lm_head.weight", config["vocab_size"], hidden, std=linear_std)
    return state


def write(config: dict[str, Any], state: State, directory: Path) -> Path:
    directory.mkdir(exist_ok=True, parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def slopes(heads: int, bias_max: float) -> torch.Tensor:
    power = 2 ** math.ceil(math.log2(heads))
    all_slopes = 1.0 / torch.pow(2.0, torch.arange(1, power + 1) * (bias_max / power))
    return all_slopes if power == heads else torch.cat([all_slopes[1::2], all_slopes[::2]])[:heads]


def logits(config: dict[str, Any], state: State, tokens: np.ndarray) -> np.ndarray:
    """``tokens [T]`` -> ``[T, V]`` float32."""
    attn, ffn = config["attn_config"], config.get("ffn_config", {})
    heads, shared = config["n_heads"], kv_heads(config)
    width = config["d_model"] // heads
    length = len(tokens)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        if "rms" in config["norm_type"]:
            return F.rms_norm(x, weight.shape, weight, 1e-5)
        return F.layer_norm(x, weight.shape, weight, state.get(f"{name}.bias"), 1e-5)

    def activation(x: torch.Tensor) -> torch.Tensor:
        options = dict(ffn.get("ffn_act_fn") or {"name": "gelu"})
        return getattr(F, options.pop("name"))(x, **options)

    def attention(x: torch.Tensor, block: str) -> torch.Tensor:
        qkv = linear(x, f"{block}.Wqkv")
        if attn.get("clip_qkv"):
            qkv = qkv.clamp(-attn["clip_qkv"], attn["clip_qkv"])
        q, k, v = qkv.split([config["d_model"], shared * width, shared * width], dim=-1)
        if attn.get("qk_ln"):
            q, k = norm(q, f"{block}.q_ln"), norm(k, f"{block}.k_ln")
        q, k, v = (y.view(length, -1, width) for y in (q, k, v))
        if attn.get("qk_gn"):
            q, k = norm(q, f"{block}.q_ln"), norm(k, f"{block}.k_ln")
        k, v = (y.repeat_interleave(heads // shared, dim=1) for y in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * (attn.get("softmax_scale") or width**-0.5)
        if attn.get("attn_logit_softcapping"):
            scores = attn["attn_logit_softcapping"] * torch.tanh(scores / attn["attn_logit_softcapping"])
        before = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        if attn["alibi"]:
            scores = scores - slopes(heads, attn.get("alibi_bias_max", 8))[:, None, None] * before
        hidden = before < 0
        if attn.get("sliding_window_size", -1) >= 0:
            hidden |= before > attn["sliding_window_size"]
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return linear(torch.einsum("hqk,khd->qhd", weights, v).reshape(length, -1), f"{block}.out_proj")

    def mlp(x: torch.Tensor, block: str) -> torch.Tensor:
        up = linear(x, f"{block}.up_proj")
        if ffn.get("ffn_type") == "mptglu":
            return linear(activation(linear(x, f"{block}.gate_proj")) * up, f"{block}.down_proj")
        return linear(activation(up), f"{block}.down_proj")

    x = state["transformer.wte.weight"][torch.as_tensor(tokens, dtype=torch.long)]
    if not attn["alibi"]:
        x = x + state["transformer.wpe.weight"][:length]
    for i in range(config["n_layers"]):
        block = f"transformer.blocks.{i}"
        x = x + attention(norm(x, f"{block}.norm_1"), f"{block}.attn")
        x = x + mlp(norm(x, f"{block}.norm_2"), f"{block}.ffn")
    x = norm(x, "transformer.norm_f")
    result = x @ state.get("lm_head.weight", state["transformer.wte.weight"]).T
    scale = config.get("logit_scale")
    if scale is not None:
        result = result * (config["d_model"] ** -0.5 if scale == "inv_sqrt_d_model" else scale)
    return result.numpy()
