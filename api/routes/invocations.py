"""``/invocations``: the one path that SageMaker calls; the body's shape says which endpoint is meant.

Knows which field marks which body. It is guarded by the API key like every inference path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.errors import bad_request
from api.limits import StrictRoute
from api.protocol.base import RequestModel
from api.protocol.chat import ChatCompletionRequest
from api.protocol.completions import CompletionRequest
from api.protocol.embeddings import EmbeddingRequest
from api.routes.answers import GENERATION_ERRORS
from api.serving.chat import create_chat_completion
from api.serving.completions import create_completion
from api.serving.context import ServerContext, get_context
from api.serving.embeddings import create_embeddings

router = APIRouter(route_class=StrictRoute, tags=["Operation"])

_Serve = Callable[[ServerContext, Any, Request], Awaitable[Response]]
_BODIES: dict[str, tuple[type[RequestModel], _Serve]] = {
    "messages": (ChatCompletionRequest, create_chat_completion),
    "prompt": (CompletionRequest, create_completion),
    "input": (EmbeddingRequest, create_embeddings),
}
"""The field that marks a body, its model, and the function that serves it."""


@router.post(
    "/invocations",
    response_model=None,
    responses=GENERATION_ERRORS,
    summary="A chat, a completion or embeddings, by the body's shape",
)
async def invocations(
    body: dict[str, Any], request: Request, context: Annotated[ServerContext, Depends(get_context)]
) -> Response:
    """``messages`` mark a chat completion, ``prompt`` a text completion, ``input`` texts to embed."""
    marks = [mark for mark in _BODIES if body.get(mark) is not None]
    if len(marks) != 1:
        raise bad_request(f"Send a body with exactly one of {', '.join(_BODIES)}.", "messages")
    model, serve = _BODIES[marks[0]]
    try:
        parsed = model.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    return await serve(context, parsed, request)
