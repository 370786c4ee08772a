"""The tools of a request: what it declares, which calls it allows, and the schemas that enforce them.

Knows OpenAI's shapes of ``tools``, ``tool_choice`` and the deprecated ``functions``. Does not know how a
model writes its calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from api.errors import bad_request, printable
from api.protocol.chat import ChatCompletionRequest

MAX_TOOLS_CHARS = 1 << 20
"""Characters of all tools together at most, written as JSON."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}

ToolMode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. ``parameters`` is the JSON schema of its arguments, an object's."""

    name: str
    parameters: Mapping[str, Any]
    declared: Mapping[str, Any]
    """The tool as a chat template gets it: as it was sent, with empty parameters where there were none."""
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """What a request says of tools.

    ``mode`` "named": exactly one call of the only tool in ``callable``. Without ``parallel`` there is at most
    one call. ``legacy``: the request said ``functions``, and gets ``function_call`` back.
    """

    declared: tuple[Tool, ...] = ()
    callable: tuple[Tool, ...] = ()
    mode: ToolMode = "none"
    parallel: bool = True
    legacy: bool = False

    @property
    def names(self) -> frozenset[str]:
        """Names of the tools that may be called."""
        return frozenset(tool.name for tool in self.callable)

    @property
    def schemas(self) -> dict[str, Mapping[str, Any]]:
        """The schemas of their arguments, by name."""
        return {tool.name: tool.parameters for tool in self.callable}

    @property
    def enforced(self) -> bool:
        """Whether the answer is calls and nothing else."""
        return self.mode in ("required", "named")


def read_tools(body: ChatCompletionRequest) -> ToolRequest:
    """Checks the tools of a request.

    Raises:
        ApiError: 400, they are malformed or contradict each other; the field is named.
    """
    legacy = body.functions is not None or body.function_call is not None
    if legacy:
        return _read_functions(body)
    choice = body.tool_choice
    if body.tools is None:
        if choice is not None and choice != "none":
            raise bad_request("tool_choice is only allowed when tools are given.", "tool_choice")
        return ToolRequest()
    tools = check_tools(body.tools)
    mode, chosen = _read_choice("auto" if choice is None else choice, tools)
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        tools = chosen  # the others are kept from the model altogether
    return ToolRequest(tools, chosen, mode, parallel=body.parallel_tool_calls is not False)


def check_tools(tools: Sequence[Mapping[str, Any]], param: str = "tools") -> tuple[Tool, ...]:
    """Checks declared tools. Raises ApiError (400): one is malformed; the text says which."""
    if not tools:
        raise bad_request(f"{param} must not be empty; leave the field out instead.", param)
    if len(json.dumps(tools)) > MAX_TOOLS_CHARS:
        raise bad_request(f"{param} must have at most {MAX_TOOLS_CHARS} characters of JSON.", param)
    checked = tuple(_check_tool(tool, f"tools[{i}]", param) for i, tool in enumerate(tools))
    names = [tool.name for tool in checked]
    for name in names:
        if names.count(name) > 1:
            raise bad_request(f"{param}: there are several functions with the name {name!r}.", param)
    return checked


def _check_tool(tool: Mapping[str, Any], where: str, param: str) -> Tool:
    kind = tool.get("type")
    if kind not in (None, "function"):
        raise bad_request(
            f'{where}.type must be "function", got {printable(repr(kind), 40)}: the server runs no tools.',
            param,
        )
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise bad_request(f"{where}.function must be an object.", param)
    where = f"{where}.function"
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad_request(
            f"{where}.name must be 1 to 64 letters, digits, underscores and hyphens, "
            f"got {printable(repr(name), 80)}.",
            param,
        )
    description, strict = function.get("description"), function.get("strict")
    if description is not None and not isinstance(description, str):
        raise bad_request(f"{where}.description must be a text.", param)
    if strict is not None and not isinstance(strict, bool):
        raise bad_request(f"{where}.strict must be true or false.", param)
    parameters = function.get("parameters")
    closed = parameters is None  # a function without parameters takes none
    if closed:
        parameters = _NO_PARAMETERS
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise bad_request(f'{where}.parameters must be a JSON schema of type "object".', param)
    given = {key: value for key, value in function.items() if value is not None}
    declared = {**tool, "type": "function", "function": {**given, "parameters": parameters}}
    return Tool(
        name, {**parameters, "additionalProperties": False} if closed else parameters, declared, bool(strict)
    )


def _read_choice(choice: Any, tools: tuple[Tool, ...]) -> tuple[ToolMode, tuple[Tool, ...]]:
    if choice in ("none", "auto", "required"):
        return choice, () if choice == "none" else tools
    if isinstance(choice, Mapping) and choice.get("type") in (None, "function"):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        return "named", (_find(name, tools, "tool_choice"),)
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        return _read_allowed(choice.get("allowed_tools"), tools)
    raise bad_request(
        'tool_choice must be "none", "auto", "required", or '
        '{"type": "function", "function": {"name": "…"}}, '
        f"got {printable(repr(choice) if isinstance(choice, str) else 'another object', 80)}.",
        "tool_choice",
    )


def _read_allowed(allowed: Any, tools: tuple[Tool, ...]) -> tuple[ToolMode, tuple[Tool, ...]]:
    """OpenAI's ``allowed_tools``: a mode, and the tools that may be called."""
    mode = allowed.get("mode") if isinstance(allowed, Mapping) else None
    entries = allowed.get("tools") if isinstance(allowed, Mapping) else None
    if mode not in ("auto", "required") or not isinstance(entries, list) or not entries:
        raise bad_request(
            'tool_choice.allowed_tools must have a mode ("auto" or "required") and tools.', "tool_choice"
        )
    if len(entries) > len(tools):  # each is looked up: a list without end would take as long
        raise bad_request("tool_choice.allowed_tools has more tools than there are.", "tool_choice")
    functions = [entry.get("function") if isinstance(entry, Mapping) else None for entry in entries]
    found = [
        _find(function.get("name") if isinstance(function, Mapping) else None, tools, "tool_choice")
        for function in functions
    ]
    return mode, tuple({tool.name: tool for tool in found}.values())


def _find(name: Any, tools: tuple[Tool, ...], param: str) -> Tool:
    for tool in tools:
        if tool.name == name:
            return tool
    shown = printable(repr(name) if isinstance(name, str) else "no name", 80)
    raise bad_request(f"{param} names {shown}, which is none of the tools given.", param)


def _read_functions(body: ChatCompletionRequest) -> ToolRequest:
    """The deprecated way: ``functions`` and ``function_call``."""
    if body.tools is not None or body.tool_choice is not None:
        raise bad_request("functions and function_call do not go with tools and tool_choice.", "functions")
    choice: Any = body.function_call
    if body.functions is None:
        if choice != "none":
            raise bad_request("function_call is only allowed when functions are given.", "function_call")
        return ToolRequest()
    tools = check_tools([{"type": "function", "function": f} for f in body.functions], "functions")
    if choice in (None, "auto"):
        return ToolRequest(tools, tools, "auto", parallel=False, legacy=True)
    if choice == "none":
        return ToolRequest(tools, (), "none", legacy=True)
    if isinstance(choice, Mapping):
        tool = _find(choice.get("name"), tools, "function_call")
        return ToolRequest(tools, (tool,), "named", parallel=False, legacy=True)
    raise bad_request('function_call must be "none", "auto" or {"name": "…"}.', "function_call")
