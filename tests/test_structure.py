"""The structure of the sources: imports point one way, and heavy packages are imported only where they are needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up: a module imports from its own layer and from those before it.
LAYERS = (
    {"tasks.address"},
    {"tasks.values", "tasks.errors"},
    {"tasks.settings"},
    {"tasks.storage", "tasks.running"},
    {"tasks.data"},
    {"tasks.registry", "tasks.caching"},
    {"tasks.learning", "tasks.gate"},
    {"tasks.report"},
    {"tasks"},  # the steps
    {"deployments", "flows"},
    {"flows.cli"},
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}

# Seconds of import, or not installed everywhere: never at the top of a module.
HEAVY = {
    "tensorflow",
    "keras",
    "matplotlib",
    "jinja2",
    "PIL",
    "sklearn",
    "scipy",
    "onnx",
    "onnxruntime",
    "plotille",
    "pyarrow",
    "yaml",
}

PREFECT_FREE = ("data", "gate.checks", "gate.paired", "registry", "storage", "caching.keys", "caching.inventory")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Every module of the project by its name.
SOURCES = {module_name(path): path for top in ("flows", "tasks", "deployments") for path in (ROOT / top).rglob("*.py")}


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text())


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The names of imported modules; of `from a import b` both a and a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def project_imports(module: str) -> set[str]:
    found = {name for name in imports(ast.walk(parsed(module))) if name in SOURCES}
    # `from room import module` needs the module; the room's own file only names it.
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)} - {module}


def layer(module: str) -> int:
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return LAYER_OF[next(name for name in names if name in LAYER_OF)]


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_point_one_way(module: str) -> None:
    upwards = [name for name in project_imports(module) if layer(name) > layer(module)]
    assert not upwards


def test_no_module_imports_itself_through_others() -> None:
    order = list(TopologicalSorter({module: project_imports(module) for module in SOURCES}).static_order())
    assert set(order) == set(SOURCES)


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_heavy_packages_are_imported_inside_functions(module: str) -> None:
    top = {name.split(".")[0] for name in imports(iter(parsed(module).body))}
    assert not top & HEAVY


@pytest.mark.parametrize("room", PREFECT_FREE)
def test_an_application_reads_a_store_without_prefect(room: str) -> None:
    modules = [module for module in SOURCES if f"{module}.".startswith(f"tasks.{room}.")]
    assert modules
    packages = {module: {name.split(".")[0] for name in imports(ast.walk(parsed(module)))} for module in modules}
    assert not [module for module in modules if "prefect" in packages[module]]
