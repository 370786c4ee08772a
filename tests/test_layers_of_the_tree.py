"""The tree is the architecture: imports point down the layers, lazy ones too."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LEAVES = {
    "vllm_jax._version",
    "vllm_jax.config",
    "vllm_jax.errors",
    "vllm_jax.metrics",
    "vllm_jax.outputs",
    "vllm_jax.progress",
    "vllm_jax.sampling_params",
    "vllm_jax.scheduled_batch",
    "vllm_jax.sequence",
    "vllm_jax.structured_output_params",
}

# From the top down. Packages in one set are neighbours: they never import each other.
LEVELS: list[set[str]] = [
    {"api"},
    {"vllm_jax"},
    {"vllm_jax.llm"},
    {"vllm_jax.engine"},
    {"vllm_jax.scheduler", "vllm_jax.runner", "vllm_jax.structured_output", "vllm_jax.tokenizer"},
    {"vllm_jax.sampling"},
    {"vllm_jax.models"},
    {"vllm_jax.weights"},
    {"vllm_jax.layers"},
    {"vllm_jax.kernels"},
    {"vllm_jax.demo", *LEAVES},
]

NO_JAX = ("api", "vllm_jax/scheduler", "vllm_jax/structured_output", "vllm_jax/tokenizer")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Every module the file imports, at whatever depth of the code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__")
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(node.args[0].value)
    return found


def level_of(module: str) -> tuple[int, str] | None:
    """Index of the module's level and the package that put it there; None for other people's modules."""
    best: tuple[int, str] | None = None
    for index, level in enumerate(LEVELS):
        for package in level:
            exact_only = package == "vllm_jax"
            if (module == package or (not exact_only and module.startswith(package + "."))) and (
                best is None or len(package) > len(best[1])
            ):
                best = (index, package)
    return best


def broken_edges(path: Path) -> list[str]:
    name = module_name(path)
    own = level_of(name)
    if own is None:
        return [f"{name} belongs to no layer"]
    broken = []
    for target in sorted(imported_modules(path)):
        other = level_of(target)
        if other is None or other[1] == own[1]:
            continue
        if other[0] < own[0] or (other[0] == own[0] and own[1] not in LEAVES):
            broken.append(f"{name} -> {target}")
    return broken


@pytest.mark.parametrize("path", python_files("api", "vllm_jax"), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    assert broken_edges(path) == []


@pytest.mark.parametrize("path", python_files(*NO_JAX), ids=module_name)
def test_no_jax_where_none_belongs(path: Path) -> None:
    assert not {m for m in imported_modules(path) if m.split(".")[0] in ("jax", "flax", "jaxlib")}


@pytest.mark.parametrize("path", python_files("api", "vllm_jax"), ids=module_name)
def test_torch_is_never_imported(path: Path) -> None:
    assert not {m for m in imported_modules(path) if m.split(".")[0] == "torch"}


@pytest.mark.parametrize(
    ("source", "edges"),
    [
        ("def f():\n    from vllm_jax.engine import llm_engine", ["engine"]),
        ("import importlib\nimportlib.import_module('api.app')", ["api"]),
        ("from vllm_jax.runner import buckets", ["runner"]),
        ("from vllm_jax.errors import ConfigError", []),
    ],
)
def test_the_walk_sees_bad_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, edges: list[str]
) -> None:
    monkeypatch.setattr("test_layers_of_the_tree.ROOT", tmp_path)
    bad = tmp_path / "vllm_jax" / "scheduler" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text(source)
    found = broken_edges(bad)
    assert bool(found) == bool(edges)
    assert all(any(edge in line for line in found) for edge in edges)


def test_every_package_is_listed_in_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    found = {module_name(path) for path in python_files("api", "vllm_jax") if path.name == "__init__.py"}
    assert set(listed) == found
