"""Where the time of a decode step goes: scheduling, dispatch, waiting for the device, tokens and text.

    python benchmarks/step_profile.py CHECKPOINT --rows 1 16

The engine runs in this process, without HTTP, on prompts of its own. Times are medians over the steps in
which all rows decode. "waiting" is what the device needs beyond what the host does meanwhile; "rest" is what
is left of the step. The last column is the weights' bytes over the step, beside ``read_gbs`` of ceilings.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vllm_jax.engine.request import Request
from vllm_jax.llm import LLM
from vllm_jax.runner.model_runner import DispatchedStep
from vllm_jax.sampling_params import SamplingParams

PARTS = ("schedule", "dispatch", "waiting", "update", "text")


class Clock:
    """Seconds spent in each part since the last reset."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with its time counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[part] += time.perf_counter() - began

        return timed

    def take(self) -> dict[str, float]:
        """What was counted, and starts anew."""
        spent, self.spent = self.spent, dict.fromkeys(PARTS, 0.0)
        return spent


def profile(llm: LLM, clock: Clock, rows: int, context: int, steps: int) -> dict[str, float]:
    """Median milliseconds of each part of a step, and of the whole."""
    engine = llm._engine
    rng = np.random.default_rng(rows)
    params = SamplingParams(max_tokens=steps, temperature=0, ignore_eos=True)
    for i in range(rows):
        ids = rng.integers(10, llm.info.vocab_size - 10, context).tolist()
        engine.add_request(engine.prepare(Request(f"{rows}-{i}", ids, params)))
    seen: list[dict[str, float]] = []
    while engine.has_work:
        began = time.perf_counter()
        outputs = engine.step()
        whole = time.perf_counter() - began
        parts = clock.take()
        if len(outputs) == rows and all(len(o.outputs[0].token_ids) == 1 for o in outputs):
            seen.append(parts | {"whole": whole, "rest": whole - sum(parts.values())})
    return {name: statistics.median(step[name] for step in seen) * 1e3 for name in seen[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--context", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    length = args.context + args.steps + 1
    llm = LLM(args.model, max_num_seqs=max(args.rows), max_model_len=length, show_progress=False)
    clock = Clock()
    engine: Any = llm._engine
    engine._scheduler.schedule = clock.around("schedule", engine._scheduler.schedule)
    engine._scheduler.update = clock.around("update", engine._scheduler.update)
    engine._runner.execute = clock.around("dispatch", engine._runner.execute)
    engine._outputs.process = clock.around("text", engine._outputs.process)
    DispatchedStep.read = clock.around("waiting", DispatchedStep.read)  # type: ignore[method-assign]
    table = Table("rows", "step ms", *PARTS, "rest", "weights GB/s", box=None)
    for rows in args.rows:
        profile(llm, clock, rows, args.context, args.steps)
        times = profile(llm, clock, rows, args.context, args.steps)
        parts = [f"{times[name]:.2f}" for name in (*PARTS, "rest")]
        rate = llm.info.weight_bytes / times["whole"] / 1e6
        table.add_row(str(rows), f"{times['whole']:.2f}", *parts, f"{rate:.1f}")
    Console().print(f"{args.model}, {llm.info.dtype}, attention: {llm.info.attention}", highlight=False)
    Console().print(table)


if __name__ == "__main__":
    main()
