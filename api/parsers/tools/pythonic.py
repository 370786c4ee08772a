"""Calls written as a Python list: ToolACE, Llama 3.2 and Llama 4.

    [get_weather(city="Roma", days=3), get_time(zone="CET")]

Llama 4 may put it between <|python_start|> and <|python_end|>. Sources: the model card of
Team-ACE/ToolACE-8B; the "zero shot function calling" sections of Meta's Llama 3.2 and Llama 4 prompt formats.

Nothing is evaluated: a call is parsed into a syntax tree, and only literals in it are taken.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Container
from typing import Any

from api.parsers.events import CallArguments, CallEnd, CallStart, Parse
from api.parsers.json_calls import MAX_NAME
from api.parsers.source import Source

PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
MARKERS = (PYTHON_START, PYTHON_END)

MAX_CALL = 65536
"""Characters of one call's arguments at most."""
MAX_DEPTH = 32
"""Brackets in one another at most: the parser behind :mod:`ast` has a stack of its own."""


def parse(source: Source, names: Container[str]) -> Parse[None]:
    """Reads an answer. What does not begin with a list of calls of ``names`` is content.

    A call is given as a whole, since its end decides whether it is one.
    """
    source.mark()
    yield from source.skip_space()
    yield from source.accept(PYTHON_START)
    yield from source.skip_space()
    if (yield from source.accept("[")):
        yield from _calls(source, names)
    source.rewind()
    yield from source.remainder()


def _calls(source: Source, names: Container[str]) -> Parse[None]:
    """Reads the calls of a list; leaves the mark behind what belongs to them."""
    yield from source.skip_space()
    while (call := (yield from _call(source, names))) is not None:
        name, arguments = call
        yield CallStart(name)
        yield CallArguments(arguments)
        yield CallEnd()
        source.mark()
        yield from source.skip_space()
        if not (yield from source.accept(",")):
            break
        yield from source.skip_space()
    else:
        return
    if (yield from source.accept("]")):
        source.mark()
        yield from source.skip_space()
        if (yield from source.accept(PYTHON_END)):
            source.mark()


def _call(source: Source, names: Container[str]) -> Parse[tuple[str, str] | None]:
    """Reads one call; returns its name and the arguments as JSON, or None."""
    name = yield from source.text_before("(", limit=MAX_NAME)
    if name is None or name.strip() not in names:
        return None
    text = yield from _brackets(source)
    if text is None or (values := _keywords(text)) is None:
        return None
    return name.strip(), values


def _brackets(source: Source) -> Parse[str | None]:
    """Reads what is in round brackets, with them; None if it is too long, too deep or does not end."""
    text, depth, quote, escaped = "", 0, "", False
    while len(text) < MAX_CALL:
        character = yield from source.peek()
        text += source.take(1)
        if not character:
            return None
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif character in ")]}":
            depth -= 1
            if depth == 0:
                return text
    return None


def _keywords(text: str) -> str | None:
    """The keyword arguments in ``(…)`` as a JSON object, or None if there is anything but literals."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is no concern of the server's log
            tree = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
            return None
        values: dict[str, Any] = {}
        for keyword in tree.keywords:
            if keyword.arg is None:
                return None
            values[keyword.arg] = _literal(keyword.value)
        made = json.dumps(values, ensure_ascii=False, allow_nan=False)
        made.encode()  # no lone surrogates
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return made


def _literal(node: ast.expr) -> Any:
    """The value of a literal that JSON has too. Raises ValueError for any other expression."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return dict(zip(map(_key, keys), map(_literal, values), strict=True))
        case ast.Name(id="true" | "false" | "null" as word):  # JSON's words are a common slip
            return {"true": True, "false": False, "null": None}[word]
    raise ValueError(f"not a literal: {type(node).__name__}")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("a key must be a string")
