"""The offline engine on a tiny MPT: every promise of ``LLM`` that a script or notebook relies on."""

from __future__ import annotations

import math
import signal
import threading
from contextlib import suppress
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from transformers import AutoTokenizer

from vllm_jax import LLM, SamplingParams
from vllm_jax.errors import ConfigError, InvalidRequestError

PROMPTS = [
    "The quick brown",
    "Io amo",
    "Where is the station?",
    "def add(a, b):\n",
    "日本語",
    "One two three",
]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def small(directory: Path, **settings) -> LLM:
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 32}
    return LLM(directory, show_progress=False, **{**limits, **settings})


@pytest.fixture(scope="module")
def llm(mpt_checkpoint: Path) -> LLM:
    return small(mpt_checkpoint)


@pytest.fixture(scope="module")
def oracle():
    return tiny_models.make("mpt")


def complete(llm: LLM, prompts, params=None, **kwargs):
    return llm.generate(prompts, params, use_tqdm=False, **kwargs)


def tokens_of(outputs) -> list[list[int]]:
    return [completion.token_ids for output in outputs for completion in output.outputs]


def test_text_is_what_the_tokenizer_adds_to_the_prompt(llm, oracle, mpt_checkpoint) -> None:
    hf = AutoTokenizer.from_pretrained(mpt_checkpoint)
    for prompt, output in zip(PROMPTS, complete(llm, PROMPTS, GREEDY), strict=True):
        ids = hf.encode(prompt)
        assert output.prompt == prompt and output.prompt_token_ids == ids and output.finished
        assert output.outputs[0].token_ids == tiny_models.greedy(oracle, ids, GREEDY.max_tokens)
        assert hf.decode(ids) + output.outputs[0].text == hf.decode(ids + output.outputs[0].token_ids)


def test_all_forms_of_a_prompt(llm) -> None:
    ids = llm.get_tokenizer().encode("Io amo")
    forms = ["Io amo", {"prompt": "Io amo"}, {"prompt_token_ids": ids}]
    one = complete(llm, "Io amo", GREEDY)
    assert len(one) == 1
    assert tokens_of(complete(llm, forms, GREEDY)) == tokens_of(one) * 3


def test_sampling_params_one_for_all_or_one_each(llm) -> None:
    short = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    outputs = complete(llm, PROMPTS[:2], [GREEDY, short])
    assert [len(t) for t in tokens_of(outputs)] == [12, 3]
    with pytest.raises(InvalidRequestError, match="2 prompts, but 1"):
        complete(llm, PROMPTS[:2], [GREEDY])


def test_a_bad_prompt_stops_nothing(llm) -> None:
    for bad, why in [
        ({"prompt_token_ids": []}, "empty"),
        ({"prompt_token_ids": [tiny_models.VOCAB]}, "out of vocabulary"),
        ({"prompt_token_ids": [-1]}, "out of vocabulary"),
        ({"prompt_token_ids": [5] * tiny_models.MAX_LEN}, "maximum context length is 256"),
    ]:
        with pytest.raises(InvalidRequestError, match=why):
            complete(llm, ["fine", bad], GREEDY)
    assert llm._engine.num_requests == 0 and llm._engine.num_used_blocks == 0
    assert complete(llm, "fine", GREEDY)[0].finished


def test_a_seed_gives_the_same_tokens_alone_or_in_any_batch(llm) -> None:
    seeded = SamplingParams(temperature=1.0, top_p=0.9, seed=7, max_tokens=16, ignore_eos=True)
    noise = [SamplingParams(seed=i, max_tokens=5 + i, ignore_eos=True) for i in range(5)]
    alone = tokens_of(complete(llm, "Io amo", seeded))[0]
    for place in range(6):
        params = [*noise[:place], seeded, *noise[place:]]
        prompts = [*PROMPTS[1:][:place], "Io amo", *PROMPTS[1:][place:]]
        assert tokens_of(complete(llm, prompts, params))[place] == alone
    other = SamplingParams(temperature=1.0, top_p=0.9, seed=8, max_tokens=16, ignore_eos=True)
    assert tokens_of(complete(llm, "Io amo", other))[0] != alone


def test_n_sequences_differ_and_the_first_is_that_of_n_1(llm) -> None:
    def params(n: int) -> SamplingParams:
        return SamplingParams(n=n, seed=3, max_tokens=12, ignore_eos=True)

    (three,) = complete(llm, "Io amo", params(3))
    assert [o.index for o in three.outputs] == [0, 1, 2]
    assert len({tuple(o.token_ids) for o in three.outputs}) == 3
    assert three.outputs[0].token_ids == tokens_of(complete(llm, "Io amo", params(1)))[0]
    assert tokens_of(complete(llm, "Io amo", params(3))) == [o.token_ids for o in three.outputs]


