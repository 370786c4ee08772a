"""What is sent, and when: the datasets of the benchmarks, and the arrival of their requests.

Knows lengths, texts and times. Does not know how a request is sent. Everything is a function of the seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from api.bench.datasets import read_custom, read_sharegpt
from api.bench.texts import TextMaker
from vllm_jax.errors import ConfigError

DatasetName = Literal["random", "prefix_repetition", "trace", "custom", "sharegpt"]


@dataclass(frozen=True)
class DatasetConfig:
    """What the requests look like."""

    dataset_name: DatasetName = "random"
    """"random": unrelated prompts; "prefix_repetition": prompts that share prefixes; "trace": a JSONL
    file; "custom", "sharegpt": prompts from --dataset-path."""
    num_prompts: int = 100
    """How many requests; of a file, at most so many."""
    seed: int = 0
    """Texts, lengths and arrival times are a function of it."""
    random_input_len: int = 1024
    """random: tokens of a prompt, beside its prefix."""
    random_output_len: int = 128
    """random: tokens to generate."""
    random_prefix_len: int = 0
    """random: tokens of one prefix that all prompts share."""
    random_range_ratio: float = 0.0
    """random: lengths vary uniformly by this fraction, in [len * (1 - r), len * (1 + r)]."""
    prefix_repetition_prefix_len: int = 256
    """prefix_repetition: tokens of a prefix."""
    prefix_repetition_suffix_len: int = 256
    """prefix_repetition: tokens that are a prompt's own."""
    prefix_repetition_num_prefixes: int = 10
    """prefix_repetition: different prefixes; prompts take them in random order, each equally often."""
    prefix_repetition_output_len: int = 128
    """prefix_repetition: tokens to generate."""
    dataset_path: str | None = None
    """custom: JSONL file, {"prompt": text} a line, perhaps with "output_tokens". sharegpt: JSON file, a list
    of {"conversations": [{"value": prompt}, {"value": answer}]}."""
    custom_output_len: int = 256
    """custom: tokens to generate where a line does not say."""
    sharegpt_output_len: int | None = None
    """sharegpt: tokens to generate. The default is the length of the conversation's own answer."""
    disable_shuffle: bool = False
    """custom, sharegpt: take the requests in the file's order."""
    trace_path: str | None = None
    """trace: JSONL file. A line has "prompt" (text) or "input_length", and may have "output_length" (or
    "max_tokens"), "timestamp" and "hash_ids" (one for each --trace-block-size tokens; equal ids,
    equal text)."""
    trace_time_unit: Literal["s", "ms"] = "s"
    """trace: unit of the timestamps."""
    trace_speedup: float = 1.0
    """trace: play the timestamps so many times faster."""
    trace_block_size: int = 512
    """trace: tokens that a hash id stands for."""

    def validate(self) -> None:
        """Raises ConfigError where a value is out of its range; the text names the flag."""
        least_one = ("num_prompts", "random_output_len", "prefix_repetition_num_prefixes")
        outputs = ("prefix_repetition_output_len", "custom_output_len", "sharegpt_output_len")
        for name in (*least_one, *outputs, "trace_block_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{_flag(name)} must be at least 1, got {getattr(self, name)}")
        for name in ("random_input_len", "random_prefix_len", "prefix_repetition_prefix_len", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{_flag(name)} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.random_range_ratio < 1:
            raise ConfigError(f"--random-range-ratio must be in [0, 1), got {self.random_range_ratio}")
        if not 0 < self.trace_speedup < math.inf:
            raise ConfigError(f"--trace-speedup must be positive, got {self.trace_speedup}")
        if (self.dataset_name == "trace") != (self.trace_path is not None):
            raise ConfigError("--dataset-name trace and --trace-path FILE go together")
        if (self.dataset_name in ("custom", "sharegpt")) != (self.dataset_path is not None):
            raise ConfigError("--dataset-name custom (or sharegpt) and --dataset-path FILE go together")


@dataclass(frozen=True)
class ArrivalConfig:
    """When the requests are sent."""

    request_rate: float = math.inf
    """Requests a second; "inf" sends all at once (or as --max-concurrency allows). A trace with timestamps
    keeps its own times unless this is given."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the gaps between requests: 1 is a Poisson process, less is
    burstier, more is more regular."""
    max_concurrency: int | None = None
    """Most requests in flight; others wait at the client."""

    def validate(self) -> None:
        """Raises ConfigError where a value is out of its range; the text names the flag."""
        if not self.request_rate > 0:
            raise ConfigError(f"--request-rate must be positive, got {self.request_rate}")
        if not 0 < self.burstiness < math.inf:
            raise ConfigError(f"--burstiness must be positive, got {self.burstiness}")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ConfigError(f"--max-concurrency must be at least 1, got {self.max_concurrency}")


@dataclass(frozen=True)
class WorkItem:
    """One request to send: its text, how many tokens to ask for, and when."""

    prompt: str
    max_tokens: int
    at: float = 0.0
    """Seconds after the start."""
    prompt_tokens: int | None = None
    """Length of ``prompt`` as counted here; None where there is no tokenizer."""


@dataclass(frozen=True)
class _Line:
    """A line of a trace."""

    prompt: str | None
    input_length: int
    max_tokens: int
    timestamp: float | None
    hash_ids: list[int] = field(default_factory=list)


def make_workload(data: DatasetConfig, arrivals: ArrivalConfig, texts: TextMaker) -> list[WorkItem]:
    """All requests of a benchmark, in the order of their times.

    Raises:
        ConfigError: a setting is out of range, or the trace cannot be read.
    """
    data.validate()
    arrivals.validate()
    rng = np.random.default_rng(data.seed)
    own_times: list[float] | None = None
    if data.dataset_name == "random":
        requests = list(_random(data, texts, rng))
    elif data.dataset_name == "prefix_repetition":
        requests = list(_prefix_repetition(data, texts, rng))
    elif data.dataset_path is not None:
        requests = _from_file(data, data.dataset_path, texts, rng)
    else:
        lines = _read_trace(data)
        requests = [(_trace_prompt(line, data, texts, rng), line.max_tokens) for line in lines]
        stamps = [line.timestamp for line in lines if line.timestamp is not None]
        if math.isinf(arrivals.request_rate) and len(stamps) == len(lines):
            first = min(stamps)
            own_times = [(stamp - first) / data.trace_speedup for stamp in stamps]
    times = own_times or arrival_times(rng, len(requests), arrivals.request_rate, arrivals.burstiness)
    items = [
        WorkItem(prompt, max_tokens, at, texts.count(prompt))
        for (prompt, max_tokens), at in zip(requests, times, strict=True)
    ]
    return sorted(items, key=lambda item: item.at)


def arrival_times(rng: np.random.Generator, count: int, rate: float, burstiness: float) -> list[float]:
    """Seconds after the start at which ``count`` requests arrive, the first at 0.

    The gaps are gamma distributed with mean ``1 / rate`` and coefficient of variation ``burstiness ** -0.5``.
    """
    if math.isinf(rate):
        return [0.0] * count
    gaps = rng.gamma(burstiness, 1 / (rate * burstiness), size=count)
    gaps[0] = 0.0
    return np.cumsum(gaps).tolist()


def _random(data: DatasetConfig, texts: TextMaker, rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    prefix = texts.make(rng, data.random_prefix_len) if data.random_prefix_len else ""
    for _ in range(data.num_prompts):
        length = _vary(rng, data.random_input_len, data.random_range_ratio)
        output = max(1, _vary(rng, data.random_output_len, data.random_range_ratio))
        yield texts.make(rng, data.random_prefix_len + length, prefix), output


def _prefix_repetition(
    data: DatasetConfig, texts: TextMaker, rng: np.random.Generator
) -> Iterator[tuple[str, int]]:
    number = data.prefix_repetition_num_prefixes
    prefixes = [texts.make(rng, data.prefix_repetition_prefix_len) for _ in range(number)]
    whole = data.prefix_repetition_prefix_len + data.prefix_repetition_suffix_len
    for which in rng.permutation([i % number for i in range(data.num_prompts)]).tolist():
        yield texts.make(rng, whole, prefixes[which]), data.prefix_repetition_output_len


def _from_file(
    data: DatasetConfig, path: str, texts: TextMaker, rng: np.random.Generator
) -> list[tuple[str, int]]:
    if data.dataset_name == "custom":
        found = read_custom(path, data.custom_output_len)
    else:
        found = read_sharegpt(path, data.sharegpt_output_len, texts)
    order = range(len(found)) if data.disable_shuffle else rng.permutation(len(found)).tolist()
    return [found[i] for i in order][: data.num_prompts]


def _vary(rng: np.random.Generator, length: int, ratio: float) -> int:
    return int(rng.integers(math.floor(length * (1 - ratio)), math.ceil(length * (1 + ratio)) + 1))


def _trace_prompt(line: _Line, data: DatasetConfig, texts: TextMaker, rng: np.random.Generator) -> str:
    if line.prompt is not None:
        return line.prompt
    text = ""
    for i, hash_id in enumerate(line.hash_ids, start=1):
        if i * data.trace_block_size > line.input_length:
            break
        # Equal ids give equal text only behind equal text, as with the blocks they were made from.
        text = texts.make(np.random.default_rng([data.seed, hash_id]), i * data.trace_block_size, text)
    return texts.make(rng, line.input_length, text)


def _read_trace(data: DatasetConfig) -> list[_Line]:
    assert data.trace_path is not None
    scale = 1e-3 if data.trace_time_unit == "ms" else 1.0
    lines: list[_Line] = []
    try:
        with Path(data.trace_path).open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                if len(lines) == data.num_prompts:
                    break
                try:
                    lines.append(_parse_line(json.loads(text), scale))
                except (ValueError, TypeError, AttributeError) as error:
                    raise ConfigError(f"--trace-path {data.trace_path}, line {number}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--trace-path {data.trace_path}: {error}") from None
    if not lines:
        raise ConfigError(f"--trace-path {data.trace_path} has no requests")
    return lines


def _parse_line(row: dict[str, Any], scale: float) -> _Line:
    prompt, length = row.get("prompt"), int(row.get("input_length", 0))
    if prompt is None and length < 1:
        raise ValueError('a line needs "prompt" or "input_length"')
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError('"prompt" must be text')
    output = int(row.get("output_length", row.get("max_tokens", 128)))
    if output < 1:
        raise ValueError('"output_length" must be at least 1')
    stamp = row.get("timestamp")
    when = None if stamp is None else float(stamp) * scale
    return _Line(prompt, length, output, when, [int(i) for i in row.get("hash_ids", ())])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
