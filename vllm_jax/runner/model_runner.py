"""Runs ScheduledBatches on the device: owns the weights, the KV pages, the token history and the programs.

Knows when a step is dispatched and what it will bring. Does not know why these rows were chosen, nor what
becomes of the tokens.

:meth:`ModelRunner.execute` only dispatches; :meth:`DispatchedStep.read` waits for the results. Between the
two the host is free, and further steps may be dispatched: the device runs them in order, and a token that
the host has not seen yet is taken from the history on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vllm_jax.kernels.attention import kv_pages_dtype, kv_pages_shape
from vllm_jax.runner import programs
from vllm_jax.runner.buckets import ShapeRegistry, StepShape, at_least
from vllm_jax.runner.compiler import CompileProgress, Program, ProgramCache, temporary_bytes, zeros
from vllm_jax.runner.program_store import ProgramStore
from vllm_jax.runner.slots import VARIANTS, SlotTable
from vllm_jax.runner.step_inputs import StepInputBuilder
from vllm_jax.sampling.inputs import SampledLogprobs
from vllm_jax.sampling.mask import full_row
from vllm_jax.sampling_params import MAX_LOGIT_BIAS, MAX_LOGPROB_TOKEN_IDS, most_logprobs
from vllm_jax.scheduled_batch import ScheduledBatch, ScheduledSequence
from vllm_jax.weights.pooling import Pooling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KVSpec:
    """Shape of the KV cache, but for the number of pages."""

    num_layers: int
    page_size: int
    num_kv_heads: int
    head_dim: int
    dtype: Any
    implementation: str

    def page_array(self, num_pages: int) -> jax.ShapeDtypeStruct:
        """One layer's pages."""
        shape = kv_pages_shape(
            num_pages, self.page_size, self.num_kv_heads, self.head_dim, implementation=self.implementation
        )
        return jax.ShapeDtypeStruct(shape, kv_pages_dtype(self.dtype, implementation=self.implementation))

    @property
    def bytes_per_page(self) -> int:
        """Bytes of one page over all layers."""
        page = self.page_array(1)
        return self.num_layers * int(np.prod(page.shape)) * page.dtype.itemsize


@dataclass(frozen=True)
class RowLogprobs:
    """Logprobs of one sampled token, its rank, the top candidates ``[K]`` and the listed ids' ``[C]``."""

    logprob: float
    rank: int
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    listed: np.ndarray


@dataclass(frozen=True)
class RowPromptLogprobs:
    """The same of prompt tokens ``[first, first + n)``: ``[n]``, ``[n]``, ``[n, K]``, ``[n, K]``."""

    first: int
    logprobs: np.ndarray
    ranks: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


@dataclass(frozen=True)
class StepResult:
    """What a step brought, aligned with the rows of its batch; None where a row has nothing of the kind."""

    tokens: list[int | None]
    logprobs: list[RowLogprobs | None]
    prompt_logprobs: list[RowPromptLogprobs | None]
    embeddings: list[np.ndarray | None]


@dataclass
class DispatchedStep:
    """A step on its way. The arrays are still being computed."""

    batch: ScheduledBatch
    tokens: jax.Array | None = None
    logprobs: SampledLogprobs | None = None
    scores: SampledLogprobs | None = None
    embeddings: jax.Array | None = None

    def read(self) -> StepResult:
        """Waits for the device and brings the results to the host."""
        rows = self.batch.rows
        nothing: list[Any] = [None] * len(rows)
        tokens, logprobs, scores, embeddings = jax.device_get(
            (self.tokens, self.logprobs, self.scores, self.embeddings)
        )
        return StepResult(
            tokens=nothing
            if tokens is None
            else [token if row.samples else None for row, token in zip(rows, tokens.tolist(), strict=False)],
            logprobs=nothing
            if logprobs is None
            else [
                _row_logprobs(logprobs, i) if row.samples and row.seq.params.logprobs is not None else None
                for i, row in enumerate(rows)
            ],
            prompt_logprobs=list(_row_scores(rows, scores)) if scores is not None else nothing,
            embeddings=nothing
            if embeddings is None
            else [embeddings[i] if _embeds(row) else None for i, row in enumerate(rows)],
        )


