"""Bodies of ``/v1/models``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from api.protocol.base import ResponseModel


class ModelCard(ResponseModel):
    """One served name. ``created`` is in seconds since the epoch; ``root`` is the model as it was given.

    Of an alias, ``root`` and ``parent`` are the name it stands for.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str = "vllm-jax"
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    permission: list[dict[str, Any]] = Field(default_factory=list)


class ModelList(ResponseModel):
    """All served names."""

    object: str = "list"
    data: list[ModelCard]
