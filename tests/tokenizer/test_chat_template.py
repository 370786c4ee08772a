"""Chat templates against transformers' apply_chat_template, and the order in which they are found."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from transformers import AutoTokenizer

from vllm_jax.errors import ConfigError, InvalidRequestError
from vllm_jax.tokenizer.chat_template import ChatTemplate, load_chat_template, request_chat_template
from vllm_jax.tokenizer.loader import load_tokenizer
from vllm_jax.tokenizer.tools_prompt import INTRODUCTION, tell_calls

CHATML = """{%- if tools %}
<|im_start|>system
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{ call.function.name }}(
{%- for key, value in call.function.arguments.items() %}{{ key }}={{ value }}{% endfor %})
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}
{%- endif %}"""

INST = """{{ bos_token }}
{%- for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant'] %}{% continue %}{% endif %}
{%- if (message.role == 'user') and loop.index0 > 1 and messages[loop.index0 - 1].role == 'user' %}
{{- raise_exception('Conversation roles must alternate') }}
{%- endif %}
{%- if message.role == 'assistant' %}
{%- generation %} {{ message.content | trim }}{{ eos_token }}{% endgeneration %}
{%- else %}
{{- '[INST] ' + message.content + ' [/INST]' }}
{%- endif %}
{%- endfor %}
{%- for document in documents or [] %}{{ document.title }}: {{ document.text }}{% endfor %}"""

PARTS = """{%- for message in messages %}{{ message.role }}:
{%- for part in message['content'] %}{{ part.text }}|{% endfor %}
{%- endfor %}"""

EITHER = """{%- macro show(content) %}
{%- if content is string %}{{ content }}{% else %}
{%- for item in content %}<{{ item.text }}>{% endfor %}{% endif %}
{%- endmacro %}
{%- for message in messages %}{{ message.role }}={{ show(message.content) }};{% endfor %}"""

SYSTEM = {"role": "system", "content": "You translate English to Italian."}
USER = {"role": "user", "content": "I love programming.  \n"}
CHAT = [
    SYSTEM,
    USER,
    {"role": "assistant", "content": " Io amo programmare."},
    {"role": "user", "content": "🙂 è?"},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "È bello?", "parameters": {"type": "object"}},
    }
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Roma"}'}}


@pytest.fixture(scope="module")
def theirs(directory_of):
    return AutoTokenizer.from_pretrained(directory_of("byte_level"))


@pytest.fixture
def plain(tokenizer_of):
    """A tokenizer that came without a template."""
    return tokenizer_of("gpt_neox")


def template(text, tokenizer, **options):
    return ChatTemplate(text, special_tokens=tokenizer.special_tokens, **options)


@pytest.mark.parametrize("text", [CHATML, INST])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": False},
        {"tools": TOOLS},
        {"documents": [{"title": "T", "text": "x"}]},
        {"messages": CHAT[:3], "continue_final_message": True, "add_generation_prompt": False},
        {"messages": [*CHAT, {"role": "assistant", "content": "Sì "}], "continue_final_message": True},
        {"messages": [USER]},
        {"messages": [{"role": "user", "content": "", "name": "ada", "refusal": None}]},
        {"kwargs": {"enable_thinking": False}},
    ],
)
def test_renders_as_transformers(text, options, theirs, tokenizer_of):
    ours = template(text, tokenizer_of("byte_level"))
    if "tools" in options and not ours.knows_tools:
        pytest.skip("the built-in prompt explains them, which transformers has not")
    options = dict(options)
    messages, kwargs = options.pop("messages", CHAT), options.pop("kwargs", {})
    options.setdefault("add_generation_prompt", not options.get("continue_final_message", False))
    expected = theirs.apply_chat_template(messages, chat_template=text, tokenize=False, **options, **kwargs)
    assert ours.render(messages, **options, template_kwargs=kwargs) == expected


def test_renders_tool_calls_as_transformers(theirs, tokenizer_of):
    history = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "18 °C", "tool_call_id": "call_1"},
    ]
    parsed = json.loads(json.dumps(history))
    parsed[1]["tool_calls"][0]["function"]["arguments"] = {"city": "Roma"}
    expected = theirs.apply_chat_template(
        parsed, tools=TOOLS, chat_template=CHATML, tokenize=False, add_generation_prompt=True
    )
    assert "weather(city=Roma)" in expected
    assert template(CHATML, tokenizer_of("byte_level")).render(history, tools=TOOLS) == expected
    assert history[1]["tool_calls"] == [CALL], "a request is never changed"
    assert history[1]["content"] is None


TWO_PARTS = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
ONE_TEXT = [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize(
    ("text", "content_format", "of_parts", "of_text"),
    [
        (INST, "auto", "[INST] a\nb [/INST]", "[INST] ab [/INST]"),
        (PARTS, "auto", "user:a|b|", "user:ab|"),
        (EITHER, "auto", "user=<a><b>;", "user=ab;"),
        (EITHER, "string", "user=a\nb;", "user=ab;"),
        (EITHER, "openai", "user=<a><b>;", "user=<ab>;"),
    ],
)
def test_content_takes_the_form_the_template_reads(text, content_format, of_parts, of_text):
    ours = ChatTemplate(text, content_format=content_format)
    assert ours.render(TWO_PARTS, add_generation_prompt=False) == of_parts
    assert ours.render(ONE_TEXT, add_generation_prompt=False) == of_text


def test_content_format_follows_variables():
    looped = (
        "{% for m in messages %}{% set c = m['content'][1:] | list %}"
        "{% for p in c %}{{ p.text }}{% endfor %}{% endfor %}"
    )
    assert ChatTemplate(looped).render(TWO_PARTS) == "b"
    words = "{% for m in messages %}{% for w in m.content.split() %}{{ w }},{% endfor %}{% endfor %}"
    assert ChatTemplate(words).render([{"role": "user", "content": "a b"}]) == "a,b,"


def test_developer_becomes_system_unless_the_template_knows_it():
    messages = [{"role": "developer", "content": "x"}]
    assert ChatTemplate("{{ messages[0].role }}").render(messages) == "system"
    knowing = "{% if messages[0].role == 'developer' %}yes{% endif %}"
    assert ChatTemplate(knowing).render(messages) == "yes"


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "at least one message"),
        ("hello", "at least one message"),
        (["hello"], r"messages\[0\] must be an object"),
        ([{"content": "x"}], r"messages\[0\]\.role"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\.content"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "'image_url' is not supported",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text must be a text"),
        ([{"role": "assistant", "tool_calls": [{"type": "function"}]}], r"tool_calls\[0\]\.function"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "arguments must be JSON",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
            "must be a JSON object",
        ),
    ],
)
def test_malformed_messages_are_refused(messages, text):
    with pytest.raises(InvalidRequestError, match=text) as caught:
        ChatTemplate(CHATML).render(messages)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('Conversation roles must alternate') }}",
        "{{ messages[0].nothing.at_all }}",
        "{{ 1 / 0 }}",
        "{{ messages[5].role + 'x' }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ messages.append(1) }}",
        "{% include 'other' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_whatever_fails_in_a_template_is_the_requests_error(text):
    with pytest.raises(InvalidRequestError, match="the chat template cannot render") as caught:
        ChatTemplate(text).render([USER])
    assert caught.value.param == "messages"
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_options_that_contradict_each_other():
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate(CHATML).render(CHAT, continue_final_message=True)
    assert caught.value.param == "continue_final_message"
    with pytest.raises(InvalidRequestError, match="documents must be a list"):
        ChatTemplate(CHATML).render(CHAT, documents=["x"])


def test_template_kwargs():
    ours = ChatTemplate("{{ bos_token }}{{ mode }}", special_tokens={"bos_token": "<s>"})
    assert ours.template_variables() == {"bos_token", "mode"}
    assert ChatTemplate(CHATML).template_variables() == {"enable_thinking"}
    assert ours.render([USER], template_kwargs={"mode": "x", "unknown": "y", "raise_exception": 1}) == "<s>x"
    assert ours.render([USER], template_kwargs={"return_assistant_tokens_mask": True}) == "<s>"
    for name in ("chat_template", "tokenize", "messages", "tools", "add_generation_prompt"):
        with pytest.raises(InvalidRequestError, match=name) as caught:
            ours.render([USER], template_kwargs={name: True})
        assert caught.value.param == "chat_template_kwargs"


def test_order_of_templates(plain, directory_of, tmp_path):
    directory = shutil.copytree(directory_of("gpt_neox"), tmp_path / "model")
    config = json.loads((directory / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    tokenizer = load_tokenizer(directory)
    model = {"model_type": "mpt", "model_name": "mosaicml/mpt-7b-instruct"}

    own = load_chat_template(tokenizer, **model)
    assert own.source == "model"
    assert (own.render([USER]), own.render([USER], tools=TOOLS)) == ("D", "T")
    inline = load_chat_template(tokenizer, "{{ 'E' }}", **model)
    assert (inline.source, inline.render([USER], tools=TOOLS)) == ("explicit", "E")
    (tmp_path / "file.jinja").write_text("from {{ 'file' }}")
    assert load_chat_template(tokenizer, str(tmp_path / "file.jinja")).render([USER]) == "from file"
    assert load_chat_template(tokenizer, "tool_use").render([USER]) == "T"
    assert load_chat_template(plain, **model).source == "builtin"
    assert load_chat_template(plain, model_type="mpt", model_name="mosaicml/mpt-7b").is_default


def test_bad_templates_end_the_start(plain):
    with pytest.raises(ConfigError, match=r"--chat-template 'nothing\.jinja' is neither a file"):
        load_chat_template(plain, "nothing.jinja")
    with pytest.raises(ConfigError, match="explicit chat template is not valid, line 2"):
        load_chat_template(plain, "a\n{% for %}")


def test_a_requests_template_is_never_a_file(plain, tmp_path):
    (tmp_path / "secret.jinja").write_text("secret")
    path = str(tmp_path / "secret.jinja")
    assert request_chat_template(plain, path).render([USER]) == path
    with pytest.raises(InvalidRequestError) as caught:
        request_chat_template(plain, "{% endfor %}")
    assert caught.value.param == "chat_template"


def test_plain_transcript(plain):
    default = load_chat_template(plain)
    assert default.render([SYSTEM, USER]) == (
        "System: You translate English to Italian.\nUser: I love programming.  \n\nAssistant:"
    )
    # An answer goes back into the history as it came, with its own leading space.
    assert default.render(CHAT[2:]) == "Assistant: Io amo programmare.\nUser: 🙂 è?\nAssistant:"
    assert default.render([{"role": "assistant", "content": "Io"}]) == "Assistant: Io\nAssistant:"
    assert (
        default.render(CHAT[:3], add_generation_prompt=False, continue_final_message=True)
        == default.render(CHAT[:2]) + " Io amo programmare."
    )


def test_tools_are_explained_where_the_template_knows_none(plain):
    default = load_chat_template(plain)
    asked = {"role": "user", "content": "Weather?"}
    history = [
        asked,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "18 °C", "tool_call_id": "call_1"},
        {"role": "tool", "content": "rain", "tool_call_id": "?"},
    ]
    explained = f"{INTRODUCTION}\n{json.dumps(TOOLS[0]['function'], ensure_ascii=False)}"
    name, call = CALL["function"]["name"], CALL["function"]["arguments"]
    told = (
        f'Assistant: [{{"name": "{name}", "arguments": {call}}}]\n'
        f"User: Result of {name}: 18 °C\nResult: rain\nAssistant:"
    )
    assert default.render(history, tools=TOOLS) == f"User: {explained}\n\nWeather?\n{told}"
    assert default.render(history) == f"User: Weather?\n{told}", "a history needs no tools"
    system = [{"role": "system", "content": "Be kind."}, asked]
    assert default.render(system, tools=TOOLS).startswith(f"System: Be kind.\n\n{explained}\nUser: Weather?")
    assert default.render(history[1:2], tools=TOOLS).startswith(f"System: {explained}\nAssistant: [")
    parts = ChatTemplate(
        "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    )
    assert parts.render([asked], tools=TOOLS) == f"<{explained}><Weather?>"
    assert not parts.knows_tools and template(CHATML, plain).knows_tools
    calls = ChatTemplate("{% for m in messages %}{{ m.role }}{{ m['tool_calls'] | length }}{% endfor %}")
    assert calls.render(history[1:3]) == "assistant1tool0", "its own business"


def test_builtin_templates(plain, tokenizer_of):
    def of(name, tokenizer=plain, model_type="mpt"):
        return load_chat_template(tokenizer, model_type=model_type, model_name=name)

    blurb = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
    )
    user = [{"role": "user", "content": "Hi"}]
    instruct = "\n### Instruction:\nHi\n### Response:\n"
    assert of("mosaicml/mpt-30b-instruct").render(user) == blurb + instruct
    assert of("/models/mpt-7b-8k-instruct/").render([SYSTEM, *user]) == SYSTEM["content"] + instruct
    dolly = of("databricks/dolly-v2-3b", model_type="gpt_neox")
    assert dolly.render(user) == blurb + "\n\n### Instruction:\nHi\n\n### Response:\n"
    assert of("instruct-tuned-mpt", model_type="llama").is_default

    chat = of("mosaicml/mpt-7b-chat", tokenizer_of("byte_level"))
    assert (chat.source, chat.stop_tokens) == ("builtin", ("<|im_end|>",))
    expected = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in CHAT)
    assert chat.render(CHAT) == expected + "<|im_start|>assistant\n"
    assert of("mosaicml/mpt-7b-chat").is_default, "ChatML's tokens are not in this vocabulary"


def test_threads_share_a_template(tokenizer_of):
    ours = template(CHATML, tokenizer_of("byte_level"))
    expected = [ours.render([{"role": "user", "content": str(k)}]) for k in range(50)]
    with ThreadPoolExecutor(8) as pool:
        rendered = list(pool.map(lambda k: ours.render([{"role": "user", "content": str(k)}]), range(50)))
    assert rendered == expected


def test_results_of_calls_become_one_message_whatever_their_kind() -> None:
    calls = [{"id": i, "function": {"name": f"f{i}", "arguments": {}}} for i in "ab"]
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "user", "content": "and?"},
        {"role": "tool", "tool_call_id": "a", "content": "3"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "4"}]},
    ]
    _, both, asked, mixed = tell_calls(messages)
    assert both == {"role": "user", "content": "Result of fa: 1\nResult of fb: 2"}
    assert asked == messages[3]
    assert [part["text"] for part in mixed["content"]] == ["Result of fa: 3", "Result of fb: ", "4"]
