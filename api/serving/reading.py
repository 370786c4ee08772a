"""How the answers to a chat request are read: which format tells reasoning and calls from text.

Knows formats, tools and where a grammar may begin. Does not know the shapes of any endpoint: what it finds is
:mod:`api.parsers.events`, and /v1/chat/completions, /v1/responses and /v1/messages show it in their own ways.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass

from api.errors import bad_request
from api.parsers.answer import AnswerParser
from api.parsers.enforced import answer_or_calls, named_call, required_calls
from api.parsers.events import CallArguments, CallEnd, CallStart, Content, Event, Parser, Reasoning
from api.parsers.harmony import harmony
from api.parsers.reasoning.thinking import Opening, thinking
from api.parsers.registry import (
    LETTERS,
    REASONING_FORMATS,
    TOOL_FORMATS,
    ReasoningFormat,
    ToolFormat,
    detect_reasoning_format,
    detect_tool_format,
)
from api.parsers.source import SourceParser
from api.protocol.chat import ChatCompletionRequest, ChatFinishReason
from api.server_config import ApiConfig
from api.serving.tool_schemas import arguments_schema, call_forms, calls_schema, schema_or_calls
from api.serving.tools import ToolRequest
from vllm_jax.outputs import FinishReason
from vllm_jax.sampling_params import SamplingParams, StructuredOutput
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.chat_template import ChatTemplate
from vllm_jax.tokenizer.messages import content_text


@dataclass(frozen=True, slots=True)
class AnswerFormats:
    """What the served model writes; None where it is not told apart."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None

    @classmethod
    def choose(cls, config: ApiConfig, template: ChatTemplate | None) -> AnswerFormats:
        """The flags' formats; "auto" asks the template."""
        tools, reasoning = TOOL_FORMATS.get(config.tool_call_parser), None
        if config.tool_call_parser == "auto" and template is not None:
            tools = detect_tool_format(template)
        if config.reasoning_parser == "auto":
            reasoning = detect_reasoning_format(template) if template is not None else None
        else:
            reasoning = REASONING_FORMATS.get(config.reasoning_parser)
        return cls(tools if config.enable_auto_tool_choice else None, reasoning)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers to one request are read.

    ``either`` means that a grammar enforces the answer's form and leaves room for calls in its place.
    """

    tools: ToolRequest
    formats: AnswerFormats
    opening: Opening = "unsaid"
    include_reasoning: bool = True
    either: bool = False

    @classmethod
    def of(
        cls, body: ChatCompletionRequest, tools: ToolRequest, formats: AnswerFormats, prompt: str
    ) -> Reading:
        """The reading of a request's answers, by what its prompt has begun already."""
        opening: Opening = "unsaid"
        if formats.reasoning is not None and formats.reasoning.marks is not None:
            marks, last = formats.reasoning.marks, body.messages[-1]
            continues = body.continue_final_message or body.add_generation_prompt is False
            if continues and last.role == "assistant":
                opening = marks.opening_within(content_text(last.content))
            else:
                opening = marks.opening(prompt)
        return cls(tools, formats, opening, body.include_reasoning is not False)

    # --- generation -------------------------------------------------------------------------------

    def constrain(
        self, params: SamplingParams, tokenizer: Tokenizer | None
    ) -> tuple[Reading, SamplingParams]:
        """The parameters with what the tools enforce, and with the marks of the formats in the text.

        A form that the request asks for holds behind the reasoning, and leaves the model free to call a tool.

        Raises:
            ApiError: 400, calls cannot be allowed beside the form that the request asks for.
        """
        reading, output = self, params.structured_output
        if self.tools.enforced:
            self._check_format(output)
            output = self._enforced()
        elif self.tools.mode == "auto" and output is not None:
            reading, output = dataclasses.replace(self, either=True), self._either(output)
        elif self._reads_calls and any(tool.strict for tool in self.tools.callable):
            output = self._strict_calls()
        if output is not None:
            output = self._behind_reasoning(output)
        return reading, dataclasses.replace(
            params, structured_output=output, shown_special_token_ids=self._shown(tokenizer)
        )

    def _check_format(self, output: StructuredOutput | None) -> None:
        """What calls leave no room for. JSON of ``response_format`` is about content, which may stay away."""
        as_with_openai = output is not None and (output.json_object or output.json_schema is not None)
        if output is None or (output.param == "response_format" and as_with_openai):
            return
        choice = "function_call" if self.tools.legacy else "tool_choice"
        raise bad_request(
            f"{output.param} or tools that {choice} makes the model call, not both: there is one answer, and "
            "calls have a form of their own.",
            output.param,
        )

    def _enforced(self) -> StructuredOutput:
        if self.tools.mode == "named":
            schema = arguments_schema(self.tools.callable[0])
        else:
            schema = calls_schema(self.tools)
        return StructuredOutput(
            json_schema=schema,
            whitespace_flexible=False,
            disable_additional_properties='"allOf"' not in schema,  # its parts add properties to each other
            best_effort=not any(tool.strict for tool in self.tools.callable),
            param="functions" if self.tools.legacy else "tools",
        )

    def _strict_calls(self) -> StructuredOutput:
        """Free text, and calls that satisfy the schemas."""
        field, format = "functions" if self.tools.legacy else "tools", self.formats.tools
        assert format is not None
        if format.strict is None:
            raise bad_request(
                f'{field}: strict cannot be honoured with tool_choice "auto", since calls of the format '
                f'{format.name!r} cannot be constrained. Leave strict out, or send tool_choice "required".',
                field,
            )
        tag = json.dumps({"format": format.strict(call_forms(self.tools), self.tools.parallel)})
        marks = None if self.formats.reasoning is None else self.formats.reasoning.marks
        return StructuredOutput(
            structural_tag=tag,
            whitespace_pattern=" ?",
            disable_additional_properties='"allOf"' not in tag,
            preamble=(marks.start, marks.end) if marks is not None and self.opening == "unsaid" else None,
            param=field,
        )

    def _either(self, output: StructuredOutput) -> StructuredOutput:
        if output.json_object:
            schema: object = {"type": "object"}
        elif output.json_schema is not None:
            schema = json.loads(output.json_schema)
        else:
            raise bad_request(
                f'{output.param} of this kind does not go with tool_choice "auto": the model could call no '
                'tool. Send tool_choice "none" or "required", or a JSON schema.',
                output.param,
            )
        both = schema_or_calls(schema, self.tools)
        return dataclasses.replace(output, json_object=False, json_schema=both)

    def _behind_reasoning(self, output: StructuredOutput) -> StructuredOutput:
        """The constraint, to begin where the reasoning has ended."""
        reasoning = self.formats.reasoning
        if reasoning is None or (reasoning.marks is not None and self.opening == "closed"):
            return output
        if reasoning.marks is None or self.opening == "open" or output.grammar is not None:
            return dataclasses.replace(output, after=reasoning.end)
        if output.structural_tag is not None:  # the client's free text, or it has its preamble
            return output
        return dataclasses.replace(output, preamble=(reasoning.marks.start, reasoning.marks.end))

    def _shown(self, tokenizer: Tokenizer | None) -> list[int]:
        if tokenizer is None:
            return []
        markers: set[str] = set()
        if self.formats.reasoning is not None:
            markers.update(self.formats.reasoning.markers)
        if self._reads_calls:
            markers.update(self.formats.tools.markers)  # type: ignore[union-attr]
        ids = {tokenizer.token_to_id(marker) for marker in markers}
        return sorted(i for i in ids if i is not None and i in tokenizer.special_token_ids)

    # --- answers ----------------------------------------------------------------------------------

    @property
    def _reads_calls(self) -> bool:
        """Whether calls are looked for in free text."""
        return self.tools.mode == "auto" and not self.either and self.formats.tools is not None

    @property
    def only_content(self) -> bool:
        """Whether all of an answer's text is content."""
        return not (self.formats.reasoning or self.tools.enforced or self.either or self._reads_calls)

    def parser(self) -> Parser | None:
        """A fresh parser for one answer; None where all of it is content."""
        if self.only_content:
            return None
        stages: list[Parser] = []
        reasoning, format = self.formats.reasoning, self.formats.tools
        in_harmony = reasoning is not None and reasoning.marks is None
        if reasoning is not None and reasoning.marks is not None:
            marks = reasoning.marks
            stages.append(SourceParser(lambda source: thinking(source, marks, self.opening)))
        elif in_harmony:
            calls = self.tools.enforced or self.tools.mode == "auto"
            stages.append(SourceParser(lambda source: harmony(source, calls=calls)))
        if self.tools.mode == "named":
            stages.append(SourceParser(named_call(self.tools.callable[0].name)))
        elif self.tools.mode == "required":
            stages.append(SourceParser(required_calls(self.tools.names)))
        elif self.either:
            stages.append(SourceParser(answer_or_calls(self.tools.names)))
        elif self._reads_calls and format is not None and not (in_harmony and format.name == "openai"):
            stages.append(SourceParser(lambda source: format.parse(source, self.tools.schemas)))
        return AnswerParser(stages)

    def call_id(self) -> str:
        """A fresh id of a call, such as the model's template takes."""
        length = self.formats.tools.id_length if self.formats.tools is not None else None
        if length is not None:
            return "".join(secrets.choice(LETTERS) for _ in range(length))
        return f"call_{secrets.token_hex(12)}"


