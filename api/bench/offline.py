"""``vllm-jax bench offline``: the engine in this process, without HTTP; all prompts at once."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from api.bench.statistics import Distribution
from api.bench.texts import TextMaker
from api.bench.workload import ArrivalConfig, DatasetConfig, make_workload
from vllm_jax.config import EngineConfig
from vllm_jax.errors import ConfigError

_PERCENTILES = (50.0, 95.0, 99.0)


@dataclass(frozen=True)
class OfflineConfig:
    """How it is measured."""

    num_iters: int = 3
    """The load is run so often, each time with new texts; the median is reported."""
    num_iters_warmup: int = 1
    """Runs before, which are not counted."""
    output_json: str | None = None
    """Write the figures into this file."""


@dataclass(frozen=True)
class BenchOffline:
    """The flags of ``vllm-jax bench offline``, beside those of the engine."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    offline: OfflineConfig = field(default_factory=OfflineConfig)

    def validate(self) -> None:
        """Raises ConfigError; the text names the flag."""
        self.dataset.validate()
        if self.offline.num_iters < 1 or self.offline.num_iters_warmup < 0:
            raise ConfigError("--num-iters must be at least 1 and --num-iters-warmup not negative")


def bench_offline(config: BenchOffline, engine: EngineConfig, console: Console | None = None) -> int:
    """Loads the engine, measures, prints and writes; the exit code.

    Raises:
        ConfigError: a setting is wrong or the model cannot be loaded.
    """
    from vllm_jax.llm import LLM  # brings jax
    from vllm_jax.sampling_params import SamplingParams

    console = console or Console()
    settings: dict[str, Any] = {}
    for group in dataclasses.fields(engine):
        values = getattr(engine, group.name)
        settings |= {f.name: getattr(values, f.name) for f in dataclasses.fields(values)}
    llm = LLM(**settings)
    texts = TextMaker(None if engine.model.skip_tokenizer_init else llm.get_tokenizer())
    if not texts.exact:
        raise ConfigError("bench offline needs the model's tokenizer: leave --skip-tokenizer-init out")

    runs: list[dict[str, float]] = []
    ttfts: list[float] = []
    for number in range(-config.offline.num_iters_warmup, config.offline.num_iters):
        data = dataclasses.replace(config.dataset, seed=config.dataset.seed + max(0, number) + 1)
        if number < 0:
            data = config.dataset
        items = make_workload(data, ArrivalConfig(), texts)
        params = [SamplingParams(temperature=0, max_tokens=i.max_tokens, ignore_eos=True) for i in items]
        started = time.monotonic()
        answers = llm.generate([item.prompt for item in items], params)
        seconds = time.monotonic() - started
        if number < 0:
            continue
        generated = [len(answer.outputs[0].token_ids) for answer in answers]
        if generated != [item.max_tokens for item in items]:
            raise ConfigError("answers ended before the length asked for: --max-model-len is too small")
        prompts = sum(len(answer.prompt_token_ids) for answer in answers)
        runs.append(
            {
                "seconds": seconds,
                "requests_per_second": len(items) / seconds,
                "input_tokens_per_second": prompts / seconds,
                "output_tokens_per_second": sum(generated) / seconds,
                "tokens_per_second": (prompts + sum(generated)) / seconds,
            }
        )
        for answer in answers:
            if answer.metrics is not None and answer.metrics.first_token_time is not None:
                ttfts.append(answer.metrics.first_token_time - answer.metrics.arrival_time)
    first = Distribution.of(ttfts, _PERCENTILES)
    medians = {name: Distribution.of([run[name] for run in runs], ()).median / 1e3 for name in runs[0]}
    table = Table(
        title=f"{engine.model.model}: {len(items)} prompts, median of {len(runs)} runs",
        show_header=False,
        box=None,
        title_justify="left",
    )
    table.add_column()
    table.add_column(justify="right")
    for name, value in medians.items():
        table.add_row(name.replace("_per_", " per ").replace("_", " "), f"{value:.2f}")
    table.add_row("time to first token p50 / p99 (ms)", f"{first.median:.0f} / {first.percentiles[99.0]:.0f}")
    console.print(table)
    if config.offline.output_json is not None:
        content = {
            "model": engine.model.model,
            **dataclasses.asdict(config.dataset),
            "median": medians,
            "runs": runs,
            "median_ttft_ms": first.median,
        }
        _write(Path(config.offline.output_json), content)
    return 0


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output-json {path}: {error.strerror}") from None
