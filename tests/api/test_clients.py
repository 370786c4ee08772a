"""The official clients against a real server over HTTP."""

from __future__ import annotations

import asyncio

import openai
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI
from server_process import Server

MESSAGES = [{"role": "user", "content": "Where is the station?"}]
GREEDY = {"temperature": 0, "max_completion_tokens": 8, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def sync_client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0)


@pytest.fixture(scope="module")
def chat(server: Server) -> ChatOpenAI:
    return ChatOpenAI(
        model="tiny/model",
        openai_api_key="EMPTY",
        openai_api_base=f"{server.url}/v1",
        max_tokens=8,
        temperature=0,
        max_retries=0,
        extra_body={"ignore_eos": True},
    )


def test_openai_sync_and_streaming_agree(sync_client: openai.OpenAI) -> None:
    whole = sync_client.chat.completions.create(model="tiny", messages=MESSAGES, **GREEDY)
    assert whole.model == "tiny" and whole.usage and whole.usage.completion_tokens == 8
    assert whole.choices[0].finish_reason == "length" and whole.choices[0].message.role == "assistant"
    chunks = list(
        sync_client.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_openai_stream_helper_and_completions(sync_client: openai.OpenAI) -> None:
    whole = sync_client.chat.completions.create(model="tiny", messages=MESSAGES, **GREEDY)
    text = whole.choices[0].message.content or ""
    stop = text[3:5]
    with sync_client.chat.completions.stream(model="tiny", messages=MESSAGES, stop=stop, **GREEDY) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion().choices[0]
    assert final.message.content == text[: text.index(stop)] and final.finish_reason == "stop"
    completion = sync_client.completions.create(
        model="tiny", prompt=["One", "Two"], max_tokens=3, logprobs=2, echo=True, temperature=0
    )
    assert [c.index for c in completion.choices] == [0, 1]
    assert completion.choices[0].logprobs and completion.choices[0].logprobs.text_offset[0] == 0
    pieces = sync_client.completions.create(
        model="tiny", prompt="One", max_tokens=3, stream=True, temperature=0
    )
    assert "One" + "".join(p.choices[0].text for p in pieces) == completion.choices[0].text


def test_openai_models_and_errors(sync_client: openai.OpenAI) -> None:
    assert [model.id for model in sync_client.models.list()] == ["tiny/model", "tiny"]
    assert sync_client.models.retrieve("tiny/model").id == "tiny/model"
    with pytest.raises(openai.NotFoundError) as missing:
        sync_client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as bad:
        sync_client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=3)
    assert bad.value.param == "temperature" and bad.value.type == "BadRequestError"


async def test_openai_async_many_at_once(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0) as client:

        async def one(i: int) -> str:
            messages = [{"role": "user", "content": f"Number {i}"}]
            stream = await client.chat.completions.create(
                model="tiny", messages=messages, stream=True, **GREEDY
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        together = await asyncio.gather(*(one(i) for i in range(12)))
        assert together == [await one(i) for i in range(12)]


def test_langchain_invoke_stream_and_batch(chat: ChatOpenAI) -> None:
    answer = chat.invoke([("system", "Translate to Italian."), ("human", "Where is the station?")])
    assert isinstance(answer.content, str) and answer.content
    assert answer.usage_metadata and answer.usage_metadata["output_tokens"] == 8
    assert answer.response_metadata["model_name"] == "tiny/model"
    assert answer.response_metadata["finish_reason"] == "length"
    prompts = ["One two", "Io amo", "Where is"]
    alone = [chat.invoke(p).content for p in prompts]
    assert ["".join(str(chunk.content) for chunk in chat.stream(p)) for p in prompts] == alone
    assert [a.content for a in chat.batch(prompts)] == alone


async def test_langchain_async(chat: ChatOpenAI) -> None:
    whole = (await chat.ainvoke("One two")).content
    assert "".join([str(chunk.content) async for chunk in chat.astream("One two")]) == whole
    assert [a.content for a in await chat.abatch(["One two", "One two"])] == [whole, whole]


def test_langchain_prompt_template_chain(chat: ChatOpenAI) -> None:
    prompt = ChatPromptTemplate.from_messages(
        [("system", "You translate {source} to {target}."), ("human", "{text}")]
    )
    values = {"source": "English", "target": "Italian", "text": "The station is near the church."}
    chain = prompt | chat | StrOutputParser()
    expected = chat.invoke(prompt.invoke(values)).content
    assert chain.invoke(values) == expected
    assert "".join(chain.stream(values)) == expected


def test_langchain_logprobs_usage_and_text_completion(chat: ChatOpenAI, server: Server) -> None:
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke("One")
    assert len(answer.response_metadata["logprobs"]["content"]) == 8
    chunks = list(chat.bind(stream_options={"include_usage": True}).stream("One"))
    assert [c.usage_metadata["output_tokens"] for c in chunks if c.usage_metadata] == [8]
    llm = OpenAI(model="tiny", base_url=f"{server.url}/v1", api_key="EMPTY", max_tokens=4, max_retries=0)
    assert isinstance(llm.invoke("One two"), str)
    assert isinstance("".join(llm.stream("One two")), str)
