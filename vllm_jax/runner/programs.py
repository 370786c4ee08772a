"""The pure functions that the device runs. Knows arrays and the model's call; knows no scheduler.

A step is two programs, so that their numbers add up instead of multiplying:

    forward(params, kv_pages, history, step)  ->  hidden [T, H], logits [S, V], kv_pages
    sample_*(logits, history, rows)           ->  tokens [S] (and logprobs), history

``history [slots, L]`` int32 holds, for every slot, the tokens of the sequence that lives there, as far as the
device needs them: each sampled token is written at its position, so that the next step can be dispatched
before the host has read it (a token id of -1 in a step means "take it from history"), and the penalties
read the whole row.

The host's integers travel packed in one vector, because one transfer is cheaper than six.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vllm_jax.kernels.cpu.host_turn import leave_a_core
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.layers.embedding import NO_TOKEN
from vllm_jax.sampling import sampler
from vllm_jax.sampling.inputs import FullInputs, RandomInputs, SampledLogprobs
from vllm_jax.sampling.logprobs import gather_logprobs
from vllm_jax.sampling.processors import apply_mask

_SCORE_CHUNK = 128
_HOST_US, _HOST_US_A_ROW = 600, 40
"""How long the host is busy after a step: with the step itself, and with each row, up to the client's socket.
Measured on two cores, where its code and data are no longer in any cache (docs/performance.md)."""


@dataclass(frozen=True)
class StepLayout:
    """Where each field lies in the packed int32 vector of a step (T tokens, S rows, P pages a row).

    tokens [T] (-1: take from history) | page_table [S, P] | kv_lens [S] | cu_q_lens [S + 1] | slots [S]
    """

    num_tokens: int
    num_rows: int
    pages_per_seq: int

    @property
    def size(self) -> int:
        """Length of the packed vector."""
        return self.num_tokens + self.num_rows * (self.pages_per_seq + 3) + 1

    def unpack(self, packed: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Views (numpy) or slices (jax) of the five fields, in the order above."""
        t, s, p = self.num_tokens, self.num_rows, self.pages_per_seq
        ends = np.cumsum([t, s * p, s, s + 1, s]).tolist()
        starts = [0, *ends[:-1]]
        tokens, table, kv_lens, cu_q_lens, slots = (packed[a:b] for a, b in zip(starts, ends, strict=True))
        return tokens, table.reshape(s, p), kv_lens, cu_q_lens, slots


def merge(graphdef: Any, treedef: Any, leaves: list[jax.Array]) -> Any:
    """The model, put together again from its flat list of weights (at trace time only)."""
    return nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves))