class AnswerReader:
    """Reads one of the ``n`` answers to a request while it is written.

    An enforced call that is cut off before its end is no call. A stream has sent its beginning by then; where
    the answer is not ``streamed``, calls come when they are complete.
    """

    def __init__(self, reading: Reading, *, streamed: bool):
        self._reading = reading
        self._waits_for_ends = reading.tools.enforced and not streamed
        self._call: list[Event] = []  # the one that is waited for
        self._parser = reading.parser()
        self._calls = 0
        self._skipping = False  # inside a call beyond the one that is allowed
        self.called = False
        """Whether a call has begun."""

    def read(self, text: str, *, finished: bool) -> list[Event]:
        """What more of the answer says. A :class:`CallStart` has its id; there are no empty events."""
        if self._parser is None:
            return [Content(text)] if text else []
        events = self._parser.feed(text)
        if finished:
            events += self._parser.finish()
        shown = [kept for event in events if (kept := self._shown(event)) is not None]
        if self._waits_for_ends:
            shown = self._complete(shown)
        self.called = self.called or any(isinstance(event, CallStart) for event in shown)
        return shown

    def finish_reason(self, reason: FinishReason | None) -> ChatFinishReason | None:
        """The reason as clients expect it of an answer that calls tools: "tool_calls" or "function_call".

        The answer to a call by name stops with "stop", as OpenAI's does.
        """
        tools = self._reading.tools
        if reason != "stop" or not self.called or tools.mode == "named":
            return reason
        return "function_call" if tools.legacy else "tool_calls"

    def _shown(self, event: Event) -> Event | None:
        match event:
            case CallStart(name):
                self._skipping = self._calls > 0 and not self._reading.tools.parallel
                self._calls += not self._skipping
                return None if self._skipping else CallStart(name, self._reading.call_id())
            case CallEnd():
                return None if self._skipping else event
            case Content(text):
                return event if text else None
            case Reasoning(text):
                return event if text and self._reading.include_reasoning else None
        return None if self._skipping or not event.text else event

    def _complete(self, events: list[Event]) -> list[Event]:
        """The events without those of calls that have not come to their end."""
        complete: list[Event] = []
        for event in events:
            match event:
                case CallStart():
                    self._call = [event]
                case CallArguments():
                    self._call.append(event)
                case CallEnd():
                    complete += [*self._call, event] if event.complete else []
                case _:
                    complete.append(event)
        return complete
