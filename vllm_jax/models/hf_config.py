"""Strict reading of a ``config.json``: every field is honoured, known to change nothing, or refused.

Knows how a field is checked and which fields never touch a decoder's output. Does not know any model: the
families read their own fields through :class:`FieldReader` and end with :meth:`FieldReader.finish`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from vllm_jax.errors import ConfigError

T = TypeVar("T")

WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "says what the file is": (
        "architectures",
        "auto_map",  # names repository code, which is never run
        "dtype",  # resolved by the loader
        "finetuning_task",
        "model_type",
        "name_or_path",
        "tokenizer_class",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unsloth_*",
        "_*",  # notes transformers leaves for itself, such as _name_or_path
    ),
    "special tokens, which the tokenizer and the generation config answer for": (
        "bos_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "pad_token_id",
        "prefix",
        "sep_token_id",
    ),
    "training": (
        "attention_dropout",
        "gradient_checkpointing",
        "initializer_range",
        "neftune_noise_alpha",
        "pretraining_tp",  # another order of the same sums
        "problem_type",
        "id2label",
        "label2id",
        "num_labels",
        "task_specific_params",
        "use_bfloat16",
    ),
    "what transformers returns": (
        "chunk_size_feed_forward",
        "is_decoder",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "return_dict",
        "return_dict_in_generate",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "torchscript",
        "use_cache",
    ),
    "old places of generation defaults; the generation config is where they are read": (
        "bad_words_ids",
        "begin_suppress_tokens",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "remove_invalid_values",
        "repetition_penalty",
        "suppress_tokens",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    ),
}
"""Fields (or patterns) that do not change a decoder's logits, by reason."""

_ABSENT: Any = object()


class FieldReader:
    """Takes fields out of a config, checks them, and knows in the end which were never asked for.

    A field that is null counts as absent, as it does in transformers, wherever a default exists.
    All methods raise :class:`~vllm_jax.errors.ConfigError` with the field's name.

    Args:
        config: the parsed JSON object.
        where: what errors call it, for example ``"llama config"``.
        advice: what to do about an unknown field, or "" where there is no way around it.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        where: str,
        advice: str = "If you know that it does not, switch it off: --hf-overrides",
    ):
        self._config = config
        self._where = where
        self._advice = advice
        self._seen: set[str] = set()

    def error(self, message: str) -> ConfigError:
        """A ConfigError that says which config is meant."""
        return ConfigError(f"{self._where}: {message}")

    def _get(self, name: str, default: Any) -> Any:
        self._seen.add(name)
        value = self._config.get(name)
        if value is not None:
            return value
        if default is _ABSENT:
            raise self.error(f"{name} is missing")
        return default

    def is_null(self, name: str) -> bool:
        """Whether the field is there and null, for the few fields where that differs from absent."""
        self._seen.add(name)
        return name in self._config and self._config[name] is None

    def integer(self, name: str, default: T = _ABSENT, *, minimum: int = 1) -> int | T:
        """An int of at least ``minimum``. A default of any type is returned as it is."""
        value = self._get(name, default)
        if value is default:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.error(f"{name} must be an integer of at least {minimum}, got {value!r}")
        return value

    def number(self, name: str, default: T = _ABSENT, *, above: float = 0.0) -> float | T:
        """A finite number greater than ``above``."""
        value = self._get(name, default)
        if value is default:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < float("inf"):
            raise self.error(f"{name} must be a number greater than {above:g}, got {value!r}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.error(f"{name} must be true or false, got {value!r}")
        return value

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        """One of the strings in ``choices``."""
        value = self._get(name, default)
        if value not in choices:
            raise self.error(f"{name} {value!r} is not supported (supported: {', '.join(sorted(choices))})")
        return value

    def strings(self, name: str, choices: Collection[str]) -> list[str] | None:
        """A list of strings out of ``choices``, or None where the field is absent."""
        value = self._get(name, None)
        if value is None:
            return None
        if not isinstance(value, list) or any(item not in choices for item in value):
            raise self.error(f"{name} must be a list of {' / '.join(sorted(choices))}, got {value!r}")
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """A JSON object, or None where the field is absent."""
        value = self._get(name, None)
        if value is not None and not isinstance(value, dict):
            raise self.error(f"{name} must be an object, got {value!r}")
        return value

    def refuse_unless(self, name: str, harmless: Collection[Any], why: str) -> None:
        """Refuses a field that is present with a value outside ``harmless``."""
        value = self._get(name, None)
        if value is not None and value not in harmless:
            raise self.error(f"{name} = {_short(value)} is not supported: {why}")

    def finish(self, without_effect: Collection[str] = ()) -> None:
        """Refuses every field that was not read and is not known to change nothing.

        A field that is null, false or empty switches nothing on and passes. ``without_effect`` adds the
        family's own patterns to :data:`WITHOUT_EFFECT`.
        """
        self.refuse_unless("is_causal", (True,), "only causal decoders are served")
        self.refuse_unless(
            "quantization_config", (), "quantized checkpoints are not read; use the unquantized one"
        )
        harmless = [*without_effect, *(name for names in WITHOUT_EFFECT.values() for name in names)]
        unknown = {
            name: value
            for name, value in self._config.items()
            if name not in self._seen
            and value is not None
            and value is not False
            and value not in ("", [], {})
            and not any(fnmatchcase(name, pattern) for pattern in harmless)
        }
        if unknown:
            listed = ", ".join(f"{name} = {_short(value)}" for name, value in sorted(unknown.items()))
            off = json.dumps(dict.fromkeys(sorted(unknown)))
            advice = f" {self._advice} '{off}'" if self._advice else ""
            raise self.error(
                f"unknown field{'s' if len(unknown) > 1 else ''} {listed}. "
                f"What could change the output is not skipped.{advice}"
            )


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= limit else text[: limit - 3] + "..."