def test_without_a_seed_equal_requests_differ(llm) -> None:
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    assert len({tuple(t) for t in tokens_of(complete(llm, ["Io amo"] * 4, params))}) == 4


@pytest.mark.parametrize("keep", [False, True])
def test_stop_strings_cut_the_text_and_name_themselves(llm, keep: bool) -> None:
    whole = complete(llm, "The quick", GREEDY)[0].outputs[0].text
    for length in (1, 2, 4):
        stop = whole[5 : 5 + length]
        params = SamplingParams(
            temperature=0,
            max_tokens=12,
            ignore_eos=True,
            stop=["never", stop],
            include_stop_str_in_output=keep,
        )
        (answer,) = complete(llm, "The quick", params)[0].outputs
        end = whole.index(stop) + (len(stop) if keep else 0)
        assert answer.text == whole[:end]
        assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)


def test_stop_token_ids_and_eos(llm, mpt_checkpoint) -> None:
    tokens = tokens_of(complete(llm, "The quick", GREEDY))[0]
    stop = tokens[4]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop_token_ids=[stop])
    (answer,) = complete(llm, "The quick", params)[0].outputs
    assert answer.token_ids == tokens[: tokens.index(stop) + 1]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)

    eos = llm.get_tokenizer().eos_token_id
    forced = SamplingParams(temperature=0, max_tokens=12, logit_bias={eos: 100})
    (answer,) = complete(llm, "The quick", forced)[0].outputs
    assert (answer.token_ids, answer.text) == ([eos], "")
    assert (answer.finish_reason, answer.stop_reason) == ("stop", None)
    later = SamplingParams(temperature=0, max_tokens=12, min_tokens=5, logit_bias={eos: 100})
    (answer,) = complete(llm, "The quick", later)[0].outputs
    assert eos not in answer.token_ids[:5] and answer.token_ids[5] == eos and len(answer.token_ids) == 6


def test_logprobs_are_those_of_transformers(llm, oracle) -> None:
    params = SamplingParams(
        temperature=0.7, seed=1, max_tokens=8, ignore_eos=True, logprobs=4, prompt_logprobs=2
    )
    (output,) = complete(llm, "The quick brown fox jumps over the lazy dog. The quick brown", params)
    prompt, (answer,) = output.prompt_token_ids, output.outputs
    expected = tiny_models.logprobs(oracle, prompt + answer.token_ids).numpy()
    total = 0.0
    for i, (token, found) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
        row = expected[len(prompt) - 1 + i]
        best = np.argsort(-row)[:4].tolist()
        assert next(iter(found)) == token and set(found) == {token, *best}
        for candidate, logprob in found.items():
            assert logprob.logprob == pytest.approx(row[candidate], abs=1e-4)
        assert found[token].rank == 1 + int((row > row[token]).sum())
        assert [found[c].rank for c in best] == [1, 2, 3, 4]
        total += found[token].logprob
    assert answer.cumulative_logprob == pytest.approx(total)

    assert output.prompt_logprobs[0] is None and len(output.prompt_logprobs) == len(prompt)
    for i, found in enumerate(output.prompt_logprobs[1:], start=1):
        row = expected[i - 1]
        assert next(iter(found)) == prompt[i] and len(found) in (2, 3)
        for candidate, logprob in found.items():
            assert logprob.logprob == pytest.approx(row[candidate], abs=1e-4)
        assert found[prompt[i]].rank == 1 + int((row > row[prompt[i]]).sum())


def test_logprobs_of_listed_tokens_are_those_of_transformers(llm, oracle) -> None:
    """They stand in the best candidates' place."""
    params = SamplingParams(
        temperature=0, max_tokens=5, ignore_eos=True, logprobs=2, logprob_token_ids=[9, 40]
    )
    (output,) = complete(llm, "The quick brown fox", params)
    prompt, (answer,) = output.prompt_token_ids, output.outputs
    expected = tiny_models.logprobs(oracle, prompt + answer.token_ids).numpy()
    for i, (token, found) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
        assert next(iter(found)) == token and set(found) == {token, 9, 40}
        for listed, logprob in found.items():
            assert logprob.logprob == pytest.approx(expected[len(prompt) - 1 + i, listed], abs=1e-4)


