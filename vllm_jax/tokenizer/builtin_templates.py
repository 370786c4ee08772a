"""Chat templates for models that come without one. Knows model types and names; renders nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Each message between <|im_start|> and <|im_end|>."""


def _instruction(gap: str) -> str:
    """Returns the template of models tuned on Dolly's prompt: an introduction, then headed sections."""
    blurb = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
    )
    return (
        "{% set headings = {'user': '### Instruction:', 'assistant': '### Response:'} %}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
        f"{{% else %}}{{{{ '{blurb}' }}}}{{% endif %}}"
        "{% for message in messages %}{% if not (loop.first and message.role == 'system') %}"
        "{{ '" + gap + "' + headings.get(message.role, '### ' + message.role | capitalize + ':')"
        " + '\\n' + message.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + gap + "### Response:\\n' }}{% endif %}"
    )


DOLLY = _instruction("\\n\\n")
"""Dolly's own prompt, sections apart (github.com/databrickslabs/dolly, training/consts.py)."""

MPT_INSTRUCT = _instruction("\\n")
"""The prompt of the mpt-*-instruct models' cards, sections on consecutive lines."""

TRANSCRIPT = (
    "{% for message in messages %}"
    "{{ message.role | capitalize + ':' }}"
    "{% if message.content and message.content[0] != ' ' %}{{ ' ' }}{% endif %}{{ message.content + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""A plain transcript, for any model. An answer begins behind the colon, so its own leading space stays."""


@dataclass(frozen=True, slots=True)
class BuiltinTemplate:
    """A template for the models of one type whose names match.

    ``model_type`` None stands for any. ``tokens`` must all be in the vocabulary; they are the ones the
    template writes. ``stop_tokens`` end the assistant's turn.
    """

    model_type: str | None
    name: re.Pattern[str]
    template: str
    tokens: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()


BUILTIN_TEMPLATES = (
    BuiltinTemplate(
        "mpt",
        re.compile(r"(^|[-_/])chat", re.I),
        CHATML,
        tokens=("<|im_start|>", "<|im_end|>"),
        stop_tokens=("<|im_end|>",),
    ),
    BuiltinTemplate("mpt", re.compile(r"(^|[-_/])instruct", re.I), MPT_INSTRUCT),
    BuiltinTemplate(None, re.compile(r"(^|[-_/])dolly", re.I), DOLLY),
)
"""In order; the first that fits is taken."""
