"""Messages to prompt text, through a model's Jinja template.

Knows where templates come from, in which order, and what a request may hand to one. Rendering is
transformers' own (its sandbox, its filters, its ``continue_final_message``). Does not know HTTP. The
prompt is returned exactly as rendered: nothing strips text, since a model may answer with a leading space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.meta
from jinja2 import nodes

from vllm_jax.errors import ConfigError, InvalidRequestError
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.builtin_templates import BUILTIN_TEMPLATES, TRANSCRIPT, BuiltinTemplate
from vllm_jax.tokenizer.files import TokenizerFiles, one_line
from vllm_jax.tokenizer.messages import ContentFormat, prepare_messages
from vllm_jax.tokenizer.tools_prompt import explain_tools, tell_calls

TemplateSource = Literal["explicit", "model", "builtin", "default"]

RESERVED_KWARGS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "conversations",
        "documents",
        "messages",
        "return_assistant_tokens_mask",
        "tokenize",
        "tools",
    }
)
"""What a template gets from the renderer, whatever ``chat_template_kwargs`` say."""
_IGNORED_KWARGS = frozenset({"return_assistant_tokens_mask"})
"""Those that change nothing of a prompt; the others would, and are refused."""


@dataclass(frozen=True, slots=True)
class _Program:
    """A compiled template and what its syntax tree tells."""

    text: str
    variables: frozenset[str]
    content_format: ContentFormat
    knows_developer: bool
    knows_tools: bool
    knows_calls: bool

    @classmethod
    def compile(cls, text: str, source: TemplateSource) -> _Program:
        try:
            compiled = _compile(text)
        except jinja2.TemplateError as error:
            line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise ConfigError(f"the {source} chat template is not valid{line}: {one_line(error)}") from error
        tree = compiled.environment.parse(text)
        used = jinja2.meta.find_undeclared_variables(tree)
        return cls(
            text=text,
            variables=frozenset(used - compiled.environment.globals.keys() - RESERVED_KWARGS),
            content_format=_content_format(tree),
            knows_developer=any(constant.value == "developer" for constant in tree.find_all(nodes.Const)),
            knows_tools="tools" in used,
            knows_calls="tools" in used or _reads(tree, "tool_calls"),
        )


class ChatTemplate:
    """A chosen template, compiled once and rendered from any thread.

    ``source`` tells where it came from: the operator ("explicit"), the tokenizer's directory ("model"), the
    registry of models that have none ("builtin"), or nowhere: then the "default" transcript serves, and the
    server should say so once, naming --chat-template. ``stop_tokens`` end the assistant's turn where the
    template's own format says so and the model's configuration may not.
    """

    def __init__(
        self,
        template: str,
        *,
        source: TemplateSource = "explicit",
        tool_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
        content_format: Literal["auto", "string", "openai"] = "auto",
        stop_tokens: Sequence[str] = (),
    ):
        """Compiles ``template``, and ``tool_template`` for requests that have tools.

        ``special_tokens`` ({"bos_token": ...}) are variables of the template. ``content_format`` "auto"
        takes what the template reads.

        Raises:
            ConfigError: a template is not valid Jinja; the text says where.
        """
        self.source = source
        self.stop_tokens = tuple(stop_tokens)
        self._program = _Program.compile(template, source)
        self._tool_program = self._program
        if tool_template is not None:
            self._tool_program = _Program.compile(tool_template, source)
        self._special_tokens = dict(special_tokens or {})
        self._content_format = content_format

    @property
    def is_default(self) -> bool:
        """Whether the model has no template and the plain transcript serves."""
        return self.source == "default"

    @property
    def text(self) -> str:
        """The template itself."""
        return self._program.text

    @property
    def knows_tools(self) -> bool:
        """Whether the template reads the tools of a request; otherwise the built-in prompt explains them."""
        return self._tool_program.knows_tools

    @property
    def tool_text(self) -> str:
        """The template that serves requests with tools."""
        return self._tool_program.text

    def template_variables(self) -> frozenset[str]:
        """Returns the names a request may set with ``chat_template_kwargs``: those the template reads."""
        return self._program.variables | self._tool_program.variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns the prompt for ``messages``.

        A template that knows nothing of tools gets them, their calls and results as text, by
        :mod:`vllm_jax.tokenizer.tools_prompt`.

        Tokenize it with ``add_special_tokens=False``: templates write special tokens themselves.
        ``continue_final_message`` leaves the last message open for the model to go on with. Of
        ``template_kwargs``, those the template does not read are left out.

        Raises:
            InvalidRequestError: the messages are malformed, the template refuses them, options contradict
                each other, or a reserved name is in ``template_kwargs``; ``param`` names the field.
        """
        if add_generation_prompt and continue_final_message:
            raise InvalidRequestError(
                "add_generation_prompt and continue_final_message cannot both be true",
                "continue_final_message",
            )
        kwargs = dict(template_kwargs or {})
        if reserved := sorted((RESERVED_KWARGS - _IGNORED_KWARGS) & kwargs.keys()):
            raise InvalidRequestError(
                f"chat_template_kwargs must not contain {', '.join(reserved)}", "chat_template_kwargs"
            )
        program = self._program if tools is None else self._tool_program
        content_format = program.content_format if self._content_format == "auto" else self._content_format
        prepared = prepare_messages(messages, content_format, knows_developer=program.knows_developer)
        variables = self._special_tokens | {k: v for k, v in kwargs.items() if k in program.variables}
        tool_list, document_list = _objects(tools, "tools"), _objects(documents, "documents")
        if not program.knows_calls:
            prepared = tell_calls(prepared)
        if tool_list and not program.knows_tools:
            prepared = explain_tools(prepared, tool_list)

        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered: Any = render_jinja_template(
                conversations=[prepared],
                tools=tool_list,
                documents=document_list,
                chat_template=program.text,
                continue_final_message=continue_final_message,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except Exception as error:  # a template is a program: it can fail in any way
            raise InvalidRequestError(
                f"the chat template cannot render these messages: {one_line(error)}", "messages"
            ) from error
        prompts, _ = rendered  # one prompt a conversation, and where the assistant's parts are
        return prompts[0]


def load_chat_template(
    tokenizer: Tokenizer,
    explicit: str | None = None,
    *,
    model_type: str | None = None,
    model_name: str = "",
    content_format: Literal["auto", "string", "openai"] = "auto",
) -> ChatTemplate:
    """Chooses the chat template of a model.

    The order: ``explicit`` (--chat-template: a file, the text of a template, or the name of one of the
    tokenizer's), the tokenizer's own ("tool_use" serves requests with tools), the built-in one for
    ``model_type`` and ``model_name``, and last the plain transcript (then ``is_default`` is set).

    Raises:
        ConfigError: the chosen template cannot be read or is not valid Jinja.
    """
    tool_template: str | None = None
    stop_tokens: tuple[str, ...] = ()
    source: TemplateSource
    if explicit is not None:
        source, template = "explicit", tokenizer.get_chat_template(explicit) or _read_explicit(explicit)
    elif (own := tokenizer.get_chat_template("default")) is not None:
        source, template, tool_template = "model", own, tokenizer.get_chat_template("tool_use")
    elif (builtin := _find_builtin(tokenizer, model_type, model_name)) is not None:
        source, template, stop_tokens = "builtin", builtin.template, builtin.stop_tokens
    else:
        source, template = "default", TRANSCRIPT
    return ChatTemplate(
        template,
        source=source,
        tool_template=tool_template,
        special_tokens=tokenizer.special_tokens,
        content_format=content_format,
        stop_tokens=stop_tokens,
    )


def request_chat_template(
    tokenizer: Tokenizer,
    template: str,
    *,
    content_format: Literal["auto", "string", "openai"] = "auto",
) -> ChatTemplate:
    """Makes the template that a trusted request brings along. It is never taken for the name of a file.

    Raises:
        InvalidRequestError: it is not valid Jinja; ``param`` is "chat_template".
    """
    try:
        return ChatTemplate(template, special_tokens=tokenizer.special_tokens, content_format=content_format)
    except ConfigError as error:
        raise InvalidRequestError(str(error), "chat_template") from error


def check_chat_template(explicit: str, tokenizer_directory: Path | None) -> None:
    """Checks what can be checked of ``explicit`` before there is a tokenizer; see :func:`load_chat_template`.

    A word that is no file may be the name of one of the tokenizer's templates. ``tokenizer_directory``, where
    it is known, tells; without it such a word passes here.

    Raises:
        ConfigError: it can be no chat template: neither a file nor such a name, or not valid Jinja.
    """
    is_word = not any(character in explicit for character in "{}\n/.") and not Path(explicit).exists()
    if is_word and (
        tokenizer_directory is None or explicit in TokenizerFiles.read(tokenizer_directory).chat_templates
    ):
        return
    _Program.compile(_read_explicit(explicit), "explicit")


def _read_explicit(explicit: str) -> str:
    """Returns the template in the file ``explicit``, or ``explicit`` itself where it is one."""
    if any(character in explicit for character in "{}\n"):
        return explicit
    try:
        return Path(explicit).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--chat-template {explicit!r} is neither a file nor the text of a template: {one_line(error)}"
        ) from error


