"""The pre-norm decoder that Llama, Mistral, Qwen2 and Qwen3 share.

    tokens -> embed -> [ x + attn(norm(x)) -> x + mlp(norm(x)) ] x layers -> norm -> hidden -> logits

Knows the modules, the order they run in, and the names their tensors have in a checkpoint. Does not know
any family: what differs between them is data in :class:`DecoderConfig`, which a family's file fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.layers.attention import Attention
from vllm_jax.layers.embedding import Embedding
from vllm_jax.layers.linear import Linear, matmul, side_by_side
from vllm_jax.layers.mlp import ACTIVATIONS, GatedMLP
from vllm_jax.layers.norm import RMSNorm
from vllm_jax.layers.rotary import Rotary
from vllm_jax.models.hf_config import FieldReader
from vllm_jax.models.rope_config import read_rope
from vllm_jax.weights.table import Ignorable, Weight, WeightTable


@dataclass(frozen=True)
class DecoderConfig:
    """Everything that decides what a decoder computes. Sizes are in features, lengths in tokens.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        intermediate_size: inner width of the MLP.
        num_layers: decoder layers.
        num_heads: query heads.
        num_kv_heads: key/value heads; a divisor of ``num_heads``.
        head_dim: features of a head; even.
        max_position: longest sequence the positions are meant for.
        rotary: frequencies of the position embedding.
        layer_windows: for each layer the sliding window, or None for full attention.
        rms_norm_eps: of all norms.
        activation: of the MLP.
        tie_word_embeddings: whether the embedding is the output layer too.
        qkv_bias: whether the query, key and value projections have a bias.
        out_bias: whether the attention's output projection has one.
        mlp_bias: whether the MLP's projections have one.
        qk_norm: whether queries and keys are RMS-normalised per head before the rotation.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rotary: Rotary
    layer_windows: tuple[int | None, ...]
    rms_norm_eps: float
    activation: str
    tie_word_embeddings: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def sliding_window(self) -> int | None:
        """The window that holds for every layer, or None if any layer sees the whole context."""
        if None in self.layer_windows:
            return None
        return max(window for window in self.layer_windows if window is not None)


