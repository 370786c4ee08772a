"""``/tokenize`` and ``/detokenize``: what the model would see, without running it."""

from __future__ import annotations

from api.errors import bad_request
from api.protocol.tokenize import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse
from api.protocol.unsupported import report_unknown
from api.serving.context import ServerContext


async def tokenize(context: ServerContext, body: TokenizeRequest) -> TokenizeResponse:
    """Token ids of a prompt or a conversation.

    Raises:
        ApiError: neither or both of prompt and messages are given, or the model is not served.
    """
    report_unknown(body, "tokenize")
    context.models.resolve(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("Send either prompt or messages.", "prompt")
    if body.prompt is not None:
        ids = await context.prompts.encode(
            body.prompt, add_special_tokens=body.add_special_tokens is not False
        )
    else:
        ids = await context.prompts.encode_chat(
            body, body.messages or [], add_special_tokens=bool(body.add_special_tokens)
        )
    return TokenizeResponse(
        count=len(ids),
        max_model_len=context.engine.info.max_model_len,
        tokens=ids,
        token_strs=context.prompts.pieces(ids) if body.return_token_strs else None,
    )


async def detokenize(context: ServerContext, body: DetokenizeRequest) -> DetokenizeResponse:
    """Text of token ids.

    Raises:
        ApiError: an id is out of vocabulary, or the model is not served.
    """
    report_unknown(body, "detokenize")
    context.models.resolve(body.model)
    size = context.engine.info.vocab_size
    if body.tokens and max(body.tokens) >= size:
        raise bad_request(
            f"tokens contains ids that are out of vocabulary: they must be below {size}.", "tokens"
        )
    return DetokenizeResponse(prompt=await context.prompts.decode(body.tokens))
