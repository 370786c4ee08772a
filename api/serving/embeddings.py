"""``/v1/embeddings``: the embedding of each input, on models that have a pooling."""

from __future__ import annotations

import base64
import time

import numpy as np
from fastapi import Request, Response

from api.errors import ApiError, bad_request
from api.protocol.completions import CompletionRequest
from api.protocol.embeddings import (
    MAX_INPUTS,
    Embedding,
    EmbeddingRequest,
    EmbeddingResponse,
    EmbeddingUsage,
)
from api.protocol.unsupported import report_unknown
from api.serving.answer import id_headers, json_response
from api.serving.context import ServerContext
from api.serving.request_id import choose_request_id
from api.serving.response_input import own_names
from api.serving.streams import collect, while_connected
from vllm_jax.outputs import RequestOutput
from vllm_jax.sampling_params import SamplingParams

_OWN_NAMES = {"prompt": "input", "input_tokens": "input"}


async def create_embeddings(context: ServerContext, body: EmbeddingRequest, request: Request) -> Response:
    """Answers a request for embeddings.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field is named.
        EngineDeadError: the engine has failed.
        ClientDisconnect: the client has gone; the request was aborted.
    """
    request_id = f"embd-{choose_request_id(request, body.request_id)}"
    report_unknown(body, request_id, strict=context.config.api.strict_params)
    model = context.models.resolve(body.model)
    info = context.engine.info
    if info.pooling is None:
        raise bad_request(
            f"The model `{model}` generates text and serves no embeddings. A model with a last-token pooling "
            "does; --runner pooling makes one of any model.",
            "model",
        )
    if body.messages is not None:
        raise bad_request("messages cannot be honoured: send the text itself as input.", "messages")
    normalize = _normalize(body, info.pooling.normalize)
    size = info.hidden_size if body.dimensions is None else body.dimensions
    if not 1 <= size <= info.hidden_size:
        raise bad_request(f"dimensions must be between 1 and {info.hidden_size}, got {size}.", "dimensions")
    as_prompts = _prompts(body)
    with own_names(_OWN_NAMES):
        prompts = await while_connected(
            request.receive, context.prompts.completion(as_prompts, most=MAX_INPUTS)
        )
        streams = await context.start(
            request, request_id, as_prompts, prompts, SamplingParams.for_embedding()
        )
    outputs = await while_connected(request.receive, collect(streams))
    whole = info.pooling.normalize
    data = [
        Embedding(index=i, embedding=_encoded(_vector(output, size, normalize, whole=whole), body))
        for i, output in enumerate(outputs)
    ]
    tokens = sum(len(prompt.token_ids) for prompt in prompts)
    answer = EmbeddingResponse(
        id=request_id,
        created=int(time.time()),
        model=model,
        data=data,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return json_response(answer, id_headers(request_id, context.config))


def _prompts(body: EmbeddingRequest) -> CompletionRequest:
    """The inputs as the prompts they are for the engine."""
    return CompletionRequest.model_construct(
        prompt=body.input,
        add_special_tokens=body.add_special_tokens,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        truncation_side=body.truncation_side,
        priority=body.priority,
        cache_salt=body.cache_salt,
    )


def _normalize(body: EmbeddingRequest, done: bool) -> bool:
    """Whether embeddings are brought to length 1. Raises ApiError (400): the model's own cannot be undone."""
    for name in ("normalize", "use_activation"):
        wanted = getattr(body, name)
        if wanted is None:
            continue
        if done and not wanted:
            raise bad_request(f"{name} cannot be false: this model's embeddings have length 1.", name)
        return bool(wanted)
    return done


def _vector(output: RequestOutput, size: int, normalize: bool, *, whole: bool) -> np.ndarray:
    """``[size]`` float32, of length 1 where ``normalize`` says so; ``whole`` ones may have it already."""
    if output.embedding is None:  # aborted
        raise ApiError(500, "The embedding could not be computed.", type="InternalServerError")
    vector = output.embedding[:size]
    if normalize and not (whole and size == len(output.embedding)):
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return np.asarray(vector, np.float32)


def _encoded(vector: np.ndarray, body: EmbeddingRequest) -> list[float] | str:
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
