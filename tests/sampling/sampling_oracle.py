"""Independent oracles: the sampling rules written plainly in NumPy float64, one row at a time, with a sort.

Also puts requests into the arrays of the sampler, for the tests that run it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vllm_jax.sampling.inputs import FullInputs, RandomInputs
from vllm_jax.sampling.mask import fill_row, full_row, prepare_constraints
from vllm_jax.sampling.seeds import seed_words
from vllm_jax.sampling_params import MAX_LOGIT_BIAS, MAX_LOGPROB_TOKEN_IDS, SamplingParams


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def distribution(
    logits: np.ndarray, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """Probabilities ``[V]`` float64 that a token is drawn with."""
    x = np.asarray(logits, np.float64) / temperature
    probs = softmax(x)
    x = np.where(probs >= min_p * probs.max(), x, -np.inf)
    if 0 < top_k < len(x):
        x = np.where(x >= np.sort(x)[-top_k], x, -np.inf)
    if top_p < 1:
        probs = softmax(x)
        above = np.array([probs[probs > p].sum() for p in probs])
        x = np.where(above < top_p, x, -np.inf)
    return softmax(x)


def processed(
    logits: np.ndarray, params: SamplingParams, prompt: Sequence[int] = (), output: Sequence[int] = ()
) -> np.ndarray:
    """Logits ``[V]`` float64 after allowed_token_ids, logit_bias and the penalties."""
    x = np.array(logits, np.float64)
    if params.allowed_token_ids is not None:
        x[[t for t in range(len(x)) if t not in params.allowed_token_ids]] = -np.inf
    for token, bias in params.logit_bias.items():
        x[token] += bias
    for token in set(prompt) | set(output):
        x[token] = (
            x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
        )
    for token in set(output):
        x[token] -= params.frequency_penalty * list(output).count(token) + params.presence_penalty
    return x


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = np.asarray(logits, np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def random_inputs(
    params: Sequence[SamplingParams], seeds: Sequence[int], positions: Sequence[int]
) -> RandomInputs:
    """Rows of the plain sampler."""
    return RandomInputs(
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([p.top_k for p in params], np.int32),
        top_p=np.array([p.top_p for p in params], np.float32),
        min_p=np.array([p.min_p for p in params], np.float32),
        seed=np.array([seed_words(s) for s in seeds], np.uint32),
        position=np.array(positions, np.int32),
    )


def full_inputs(
    params: Sequence[SamplingParams],
    vocab_size: int,
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    outputs: Sequence[Sequence[int]] | None = None,
    seeds: Sequence[int] | None = None,
    history_len: int = 64,
    eos: Sequence[int] = (),
    encode=None,
) -> FullInputs:
    """Rows of the full sampler, as a runner makes them."""
    rows = len(params)
    prompts, outputs = prompts or [[]] * rows, outputs or [[]] * rows
    positions = [len(p) + len(o) for p, o in zip(prompts, outputs, strict=True)]
    history = np.full((rows, history_len), 3, np.int32)  # padding: a real token
    bias_ids = np.full((rows, MAX_LOGIT_BIAS), vocab_size, np.int32)
    bias_values = np.zeros((rows, MAX_LOGIT_BIAS), np.float32)
    mask = np.tile(full_row(vocab_size), (rows, 1))
    listed = np.zeros((rows, MAX_LOGPROB_TOKEN_IDS), np.int32)
    for i, p in enumerate(params):
        history[i, : positions[i]] = [*prompts[i], *outputs[i]]
        bias_ids[i, : len(p.logit_bias)] = list(p.logit_bias)
        bias_values[i, : len(p.logit_bias)] = list(p.logit_bias.values())
        listed[i, : len(p.logprob_token_ids or ())] = p.logprob_token_ids or ()
        constraints = prepare_constraints(p, vocab_size=vocab_size, eos_token_ids=eos, encode=encode)
        if constraints is not None:
            fill_row(mask[i], constraints, len(outputs[i]), outputs[i])
    return FullInputs(
        random=random_inputs(params, seeds or range(rows), positions),
        history=history,
        prompt_lens=np.array([len(p) for p in prompts], np.int32),
        total_lens=np.array(positions, np.int32),
        presence=np.array([p.presence_penalty for p in params], np.float32),
        frequency=np.array([p.frequency_penalty for p in params], np.float32),
        repetition=np.array([p.repetition_penalty for p in params], np.float32),
        bias_ids=bias_ids,
        bias_values=bias_values,
        allowed_mask=mask,
        listed_ids=listed,
    )
