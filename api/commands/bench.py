"""``vllm-jax bench``: its subcommands and their flags. What they do is in :mod:`api.bench`."""

from __future__ import annotations

from collections.abc import Sequence

from api.commands.arguments import parse, parse_with_serve, spelled, split
from api.commands.usage import UsageError

HELP = """usage: vllm-jax bench COMMAND ...

Measure a server, the engine alone, or a start.

commands:
  serve     Load any OpenAI-compatible server and report latencies and throughput
  offline   The engine in this process, without HTTP: tokens a second
  latency, throughput
            The same, with the flags and defaults of vLLM's commands of these names
  startup   From the start of `vllm-jax serve` to ready and to the first token, cold and warm

Try:  vllm-jax bench serve --num-prompts 64 --max-concurrency 16 --random-input-len 128 --random-output-len 64
      vllm-jax bench serve --request-rate 4 --burstiness 0.5 --goodput ttft:500 tpot:50 --plot load.png
      vllm-jax bench serve --dataset-name sharegpt --dataset-path ShareGPT.json --num-prompts 200
      vllm-jax bench offline demo --num-prompts 32
      vllm-jax bench startup demo
"""

ALIASES = {"--disable-tqdm": "--no-progress"}

_LENGTHS = {"--input-len": "--random-input-len", "--output-len": "--random-output-len"}
OFFLINE_ALIASES: dict[str, dict[str, str]] = {
    "offline": {},
    "latency": {**_LENGTHS, "--batch-size": "--num-prompts"},
    "throughput": {**_LENGTHS, "--dataset": "--dataset-path"},
}
OFFLINE_DEFAULTS: dict[str, dict[str, str]] = {
    "offline": {},
    "latency": {
        "--random-input-len": "32",
        "--random-output-len": "128",
        "--num-prompts": "8",
        "--num-iters": "30",
        "--num-iters-warmup": "10",
    },
    "throughput": {"--num-prompts": "1000", "--num-iters": "1", "--num-iters-warmup": "0"},
}
"""The commands that run the engine in this process: vLLM's spellings, and vLLM's defaults."""

SERVE = """Load a server at --base-url and report time to first token, inter-token latency, throughput.

Datasets: --dataset-name random, prefix_repetition (prompts that share prefixes), trace (a JSONL file).

Prompts of a file: --dataset-name custom or sharegpt, with --dataset-path.

Arrival: all at once, at --request-rate (Poisson, or burstier), and never more than --max-concurrency.

Lengths in tokens are exact where a tokenizer is at hand (--tokenizer; the served model's if it is local)."""

OFFLINE = """Run the engine in this process and report tokens a second.

MODEL and all engine flags are those of vllm-jax serve: vllm-jax bench offline MODEL --max-num-seqs 8."""

STARTUP = """Start vllm-jax serve in a process of its own, and time ready and first token.

Cold: without compiled programs kept from before. Warm: with those of the first start.

MODEL and all other flags are those of vllm-jax serve."""


def bench(argv: Sequence[str]) -> int:
    """Runs ``vllm-jax bench ARGV``; the exit code.

    Raises:
        ConfigError: it was called wrongly, or could not run; the text says why.
    """
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command == "serve":
        from api.bench.serve import BenchServe, bench_serve

        prog = "vllm-jax bench serve"
        return bench_serve(parse(BenchServe, rest, prog=prog, description=SERVE, aliases=ALIASES))
    if command in OFFLINE_ALIASES:
        from api.bench.offline import BenchOffline, bench_offline

        prog = f"vllm-jax bench {command} [MODEL]"
        aliases = OFFLINE_ALIASES[command]
        given = {spelled(word, aliases).partition("=")[0] for word in rest}
        defaults = [f"{n}={value}" for n, value in OFFLINE_DEFAULTS[command].items() if n not in given]
        own, served = parse_with_serve(
            BenchOffline, [*defaults, *rest], prog=prog, description=OFFLINE, aliases=aliases
        )
        return bench_offline(own, served.engine)
    if command == "startup":
        from api.bench.startup import BenchStartup, bench_startup

        prog = "vllm-jax bench startup [MODEL]"
        settings, words = split(BenchStartup, rest, prog=prog, description=STARTUP)
        return bench_startup(settings, words)
    raise UsageError(f"unknown command 'bench {command}'; see vllm-jax bench --help")