def read_sizes(
    fields: FieldReader,
    *,
    num_kv_heads: int | None,
    head_dim: int | None,
    max_position: int,
) -> dict[str, Any]:
    """Reads the fields that all families spell alike, as keyword arguments of :class:`DecoderConfig`.

    Args:
        fields: the config; the caller reads what is its own and calls ``finish``.
        num_kv_heads: the family's default, None for ``num_attention_heads``.
        head_dim: the family's default, None for ``hidden_size / num_attention_heads``.
        max_position: the family's default for ``max_position_embeddings``.

    Raises:
        ConfigError: a field is missing, out of range or does not fit the others; the text names it.
    """
    hidden_size = fields.integer("hidden_size")
    num_heads = fields.integer("num_attention_heads")
    # An explicit null means "as many as query heads"; only an absent field means the family's default.
    if fields.is_null("num_key_value_heads") or num_kv_heads is None:
        num_kv_heads = num_heads
    num_kv_heads = fields.integer("num_key_value_heads", num_kv_heads)
    if num_heads % num_kv_heads:
        raise fields.error(
            f"num_attention_heads {num_heads} is not a multiple of num_key_value_heads {num_kv_heads}"
        )
    head_dim = fields.integer("head_dim", head_dim)
    if head_dim is None:
        head_dim, rest = divmod(hidden_size, num_heads)
        if rest:
            raise fields.error(
                f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}"
            )
    if head_dim % 2:
        raise fields.error(f"head_dim {head_dim} must be even, rotary embeddings turn pairs of features")
    rotary, reach = read_rope(fields, head_dim, fields.integer("max_position_embeddings", max_position))
    return {
        "vocab_size": fields.integer("vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": fields.integer("intermediate_size"),
        "num_layers": fields.integer("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position": reach,
        "rotary": rotary,
        "rms_norm_eps": fields.number("rms_norm_eps", 1e-6),
        "activation": fields.choice("hidden_act", "silu", ACTIVATIONS),
        "tie_word_embeddings": fields.boolean("tie_word_embeddings", False),
    }


def read_layer_windows(fields: FieldReader, num_layers: int) -> tuple[int | None, ...]:
    """Reads Qwen's choice of layers with a sliding window.

    ``layer_types`` decides where it is given; else layers from ``max_window_layers`` on have the window,
    and only if ``use_sliding_window`` is on.

    Raises:
        ConfigError: the fields contradict each other; the text names them.
    """
    wanted = fields.boolean("use_sliding_window", False)
    window = None if fields.is_null("sliding_window") else fields.integer("sliding_window", 4096)
    used = wanted and window is not None
    first = fields.integer("max_window_layers", 28, minimum=0)
    kinds = fields.strings("layer_types", ("full_attention", "sliding_attention"))
    if kinds is None:
        return tuple(window if used and layer >= first else None for layer in range(num_layers))
    if len(kinds) != num_layers:
        raise fields.error(f"layer_types has {len(kinds)} entries for {num_layers} layers")
    if "sliding_attention" in kinds and not used:
        raise fields.error("layer_types has sliding_attention, but there is no sliding window in use")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def weights(config: DecoderConfig) -> WeightTable:
    """The tensors of a checkpoint with this config; linear weights are ``[out, in]`` on both sides."""
    embed, inner = config.hidden_size, config.intermediate_size
    q, kv, head = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim, config.head_dim
    tied = config.tie_word_embeddings
    table = [
        Weight(
            "model.embed_tokens.weight",
            "embed_tokens.weight",
            (config.vocab_size, embed),
            ("vocab", "embed"),
            aliases=("lm_head.weight",) if tied else (),
        ),
        Weight("model.norm.weight", "norm.weight", (embed,), ("embed",)),
    ]
    if not tied:
        table.append(
            Weight("lm_head.weight", "lm_head.weight", (config.vocab_size, embed), ("vocab", "embed"))
        )
    # checkpoint name, module path, out, in, axes, bias
    linears = (
        ("self_attn.q_proj", "attn.q_proj", q, embed, ("heads", "embed"), config.qkv_bias),
        ("self_attn.k_proj", "attn.k_proj", kv, embed, ("kv_heads", "embed"), config.qkv_bias),
        ("self_attn.v_proj", "attn.v_proj", kv, embed, ("kv_heads", "embed"), config.qkv_bias),
        ("self_attn.o_proj", "attn.o_proj", embed, q, ("embed", "heads"), config.out_bias),
        ("mlp.gate_proj", "mlp.gate_proj", inner, embed, ("mlp", "embed"), config.mlp_bias),
        ("mlp.up_proj", "mlp.up_proj", inner, embed, ("mlp", "embed"), config.mlp_bias),
        ("mlp.down_proj", "mlp.down_proj", embed, inner, ("embed", "mlp"), config.mlp_bias),
    )
    norms = [
        ("input_layernorm", "attn_norm", embed, "embed"),
        ("post_attention_layernorm", "mlp_norm", embed, "embed"),
    ]
    if config.qk_norm:
        norms += [
            ("self_attn.q_norm", "attn.q_norm", head, "head_dim"),
            ("self_attn.k_norm", "attn.k_norm", head, "head_dim"),
        ]
    for layer in range(config.num_layers):
        theirs, ours = f"model.layers.{layer}", f"layers.{layer}"
        for name, path, rows, columns, axes, bias in linears:
            table.append(Weight(f"{theirs}.{name}.weight", f"{ours}.{path}.weight", (rows, columns), axes))
            if bias:
                table.append(Weight(f"{theirs}.{name}.bias", f"{ours}.{path}.bias", (rows,), axes[:1]))
        for name, path, size, axis in norms:
            table.append(Weight(f"{theirs}.{name}.weight", f"{ours}.{path}.weight", (size,), (axis,)))
    return WeightTable(
        tuple(table),
        ignorable=(
            Ignorable(
                r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
                "a buffer that old versions of transformers saved; it is computed from the config",
            ),
        ),
        prefix="model.",
    )


class DecoderAttention(nnx.Module):
    """Self-attention with grouped key/value heads and rotary positions."""

    def __init__(self, config: DecoderConfig, window: int | None, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        embed, q, kv = (
            config.hidden_size,
            config.num_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
        )
        self.attention = Attention(
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            scale=config.head_dim**-0.5,
            sliding_window=window,
        )
        self.q_proj = Linear(embed, q, bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        self.k_proj = Linear(embed, kv, bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        self.v_proj = Linear(embed, kv, bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        self.o_proj = Linear(q, embed, bias=config.out_bias, dtype=dtype, rngs=rngs)
        norm = config.qk_norm
        self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps, dtype=dtype) if norm else None
        self.k_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps, dtype=dtype) if norm else None

    def __call__(
        self,
        x: jax.Array,
        cos: jax.Array,
        sin: jax.Array,
        kv_pages: jax.Array | None = None,
        metadata: AttentionMetadata | None = None,
        *,
        norm: RMSNorm | None = None,
        residual: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """``x [T, embed]``, ``cos`` and ``sin [T, head_dim / 2]`` -> ``([T, embed], pages)``.

        The norm, if given, is taken of ``x`` first, and ``residual [T, embed]`` added to the result.
        """
        head_dim = self.attention.head_dim
        q, k, v = side_by_side(x, self.q_proj, self.k_proj, self.v_proj, norm=norm)
        q = q.reshape(-1, self.attention.num_heads, head_dim)
        k = k.reshape(-1, self.attention.num_kv_heads, head_dim)
        v = v.reshape(-1, self.attention.num_kv_heads, head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        out, kv_pages = self.attention(q, k, v, kv_pages, metadata, rotary=(cos, sin))
        return self.o_proj(out, residual=residual), kv_pages


class DecoderLayer(nnx.Module):
    """Attention and MLP, each behind a norm and around the residual stream."""

    def __init__(self, config: DecoderConfig, window: int | None, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attn_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.attn = DecoderAttention(config, window, dtype=dtype, rngs=rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.mlp = GatedMLP(
            config.hidden_size,
            config.intermediate_size,
            activation=config.activation,
            bias=config.mlp_bias,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        x: jax.Array,
        cos: jax.Array,
        sin: jax.Array,
        kv_pages: jax.Array | None = None,
        metadata: AttentionMetadata | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """``x [T, embed]`` -> ``([T, embed], pages)``."""
        x, kv_pages = self.attn(x, cos, sin, kv_pages, metadata, norm=self.attn_norm, residual=x)
        return self.mlp(x, norm=self.mlp_norm, residual=x), kv_pages


class DecoderForCausalLM(nnx.Module):
    """A decoder with its output layer. Families subclass it for their name only.

    Args:
        config: what it computes.
        dtype: of parameters and activations.
        rngs: draws the initial parameters.
    """

    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            DecoderLayer(config, window, dtype=dtype, rngs=rngs) for window in config.layer_windows
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype, rngs=rngs)
        )

    def __call__(
        self,
        tokens: jax.Array,
        kv_pages: list[jax.Array] | None = None,
        metadata: AttentionMetadata | None = None,
    ) -> tuple[jax.Array, list[jax.Array] | None]:
        """Runs a flat ragged batch through the pages, or without pages one sequence from position 0.

        Args:
            tokens: ``[T]`` int32.
            kv_pages: one page array per layer, or None.
            metadata: the batch; goes with the pages.

        Returns:
            ``(hidden [T, embed] after the last norm in the model's dtype, updated pages or None)``.
        """
        if (kv_pages is None) != (metadata is None):
            raise ValueError("kv_pages and metadata go together: give both or neither")
        num_tokens = tokens.shape[0]
        positions = (
            jnp.arange(num_tokens, dtype=jnp.int32) if metadata is None else metadata.positions(num_tokens)
        )
        x = self.embed_tokens(tokens)
        cos, sin = self.config.rotary.cos_sin(positions, x.dtype)
        all_pages = [None] * len(self.layers) if kv_pages is None else kv_pages
        updated: list[Any] = []
        for layer, pages in zip(self.layers, all_pages, strict=True):
            x, pages = layer(x, cos, sin, pages, metadata)
            updated.append(pages)
        return self.norm(x), None if kv_pages is None else updated

    def logits(self, hidden: jax.Array) -> jax.Array:
        """``hidden [N, embed]`` -> ``[N, vocab]`` float32."""
        if self.lm_head is None:
            return self.embed_tokens.attend(hidden)
        return matmul(hidden, self.lm_head.weight[...])