def test_penalties_see_prompt_and_output(llm, oracle) -> None:
    """Repetition, frequency and presence against a plain loop over transformers' logits."""
    prompt = llm.get_tokenizer().encode("The quick brown fox")
    params = SamplingParams(
        temperature=0,
        max_tokens=10,
        ignore_eos=True,
        repetition_penalty=1.3,
        frequency_penalty=0.6,
        presence_penalty=0.4,
    )
    expected: list[int] = []
    for _ in range(10):
        logits = tiny_models.logprobs(oracle, prompt + expected)[-1].numpy().astype(np.float64)
        raw = _raw_logits(oracle, prompt + expected)
        for token in {*prompt, *expected}:
            raw[token] = raw[token] / 1.3 if raw[token] > 0 else raw[token] * 1.3
        for token in set(expected):
            raw[token] -= 0.6 * expected.count(token) + 0.4
        assert logits.shape == raw.shape
        expected.append(int(raw.argmax()))
    assert tokens_of(complete(llm, {"prompt_token_ids": prompt}, params))[0] == expected


def _raw_logits(oracle, tokens: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return oracle(torch.tensor([tokens])).logits[0, -1].double().numpy()


def test_bad_words_and_allowed_tokens(llm) -> None:
    plain = complete(llm, "The quick", GREEDY)[0].outputs[0]
    word = llm.get_tokenizer().decode([plain.token_ids[2]])
    banned = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, bad_words=[word])
    answer = complete(llm, "The quick", banned)[0].outputs[0]
    assert answer.token_ids[:2] == plain.token_ids[:2] and plain.token_ids[2] not in answer.token_ids
    few = SamplingParams(max_tokens=12, seed=0, allowed_token_ids=[40, 41, 42])
    assert set(tokens_of(complete(llm, "The quick", few))[0]) <= {40, 41, 42}


def test_the_context_ends_the_answer(llm) -> None:
    params = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    (output,) = complete(llm, {"prompt_token_ids": list(range(2, 252))}, params)
    assert len(output.outputs[0].token_ids) == tiny_models.MAX_LEN - 250
    assert output.outputs[0].finish_reason == "length"


def test_prefix_hits_preemption_and_chunks_change_no_token(llm, mpt_checkpoint) -> None:
    shared = list(range(3, 103))
    prompts = [{"prompt_token_ids": [*shared, 200 + i]} for i in range(6)]
    params = [
        SamplingParams(temperature=0.8, seed=i, max_tokens=60, ignore_eos=True, repetition_penalty=1.1)
        for i in range(6)
    ]
    first = complete(llm, prompts, params)
    again = complete(llm, prompts, params)
    assert again[0].num_cached_tokens >= 96
    assert tokens_of(again) == tokens_of(first)

    tight = small(mpt_checkpoint, num_gpu_blocks_override=22, enable_prefix_caching=False)
    preempted = complete(tight, prompts, params)
    assert sum(output.metrics.num_preemptions for output in preempted) > 0
    assert tokens_of(preempted) == tokens_of(first)


def test_cache_can_be_forgotten(llm) -> None:
    prompt = {"prompt_token_ids": list(range(100, 180))}
    complete(llm, prompt, GREEDY)
    assert complete(llm, prompt, GREEDY)[0].num_cached_tokens == 64
    assert llm.reset_prefix_cache()
    assert complete(llm, prompt, GREEDY)[0].num_cached_tokens == 0


def test_chat_uses_the_plain_transcript_where_there_is_no_template(llm) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (output,) = llm.chat(messages, GREEDY, use_tqdm=False)
    text = llm.get_tokenizer().decode(output.prompt_token_ids)
    assert "Be brief." in text and text.index("Hi") < text.index("Assistant:")
    both = llm.chat([messages, messages], GREEDY, use_tqdm=False)
    assert tokens_of(both) == tokens_of([output]) * 2


def test_the_served_weights_are_a_function_to_look_into(llm, oracle) -> None:
    prompt = llm.get_tokenizer().encode("The quick brown fox")
    hidden, pages = llm.model(jnp.asarray(prompt))
    assert pages is None and hidden.shape == (len(prompt), 64)
    logprobs = np.asarray(llm.model.logits(hidden)) - math.log(1)
    np.testing.assert_allclose(logprobs[-1], _raw_logits(oracle, prompt), atol=1e-4)


