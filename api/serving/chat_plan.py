"""What a chat request comes to: the prompt, the sampling parameters, and how its answers are read.

All endpoints that hold conversations start here. Knows requests; does not know the shapes of their answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from api.errors import bad_request
from api.protocol.chat import ChatCompletionRequest
from api.protocol.unsupported import check_fields
from api.serving.context import ServerContext
from api.serving.prompts import Prompt
from api.serving.reading import Reading
from api.serving.sampling import chat_params, check_stream_fields
from api.serving.template_kwargs import adopt_template_kwargs
from api.serving.tools import read_tools
from vllm_jax.sampling_params import SamplingParams


@dataclass(frozen=True)
class ChatPlan:
    """A chat request that can be started. ``model`` is the served name."""

    model: str
    prompt: Prompt
    params: SamplingParams
    reading: Reading


async def plan_chat(
    context: ServerContext, body: ChatCompletionRequest, request_id: str, *, strict: bool
) -> ChatPlan:
    """Checks a chat request (mutates ``body``: see :func:`adopt_template_kwargs`) and makes its prompt.

    ``strict`` refuses unknown fields.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field is named.
    """
    check_fields(body, request_id, strict=strict)
    adopt_template_kwargs(body)
    model = context.models.resolve(body.model)
    check_stream_fields(body)
    params = chat_params(body, context.engine.info, turn_end_ids=context.prompts.turn_end_ids)
    tools = read_tools(body)
    if body.use_beam_search and tools.mode != "none":
        field = "functions" if tools.legacy else "tools"
        raise bad_request(f"{field} cannot be combined with use_beam_search.", field)
    shown = tools.declared
    if tools.mode == "none" and (
        context.config.api.exclude_tools_when_tool_choice_none or not context.prompts.template_knows_tools
    ):
        shown = ()  # the built-in explanation would invite to call them
    prompt = await context.prompts.chat(body, [tool.declared for tool in shown] or None)
    reading = Reading.of(body, tools, context.formats, prompt.text or "")
    reading, params = reading.constrain(params, context.engine.tokenizer)
    return ChatPlan(model, prompt, params, reading)
