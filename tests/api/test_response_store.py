"""The store of responses: bounds, age, owners, chains."""

from __future__ import annotations

import contextlib

import pytest

from api.errors import ApiError
from api.protocol.responses import OutputMessage, OutputText, Response
from api.serving.response_store import ResponseStore, StoredResponse

ME, OTHER = b"me", b"other"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stored(name: str, previous: str | None = None, text: str = "x") -> StoredResponse:
    response = Response(
        id=name,
        created_at=0,
        status="completed",
        background=False,
        instructions=None,
        max_output_tokens=None,
        metadata={},
        model="m",
        output=[OutputMessage(id="msg", status="completed", content=[OutputText(text=f"out {name}")])],
        parallel_tool_calls=True,
        previous_response_id=previous,
        reasoning={},
        store=True,
        temperature=1,
        text={},
        tool_choice="auto",
        tools=[],
        top_logprobs=0,
        top_p=1,
        truncation="disabled",
        user=None,
    )
    return StoredResponse(response, [{"role": "user", "content": text}], ME)


def ids(store: ResponseStore, *names: str) -> list[str]:
    found = []
    for name in names:
        with contextlib.suppress(ApiError):
            found.append(store.get(name, ME).response.id)
    return found


def test_the_number_is_bounded_and_use_keeps() -> None:
    store = ResponseStore(entries=2, max_bytes=10**6, ttl_s=100)
    store.put(stored("a"))
    store.put(stored("b"))
    store.get("a", ME)
    store.put(stored("c"))
    assert len(store) == 2 and ids(store, "a", "b", "c") == ["a", "c"]


def test_a_response_that_has_grown_is_measured_anew() -> None:
    class Events:
        size, abandoned = 0, False

        def abandon(self) -> None:
            self.abandoned = True

    store = ResponseStore(entries=100, max_bytes=5000, ttl_s=100)
    growing, events = stored("a"), Events()
    growing.run = events
    store.put(growing)
    store.put(stored("b"))
    events.size = 4500
    store.measure(growing)
    assert ids(store, "a", "b") == ["b"] and events.abandoned
    store.measure(growing)  # it is gone, and takes no room
    store.put(stored("c"))
    assert ids(store, "a", "b", "c") == ["b", "c"]


def test_the_bytes_are_bounded_even_for_one() -> None:
    store = ResponseStore(entries=100, max_bytes=5000, ttl_s=100)
    for name in "abcdef":
        store.put(stored(name, text="y" * 1000))
    assert 0 < len(store) < 6 and ids(store, "f") == ["f"]
    store.put(stored("huge", text="y" * 10_000))
    assert len(store) == 0
    store.put(stored("g"))
    for _ in range(50):
        store.put(stored("g"))  # stored anew, not added up
    assert ids(store, "g") == ["g"]


def test_age_counts_from_the_last_use() -> None:
    clock = Clock()
    store = ResponseStore(entries=10, max_bytes=10**6, ttl_s=10, clock=clock)
    for name in "ab":
        store.put(stored(name))
    clock.now = 9
    store.get("a", ME)
    clock.now = 12
    assert ids(store, "a", "b") == ["a"]
    clock.now = 100
    assert ids(store, "a") == [] and len(store) == 0


def test_owners_and_chains() -> None:
    store = ResponseStore(entries=10, max_bytes=10**6, ttl_s=10)
    store.put(stored("a", text="first"))
    store.put(stored("b", previous="a", text="second"))
    contents = [item["content"] for item in store.conversation("b", ME)]
    assert contents[0] == "first" and contents[2] == "second"
    assert [part["text"] for part in contents[1]] == ["out a"]
    for call in (store.get, store.delete, store.conversation):
        with pytest.raises(ApiError) as refused:
            call("b", OTHER)
        assert refused.value.status_code == 404
    store.delete("a", ME)
    with pytest.raises(ApiError) as broken:
        store.conversation("b", ME)
    assert broken.value.param == "previous_response_id"


def test_nothing_is_kept_by_an_empty_store() -> None:
    store = ResponseStore(entries=0, max_bytes=10**6, ttl_s=10)
    store.put(stored("a"))
    assert not store.enabled and len(store) == 0
