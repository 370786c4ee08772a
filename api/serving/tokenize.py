"""``/tokenize`` and ``/detokenize``: what the model would see, without running it."""

from __future__ import annotations

from api.errors import ApiError, bad_request
from api.protocol.tokenize import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from api.protocol.unsupported import report_unknown
from api.serving.context import ServerContext
from api.serving.template_kwargs import adopt_template_kwargs


async def tokenize(context: ServerContext, body: TokenizeRequest) -> TokenizeResponse:
    """Token ids of a prompt or a conversation.

    Raises:
        ApiError: neither or both of prompt and messages are given, or the model is not served.
    """
    report_unknown(body, "tokenize", strict=context.config.api.strict_params)
    context.models.resolve(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("Send either prompt or messages.", "prompt")
    if body.prompt is not None:
        ids = await context.prompts.encode(
            body.prompt, add_special_tokens=body.add_special_tokens is not False
        )
    else:
        adopt_template_kwargs(body)
        ids = await context.prompts.encode_chat(
            body, body.messages or [], add_special_tokens=bool(body.add_special_tokens)
        )
    return TokenizeResponse(
        count=len(ids),
        max_model_len=context.engine.info.max_model_len,
        tokens=ids,
        token_strs=context.prompts.pieces(ids) if body.return_token_strs else None,
    )


def tokenizer_info(context: ServerContext) -> TokenizerInfo:
    """The tokenizer's facts.

    Raises:
        ApiError: 404, the server was not started with --enable-tokenizer-info-endpoint, or has no tokenizer.
    """
    if not context.config.api.enable_tokenizer_info_endpoint:
        raise ApiError(404, "/tokenizer_info needs a server started with --enable-tokenizer-info-endpoint.")
    tokenizer = context.engine.tokenizer
    if tokenizer is None:
        raise ApiError(404, "There is no tokenizer: this server runs with --skip-tokenizer-init.")
    return TokenizerInfo(
        tokenizer_class=tokenizer.class_name,
        vocab_size=tokenizer.vocab_size,
        model_max_length=context.engine.info.max_model_len,
        truncation_side=tokenizer.truncation_side,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        chat_template=context.prompts.template_text,
        **tokenizer.special_tokens,
    )


async def detokenize(context: ServerContext, body: DetokenizeRequest) -> DetokenizeResponse:
    """Text of token ids.

    Raises:
        ApiError: an id is out of vocabulary, or the model is not served.
    """
    report_unknown(body, "detokenize", strict=context.config.api.strict_params)
    context.models.resolve(body.model)
    size = context.engine.info.vocab_size
    if body.tokens and max(body.tokens) >= size:
        raise bad_request(
            f"tokens contains ids that are out of vocabulary: they must be below {size}.", "tokens"
        )
    return DetokenizeResponse(prompt=await context.prompts.decode(body.tokens))
