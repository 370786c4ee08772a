"""Structured output through the whole engine, on a tiny random model: what comes out has its form.

The oracles are others': the jsonschema package, Python's re and pydantic's reading of unfinished JSON.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pydantic_core
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_jax import LLM, SamplingParams, StructuredOutput
from vllm_jax.errors import InvalidRequestError
from vllm_jax.outputs import CompletionOutput

EOS = 1
PROMPTS = ["The quick brown", "Io amo", "Where is the station?", "One two three"]


def small(directory: Path, **settings: Any) -> LLM:
    return LLM(
        directory, show_progress=False, **{"max_num_seqs": 8, "max_num_batched_tokens": 32, **settings}
    )


@pytest.fixture(scope="module")
def llm(mpt_checkpoint: Path) -> LLM:
    return small(mpt_checkpoint)


def complete(
    llm: LLM, params: list[SamplingParams], prompts: list[str] | None = None
) -> list[CompletionOutput]:
    prompts = prompts or [PROMPTS[i % len(PROMPTS)] for i in range(len(params))]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return [completion for output in outputs for completion in output.outputs]


def structured(max_tokens: int = 120, *, n: int = 1, **fields: Any) -> SamplingParams:
    return SamplingParams(n=n, max_tokens=max_tokens, structured_output=StructuredOutput(**fields))


# ---------------------------------------------------------------- a fuzzer of schemas

NAMES = st.sampled_from(["a", "b", "name", "è", 'quo"te', "$ref"])
STRINGS = st.one_of(
    st.just({"type": "string", "maxLength": 4}),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}$"}),
    st.sampled_from(["date", "uuid", "ipv4", "date-time"]).map(lambda f: {"type": "string", "format": f}),
)
NUMBERS = st.one_of(
    st.tuples(st.integers(-50, 50), st.integers(0, 60)).map(
        lambda p: {"type": "integer", "minimum": p[0], "maximum": p[0] + p[1]}
    ),
    st.tuples(st.integers(-9, 9), st.integers(1, 60)).map(
        lambda p: {"type": "number", "exclusiveMinimum": p[0], "maximum": p[0] + p[1]}
    ),
    st.sampled_from([3, 0.5, 10]).map(
        lambda m: {"type": "integer" if isinstance(m, int) else "number", "multipleOf": m}
    ),
)
CONSTANTS = st.one_of(
    st.lists(
        st.sampled_from([1, "x", None, True, "two words", 2.5, [1, {"a": 2}]]), min_size=1, max_size=3
    ).map(lambda values: {"enum": values}),
    st.sampled_from([{"const": "c"}, {"type": "null"}, {"type": "boolean"}, {"type": ["null", "boolean"]}]),
    st.just({"$ref": "#/$defs/leaf"}),
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=3))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    schema = {"type": "object", "properties": properties, "required": required}
    return {**schema, "additionalProperties": draw(st.sampled_from([False, False, {"type": "null"}]))}


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    low = draw(st.integers(0, 2))
    schema: dict[str, Any] = {"type": "array", "minItems": low, "maxItems": low + draw(st.integers(0, 1))}
    if draw(st.booleans()):
        return {**schema, "items": draw(inner)}
    return {**schema, "prefixItems": [draw(inner), draw(inner)], "items": draw(inner)}


SCHEMAS = st.recursive(
    STRINGS | NUMBERS | CONSTANTS,
    lambda inner: st.one_of(
        objects(inner),
        arrays(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        inner.map(lambda one: {"allOf": [one, {"description": "https://example.com // and #"}]}),
    ),
    max_leaves=6,
).map(lambda schema: {**schema, "$defs": {"leaf": {"type": "string", "enum": ["leaf", "feuille"]}}})


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.lists(SCHEMAS, min_size=4, max_size=4), st.booleans(), st.integers(0, 2**32))
def test_whatever_the_schema_finished_output_validates(
    llm: LLM, schemas: list[dict[str, Any]], flexible: bool, seed: int
) -> None:
    params = [
        replace(structured(json_schema=json.dumps(schema), whitespace_flexible=flexible), seed=seed)
        for schema in schemas
    ]
    for schema, output in zip(schemas, complete(llm, params), strict=True):
        if output.finish_reason == "stop":
            jsonschema.validate(
                json.loads(output.text), schema, cls=jsonschema.validators.Draft202012Validator
            )
        else:
            assert output.finish_reason == "length"
            # Half a number and half a word are nothing that the parser takes for a beginning.
            half = r"(-|(?<=\d)(\.|[eE][-+]?)|\b(t|tru?|f|fa|fals?|nu?|nul))\Z"
            begun = re.sub(half, "", output.text)
            if begun.strip():
                pydantic_core.from_json(begun, allow_partial="trailing-strings")


def test_most_outputs_finish(llm: LLM) -> None:
    """The fuzzer would be empty if everything ended for its length."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 999}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
    }
    fields = {"json_schema": json.dumps(schema), "disable_additional_properties": True}
    outputs = complete(llm, [structured(whitespace_flexible=False, **fields) for _ in range(16)])
    assert all(o.finish_reason == "stop" for o in outputs)
    for output in outputs:
        jsonschema.validate(json.loads(output.text), schema)
    assert len({o.text for o in outputs}) > 8


