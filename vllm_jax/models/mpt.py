"""MPT, MosaicML's decoder with ALiBi: config, modules and weight table.

Knows both layouts of config.json: the original one of llm-foundry (``MPTForCausalLM``) and that of
transformers' port (``MptForCausalLM``). They share tensor names, but neither defaults nor meaning: the
port takes some fields for constants (:data:`PORT_CONSTANTS`), and a checkpoint it wrote was made that way. In
the original layout every field means what it says. Does not know where tensors come from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.layers.activation import activate
from vllm_jax.layers.alibi import alibi_slopes
from vllm_jax.layers.attention import Attention
from vllm_jax.layers.embedding import Embedding
from vllm_jax.layers.linear import Linear, Norm, activated, matmul, side_by_side
from vllm_jax.layers.norm import LayerNorm, RMSNorm
from vllm_jax.models.hf_config import FieldReader
from vllm_jax.weights.table import Weight, WeightTable

logger = logging.getLogger(__name__)

PORT_CONSTANTS: Mapping[str, Any] = {
    "expansion_ratio": 4,
    "no_bias": True,
    "logit_scale": None,
    "attn_config.alibi_bias_max": 8,
    "attn_config.qk_ln": False,
}
"""Fields that transformers' port has in its config but never reads, and what it computes instead
(transformers, models/mpt/modeling_mpt.py)."""

LAYER_NORMS = ("low_precision_layernorm", "layernorm")
RMS_NORMS = ("rmsnorm", "low_precision_rmsnorm", "triton_rmsnorm")

TRAINING_FIELDS = (
    "activation_checkpointing*",
    "allow_embedding_resizing",
    "emb_init_*",
    "emb_pdrop",
    "embedding_fraction",  # scales the embedding's gradient, not its value
    "fan_mode",
    "fc_type",  # which library multiplies
    "fsdp_*",
    "init_*",
    "loss_fn",
    "name",
    "param_init_fn",
    "resid_pdrop",
    "tokenizer_name",
    "use_pad_tok_in_ffn",
    "use_train_metrics",
    "verbose",
)
"""Fields of MosaicML's config that change initialisation, training or speed, never what is inferred."""

TRAINING_FIELDS_OF_ATTENTION = (
    "attn_impl",
    "attn_pdrop",
    "attn_uses_sequence_id",  # separates documents that are packed into one row of a training batch
    "rope_*",  # without effect, because rope itself is refused
)
"""The same in ``attn_config``."""