def _embeds(row: ScheduledSequence) -> bool:
    """Whether this row ends a prompt whose embedding is wanted."""
    return row.samples and row.seq.params.embed


def _row_logprobs(logprobs: SampledLogprobs, i: int) -> RowLogprobs:
    return RowLogprobs(
        float(logprobs.token_logprob[i]),
        int(logprobs.rank[i]),
        np.asarray(logprobs.top_ids[i]),
        np.asarray(logprobs.top_logprobs[i]),
        np.asarray(logprobs.listed_logprobs)[i],
    )


def _row_scores(rows: list[ScheduledSequence], scores: SampledLogprobs) -> Iterator[RowPromptLogprobs | None]:
    """Cuts the flat ``[T]`` scores into rows: position p of a row scored the prompt token at p + 1."""
    at = 0
    for row in rows:
        count = min(row.num_tokens, row.seq.num_prompt_tokens - 1 - row.start)
        if row.seq.params.prompt_logprobs is None or count <= 0:
            yield None
        else:
            part = slice(at, at + count)
            yield RowPromptLogprobs(
                row.start + 1,
                np.asarray(scores.token_logprob[part]),
                np.asarray(scores.rank[part]),
                np.asarray(scores.top_ids[part]),
                np.asarray(scores.top_logprobs[part]),
            )
        at += row.num_tokens


