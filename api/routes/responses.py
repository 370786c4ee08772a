"""``/v1/responses``: create, count, retrieve, cancel, delete, and list the input of stored ones."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Response as HttpResponse

from api.limits import StrictRoute
from api.protocol.responses import DeletedResponse, InputItemList, InputTokenCount, Response, ResponsesRequest
from api.routes.answers import ERRORS, GENERATION_ERRORS, with_stream
from api.serving import responses as serving
from api.serving.context import ServerContext, get_context

router = APIRouter(route_class=StrictRoute, tags=["OpenAI"], prefix="/v1/responses")

_Context = Annotated[ServerContext, Depends(get_context)]


@router.post(
    "",
    response_model=None,
    responses={200: with_stream(Response), **GENERATION_ERRORS},
    summary="Answer a list of items",
)
async def create_response(body: ResponsesRequest, request: Request, context: _Context) -> HttpResponse:
    """One response, whole or, with ``stream``, as typed events; with ``background`` it is made later."""
    return await serving.create_response(context, body, request)


@router.post("/input_tokens", summary="Count a request's prompt tokens", responses=ERRORS)
async def count_input_tokens(body: ResponsesRequest, request: Request, context: _Context) -> InputTokenCount:
    """Tokens of the prompt that the same request to /v1/responses would have."""
    return InputTokenCount(input_tokens=await serving.count_input_tokens(context, body, request))


@router.get(
    "/{response_id}",
    response_model=None,
    responses={200: with_stream(Response), **ERRORS},
    summary="Show a stored response",
)
async def retrieve_response(
    response_id: str,
    request: Request,
    context: _Context,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=-1)] = None,
) -> HttpResponse:
    """A stored response; with ``stream`` the events of one that is made in the background."""
    return serving.retrieve_response(
        context, response_id, request, stream=stream, starting_after=starting_after
    )


@router.post("/{response_id}/cancel", summary="End a background response", responses=ERRORS)
async def cancel_response(response_id: str, request: Request, context: _Context) -> Response:
    """Ends a response that is made in the background; one that has ended stays as it is."""
    return await serving.cancel_response(context, response_id, request)


@router.delete("/{response_id}", summary="Forget a stored response", responses=ERRORS)
async def delete_response(response_id: str, request: Request, context: _Context) -> DeletedResponse:
    """Forgets a stored response."""
    await serving.delete_response(context, response_id, request)
    return DeletedResponse(id=response_id)


@router.get("/{response_id}/input_items", summary="List a stored response's input", responses=ERRORS)
async def list_input_items(
    response_id: str,
    request: Request,
    context: _Context,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> InputItemList:
    """The items that the request itself brought, a page at a time."""
    return serving.list_input_items(context, response_id, request, limit=limit, order=order, after=after)