def _find_builtin(tokenizer: Tokenizer, model_type: str | None, model_name: str) -> BuiltinTemplate | None:
    base_name = model_name.rstrip("/").rsplit("/", 1)[-1]
    for candidate in BUILTIN_TEMPLATES:
        if (
            candidate.model_type in (None, model_type)
            and candidate.name.search(base_name)
            and all(tokenizer.token_to_id(token) is not None for token in candidate.tokens)
        ):
            return candidate
    return None


def _compile(template: str) -> jinja2.Template:
    from transformers.utils.chat_template_utils import _compile_jinja_template  # cached there by text

    return _compile_jinja_template(template)


def _objects(values: Sequence[Mapping[str, Any]] | None, param: str) -> list[Any] | None:
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, Mapping) for value in values):
        raise InvalidRequestError(f"{param} must be a list of objects", param)
    return [dict(value) for value in values]


def _reads(tree: nodes.Template, key: str) -> bool:
    """Whether a template reads ``x.key`` or ``x['key']`` of anything."""
    return any(attribute.attr == key for attribute in tree.find_all(nodes.Getattr)) or any(
        isinstance(item.arg, nodes.Const) and item.arg.value == key for item in tree.find_all(nodes.Getitem)
    )


def _content_format(tree: nodes.Template) -> ContentFormat:
    """Tells from a template's syntax tree which content it reads.

    A template that loops over a message's content (or over a variable or macro argument that holds it)
    reads parts; if it also asks whether something "is string", it reads both.
    """
    aliases: set[str] = set()

    def is_content(node: nodes.Node) -> bool:
        if isinstance(node, nodes.Name):
            return node.name in aliases
        if isinstance(node, nodes.Getattr):
            return node.attr == "content"
        if isinstance(node, nodes.Getitem):
            if isinstance(node.arg, nodes.Const):
                return node.arg.value == "content"
            return isinstance(node.arg, nodes.Slice) and is_content(node.node)
        return isinstance(node, nodes.Filter) and node.node is not None and is_content(node.node)

    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    known = -1
    while known < len(aliases):  # an alias can be made of an alias
        known = len(aliases)
        for assignment in tree.find_all(nodes.Assign):
            if isinstance(assignment.target, nodes.Name) and is_content(assignment.node):
                aliases.add(assignment.target.name)
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in macros:
                arguments = zip(macros[call.node.name].args, call.args, strict=False)
                aliases.update(name.name for name, value in arguments if is_content(value))
    if not any(is_content(loop.iter) for loop in tree.find_all(nodes.For)):
        return "string"
    return "either" if any(test.name == "string" for test in tree.find_all(nodes.Test)) else "openai"