def test_without_a_tokenizer_ids_go_in_and_out(mpt_checkpoint, llm) -> None:
    bare = small(mpt_checkpoint, skip_tokenizer_init=True)
    prompt = {"prompt_token_ids": llm.get_tokenizer().encode("Io amo")}
    (output,) = complete(bare, prompt, GREEDY)
    assert output.outputs[0].token_ids == tokens_of(complete(llm, prompt, GREEDY))[0]
    assert output.outputs[0].text == ""
    with pytest.raises(ConfigError, match="skip_tokenizer_init"):
        complete(bare, "Io amo", GREEDY)
    with pytest.raises(InvalidRequestError, match="needs a tokenizer"):
        complete(bare, prompt, SamplingParams(stop=["x"]))


def test_prompts_that_are_none(llm) -> None:
    for bad in ([1, 2], [[1, 2]], {"foo": 1}, 5, {"prompt_token_ids": ["a"]}, {"prompt_token_ids": [[1]]}):
        with pytest.raises(InvalidRequestError):
            complete(llm, bad, GREEDY)
    with pytest.raises(InvalidRequestError, match="LoRA"):
        complete(llm, "x", GREEDY, lora_request=object())
    with pytest.raises(InvalidRequestError, match="no embeddings"):
        llm.embed("x")
    with pytest.raises(AttributeError, match="embed"):
        llm.encode("x")


def test_an_interrupt_leaves_the_engine_whole(llm, oracle) -> None:
    """Ctrl-C at any moment: the next answer is right, and nothing is left running."""
    long = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
    prompt = llm.get_tokenizer().encode("The quick")
    expected = tiny_models.greedy(oracle, prompt, 12)
    for delay in np.linspace(0.002, 0.06, 12):
        timer = threading.Timer(delay, signal.raise_signal, [signal.SIGINT])
        with suppress(KeyboardInterrupt):
            timer.start()
            complete(llm, [{"prompt_token_ids": [5 + i] * 40} for i in range(6)], long)
            timer.join()
        assert llm._engine.num_requests == 0 and llm._engine.num_used_blocks == 0
        assert tokens_of(complete(llm, {"prompt_token_ids": prompt}, GREEDY)) == [expected]


def test_prompt_logprobs_are_whole_though_another_sequence_is_ahead(mpt_checkpoint) -> None:
    """n=2 after a prefix hit: the second sequence skips what the first has to score."""
    chunked = small(mpt_checkpoint, max_num_seqs=4, max_num_batched_tokens=16, long_prefill_token_threshold=8)
    prompt = {"prompt_token_ids": list(range(10, 74))}
    complete(chunked, prompt, GREEDY)
    params = SamplingParams(seed=1, max_tokens=20, ignore_eos=True, n=2, prompt_logprobs=0, logprobs=0)
    (output,) = complete(chunked, prompt, params)
    assert [p is None for p in output.prompt_logprobs] == [True] + [False] * 63
    assert [len(o.token_ids) for o in output.outputs] == [len(o.logprobs) for o in output.outputs] == [20, 20]


def test_settings_are_honoured_or_refused(mpt_checkpoint) -> None:
    with pytest.raises(TypeError, match="max_num_seqz"):
        small(mpt_checkpoint, max_num_seqz=3)
    for settings, why in [
        ({"quantization": "awq"}, "quantization"),
        ({"dtype": "float8"}, "float8"),
        ({"max_model_len": 4096}, "more than the 256 tokens"),
        ({"tensor_parallel_size": 2}, "not supported"),
        ({"num_gpu_blocks_override": 3}, "--max-model-len 48 or less"),
        ({"generation_config": "nowhere"}, "nowhere"),
        ({"override_generation_config": {"num_beams": 3}}, "num_beams"),
        ({"override_generation_config": {"temperature": 9}}, "temperature"),
        ({"override_generation_config": {"skip_special_tokens": "no"}}, "skip_special_tokens"),
    ]:
        with pytest.raises(ConfigError, match=why):
            small(mpt_checkpoint, **settings)


def test_defaults_come_from_the_generation_config(mpt_checkpoint) -> None:
    settings = {"override_generation_config": {"temperature": 0.0, "max_new_tokens": 5, "top_k": 3}}
    tuned = small(mpt_checkpoint, max_num_seqs=2, max_num_batched_tokens=16, **settings)
    assert tuned.get_default_sampling_params() == SamplingParams(temperature=0.0, max_tokens=5, top_k=3)
    assert len(tokens_of(complete(tuned, "Io amo"))[0]) <= 5
