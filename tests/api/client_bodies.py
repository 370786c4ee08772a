"""Request bodies as langchain-openai and the openai client send them (field for field; the texts are ours).

Each case: name, path, body, and the field that the answer refuses by name (None: it is honoured).
"""

from __future__ import annotations

from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

_USER = [{"content": "Good morning!", "role": "user"}]
_PAIR = [{"content": "Answer in Italian.", "role": "system"}, {"content": "Good morning!", "role": "user"}]
_SCHEMA = {
    "type": "object",
    "title": "Greeting",
    "description": "A greeting.",
    "properties": {
        "word": {"type": "string", "title": "Word", "description": "the word"},
        "warmth": {"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "Warmth", "default": None},
    },
    "required": ["word"],
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "greet",
        "description": "Greets somebody.",
        "parameters": {"type": "object", "properties": {"who": {"type": "string"}}, "required": ["who"]},
    },
}
_STRICT_TOOL = {
    "type": "function",
    "function": {
        **_TOOL["function"],  # type: ignore[dict-item]
        "strict": True,
    },
}
_JSON_SCHEMA = {"type": "json_schema", "json_schema": {"schema": _SCHEMA, "name": "Greeting", "strict": True}}
_BY_NAME = {"type": "function", "function": {"name": "greet"}}


def _chat(messages: list[dict[str, Any]] = _USER, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "stream": False, "messages": messages, "max_completion_tokens": 5, **more}


CASES: list[tuple[str, str, dict[str, Any], str | None]] = [
    ("invoke", CHAT, _chat(_PAIR, temperature=0.0), None),
    ("invoke, no parameters", CHAT, {"model": "tiny", "stream": False, "messages": _USER}, None),
    ("bare string", CHAT, _chat(), None),
    ("stream", CHAT, _chat(stream=True, temperature=0.0), None),
    (
        "stream with usage",
        CHAT,
        _chat(stream=True, temperature=0.0, stream_options={"include_usage": True}),
        None,
    ),
    ("n", CHAT, _chat(_PAIR, n=2, seed=1, temperature=0.7), None),
    ("logprobs", CHAT, _chat(logprobs=True, temperature=0.0, top_logprobs=2), None),
    (
        "penalties, stop and extra_body",
        CHAT,
        _chat(
            service_tier="auto",
            frequency_penalty=0.1,
            logit_bias={"5": 1},
            presence_penalty=0.1,
            reasoning_effort="low",
            seed=3,
            stop=["\n"],
            store=False,
            temperature=0.0,
            top_p=0.9,
            user="u1",
            verbosity="low",
            top_k=5,
            min_p=0.1,
            repetition_penalty=1.1,
            chat_template_kwargs={"enable_thinking": False},
        ),
        None,
    ),
    (
        "tool history",
        CHAT,
        _chat(
            [
                {"content": "Greet Ada.", "role": "user"},
                {
                    "content": None,
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "type": "function",
                            "id": "c1",
                            "function": {"name": "greet", "arguments": '{"who": "Ada"}'},
                        }
                    ],
                },
                {"content": "Ciao Ada", "role": "tool", "tool_call_id": "c1"},
            ]
        ),
        None,
    ),
    ("structured output", CHAT, _chat(response_format=_JSON_SCHEMA, temperature=0.0), None),
    ("stream structured output", CHAT, _chat(stream=True, response_format=_JSON_SCHEMA), None),
    ("json mode", CHAT, _chat(response_format={"type": "json_object"}), None),
    (
        "text parts",
        CHAT,
        _chat([{"content": [{"type": "text", "text": "Good morning!"}], "role": "user"}]),
        None,
    ),
    (
        "image part",
        CHAT,
        _chat(
            [
                {
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                    ],
                    "role": "user",
                }
            ]
        ),
        "messages",
    ),
    ("unknown model", CHAT, {**_chat(), "model": "nobody"}, "model"),
    ("bad temperature", CHAT, _chat(temperature=5.0), "temperature"),
    (
        "text completion",
        COMPLETIONS,
        {
            "model": "tiny",
            "prompt": ["Good"],
            "frequency_penalty": 0,
            "logprobs": None,
            "max_tokens": 5,
            "n": 1,
            "presence_penalty": 0,
            "seed": None,
            "temperature": 0.7,
            "top_p": 1,
        },
        None,
    ),
    (
        "text completion stream",
        COMPLETIONS,
        {
            "model": "tiny",
            "stream": True,
            "prompt": "Good",
            "frequency_penalty": 0,
            "logprobs": None,
            "max_tokens": 5,
            "n": 1,
            "presence_penalty": 0,
            "seed": None,
            "temperature": 0.7,
            "top_p": 1,
        },
        None,
    ),
]

TOOL_CASES: list[tuple[str, dict[str, Any]]] = [
    ("bind_tools", _chat(temperature=0.0, tools=[_TOOL])),
    ("bind_tools any", _chat(temperature=0.0, tools=[_TOOL], tool_choice="required")),
    (
        "bind_tools by name",
        _chat(temperature=0.0, tools=[_STRICT_TOOL], tool_choice=_BY_NAME, parallel_tool_calls=False),
    ),
    ("bind_tools none", _chat(temperature=0.0, tools=[_TOOL], tool_choice="none")),
    ("stream tools", _chat(stream=True, tools=[_TOOL], tool_choice="required")),
    ("function calling", _chat(parallel_tool_calls=False, tool_choice=_BY_NAME, tools=[_TOOL])),
]
"""Bodies with tools: name and body."""
