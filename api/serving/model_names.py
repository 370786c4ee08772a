"""Which names the model answers to. Knows nothing of the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from api.errors import model_not_found
from api.protocol.models import ModelCard, ModelList
from vllm_jax.config import DEMO_MODEL

DEMO_NAME = "mpt-demo-en-it"
"""The name the bundled demo model is served under."""
DEMO_ALIAS = "mosaicml/mpt-7b"
"""A name it answers to as well, so that code written for that model runs unchanged."""


@dataclass(frozen=True)
class ServedModels:
    """``aliases`` stand for the first of ``names``, which is the name in the answers to them."""

    root: str
    max_model_len: int
    names: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def choose(cls, model: str, served_model_name: tuple[str, ...], max_model_len: int) -> ServedModels:
        """The names asked for, else the model's own; the demo model has its own name and alias."""
        names = chosen_names(model, served_model_name)
        alias = (DEMO_ALIAS,) if model == DEMO_MODEL and not served_model_name else ()
        return cls(model, max_model_len, names, alias)

    def resolve(self, name: str | None) -> str:
        """The name to answer with.

        Raises:
            ApiError: 404, ``name`` is not served.
        """
        if name in self.names:
            return name
        if name is None or name in self.aliases:
            return self.names[0]
        raise model_not_found(name)

    def card(self, name: str) -> ModelCard:
        """The card of a served name or alias. Raises ApiError (404) for others.

        An alias has its own id, so that a client finds the name it looks for; root and parent name the model.
        """
        served = self.resolve(name)
        is_alias = name != served
        return ModelCard(
            id=name,
            created=self.created,
            root=served if is_alias else self.root,
            parent=served if is_alias else None,
            max_model_len=self.max_model_len,
        )

    def list(self) -> ModelList:
        """The cards of all served names, then of the aliases."""
        return ModelList(data=[self.card(name) for name in (*self.names, *self.aliases)])


def chosen_names(model: str, served_model_name: tuple[str, ...]) -> tuple[str, ...]:
    """The names it is served under; the first one is in the answers and the metrics."""
    if served_model_name:
        return tuple(dict.fromkeys(served_model_name))
    return (DEMO_NAME,) if model == DEMO_MODEL else (model,)
