"""Model name -> local directory: a path is taken as it is, anything else is a hub id.

Knows which of a repository's files a server needs, and turns whatever the hub library raises into one
readable line. Downloading, caching, resuming, tokens and ``HF_HUB_OFFLINE`` are the hub library's.
"""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vllm_jax.errors import CheckpointError, ConfigError
from vllm_jax.weights.checkpoint import why_no_safetensors

TEXT_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Configs, tokenizers and chat templates."""

WEIGHT_FILES = ("*.safetensors",)

UNUSED_FILES = ("consolidated*", "*/*.safetensors", "[!0-9]*/*.json", "*/*.txt", "*/*.model")
"""Second copies of the weights that repositories keep in other layouts or in subfolders."""


def resolve_directory(
    model: str,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
    weights: bool = True,
) -> Path:
    """The local directory of a model, downloaded first where it is a hub id that is not cached.

    Args:
        model: a directory (``~`` is expanded) or a hub id such as ``"mosaicml/mpt-7b"``.
        revision: branch, tag or commit; only for hub ids.
        cache_dir: where hub files are kept. The default is the hub library's own.
        token: for gated and private repositories. The default is the hub library's own.
        weights: whether safetensors are wanted, or the text files only (tokenizer, random weights).

    Raises:
        ConfigError: there is no such directory, repository or revision, access is refused, or the hub is
            out of reach and the model is not cached. As CheckpointError: the repository has no safetensors.
    """
    if not model:
        raise ConfigError("the model's name is empty")
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f"a revision ({revision!r}) is for hub ids, but {model!r} is a local directory")
        return path
    if path.exists():
        raise ConfigError(f"{model!r} is a file; the model must be a directory or a hub id")
    if model.startswith((".", "/", "~")):
        raise ConfigError(f"there is no directory {model!r}")
    try:
        directory = Path(
            huggingface_hub.snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                allow_patterns=[*TEXT_FILES, *WEIGHT_FILES] if weights else list(TEXT_FILES),
                ignore_patterns=list(UNUSED_FILES),
            )
        )
    except Exception as error:  # the hub and HTTP libraries raise many kinds, and any of them ends a start
        raise ConfigError(_explain(error, model, revision, cache_dir)) from error
    if weights and not any(directory.glob("*.safetensors")):
        raise CheckpointError(why_no_safetensors(model, _file_names(model, directory, token)))
    return directory


def _file_names(model: str, directory: Path, token: str | None) -> list[str]:
    """All names in the repository, or out of reach of the hub those in its snapshot."""
    try:
        return huggingface_hub.HfApi(token=token).list_repo_files(model, revision=directory.name)
    except Exception:  # only the error message becomes less precise
        return [file.name for file in directory.iterdir()]


def _explain(error: Exception, model: str, revision: str | None, cache_dir: str | None) -> str:
    """One line on what went wrong and what to do."""
    cache = f"the cache {cache_dir}" if cache_dir else "the hub cache"
    if isinstance(error, HFValidationError):
        return f"{model!r} is neither a local directory nor a hub id (OWNER/NAME)"
    if isinstance(error, GatedRepoError):
        return f"access to {model!r} is gated: accept its terms on its hub page, then set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return f"{model!r} is neither a local directory nor a hub model (a private one needs HF_TOKEN)"
    if isinstance(error, RevisionNotFoundError):
        return f"hub model {model!r} has no revision {revision!r}"
    if isinstance(error, LocalEntryNotFoundError):
        which = repr(model) if revision is None else f"{model!r} in revision {revision!r}"
        if isinstance(error.__cause__, OfflineModeIsEnabled):
            return f"{which} is not a local directory and not complete in {cache}, and HF_HUB_OFFLINE is set"
        return f"{which} is not a local directory and not complete in {cache}, and the hub cannot be reached"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        hint = "; check HF_TOKEN" if status in (401, 403) else ""
        return f"the hub answered {status} when asked for {model!r}{hint}"
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"cannot download {model!r}: {first_line}"