def forward(
    leaves: list[jax.Array],
    kv_pages: list[jax.Array],
    history: jax.Array,
    packed: jax.Array,
    *,
    rebuild: Any,
    layout: StepLayout,
    decode_only: bool,
    implementation: str,
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """Runs the model over one ragged batch.

    Args:
        leaves: the model's weights, flat; ``rebuild`` makes the model of them.
        kv_pages: one page array a layer (donated).
        history: ``[slots, L]`` int32.
        packed: ``[layout.size]`` int32.

    Returns:
        hidden ``[T, H]``, logits ``[S, V]`` float32 of each row's last token, and the pages.
    """
    tokens, page_table, kv_lens, cu_q_lens, slots = layout.unpack(packed)
    metadata = AttentionMetadata(page_table, kv_lens, cu_q_lens, decode_only, implementation)
    row = jnp.minimum(metadata.sequence_of_token(layout.num_tokens), layout.num_rows - 1)
    sampled = history[slots[row], metadata.positions(layout.num_tokens)]
    model = rebuild(leaves)
    # Zeros where there is no token and no row: the native linear kernel leaves them out.
    is_token = jnp.arange(layout.num_tokens) < cu_q_lens[-1]
    ids = jnp.where(is_token, jnp.where(tokens < 0, sampled, tokens), NO_TOKEN)
    hidden, kv_pages = model(ids, kv_pages, metadata)
    is_row = cu_q_lens[1:] > cu_q_lens[:-1]
    last = jnp.maximum(cu_q_lens[1:] - 1, 0)
    return hidden, model.logits(jnp.where(is_row[:, None], hidden[last], 0)), kv_pages


def sample_greedy(logits: jax.Array, history: jax.Array, ints: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Argmax of ``logits [S, V]``. ``ints [2, S]``: slot, and the position the token is written to."""
    return _sampled(sampler.greedy(logits), history, ints)


def sample_random(
    logits: jax.Array, history: jax.Array, ints: jax.Array, floats: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Temperature, top-p, min-p (``floats [3, S]``); ``ints [5, S]``: slot, position, top_k, seed words."""
    return _sampled(sampler.random(logits, _random_inputs(ints, floats)), history, ints)


def sample_masked(
    logits: jax.Array, history: jax.Array, ints: jax.Array, floats: jax.Array, allowed_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """:func:`sample_random` over the tokens whose bit in ``allowed_mask [S, ceil(V / 32)]`` uint32 is set."""
    masked = apply_mask(logits, allowed_mask)
    return _sampled(sampler.random(masked, _random_inputs(ints, floats)), history, ints)


def sample_full(
    logits: jax.Array,
    history: jax.Array,
    ints: jax.Array,
    floats: jax.Array,
    bias_ids: jax.Array,
    bias_values: jax.Array,
    allowed_mask: jax.Array,
    listed_ids: jax.Array,
    *,
    num_logprobs: int,
) -> tuple[jax.Array, jax.Array, SampledLogprobs]:
    """Every processor, and logprobs.

    Args:
        logits: ``[S, V]`` float32.
        history: ``[slots, L]`` int32 (donated).
        ints: ``[7, S]``: slot, position, top_k, two seed words, prompt length, length the penalties count.
        floats: ``[6, S]``: temperature, top_p, min_p, presence, frequency, repetition.
        bias_ids: ``[S, B]`` int32, V where unused; ``bias_values [S, B]`` float32.
        allowed_mask: ``[S, ceil(V / 32)]`` uint32.
        listed_ids: ``[S, C]`` int32 ids whose logprobs are wanted.
        num_logprobs: static, the most candidates any request may ask for.

    Returns:
        tokens ``[S]``, history, and the model's own logprobs of the tokens and candidates.
    """
    inputs = FullInputs(
        random=_random_inputs(ints, floats),
        history=history[ints[0]],
        prompt_lens=ints[5],
        total_lens=ints[6],
        presence=floats[3],
        frequency=floats[4],
        repetition=floats[5],
        bias_ids=bias_ids,
        bias_values=bias_values,
        allowed_mask=allowed_mask,
        listed_ids=listed_ids,
    )
    tokens, logprobs = sampler.full(logits, inputs, num_logprobs)
    return *_sampled(tokens, history, ints), logprobs


def score(
    leaves: list[jax.Array], hidden: jax.Array, targets: jax.Array, *, rebuild: Any, num_logprobs: int
) -> SampledLogprobs:
    """Logprobs of given tokens: ``hidden [T, H]`` predicts ``targets [T]`` int32. For ``prompt_logprobs``.

    Works through the rows in chunks, because ``[T, V]`` float32 logits of a long prompt need not fit.
    """
    num_tokens = hidden.shape[0]
    chunk = min(_SCORE_CHUNK, num_tokens)
    padded = -num_tokens % chunk
    hidden = jnp.pad(hidden, ((0, padded), (0, 0))).reshape(-1, chunk, hidden.shape[-1])
    targets = jnp.pad(targets, (0, padded)).reshape(-1, chunk)
    model = rebuild(leaves)
    scored = jax.lax.map(
        lambda part: gather_logprobs(model.logits(part[0]), part[1], num_logprobs), (hidden, targets)
    )
    return jax.tree.map(lambda x: x.reshape(num_tokens + padded, *x.shape[2:])[:num_tokens], scored)


def pool(hidden: jax.Array, last: jax.Array, *, normalize: bool) -> jax.Array:
    """Embeddings: rows ``last [S]`` int32 of ``hidden [T, H]``, ``[S, H]`` float32, of length 1 if wanted."""
    rows = hidden[last].astype(jnp.float32)
    if not normalize:
        return rows
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def set_history(history: jax.Array, slot: jax.Array, tokens: jax.Array) -> jax.Array:
    """Writes a sequence's known tokens ``[L]`` (padded) into its slot's row (history is donated)."""
    return jax.lax.dynamic_update_slice(history, tokens[None], (slot, jnp.zeros_like(slot)))


def _random_inputs(ints: jax.Array, floats: jax.Array) -> RandomInputs:
    return RandomInputs(
        temperature=floats[0],
        top_p=floats[1],
        min_p=floats[2],
        top_k=ints[2],
        seed=jax.lax.bitcast_convert_type(ints[3:5].T, jnp.uint32),
        position=ints[1],
    )


def _sampled(tokens: jax.Array, history: jax.Array, ints: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``tokens [S]``, which the host is about to read, and the history with them.

    Rows that do not sample carry a position (``ints[1]``) beyond the end, where the write is dropped.
    """
    tokens = leave_a_core(tokens, microseconds=_HOST_US + _HOST_US_A_ROW * tokens.shape[0])
    return tokens, history.at[ints[0], ints[1]].set(tokens, mode="drop")


def rebuilder(model: Any) -> tuple[list[jax.Array], Any]:
    """Splits a model into its flat weights and the function that makes a model of such weights."""
    graphdef, state = nnx.split(model)
    leaves, treedef = jax.tree.flatten(state)
    return leaves, partial(merge, graphdef, treedef)
