"""Structural tags: free text in which a trigger begins a tag whose content follows a JSON schema.

Knows the two lists of such a request, ``structures`` (begin, schema, end) and ``triggers``. Does not know
what the tags mean.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output.json_schema import compiler_schema
from vllm_jax.structured_output_params import StructuredOutput

_MAX_TAGS = 128


def structural_tag_source(output: StructuredOutput) -> str:
    """The Lark text for ``output.structural_tag``, without its header.

    Raises:
        InvalidRequestError: it is no such JSON, or a schema cannot be honoured.
    """
    given = _read(output)
    lines = ["start: TEXT", "TEXT: /(.|\\n)*/"]
    tagged = []
    waiting = given["structures"]
    # The longest trigger that fits decides, so that one may begin with another.
    for index, trigger in enumerate(sorted(given["triggers"], key=len, reverse=True)):
        mine = [tag for tag in waiting if tag["begin"].startswith(trigger)]
        waiting = [tag for tag in waiting if tag not in mine]
        if not mine:
            continue
        bodies = [
            " ".join(
                [
                    *_literal(tag["begin"][len(trigger) :]),
                    "%json " + compiler_schema(_schema_output(output, tag["schema"])),
                    *_literal(tag["end"]),
                ]
            )
            for tag in mine
        ]
        tagged.append(f"tagged_{index}")
        lines.append(f"before_{index}[lazy]: TEXT {json.dumps(trigger, ensure_ascii=False)}")
        lines.append(f"tagged_{index}: before_{index} ({' | '.join(bodies)})")
    if waiting:
        begin = waiting[0]["begin"][:100]
        raise _error(output, f"the tag that begins with {begin!r} begins with no trigger")
    lines[0] = f"start: ({' | '.join(tagged)})* TEXT"
    return "\n".join(lines)


def _read(output: StructuredOutput) -> dict[str, Any]:
    try:
        given = json.loads(output.structural_tag or "")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise _error(output, "it must be a JSON object")
    if "structures" not in given or "triggers" not in given:
        raise _error(output, "it needs structures and triggers; other forms are not supported")
    structures, triggers = given["structures"], given["triggers"]
    if not isinstance(structures, list) or not 1 <= len(structures) <= _MAX_TAGS:
        raise _error(output, f"structures must be a list of 1 to {_MAX_TAGS} tags")
    if not isinstance(triggers, list) or not all(isinstance(t, str) and t for t in triggers):
        raise _error(output, "triggers must be a list of texts")
    for tag in structures:
        texts = (
            isinstance(tag, dict) and isinstance(tag.get("begin"), str) and isinstance(tag.get("end"), str)
        )
        if not texts or not isinstance(tag.get("schema"), dict | bool):
            raise _error(output, "each of structures needs begin, schema and end")
    return given


def _schema_output(output: StructuredOutput, schema: Any) -> StructuredOutput:
    return replace(output, structural_tag=None, json_schema=json.dumps(schema))


def _literal(text: str) -> list[str]:
    return [json.dumps(text, ensure_ascii=False)] if text else []


def _error(output: StructuredOutput, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{output.param}: the structural_tag cannot be honoured: {why}", output.param)