@dataclass(frozen=True)
class MptConfig:
    """What the modules need to know; built by :meth:`from_hf`.

    Attributes:
        ffn_size: inner width of the MLP.
        max_position: longest sequence the model was made for.
        alibi_bias_max: see ``layers/alibi.py``; None where there is no ALiBi.
        learned_positions: whether a table of ``max_position`` learned positions is added to the embeddings.
        bias: whether linear layers (not the output layer) and layer norms have biases.
        rms: RMS norm instead of layer norm.
        qk_norm: norm of queries and keys over all heads together, over each head, or none.
        scale: multiplies ``q . k``.
        sliding_window: keys a query sees, itself included.
        soft_cap: tanh cap of the attention scores.
        gated: the MLP is ``down(act(gate(x)) * up(x))`` and not ``down(act(up(x)))``.
        activation: "gelu" (exact), "gelu_tanh", "relu" or "silu".
        logit_scale: multiplies the logits.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_size: int
    max_position: int
    alibi_bias_max: float | None
    learned_positions: bool
    bias: bool
    rms: bool
    norm_eps: float
    qk_norm: Literal["all", "head"] | None
    clip_qkv: float | None
    scale: float
    sliding_window: int | None
    soft_cap: float | None
    gated: bool
    activation: str
    logit_scale: float
    tie_word_embeddings: bool

    @property
    def head_dim(self) -> int:
        """Features of a head."""
        return self.hidden_size // self.num_heads

    @property
    def qkv_size(self) -> int:
        """Rows of the fused projection: all query heads, then key heads, then value heads."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> MptConfig:
        """Reads a config.json in either layout.

        Raises:
            ConfigError: a field is missing, has a bad value, or asks for what is not implemented (rotary
                positions, prefix-LM masks, Transformer Engine or mixture-of-experts MLPs, per-block
                overrides, residual modifications, unfused or shared keys and values); the text names it.
        """
        original = _is_original_layout(config)
        if not original:
            config = _as_the_port_reads_it(config)
        top = FieldReader(config, "mpt config")
        attn = FieldReader(top.mapping("attn_config") or {}, "mpt config: attn_config", advice="")
        ffn = FieldReader(top.mapping("ffn_config") or {}, "mpt config: ffn_config", advice="")

        hidden_size = top.integer("d_model", 2048)
        num_heads = top.integer("n_heads", 16)
        if hidden_size % num_heads:
            raise top.error(f"d_model {hidden_size} is not a multiple of n_heads {num_heads}")

        alibi = attn.boolean("alibi", not original)
        if not original and not alibi:
            raise attn.error("alibi = false is not supported: transformers' MPT has no other positions")
        bias_max = attn.number("alibi_bias_max", 8.0)
        learned_positions = top.boolean("learned_pos_emb", True) and not alibi

        norms = LAYER_NORMS + RMS_NORMS if original else LAYER_NORMS
        norm_type = top.choice("norm_type", LAYER_NORMS[0], norms)
        qk_ln, qk_gn = attn.boolean("qk_ln", False), attn.boolean("qk_gn", False)
        if qk_ln and qk_gn:
            raise attn.error("qk_ln and qk_gn exclude each other")
        window = attn.integer("sliding_window_size", -1, minimum=-1)
        gated, activation, ffn_size = _read_ffn(top, ffn, hidden_size)

        parsed = cls(
            vocab_size=top.integer("vocab_size", 50368),
            hidden_size=hidden_size,
            num_layers=top.integer("n_layers", 24),
            num_heads=num_heads,
            num_kv_heads=_read_kv_heads(attn, num_heads),
            ffn_size=ffn_size,
            max_position=top.integer("max_seq_len", 2048),
            alibi_bias_max=bias_max if alibi else None,
            learned_positions=learned_positions,
            bias=not top.boolean("no_bias", not original),
            rms=norm_type in RMS_NORMS,
            norm_eps=top.number("layer_norm_epsilon", top.number("norm_eps", 1e-5)),
            qk_norm="all" if qk_ln else "head" if qk_gn else None,
            clip_qkv=attn.number("clip_qkv", None),
            scale=attn.number("softmax_scale", 1.0 / math.sqrt(hidden_size / num_heads)),
            sliding_window=None if window == -1 else window + 1,  # the original does not count the query
            soft_cap=attn.number("attn_logit_softcapping", None),
            gated=gated,
            activation=activation,
            logit_scale=_read_logit_scale(top, config.get("logit_scale"), hidden_size),
            tie_word_embeddings=top.boolean("tie_word_embeddings", True),
        )
        attn.refuse_unless("rope", (False,), "MPT with rotary positions is not implemented")
        attn.refuse_unless("prefix_lm", (False,), "only causal attention is implemented")
        attn.refuse_unless("fused_qkv", (True,), "only the fused projection Wqkv is implemented")
        top.finish(without_effect=TRAINING_FIELDS)
        attn.finish(without_effect=TRAINING_FIELDS_OF_ATTENTION)
        ffn.finish(without_effect=("fc_type",))
        return parsed


def _is_original_layout(config: Mapping[str, Any]) -> bool:
    """Whether llm-foundry wrote the config: it decides which defaults hold for what is left out."""
    architectures = config.get("architectures") or []
    if any(name.startswith("Mpt") for name in architectures):
        return False
    if any(name.startswith("MPT") for name in architectures):
        return True
    return any(field in config for field in ("auto_map", "init_config", "verbose"))


