"""From a constraint to the one language that the grammar engine compiles: Lark, as llguidance reads it.

Knows the syntaxes. Does not know tokens, and does not find out whether a grammar makes sense.

Every grammar begins with ``no_forcing``: the engine would otherwise work out long stretches of text that
have only one continuation, megabytes of them for ``(a{1000}){1000}``, and tokenize them at each step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output.expression import terminal
from vllm_jax.structured_output.json_schema import compiler_schema
from vllm_jax.structured_output.structural_tag import TagWriter
from vllm_jax.structured_output_params import StructuredOutput

_HEADER = '%llguidance {"no_forcing": true}\n'
_MAX_GBNF_LENGTH = 1 << 15


def lark_source(output: StructuredOutput, special: Mapping[str, int]) -> str:
    """The Lark text of a constraint (``output.after`` is not part of it), or JSON with several such texts.

    ``special`` has the ids of the special tokens by their texts.

    Raises:
        InvalidRequestError: a schema that is too expensive, or a grammar in a syntax that is not supported.
    """
    if output.grammar is not None:
        return _HEADER + _grammar(output.grammar, output.param)
    writer = TagWriter(output, special, lambda grammar: _grammar(grammar, output.param))
    constrained = _rule(output, writer)
    rules = writer.rules
    if output.preamble is None:
        rules = [f"start: {constrained}", *rules]
    else:
        rules = [
            "start: (preamble space?)? constrained",
            f"preamble: {writer.span(*output.preamble)}",
            "space: /[ \\t\\r\\n]{1,8}/",
            f"constrained: {constrained}",
            *rules,
        ]
    text = _HEADER + "\n".join(rules)
    if not writer.grammars:
        return text
    parts = {"": text, **writer.grammars}
    return json.dumps({"grammars": [{"name": name, "lark_grammar": parts[name]} for name in parts]})


def _rule(output: StructuredOutput, writer: TagWriter) -> str:
    """The right side of a rule for a constraint without a grammar of its own."""
    if output.structural_tag is not None:
        return writer.write()
    if output.regex is not None:
        return terminal(output.regex)
    if output.choice is not None:
        return f"/{'|'.join(map(_literal, output.choice))}/"
    return f"%json {compiler_schema(output)}"


def _literal(text: str) -> str:
    """An expression for ``text``. One automaton of all choices is far faster than one string for each."""
    return "".join(c if c.isalnum() or not c.isascii() else f"\\x{ord(c):02x}" for c in text)


def _grammar(text: str, param: str) -> str:
    if not is_lark_syntax(text):
        if "::=" not in text:
            raise InvalidRequestError(
                f"{param}: the grammar is neither Lark (a rule 'start: ...') nor GBNF (rules 'root ::= ...')",
                param,
            )
        if len(text) > _MAX_GBNF_LENGTH:
            raise InvalidRequestError(
                f"{param}: a GBNF grammar must have at most {_MAX_GBNF_LENGTH} characters, got {len(text)}",
                param,
            )
        try:
            text = gbnf_to_lark(text)
        except Exception as error:  # the converter raises whatever comes up, RecursionError included
            raise InvalidRequestError(
                f"{param}: the GBNF grammar cannot be read: {str(error)[:200] or type(error).__name__}", param
            ) from None
    # Schemas inside a grammar are out of reach of compiler_schema.
    if "%json" in text and ("multipleOf" in text or "\\u" in text):
        raise InvalidRequestError(
            f"{param}: a grammar with %json must not use multipleOf or \\u escapes", param
        )
    if "%llguidance" in text.replace("%llguidance {}", ""):
        raise InvalidRequestError(f"{param}: a grammar must not set %llguidance options", param)
    return text
