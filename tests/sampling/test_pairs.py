"""Every sampling parameter together with every other one: each pair samples, and both are honoured."""

import itertools

import jax
import numpy as np
from sampling_oracle import distribution, full_inputs, log_softmax, processed

from vllm_jax.errors import InvalidRequestError
from vllm_jax.sampling import sampler
from vllm_jax.sampling.seeds import sequence_seed
from vllm_jax.sampling_params import SamplingParams

VOCAB, EOS = 70, 1
PROMPT, OUTPUT = [2, 3, 3, 9], [4, 4, 5, 10]
ENCODE = {"bad": [6], " bad": [7], "two words": [10, 8], " two words": [11, 8]}.__getitem__

CHANGES = {
    "greedy": {"temperature": 0},
    "temperature": {"temperature": 0.6},
    "top_p": {"top_p": 0.8},
    "top_k": {"top_k": 9},
    "min_p": {"min_p": 0.05},
    "presence_penalty": {"presence_penalty": 1.1},
    "frequency_penalty": {"frequency_penalty": 0.6},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "seed": {"seed": 123},
    "n": {"n": 3},
    "max_tokens": {"max_tokens": None},
    "min_tokens": {"min_tokens": 6},
    "stop": {"stop": ["x"]},
    "stop_token_ids": {"stop_token_ids": [12, 13]},
    "include_stop_str_in_output": {"include_stop_str_in_output": True},
    "ignore_eos": {"ignore_eos": True},
    "logprobs": {"logprobs": 3},
    "all_logprobs": {"logprobs": -1},
    "prompt_logprobs": {"prompt_logprobs": 2},
    "logprob_token_ids": {"logprobs": 0, "logprob_token_ids": [0, 69]},
    "logit_bias": {"logit_bias": {20: 4.0, 21: -100.0, 6: 100.0}},
    "allowed_token_ids": {"allowed_token_ids": [1, 4, 6, 8, 12, 20, 30, 31, 32, 69]},
    "bad_words": {"bad_words": ["bad", "two words"]},
    "skip_special_tokens": {"skip_special_tokens": False},
    "spaces_between_special_tokens": {"spaces_between_special_tokens": False},
    "detokenize": {"detokenize": False},
}
REFUSED = {frozenset({"greedy", "n"}), frozenset({"stop", "detokenize"})}


def expected_distribution(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    x = processed(logits, params, PROMPT, OUTPUT)
    if params.bad_words:
        x[[6, 7, 8]] = -np.inf
    if params.min_tokens:
        x[[EOS, *params.stop_token_ids]] = -np.inf
    if params.greedy:
        return np.eye(len(x))[x.argmax()]
    return distribution(
        x, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p
    )


def test_every_pair():
    """One batch of all pairs, 40 seeds each: only tokens the oracle allows, and the likely ones occur."""
    pairs, params = [], []
    for names in itertools.combinations_with_replacement(CHANGES, 2):
        merged = CHANGES[names[0]] | CHANGES[names[1]]
        if frozenset(names) in REFUSED:
            try:
                SamplingParams(**merged)
            except InvalidRequestError:
                continue
            raise AssertionError(f"{names} should be refused")
        pairs.append(names)
        params.append(SamplingParams(**merged))
    logits = np.float32(np.random.default_rng(0).normal(size=VOCAB) * 2)
    repeats = 40
    rows = [p for p in params for _ in range(repeats)]
    seeds = [sequence_seed(p.seed or 5, i) for p in params for i in range(repeats)]
    f = full_inputs(
        rows,
        VOCAB,
        prompts=[PROMPT] * len(rows),
        outputs=[OUTPUT] * len(rows),
        seeds=seeds,
        history_len=9,
        eos=[EOS],
        encode=ENCODE,
    )
    sample = jax.jit(sampler.full, static_argnums=2)
    tokens, logprobs = sample(np.tile(logits, (len(rows), 1)), f, VOCAB)
    tokens = np.asarray(tokens).reshape(-1, repeats)
    for names, p, got in zip(pairs, params, tokens, strict=True):
        probs = expected_distribution(logits, p)
        assert (probs[got] > 0).all(), names
        assert set(np.flatnonzero(probs > 0.3)) <= set(got.tolist()), names
    own = log_softmax(logits)
    np.testing.assert_allclose(np.asarray(logprobs.token_logprob), own[tokens.ravel()], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(logprobs.listed_logprobs)[:, 0], own[0], rtol=1e-5)