class ModelRunner:
    """The device's side of the engine, for one model on one device.

    ``hidden``: size and dtype of the hidden states. ``identity``: which model it is, weights
    apart: its kept executables bear it. ``forbid_recompile``: a program that warm-up missed is an error.
    """

    def __init__(
        self,
        model: Any,
        *,
        vocab_size: int,
        kv_spec: KVSpec,
        registry: ShapeRegistry,
        max_model_len: int,
        max_logprobs: int,
        device: jax.Device,
        hidden: tuple[int, jnp.dtype],
        identity: str,
        pooling: Pooling | None = None,
        store: ProgramStore | None = None,
        forbid_recompile: bool = False,
    ):
        self._pooling = pooling
        self.kv_spec = kv_spec
        self.registry = registry
        self.device = device
        self.vocab_size = vocab_size
        self.num_logprobs = most_logprobs(vocab_size, max_logprobs)
        self.programs = ProgramCache(store, self._try)
        self._hidden_size, self._hidden_dtype = hidden
        self._identity = f"{identity} {kv_spec} {self.num_logprobs} "
        self._forbid_recompile = forbid_recompile
        self._leaves, self._rebuild = programs.rebuilder(model)
        # A row for every slot, and a column for every position; the last sampled token has no position.
        self._history_len = max_model_len
        pages_per_seq = -(-max_model_len // kv_spec.page_size)
        slots = SlotTable(registry.max_num_seqs, pages_per_seq, vocab_size)
        self._builder = StepInputBuilder(registry, slots, max_model_len)
        self._kv_pages: list[jax.Array] = []
        self._history = self._no_history()

    @property
    def model(self) -> Any:
        """The Flax NNX module, over the weights that are being served."""
        return self._rebuild(self._leaves)

    def largest_step_bytes(self) -> int:
        """Temporary memory of the largest step, from the compiler; compiled against a one-page cache."""
        program = self._forward_program(self.registry.shapes[0], num_pages=1)
        lowered = jax.jit(program.function, donate_argnums=program.donate).lower(*program.arguments)
        return temporary_bytes(lowered.compile())

    def allocate(self, num_pages: int) -> None:
        """Allocates the KV cache: ``num_pages`` zeroed pages a layer."""
        program = self._pages_program(num_pages)
        if program.key not in self.programs:
            self.programs.compile([program])
        self._kv_pages = [self.programs[program.key]() for _ in range(self.kv_spec.num_layers)]

    def warm_up(self, progress: CompileProgress | None = None) -> None:
        """Compiles every program there is; nothing is compiled after this."""
        self.programs.compile([self._program(key) for key in self._keys()], progress)

    def execute(self, batch: ScheduledBatch) -> DispatchedStep:
        """Dispatches one step and returns at once. ``batch`` must not be empty."""
        inputs = self._builder.build(batch)
        for row in batch.rows:
            if row.resumed and row.seq.params.uses_penalties:
                self._upload_history(row)
        hidden, logits, self._kv_pages = self._compiled("forward", inputs.shape)(
            self._leaves, self._kv_pages, self._history, inputs.packed
        )
        step = DispatchedStep(batch)
        if inputs.score_targets is not None:
            step.scores = self._compiled("score", inputs.shape.num_tokens)(
                self._leaves, hidden, inputs.score_targets
            )
        if any(map(_embeds, batch.rows)):
            ends = np.cumsum([row.num_tokens for row in batch.rows], dtype=np.int32)
            last = np.zeros(self._pooled_rows(inputs.shape.num_tokens), np.int32)
            last[: len(ends)] = ends - 1
            step.embeddings = self._compiled("pool", inputs.shape.num_tokens)(hidden, last)
        if inputs.sampler is not None:
            if inputs.sampler.num_rows != inputs.shape.num_rows:
                logits = self._compiled("pad", inputs.shape.num_rows, inputs.sampler.num_rows)(logits)
            sample = self._compiled(inputs.sampler.variant, inputs.sampler.num_rows)
            step.tokens, self._history, *logprobs = sample(logits, self._history, *inputs.sampler.arguments)
            step.logprobs = logprobs[0] if logprobs else None
        for array in jax.tree.leaves((step.tokens, step.logprobs, step.scores, step.embeddings)):
            array.copy_to_host_async()
        return step

    def _upload_history(self, row: ScheduledSequence) -> None:
        tokens = np.zeros(self._history_len, np.int32)
        known = row.seq.known_tokens(0, self._history_len)
        tokens[: len(known)] = known
        self._history = self._compiled("set_history")(self._history, np.int32(row.slot), tokens)

    def _no_history(self) -> jax.Array:
        return jax.device_put(
            np.zeros((self.registry.max_num_seqs, self._history_len), np.int32), self.device
        )

    def _try(self, program: Program, executable: Any) -> None:
        """Runs ``executable`` on an empty batch, before there are requests. Raises what XLA raises."""

        mine: tuple[Any, ...]
        match program.key:
            case ("forward", _):
                mine = (self._leaves, self._kv_pages, self._history)
            case ("score", _):
                mine = (self._leaves,)
            case ("set_history",):
                mine = (self._history,)
            case (variant, _) if variant in VARIANTS:
                mine = (zeros(program.arguments[0]), self._history)
            case _:
                mine = ()
        try:
            results = jax.block_until_ready(executable(*mine, *zeros(program.arguments[len(mine) :])))
        except Exception:
            if any(pages.is_deleted() for pages in self._kv_pages):  # They were donated.
                self.allocate(self._kv_pages[0].shape[0])
            if self._history.is_deleted():
                self._history = self._no_history()
            raise
        match program.key:
            case ("forward", _):
                self._kv_pages = results[2]
            case ("set_history",):
                self._history = results
            case (variant, _) if variant in VARIANTS:
                self._history = results[1]

    # --- the programs, by shape -------------------------------------------------------------------

    def _keys(self) -> Iterator[tuple[Any, ...]]:
        """Every program there is, those first that take longest to compile."""
        registry = self.registry
        yield from (("forward", shape) for shape in registry.shapes)
        yield from (("score", tokens) for tokens in registry.mixed_tokens)
        if self._pooling is not None:
            yield from (("pool", tokens) for tokens in sorted({s.num_tokens for s in registry.shapes}))
        for rows in registry.sampler_rows:
            yield from ((variant, rows) for variant in ("full", "masked", "random"))
        yield from (("greedy", rows) for rows in registry.rows)
        padded = ((rows, at_least(registry.sampler_rows, rows)) for rows in registry.rows)
        yield from (("pad", rows, more) for rows, more in padded if rows != more)
        yield ("set_history",)

    def _program(self, key: tuple[Any, ...]) -> Program:
        match key:
            case ("forward", shape):
                return self._forward_program(shape, self._kv_pages[0].shape[0])
            case ("score", num_tokens):
                return self._score_program(num_tokens)
            case ("pool", num_tokens):
                return self._pool_program(num_tokens)
            case ("pad", rows, more):
                return self._pad_program(rows, more)
            case ("set_history",):
                return self._set_history_program()
            case (variant, rows):
                return self._sampler_program(variant, rows)
        raise ValueError(f"no program {key}")

    def _compiled(self, *key: Any) -> Any:
        """The program of ``key``. One that warm-up has missed is compiled now, or refused."""
        if key not in self.programs and not self._forbid_recompile:
            logger.error("warm-up has missed the program %s", key)
            self.programs.add(self._program(key))
        return self.programs[key]

    def _array(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(self.device))

    def _like(self, array: Any) -> jax.ShapeDtypeStruct:
        return self._array(array.shape, array.dtype)

    def _forward_program(self, shape: StepShape, num_pages: int) -> Program:
        layout = self._builder.layout(shape)
        page = self._like(self.kv_spec.page_array(num_pages))
        return Program(
            ("forward", shape),
            partial(
                programs.forward,
                rebuild=self._rebuild,
                layout=layout,
                decode_only=shape.decode_only,
                implementation=self.kv_spec.implementation,
            ),
            (
                [self._like(leaf) for leaf in self._leaves],
                [page] * self.kv_spec.num_layers,
                self._like(self._history),
                self._array((layout.size,), np.int32),
            ),
            donate=(1,),
            identity=self._identity,
        )

    def _pages_program(self, num_pages: int) -> Program:
        page = self.kv_spec.page_array(num_pages)
        placed = jax.sharding.SingleDeviceSharding(self.device)
        return Program(
            ("pages", num_pages),
            lambda: jnp.zeros(page.shape, page.dtype, device=placed),
            (),
            identity=f"{page} ",
        )

    def _pad_program(self, rows: int, more: int) -> Program:
        return Program(
            ("pad", rows, more),
            lambda logits: jnp.pad(logits, ((0, more - rows), (0, 0))),
            (self._array((rows, self.vocab_size), np.float32),),
        )

    def _set_history_program(self) -> Program:
        arguments = (
            self._like(self._history),
            self._array((), np.int32),
            self._array((self._history_len,), np.int32),
        )
        return Program(("set_history",), programs.set_history, arguments, donate=(0,))

    def _score_program(self, num_tokens: int) -> Program:
        return Program(
            ("score", num_tokens),
            partial(programs.score, rebuild=self._rebuild, num_logprobs=self.num_logprobs),
            (
                [self._like(leaf) for leaf in self._leaves],
                self._array((num_tokens, self._hidden_size), self._hidden_dtype),
                self._array((num_tokens,), np.int32),
            ),
            identity=self._identity,
        )

    def _pooled_rows(self, num_tokens: int) -> int:
        return min(num_tokens, self.registry.max_num_seqs)

    def _pool_program(self, num_tokens: int) -> Program:
        assert self._pooling is not None
        hidden = self._array((num_tokens, self._hidden_size), self._hidden_dtype)
        return Program(
            ("pool", num_tokens),
            partial(programs.pool, normalize=self._pooling.normalize),
            (hidden, self._array((self._pooled_rows(num_tokens),), np.int32)),
            identity=f"{self._pooling} ",
        )

    def _sampler_program(self, variant: str, rows: int) -> Program:
        def ints(n: int) -> jax.ShapeDtypeStruct:
            return self._array((n, rows), np.int32)

        def floats(n: int) -> jax.ShapeDtypeStruct:
            return self._array((n, rows), np.float32)

        mask = self._array((rows, len(full_row(self.vocab_size))), np.uint32)
        variants: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "greedy": (programs.sample_greedy, (ints(2),)),
            "random": (programs.sample_random, (ints(5), floats(3))),
            "masked": (programs.sample_masked, (ints(5), floats(3), mask)),
            "full": (
                partial(programs.sample_full, num_logprobs=self.num_logprobs),
                (
                    ints(7),
                    floats(6),
                    self._array((rows, MAX_LOGIT_BIAS), np.int32),
                    self._array((rows, MAX_LOGIT_BIAS), np.float32),
                    mask,
                    self._array((rows, MAX_LOGPROB_TOKEN_IDS), np.int32),
                ),
            ),
        }
        function, arguments = variants[variant]
        logits = self._array((rows, self.vocab_size), np.float32)
        return Program(
            (variant, rows),
            function,
            (logits, self._like(self._history), *arguments),
            donate=(1,),
            identity=f"{self.num_logprobs} ",
        )