def _as_the_port_reads_it(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the port's constants in the place of what it ignores; a difference is logged."""
    attn_config = config.get("attn_config") or {}
    if not isinstance(attn_config, Mapping):
        return dict(config)  # refused by name later
    read = {**config, "attn_config": dict(attn_config)}
    for name, constant in PORT_CONSTANTS.items():
        group, _, field = name.rpartition(".")
        fields = read[group] if group else read
        if fields.get(field, constant) != constant:
            logger.warning(
                "mpt config: %s = %r is not read by transformers' MptForCausalLM, which wrote this layout; "
                "computing with %r, as it does",
                name,
                fields[field],
                constant,
            )
        fields[field] = constant
    return read


def _read_kv_heads(attn: FieldReader, num_heads: int) -> int:
    kinds = ("multihead_attention", "multiquery_attention", "grouped_query_attention")
    kind = attn.choice("attn_type", kinds[0], kinds)
    heads = {kinds[0]: num_heads, kinds[1]: 1}.get(kind)
    asked = attn.integer("kv_n_heads", heads)
    if asked is None:
        raise attn.error(f"{kind} needs kv_n_heads")
    if heads is not None and asked != heads:
        raise attn.error(f"kv_n_heads = {asked} contradicts attn_type {kind}")
    if num_heads % asked:
        raise attn.error(f"kv_n_heads {asked} is not a divisor of n_heads {num_heads}")
    return asked


def _read_ffn(top: FieldReader, ffn: FieldReader, hidden_size: int) -> tuple[bool, str, int]:
    """``(gated, activation, inner width)``."""
    gated = ffn.choice("ffn_type", "mptmlp", ("mptmlp", "mptglu")) == "mptglu"
    ratio = top.number("expansion_ratio", 4.0)
    ffn_size = ffn.integer("ffn_hidden_size", None)
    if ffn_size is None:
        ffn_size = int(ratio * hidden_size)
        if ffn_size != ratio * hidden_size:
            raise top.error(f"expansion_ratio {ratio} x d_model {hidden_size} is not an integer")
    function = FieldReader(ffn.mapping("ffn_act_fn") or {}, "mpt config: ffn_config.ffn_act_fn", advice="")
    activation = function.choice("name", "gelu", ("gelu", "relu", "silu"))
    if activation == "gelu" and function.choice("approximate", "none", ("none", "tanh")) == "tanh":
        activation = "gelu_tanh"
    function.finish()
    return gated, activation, ffn_size


def _read_logit_scale(top: FieldReader, value: Any, hidden_size: int) -> float:
    if isinstance(value, str):
        top.choice("logit_scale", "", ("inv_sqrt_d_model",))
        return 1.0 / math.sqrt(hidden_size)
    return top.number("logit_scale", 1.0)


def _norm(config: MptConfig, features: int, dtype: jnp.dtype) -> LayerNorm | RMSNorm:
    if config.rms:
        return RMSNorm(features, eps=config.norm_eps, dtype=dtype, scale_in_float32=True)
    return LayerNorm(features, eps=config.norm_eps, bias=config.bias, dtype=dtype)


class MptAttention(nnx.Module):
    """Fused projection, clipping, optional query/key norm, attention, output projection."""

    def __init__(self, config: MptConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        self.qkv = Linear(config.hidden_size, config.qkv_size, bias=config.bias, dtype=dtype, rngs=rngs)
        self.out_proj = Linear(
            config.hidden_size, config.hidden_size, bias=config.bias, dtype=dtype, rngs=rngs
        )
        q_norm = k_norm = None
        if config.qk_norm is not None:
            by_head = config.qk_norm == "head"
            q_norm = _norm(config, config.head_dim if by_head else config.hidden_size, dtype)
            kv_features = config.num_kv_heads * config.head_dim
            k_norm = _norm(config, config.head_dim if by_head else kv_features, dtype)
        self.q_norm, self.k_norm = q_norm, k_norm
        slopes = None
        if config.alibi_bias_max is not None:
            slopes = alibi_slopes(config.num_heads, config.alibi_bias_max)
        self.attend = Attention(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            scale=config.scale,
            alibi_slopes=slopes,
            sliding_window=config.sliding_window,
            soft_cap=config.soft_cap,
        )

    def __call__(
        self,
        x: jax.Array,
        kv_pages: jax.Array | None = None,
        metadata: AttentionMetadata | None = None,
        *,
        norm: Norm | None = None,
        residual: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """``x [T, hidden]`` -> ``([T, hidden], updated pages)``.

        The norm, if given, is taken of ``x`` first, and ``residual [T, hidden]`` added to the result.
        """
        config = self.config
        (qkv,) = side_by_side(x, self.qkv, norm=norm)
        if config.clip_qkv is not None:
            qkv = jnp.clip(qkv, -config.clip_qkv, config.clip_qkv)
        kv_features = config.num_kv_heads * config.head_dim
        q, k, v = jnp.split(qkv, [config.hidden_size, config.hidden_size + kv_features], axis=-1)
        if self.q_norm is not None and self.k_norm is not None:
            if config.qk_norm == "head":
                q = q.reshape(-1, config.num_heads, config.head_dim)
                k = k.reshape(-1, config.num_kv_heads, config.head_dim)
            q, k = self.q_norm(q), self.k_norm(k)
        out, kv_pages = self.attend(q, k, v, kv_pages, metadata)
        return self.out_proj(out, residual=residual), kv_pages


class MptMLP(nnx.Module):
    """Up, activation (gated or not), down."""

    def __init__(self, config: MptConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        def linear(in_features: int, out_features: int) -> Linear:
            return Linear(in_features, out_features, bias=config.bias, dtype=dtype, rngs=rngs)

        self.activation = config.activation
        self.up_proj = linear(config.hidden_size, config.ffn_size)
        self.gate_proj = linear(config.hidden_size, config.ffn_size) if config.gated else None
        self.down_proj = linear(config.ffn_size, config.hidden_size)

    def __call__(
        self, x: jax.Array, *, norm: Norm | None = None, residual: jax.Array | None = None
    ) -> jax.Array:
        """``x [T, hidden]`` -> ``[T, hidden]``; with both, ``residual + mlp(norm(x))``."""
        if self.gate_proj is None:
            return self.down_proj(activated(x, self.up_proj, self.activation, norm=norm), residual=residual)
        gate, up = side_by_side(x, self.gate_proj, self.up_proj, norm=norm)
        return self.down_proj(activate(gate, self.activation) * up, residual=residual)


class MptBlock(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: MptConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm_1 = _norm(config, config.hidden_size, dtype)
        self.attn = MptAttention(config, dtype=dtype, rngs=rngs)
        self.norm_2 = _norm(config, config.hidden_size, dtype)
        self.ffn = MptMLP(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: jax.Array, kv_pages: jax.Array | None = None, metadata: AttentionMetadata | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """``x [T, hidden]`` -> ``([T, hidden], updated pages)``."""
        x, kv_pages = self.attn(x, kv_pages, metadata, norm=self.norm_1, residual=x)
        return self.ffn(x, norm=self.norm_2, residual=x), kv_pages


class MptForCausalLM(nnx.Module):
    """The whole model; the contract of all families."""

    def __init__(self, config: MptConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        self.wte = Embedding(config.vocab_size, config.hidden_size, dtype=dtype, rngs=rngs)
        wpe = config.learned_positions
        self.wpe = Embedding(config.max_position, config.hidden_size, dtype=dtype, rngs=rngs) if wpe else None
        self.blocks = nnx.List([MptBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)])
        self.norm_f = _norm(config, config.hidden_size, dtype)
        lm_head = None
        if not config.tie_word_embeddings:
            lm_head = Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype, rngs=rngs)
        self.lm_head = lm_head

    def __call__(
        self,
        tokens: jax.Array,
        kv_pages: list[jax.Array] | None = None,
        metadata: AttentionMetadata | None = None,
    ) -> tuple[jax.Array, list[jax.Array] | None]:
        """Runs the decoder over a ragged batch with pages, or over one sequence without.

        Args:
            tokens: ``[T]`` int32 flat tokens.
            kv_pages: one array of pages a layer (donate them), or None for plain causal attention over the
                ``T`` tokens as one sequence from position 0.
            metadata: the batch; needed with pages.

        Returns:
            ``(hidden [T, hidden_size] after the final norm, updated pages or None)``.

        Raises:
            ValueError: pages without metadata or the reverse, or more tokens than learned positions.
        """
        if (kv_pages is None) != (metadata is None):
            raise ValueError("kv_pages and metadata go together")
        x = self.wte(tokens)
        if self.wpe is not None:
            x = x + self.wpe(self._positions(tokens.shape[0], metadata))
        if kv_pages is None:
            for block in self.blocks:
                x, _ = block(x)
            return self.norm_f(x), None
        updated: list[Any] = []
        for block, pages in zip(self.blocks, kv_pages, strict=True):
            x, new_pages = block(x, pages, metadata)
            updated.append(new_pages)
        return self.norm_f(x), updated

    def _positions(self, num_tokens: int, metadata: AttentionMetadata | None) -> jax.Array:
        if metadata is not None:
            return metadata.positions(num_tokens)
        if num_tokens > self.config.max_position:
            raise ValueError(f"{num_tokens} tokens, but {self.config.max_position} learned positions")
        return jnp.arange(num_tokens)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """``hidden [N, hidden_size]`` -> ``[N, vocab_size]`` float32."""
        if self.lm_head is None:
            logits = self.wte.attend(hidden)
        else:
            logits = matmul(hidden, self.lm_head.weight[...])
        return logits * self.config.logit_scale


def weights(config: MptConfig) -> WeightTable:
    """Every tensor of a checkpoint; the names are the same in both layouts."""
    hidden, width, inner = config.hidden_size, config.head_dim, config.ffn_size
    table: list[Weight] = []

    def linear(name: str, path: str, out: tuple[int, str], into: tuple[int, str]) -> None:
        table.append(Weight(f"{name}.weight", f"{path}.weight", (out[0], into[0]), (out[1], into[1])))
        if config.bias:
            table.append(Weight(f"{name}.bias", f"{path}.bias", (out[0],), (out[1],)))

    def norm(name: str, path: str, size: int, axis: str) -> None:
        table.append(Weight(f"{name}.weight", f"{path}.weight", (size,), (axis,)))
        if config.bias and not config.rms:
            table.append(Weight(f"{name}.bias", f"{path}.bias", (size,), (axis,)))

    vocab = ((config.vocab_size, hidden), ("vocab", "embed"))
    tied = ("lm_head.weight",) if config.tie_word_embeddings else ()
    table.append(Weight("transformer.wte.weight", "wte.weight", *vocab, aliases=tied))
    if config.learned_positions:
        positions = ((config.max_position, hidden), ("positions", "embed"))
        table.append(Weight("transformer.wpe.weight", "wpe.weight", *positions))
    for i in range(config.num_layers):
        name, path = f"transformer.blocks.{i}", f"blocks.{i}"
        norm(f"{name}.norm_1", f"{path}.norm_1", hidden, "embed")
        linear(f"{name}.attn.Wqkv", f"{path}.attn.qkv", (config.qkv_size, "qkv"), (hidden, "embed"))
        if config.qk_norm == "all":
            norm(f"{name}.attn.q_ln", f"{path}.attn.q_norm", hidden, "heads")
            norm(f"{name}.attn.k_ln", f"{path}.attn.k_norm", config.num_kv_heads * width, "kv_heads")
        elif config.qk_norm == "head":
            norm(f"{name}.attn.q_ln", f"{path}.attn.q_norm", width, "head_dim")
            norm(f"{name}.attn.k_ln", f"{path}.attn.k_norm", width, "head_dim")
        linear(f"{name}.attn.out_proj", f"{path}.attn.out_proj", (hidden, "embed"), (hidden, "heads"))
        norm(f"{name}.norm_2", f"{path}.norm_2", hidden, "embed")
        linear(f"{name}.ffn.up_proj", f"{path}.ffn.up_proj", (inner, "mlp"), (hidden, "embed"))
        if config.gated:
            linear(f"{name}.ffn.gate_proj", f"{path}.ffn.gate_proj", (inner, "mlp"), (hidden, "embed"))
        linear(f"{name}.ffn.down_proj", f"{path}.ffn.down_proj", (hidden, "embed"), (inner, "mlp"))
    norm("transformer.norm_f", "norm_f", hidden, "embed")
    if not config.tie_word_embeddings:
        table.append(Weight("lm_head.weight", "lm_head.weight", *vocab))
    return WeightTable(weights=tuple(table), prefix="transformer.")
