"""Structural tags: a tree of formats, in which free text may turn into tags whose content has a form.

Knows both kinds of such a request: ``format`` (the tree) and the older ``structures`` and ``triggers``, which
are a tree of one format, ``triggered_tags``. Does not know what the tags mean. The formats are those of
xgrammar.mlc.ai, "Structural Tag Usage"; those that speak of single tokens are refused.

Free text goes on up to something: the end of the output, the ``end`` of the tag around it, or a literal that
follows it. Each format is therefore written together with the ``ends`` behind it, which it takes over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output.expression import terminal
from vllm_jax.structured_output.json_schema import compiler_schema
from vllm_jax.structured_output_params import StructuredOutput

_MAX_TAGS = 128
_MAX_FORMATS = 2048
_MAX_NESTING = 32
_MAX_REPEAT = 10_000

Format = Mapping[str, Any]
Ends = tuple[str, ...]


class TagWriter:
    """Writes the Lark rules of one structural tag.

    ``special`` has the ids of the special tokens by their texts, which no free text can spell;
    ``grammar`` makes Lark text of a grammar in any syntax.

    Attributes:
        rules: Lines of rules so far.
        grammars: Whole grammars that the rules refer to as ``@name``, by their names.
    """

    def __init__(
        self, output: StructuredOutput, special: Mapping[str, int], grammar: Callable[[str], str]
    ) -> None:
        self.rules: list[str] = ["TEXT: /(.|\\n)*/"]
        self.grammars: dict[str, str] = {}
        self._output = output
        self._special = special
        self._grammar = grammar
        self._formats = 0
        longest_first = sorted(filter(None, special), key=len, reverse=True)
        self._any_special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def write(self) -> str:
        """The expression of the whole output.

        Raises:
            InvalidRequestError: it is no such JSON, or asks for what is not supported.
        """
        return self._format(self._read(), (), "format", 0, last=True)

    def text_until(self, ends: Ends, text: str = "TEXT") -> str:
        """Free text up to the first of ``ends``, and that; to the end of the output where there are none."""
        if not ends:
            return text
        spelled = " | ".join(_quoted(end) for end in ends)
        ways = [self._rule(f"{text} ({spelled})", "[lazy]")]
        ways += [f"{text} {self.literal(end)}" for end in ends if self._special_prefix(end)]
        return f"({' | '.join(ways)})"

    def span(self, first: str, last: str) -> str:
        """``first``, and text up to the first ``last`` behind it; goes before other free text that fits."""
        if self._special_prefix(first):
            return f"{self.literal(first)} {self.text_until((last,))}"
        text = self._rule(f"{_quoted(first)} TEXT {_quoted(last)}", "[lazy]")
        if not self._special_prefix(last):
            return text
        return f"({text} | {_quoted(first)} TEXT {self.literal(last)})"

    def literal(self, text: str) -> str:
        """``text``, with special tokens where it spells them."""
        parts, at = [], 0
        for found in self._any_special.finditer(text):
            parts += [_quoted(text[at : found.start()]), f"<[{self._special[found[0]]}]>"]
            at = found.end()
        return " ".join(filter(None, [*parts, _quoted(text[at:])])) or '""'

    # --- what was asked ---------------------------------------------------------------------------

    def _read(self) -> Format:
        try:
            given = json.loads(self._output.structural_tag or "")
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise self._error("it must be a JSON object")
        if "format" in given:
            self._known(given, "format", "type")
            return self._object(given["format"], "format")
        if "structures" not in given or "triggers" not in given:
            raise self._error("it needs a format, or structures and triggers")
        self._known(given, "structures", "triggers", "type")
        structures = given["structures"]
        if not isinstance(structures, list) or not 1 <= len(structures) <= _MAX_TAGS:
            raise self._error(f"structures must be a list of 1 to {_MAX_TAGS} tags")
        tags = []
        for tag in structures:
            if not isinstance(tag, dict) or not {"begin", "schema", "end"} <= tag.keys():
                raise self._error("each of structures needs begin, schema and end")
            self._known(tag, "begin", "schema", "end")
            content = {"type": "json_schema", "json_schema": tag["schema"]}
            tags.append({"type": "tag", "begin": tag["begin"], "content": content, "end": tag["end"]})
        return {"type": "triggered_tags", "triggers": given["triggers"], "tags": tags}

    def _format(self, given: Any, ends: Ends, where: str, depth: int, *, last: bool = False) -> str:
        """One format and one of ``ends``; ``last``: nothing else follows in the whole output."""
        node = self._object(given, where)
        self._formats += 1
        if self._formats > _MAX_FORMATS or depth > _MAX_NESTING:
            raise self._error(
                f"it must have at most {_MAX_FORMATS} formats, nested at most {_MAX_NESTING} deep"
            )
        match node.get("type"):
            case "any_text":
                self._known(node, "type", "excludes", "max_tokens", "max_chars", "unlike")
                self._check_followed(ends, where, last)
                return self.text_until(ends, self._text(node, where))
            case "triggered_tags":
                return self._triggered(node, ends, where, depth, last=last)
            case "sequence":
                return self._sequence(node, ends, where, depth, last=last)
            case "or":
                self._known(node, "type", "elements")
                elements = self._list(node, "elements", where)
                ways = [
                    self._format(element, ends, f"{where}.elements[{i}]", depth + 1, last=last)
                    for i, element in enumerate(elements)
                ]
                return f"({' | '.join(ways)})"
            case "tag":
                return self._followed(self._tag(node, where, depth, last=last and not ends), ends)
            case "tags_with_separator":
                return self._followed(self._separated(node, where, depth), ends)
            case "optional" | "plus" | "star" | "repeat" as kind:
                return self._followed(self._repeated(node, kind, where, depth), ends)
        return self._followed(self._leaf(node, where), ends)

    # --- single formats ---------------------------------------------------------------------------

    def _leaf(self, node: Format, where: str) -> str:
        match node.get("type"):
            case "const_string":
                self._known(node, "type", "value")
                return self.literal(self._string(node, "value", where))
            case "json_schema":
                self._known(node, "type", "json_schema", "style", "any_order", "strict")
                if node.get("style", "json") != "json" or node.get("any_order", False) is not False:
                    raise self._error(f"{where}: only style json is supported, and no any_order")
                return self._json(node, where)
            case "regex":
                self._known(node, "type", "pattern")
                pattern = self._string(node, "pattern", where)
                return terminal(pattern) if pattern else '""'
            case "grammar":
                self._known(node, "type", "grammar")
                name = f"grammar_{len(self.grammars)}"
                self.grammars[name] = self._grammar(self._string(node, "grammar", where))
                return f"@{name}"
            case kind:
                shown = str(kind)[:40]
                raise self._error(f"{where}: the type {shown!r} is not supported")

    def _json(self, node: Format, where: str) -> str:
        schema, strict = node.get("json_schema"), node.get("strict", True)
        if not isinstance(schema, dict | bool) or not isinstance(strict, bool):
            raise self._error(f"{where} needs a json_schema")
        own = replace(
            self._output,
            structural_tag=None,
            preamble=None,
            json_schema=json.dumps(schema),
            best_effort=self._output.best_effort or not strict,
        )
        return f"%json {compiler_schema(own)}"

    def _text(self, node: Format, where: str) -> str:
        """The terminal of free text that contains none of the format's ``excludes``.

        ``unlike`` is this server's own: an expression that no such text matches as a whole.
        """
        for limit in ("max_tokens", "max_chars"):
            if node.get(limit) is not None:
                raise self._error(f"{where}: {limit} is not supported")
        unlike = [f"(.|\\n)*{re.escape(text)}(.|\\n)*" for text in self._strings(node, "excludes", where)]
        if node.get("unlike") is not None:
            unlike.append(self._string(node, "unlike", where))
        if not unlike:
            return "TEXT"
        expressions = [f"~{terminal(expression)}" for expression in unlike]
        return self._rule(" & ".join(["/(.|\\n)*/", *expressions]), prefix="TEXT")

    # --- formats of formats -----------------------------------------------------------------------

    def _sequence(self, node: Format, ends: Ends, where: str, depth: int, *, last: bool) -> str:
        self._known(node, "type", "elements")
        elements = self._list(node, "elements", where)
        parts, taken = [], False
        for i, element in enumerate(elements):
            if taken:  # the text before has gone on up to this one
                taken = False
                continue
            final = i == len(elements) - 1
            follows: Ends = ends if final else ()
            following = None if final else elements[i + 1]
            if _is_free(element) and isinstance(following, dict) and following.get("type") == "const_string":
                follows = (self._string(following, "value", f"{where}.elements[{i + 1}]"),)
                taken = True
                final = i == len(elements) - 2
            place = f"{where}.elements[{i}]"
            parts.append(self._format(element, follows, place, depth + 1, last=last and final and not taken))
            if taken and final:
                parts.append(self._one_of(ends))
        return f"({' '.join(filter(None, parts))})"

    def _tag(self, node: Format, where: str, depth: int, begun: int = 0, *, last: bool = False) -> str:
        """A tag, of whose ``begin`` so many characters are there already."""
        self._known(node, "type", "begin", "content", "end")
        begin = self._string(node, "begin", where)
        given = node.get("end")
        ends = given if isinstance(given, list) else [given]
        if not ends or not all(isinstance(end, str) for end in ends) or (len(ends) > 1 and "" in ends):
            raise self._error(f"{where}.end must be a text, or a list of texts that are not empty")
        content = self._format(
            node.get("content"), tuple(filter(None, ends)), f"{where}.content", depth + 1, last=last
        )
        opened = self.literal(begin[begun:]) if begin[begun:] else ""
        return " ".join(filter(None, [opened, content]))

    def _triggered(self, node: Format, ends: Ends, where: str, depth: int, *, last: bool) -> str:
        self._known(node, "type", "triggers", "tags", "at_least_one", "stop_after_first", "excludes")
        triggers = self._strings(node, "triggers", where)
        if not triggers:
            raise self._error(f"{where}.triggers must be a list of texts")
        tags = [self._object(tag, f"{where}.tags[{i}]") for i, tag in enumerate(self._tags(node, where))]
        begins = [self._string(tag, "begin", f"{where}.tags[{i}]") for i, tag in enumerate(tags)]
        text = self._text({"excludes": node.get("excludes", [])}, where)
        first, once = self._flag(node, "at_least_one"), self._flag(node, "stop_after_first")
        if not (first and once):
            self._check_followed(ends, where, last)

        def bodies(chosen: Iterable[int], begun: int) -> str:
            made = [
                self._tag({"type": "tag", **tags[i]}, f"{where}.tags[{i}]", depth + 1, begun) for i in chosen
            ]
            return " | ".join(made)

        # The longest trigger that fits decides, so that one may begin with another.
        waiting, ways = list(range(len(tags))), []
        for trigger in sorted(triggers, key=len, reverse=True):
            mine = [i for i in waiting if begins[i].startswith(trigger)]
            waiting = [i for i in waiting if i not in mine]
            if not mine:
                continue
            before = self._rule(f"{text} {_quoted(trigger)}", "[lazy]")
            ways.append(f"{before} ({bodies(mine, len(trigger))})")
            for token in {special for i in mine if (special := self._special_prefix(begins[i]))}:
                if token.startswith(trigger):
                    those = [i for i in mine if begins[i].startswith(token)]
                    ways.append(f"{text} {self.literal(token)} ({bodies(those, len(token))})")
        if waiting:
            raise self._error(f"the tag that begins with {begins[waiting[0]][:100]!r} begins with no trigger")
        tagged = self._rule(" | ".join(ways))
        start = self._rule(bodies(range(len(tags)), 0)) if first else ""
        if once:
            only = self._followed(start if first else tagged, ends)
            return only if first else f"({only} | {self.text_until(ends, text)})"
        return " ".join(filter(None, [start, f"{tagged}*", self.text_until(ends, text)]))

    def _separated(self, node: Format, where: str, depth: int) -> str:
        self._known(node, "type", "tags", "separator", "at_least_one", "stop_after_first")
        tags = self._tags(node, where)
        ways = [
            self._tag({"type": "tag", **self._object(tag, place)}, place, depth + 1)
            for i, tag in enumerate(tags)
            if (place := f"{where}.tags[{i}]")
        ]
        tag = self._rule(" | ".join(ways))
        separator = self._string(node, "separator", where)
        more = "" if self._flag(node, "stop_after_first") else f" ({self.literal(separator)} {tag})*"
        return f"({tag}{more})" if self._flag(node, "at_least_one") else f"({tag}{more})?"

    def _repeated(self, node: Format, kind: str, where: str, depth: int) -> str:
        self._known(node, "type", "content", *(("min", "max") if kind == "repeat" else ()))
        inner = f"({self._format(node.get('content'), (), f'{where}.content', depth + 1)})"
        if kind != "repeat":
            return inner + {"optional": "?", "plus": "+", "star": "*"}[kind]
        low, high = node.get("min"), node.get("max")
        for count in (low, high):
            if isinstance(count, bool) or not isinstance(count, int) or count > _MAX_REPEAT:
                raise self._error(f"{where} needs min and max, integers of at most {_MAX_REPEAT}")
        assert isinstance(low, int) and isinstance(high, int)
        if low < 0 or (high != -1 and high < low):
            raise self._error(f"{where}: min must be 0 at least, and max -1 or no less than min")
        return f"{inner}{{{low},{'' if high == -1 else high}}}"

    # --- pieces -----------------------------------------------------------------------------------

    def _followed(self, expression: str, ends: Ends) -> str:
        return f"{expression} {self._one_of(ends)}" if ends else expression

    def _one_of(self, ends: Ends) -> str:
        return f"({' | '.join(map(self.literal, ends))})" if ends else ""

    def _special_prefix(self, text: str) -> str | None:
        found = self._any_special.match(text)
        return found[0] if found else None

    def _rule(self, expression: str, attributes: str = "", *, prefix: str = "rule") -> str:
        name = f"{prefix}_{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {expression}")
        return name

    # --- checks -----------------------------------------------------------------------------------

    def _error(self, why: str) -> InvalidRequestError:
        param = self._output.param
        return InvalidRequestError(f"{param}: the structural_tag cannot be honoured: {why}", param)

    def _check_followed(self, ends: Ends, where: str, last: bool) -> None:
        if not ends and not last:
            raise self._error(
                f"{where}: free text must be the last, or be followed by a text (a tag's end, a const_string)"
            )

    def _known(self, node: Format, *names: str) -> None:
        if unknown := sorted(node.keys() - set(names)):
            raise self._error(f"{str(unknown[0])[:40]!r} is not known beside {', '.join(names)}")

    def _object(self, value: Any, where: str) -> Format:
        if not isinstance(value, dict):
            raise self._error(f"{where} must be an object")
        return value

    def _string(self, node: Format, name: str, where: str) -> str:
        value = node.get(name)
        if not isinstance(value, str):
            raise self._error(f"{where}.{name} must be a text")
        return value

    def _list(self, node: Format, name: str, where: str) -> Sequence[Any]:
        value = node.get(name)
        if not isinstance(value, list) or not value:
            raise self._error(f"{where}.{name} must be a list that is not empty")
        return value

    def _tags(self, node: Format, where: str) -> Sequence[Any]:
        tags = self._list(node, "tags", where)
        if len(tags) > _MAX_TAGS:
            raise self._error(f"{where}.tags must be a list of 1 to {_MAX_TAGS} tags")
        return tags

    def _strings(self, node: Format, name: str, where: str) -> list[str]:
        value = node.get(name, [])
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            raise self._error(f"{where}.{name} must be a list of texts")
        if len(value) > _MAX_TAGS:
            raise self._error(f"{where}.{name} must be a list of at most {_MAX_TAGS} texts")
        return value

    def _flag(self, node: Format, name: str) -> bool:
        value = node.get(name, False)
        if not isinstance(value, bool):
            raise self._error(f"{name} must be true or false")
        return value


def _is_free(node: Any) -> bool:
    return isinstance(node, dict) and node.get("type") in ("any_text", "triggered_tags")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
