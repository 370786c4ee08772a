"""Greedy generation token for token with transformers, through loader, scheduler, pages and sampler."""

from __future__ import annotations

import random

import pytest
import tiny_models

from vllm_jax import LLM, SamplingParams

PROMPTS = 20
NEW_TOKENS = 64


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family: str, tmp_path) -> None:
    oracle = tiny_models.make(family)
    directory = tiny_models.save(oracle, tmp_path, with_tokenizer=False)
    rng = random.Random(family)
    prompts = [
        [rng.randrange(tiny_models.VOCAB) for _ in range(rng.choice([1, 2, 7, 16, 33, 90]))]
        for _ in range(PROMPTS)
    ]
    # A small token budget: prompts are cut into chunks and mixed with other sequences' decodes.
    llm = LLM(
        directory,
        skip_tokenizer_init=True,
        max_num_seqs=4,
        max_num_batched_tokens=32,
        show_progress=False,
    )
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.outputs[0].token_ids == tiny_models.greedy(oracle, prompt, NEW_TOKENS)
        assert output.outputs[0].finish_reason == "length"
