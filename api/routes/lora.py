"""``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``: what vLLM's clients call, refused by name."""

from __future__ import annotations

from fastapi import APIRouter

from api.errors import ApiError

router = APIRouter(tags=["Operation"], include_in_schema=False)


@router.post("/v1/load_lora_adapter")
@router.post("/v1/unload_lora_adapter")
async def adapters() -> None:
    """501, whatever the body is."""
    raise ApiError(
        501,
        "LoRA adapters are not supported by this version: the base model is what is served.",
        type="NotImplementedError",
    )