# ---------------------------------------------------------------- the other kinds


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "regex", [r"[a-f0-9]{8}-[a-f0-9]{4}", r"(The|Il) \w{1,40} (è|is) [A-Z]{2,5}[.!]", r"x{200}"]
)
def test_expressions(llm: LLM, regex: str, temperature: float) -> None:
    for output in complete(llm, [replace(structured(230, regex=regex), temperature=temperature)] * 3):
        assert output.finish_reason == "stop" and re.fullmatch(regex, output.text, re.ASCII)


def test_choices(llm: LLM) -> None:
    choices = ("positive", "negative", "très bien", "posit")
    texts = {o.text for o in complete(llm, [structured(choice=choices)] * 24)}
    assert texts <= set(choices) and len(texts) > 1


def test_unfinished_text_is_a_beginning(llm: LLM) -> None:
    for output in complete(llm, [structured(7, regex="(abc|abd){40}")] * 4):
        assert output.finish_reason == "length"
        assert re.fullmatch("(ab[cd])*(a|ab)?", output.text) and output.text


def test_any_object(llm: LLM) -> None:
    for output in complete(llm, [structured(json_object=True, whitespace_flexible=False)] * 6):
        assert output.text.startswith("{")
        if output.finish_reason == "stop":
            assert isinstance(json.loads(output.text), dict)


# ---------------------------------------------------------------- beside others, and with other parameters


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_free_requests_get_the_tokens_they_get_alone(llm: LLM, temperature: float) -> None:
    free = [SamplingParams(temperature=temperature, seed=i, max_tokens=20) for i in range(4)]
    alone = [o.token_ids for o in complete(llm, free)]
    grammars = [structured(30, regex="[a-z ]{25,}"), structured(30, json_object=True)] * 2
    mixed = [p for pair in zip(free, grammars, strict=True) for p in pair]
    prompts = [p for prompt in PROMPTS for p in (prompt, prompt)]
    assert [o.token_ids for o in complete(llm, mixed, prompts)[::2]] == alone


def test_n_and_logprobs(llm: LLM) -> None:
    params = replace(structured(regex=r"[ab]{12}", n=4), logprobs=3, seed=5)
    outputs = complete(llm, [params])
    assert len({o.text for o in outputs}) == 4
    for output in outputs:
        assert re.fullmatch("[ab]{12}", output.text)
        assert output.logprobs is not None and len(output.logprobs) == len(output.token_ids)
        for token, logprobs in zip(output.token_ids, output.logprobs, strict=True):
            assert token in logprobs and logprobs[token].logprob <= 0


def test_a_seed_decides_whatever_runs_beside(llm: LLM) -> None:
    params = replace(structured(regex=r"\w{30}"), seed=11)
    (alone,) = complete(llm, [params])
    others = [structured(20, regex=r"\w+"), SamplingParams(max_tokens=30), structured(9, json_object=True)]
    assert complete(llm, [*others, params], [*PROMPTS[1:], PROMPTS[0]])[-1].token_ids == alone.token_ids


def test_preemption_and_prefix_hits_change_nothing(llm: LLM, mpt_checkpoint: Path) -> None:
    params = [replace(structured(60, regex=r"[a-z]{2}( [a-z]{2}){18}"), seed=i) for i in range(8)]
    expected = [o.token_ids for o in complete(llm, params)]
    tight = small(mpt_checkpoint, num_gpu_blocks_override=16, enable_prefix_caching=False)
    outputs = tight.generate([PROMPTS[i % 4] for i in range(8)], params, use_tqdm=False)
    assert sum(o.metrics.num_preemptions for o in outputs if o.metrics) > 0
    assert [c.token_ids for o in outputs for c in o.outputs] == expected


