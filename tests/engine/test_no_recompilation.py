"""After ready nothing is compiled, whatever is asked; and a second start compiles nothing at all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
import tiny_models

from vllm_jax import LLM, SamplingParams
from vllm_jax.engine.llm_engine import LLMEngine
from vllm_jax.engine.request import PreparedRequest, Request
from vllm_jax.errors import InvalidRequestError, RecompilationError
from vllm_jax.sampling_params import StructuredOutput

REQUESTS = 150


@pytest.fixture(scope="module")
def llm(mpt_checkpoint: Path) -> LLM:
    # Few blocks: sequences are preempted. Few tokens: prompts are cut. A long prompt may be found again.
    return LLM(
        mpt_checkpoint,
        max_num_seqs=8,
        max_num_batched_tokens=32,
        num_gpu_blocks_override=28,
        max_logprobs=-1,
        forbid_recompile=True,
        show_progress=False,
    )


def random_request(
    rng: random.Random, engine: LLMEngine, number: int, prompts: list[list[int]]
) -> PreparedRequest:
    """Anything that can be asked; what contradicts itself is drawn again."""
    while True:
        try:
            return engine.prepare(draw_request(rng, number, prompts))
        except InvalidRequestError:
            continue


def draw_request(rng: random.Random, number: int, prompts: list[list[int]]) -> Request:
    prompt = [rng.randrange(tiny_models.VOCAB) for _ in range(rng.choice([1, 2, 15, 16, 17, 31, 60, 120]))]
    if prompts and rng.random() < 0.5:
        prompt = rng.choice(prompts)[:100] + prompt[: rng.randrange(1, 20)]
    prompts.append(prompt)

    def maybe(**settings):
        return settings if rng.random() < 0.25 else {}

    ids = rng.sample(range(2, tiny_models.VOCAB), 4)
    params = SamplingParams(
        temperature=rng.choice([0, 0, 0.7, 1.5]),
        max_tokens=rng.choice([1, 2, 9, 40]),
        **maybe(n=rng.randrange(2, 5)),
        **maybe(seed=rng.randrange(2**40)),
        **maybe(top_p=0.7),
        **maybe(top_k=5),
        **maybe(min_p=0.1),
        **maybe(logprobs=rng.choice([0, 1, 5, -1])),
        **maybe(prompt_logprobs=rng.choice([0, 3, -1])),
        **maybe(presence_penalty=0.5),
        **maybe(frequency_penalty=-0.5),
        **maybe(repetition_penalty=1.2),
        **maybe(logit_bias={ids[0]: 5.0, ids[1]: -100.0}),
        **maybe(bad_words=["the", " quick"]),
        **maybe(stop=["e", "qu"]),
        **maybe(stop_token_ids=ids[2:]),
        **maybe(ignore_eos=True),
        **maybe(skip_special_tokens=False),
    )
    if rng.random() < 0.2 and params.max_tokens is not None:
        params = replace(params, min_tokens=min(3, params.max_tokens))
    if rng.random() < 0.1:
        params = replace(params, allowed_token_ids=[*ids, 1], bad_words=[], logit_bias={})
    elif rng.random() < 0.15:
        form = StructuredOutput(choice=("The quick", "One two three four five"))
        params = replace(params, structured_output=form, bad_words=[], min_tokens=0)
    return Request(f"fuzz-{number}", prompt, params)


def test_nothing_is_compiled_whatever_is_asked(llm: LLM) -> None:
    engine, rng, prompts = llm._engine, random.Random(5), []
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **details: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(details))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        left, finished, preemptions, live = REQUESTS, 0, 0, []
        while left or engine.has_work:
            while left and rng.random() < 0.4:
                left -= 1
                prepared = random_request(rng, engine, left, prompts)
                engine.add_request(prepared)
                live.append(prepared.request.request_id)
            if live and rng.random() < 0.02:
                engine.abort_request(live.pop(rng.randrange(len(live))))
            if rng.random() < 0.01:
                engine.reset_prefix_cache()
            for output in engine.step():
                if output.finished:
                    finished += 1
                    preemptions += output.metrics.num_preemptions
                    assert all(o.finish_reason in ("stop", "length") for o in output.outputs)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    assert finished > REQUESTS * 0.8 and preemptions > 0, "the load is not what it should be"
    metrics = engine.metrics.expose().decode()
    assert 'vllm:compilations_total{engine="0",model_name=' in metrics
    values = {line.split("{")[0]: float(line.split()[-1]) for line in metrics.splitlines() if line[0] != "#"}
    assert values["vllm:compilations_total"] == 0 and values["vllm:prefix_cache_hits_total"] > 0


def test_a_compilation_in_a_step_is_an_error_where_it_is_forbidden(llm: LLM, monkeypatch) -> None:
    engine = llm._engine
    execute = engine._runner.execute

    def stray(batch):
        jax.jit(lambda x: x + 12345)(len(batch.rows))  # what a careless line on the host path would do
        return execute(batch)

    monkeypatch.setattr(engine._runner, "execute", stray)
    with pytest.raises(RecompilationError, match="compiled after ready"):
        llm.generate({"prompt_token_ids": [5, 6]}, SamplingParams(max_tokens=2), use_tqdm=False)
    monkeypatch.undo()
    while engine.has_work:
        engine.step()


def test_a_missing_program_is_compiled_and_counted_unless_it_is_forbidden(llm: LLM, monkeypatch) -> None:
    engine = llm._engine
    runner = engine._runner
    params = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)
    monkeypatch.delitem(runner.programs._programs, ("greedy", 1))
    monkeypatch.setattr(runner, "_forbid_recompile", False)
    monkeypatch.setattr(engine, "_forbid_recompile", False)
    [output] = llm.generate({"prompt_token_ids": [5, 6]}, params, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 2
    assert any(
        line.startswith("vllm:compilations_total") and float(line.split()[-1]) >= 1
        for line in engine.metrics.expose().decode().splitlines()
    )


COUNT = """
import json, sys
import jax
events = []
jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: events.append(event))
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
from vllm_jax import LLM, SamplingParams
llm = LLM(sys.argv[1], max_num_seqs=1, max_num_batched_tokens=16, show_progress=False)
params = SamplingParams(max_tokens=4, temperature=0)
[output] = llm.generate({"prompt_token_ids": [5, 6, 7]}, params, use_tqdm=False)
compiled = events.count("/jax/core/compile/backend_compile_duration")
found = events.count("/jax/compilation_cache/cache_hits")
tokens = output.outputs[0].token_ids
print(json.dumps([compiled - found, llm.info.num_compiled, llm.info.num_programs, tokens]))
"""


def test_a_second_start_compiles_nothing(mpt_checkpoint: Path, tmp_path: Path) -> None:
    def start() -> list:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", COUNT, str(mpt_checkpoint)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    compiled, programs_compiled, programs, tokens = start()
    assert compiled >= programs_compiled == programs > 0
    assert start() == [0, 0, programs, tokens]
