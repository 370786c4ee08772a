"""The sampler's inputs and outputs as pytrees: shapes, dtypes and what the neutral values are.

Knows the layout of the arrays. Does not know who fills them or what the sampler does with them.

Axes: ``S`` rows (sequences), ``V`` vocabulary, ``L`` history length, ``W = ceil(V / 32)`` mask words,
``B = MAX_LOGIT_BIAS``, ``C = MAX_LOGPROB_TOKEN_IDS``, ``K`` top candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomInputs:
    """What plain random sampling needs.

    Attributes:
        temperature: ``[S]`` float32; 0 means greedy.
        top_k: ``[S]`` int32; 0 is off.
        top_p: ``[S]`` float32 in (0, 1]; 1 is off.
        min_p: ``[S]`` float32 in [0, 1]; 0 is off.
        seed: ``[S, 2]`` uint32, the high and low word of each row's 64-bit seed.
        position: ``[S]`` int32, tokens (prompt and output) before the one being sampled.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    seed: jax.Array
    position: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FullInputs:
    """What the logits processors need, beside plain sampling.

    Attributes:
        random: The plain part.
        history: ``[S, L]`` int32, prompt then output tokens; unspecified behind ``total_lens``.
        prompt_lens: ``[S]`` int32, prompt tokens in ``history``.
        total_lens: ``[S]`` int32, tokens in ``history`` that count; 0 in rows without penalties, so that they
            cost nothing.
        presence, frequency, repetition: ``[S]`` float32 penalties; 0, 0 and 1 are off.
        bias_ids: ``[S, B]`` int32, entries in use first, then ``V``.
        bias_values: ``[S, B]`` float32.
        allowed_mask: ``[S, W]`` uint32; bit ``i`` of word ``w`` is 1 where token ``32 w + i`` may be sampled.
        listed_ids: ``[S, C]`` int32, ids whose logprob was asked for by name; the rest is 0.
    """

    random: RandomInputs
    history: jax.Array
    prompt_lens: jax.Array
    total_lens: jax.Array
    presence: jax.Array
    frequency: jax.Array
    repetition: jax.Array
    bias_ids: jax.Array
    bias_values: jax.Array
    allowed_mask: jax.Array
    listed_ids: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampledLogprobs:
    """Natural-log probabilities under the model's own distribution (before any processor or temperature).

    Attributes:
        token_logprob: ``[S]`` float32, of the sampled (or prompt) token.
        rank: ``[S]`` int32, 1 + the number of tokens that are strictly more likely than it.
        top_ids: ``[S, K]`` int32, most likely first; among equals the smaller id first.
        top_logprobs: ``[S, K]`` float32.
        listed_logprobs: ``[S, C]`` float32, of ``FullInputs.listed_ids``; None for prompt positions.
    """

    token_logprob: jax.Array
    rank: jax.Array
    top_ids: jax.Array
    top_logprobs: jax.Array
    listed_logprobs: jax.Array | None = None