def test_penalties_bias_and_bad_words_combine(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    letter = {c: tokenizer.encode(c, add_special_tokens=False)[0] for c in "abc"}
    greedy = replace(structured(regex="[abc]{8}"), temperature=0)
    biased = replace(greedy, logit_bias={letter["b"]: 100})
    banned = replace(greedy, logit_bias={letter["b"]: 100}, bad_words=["b"])
    forced = replace(structured(regex="b{3}"), bad_words=["b"])
    penalised = replace(greedy, presence_penalty=2, repetition_penalty=50)
    texts = [o.text for o in complete(llm, [biased, banned, forced, penalised])]
    assert texts[0] == "b" * 8
    assert re.fullmatch("[ac]{8}", re.sub("b", "", texts[1])) or "b" not in texts[1].replace("bb", "")
    assert texts[2] == "bbb", "where the grammar leaves nothing else, the ban gives way"
    assert re.fullmatch("[abc]{8}", texts[3])


def test_min_tokens_stop_strings_and_ignored_eos(llm: LLM) -> None:
    at_least = replace(structured(40, regex="[ab]+"), min_tokens=12)
    finished_early = replace(structured(40, regex="ab"), min_tokens=12)
    stopped = replace(structured(60, regex="(ab|cd){20}"), stop=["cd"], temperature=1.0)
    on_and_on = replace(structured(15, regex="[ab]+"), ignore_eos=True)
    to_the_end = replace(structured(15, regex="[ab]{4}c?"), ignore_eos=True)
    outputs = complete(llm, [at_least, finished_early, stopped, on_and_on, to_the_end])
    assert len(outputs[0].token_ids) >= 12 and re.fullmatch("[ab]+", outputs[0].text)
    assert (outputs[1].text, outputs[1].finish_reason) == ("ab", "stop")
    assert outputs[2].stop_reason == "cd" and re.fullmatch("(ab)*", outputs[2].text)
    assert outputs[3].finish_reason == "length" and re.fullmatch("[ab]+", outputs[3].text)
    assert re.fullmatch("[ab]{4}c", outputs[4].text) and outputs[4].finish_reason == "stop"


def test_special_stop_tokens_are_ends(llm: LLM) -> None:
    params = replace(structured(regex="(ab)+"), stop_token_ids=[0], logit_bias={0: 100, EOS: -100})
    (output,) = complete(llm, [params])
    assert (output.text, output.finish_reason, output.stop_reason) == ("ab", "stop", 0)


def test_behind_a_marker(llm: LLM) -> None:
    outputs = complete(llm, [structured(200, regex="[0-9]{5}", after="e")] * 4)
    for output in outputs:
        _, marker, after = output.text.partition("e")
        assert marker and re.fullmatch("[0-9]{5}", after), output.text


def test_a_bad_constraint_stops_nothing(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="unclosed") as caught:
        complete(llm, [structured(regex="a"), structured(regex="(a")])
    assert caught.value.param == "structured_output"
    assert llm._engine.num_requests == 0 and llm._engine.num_used_blocks == 0
    assert complete(llm, [structured(regex="a")])[0].text == "a"


def test_a_grammar_that_fails_ends_its_own_request_only(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of an output, forced here by a token that the grammar does not allow."""
    engine = llm._engine
    execute = engine._runner.execute

    def corrupt(batch: Any) -> Any:
        for row in batch.rows:
            if row.seq.grammar is not None and row.seq.num_output_tokens == 3:
                row.seq.grammar.mask = row.seq.grammar._vocabulary.usable.copy() & ~row.seq.grammar.mask
        return execute(batch)

    monkeypatch.setattr(engine._runner, "execute", corrupt)
    failed, free = complete(llm, [structured(regex="[ab]{9}"), SamplingParams(max_tokens=9, ignore_eos=True)])
    assert failed.finish_reason == "error" and len(failed.token_ids) == 4
    assert free.finish_reason == "length"
    assert engine.num_requests == 0 and engine.num_used_blocks == 0


def test_a_model_without_a_tokenizer_refuses(tmp_path: Path) -> None:
    tiny_models.save(tiny_models.make("mpt"), tmp_path, with_tokenizer=False)
    bare = small(tmp_path, skip_tokenizer_init=True)
    with pytest.raises(InvalidRequestError, match="skip-tokenizer-init"):
        bare.generate({"prompt_token_ids": [5]}, structured(regex="a"), use_tqdm=False)
