"""The page about the API names every refused field and every field without effect."""

from __future__ import annotations

import pytest
from server_process import REPO

from api.protocol.chat import ChatCompletionRequest
from api.protocol.completions import CompletionRequest
from api.protocol.messages_unsupported import NO_EFFECT_ON_MESSAGES, REFUSED_BY_MESSAGES
from api.protocol.responses_unsupported import NO_EFFECT_ON_RESPONSES, REFUSED_BY_RESPONSES
from api.protocol.unsupported import NO_EFFECT, REFUSED

PAGE = (REPO / "docs" / "api.md").read_text()
REFUSED_PART, NO_EFFECT_PART = PAGE.split("## Refused for now")[1].split("## Accepted without effect")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_fields_are_written_down(name: str) -> None:
    assert f"`{name}`" in REFUSED_PART


@pytest.mark.parametrize("name", NO_EFFECT)
def test_fields_without_effect_are_written_down(name: str) -> None:
    assert f"`{name}`" in NO_EFFECT_PART.split("## Start")[0]


@pytest.mark.parametrize("name", [*REFUSED_BY_RESPONSES, *NO_EFFECT_ON_RESPONSES])
def test_fields_of_responses_are_written_down(name: str) -> None:
    assert f"`{name}`" in PAGE.split("## Responses")[1].split("## Errors")[0]


@pytest.mark.parametrize("name", [*REFUSED_BY_MESSAGES, *NO_EFFECT_ON_MESSAGES])
def test_fields_of_messages_are_written_down(name: str) -> None:
    assert f"`{name}`" in PAGE.split("## Messages")[1].split("## Errors")[0]


def test_the_lists_do_not_overlap() -> None:
    declared = {*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields}
    assert not NO_EFFECT.keys() & (REFUSED.keys() | declared)
