"""Cache keys: everything that a step's result depends on, and nothing else.

A key is the SHA-256 of a small JSON document: the step's name, its inputs, the source of its module and of every
project module that it imports (transitively), the versions of the numeric packages it uses. The same work gives the
same key in any process on any machine; an edit to a helper changes the keys of exactly the steps that import it.
Called by `tasks.caching.steps`; others use `canonical` and `installed`. Imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

PROJECT = ("tasks", "flows")
ROOT = Path(__file__).parents[2]

# Modules whose code cannot change a result: those that run steps, here or elsewhere, and keep results, and those that
# only declare fields (whose content is in the inputs; a test checks that they declare nothing else).
PLUMBING = (
    "tasks.caching",
    "tasks.storage",
    "tasks.registry",
    "tasks.running.prefect_artifacts",
    "tasks.learning.work_pool",
    "tasks.learning.compiled",
)
DECLARATIONS = ("tasks.values", "tasks.settings", "tasks.errors", "tasks.gate.candidate", "tasks.learning.plan")


# Builds of one package under two names: a machine without a GPU reuses what one with a GPU has trained.
BUILDS = {"tensorflow": ("tensorflow", "tensorflow-cpu")}


def key_document(step: str, module: str, inputs: Mapping[str, Any], packages: Iterable[str]) -> dict[str, Any]:
    """The document whose digest is the key of `step`: {"step", "inputs", "code", "packages"}.

    Args:
        step: The step's name.
        module: The module that defines it ("tasks.train").
        inputs: The step's arguments: values, and plain JSON types.
        packages: Distributions whose version may change the result.
    """
    return {
        "step": step,
        "inputs": {name: plain(value) for name, value in inputs.items()},
        "code": {name: source_digest(name) for name in sorted(closure(module))},
        "packages": {name: installed(name) for name in sorted(packages)},
    }


def key_of(document: Mapping[str, Any]) -> str:
    """The SHA-256 of the document's canonical JSON, in hex."""
    return hashlib.sha256(canonical(document)).hexdigest()


def canonical(value: Any) -> bytes:
    """The canonical JSON of a value: sorted keys, no spaces, ASCII. Raises ValueError on NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def plain(value: Any) -> Any:
    """A value as plain JSON types. Raises TypeError for an array, a model, a client or the like."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a step's input must be a value or plain JSON, not {type(value).__name__}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The changes between two key documents, as text: "learning_rate 0.001 → 0.002", "code tasks.train changed"."""
    inputs = _input_differences(old.get("inputs", {}), new["inputs"])
    code = [f"code {name} changed" for name in _changed(old.get("code", {}), new["code"])]
    packages = [
        f"{name} {old.get('packages', {}).get(name)} → {new['packages'].get(name)}"
        for name in _changed(old.get("packages", {}), new["packages"])
    ]
    return inputs + code + packages


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def _input_differences(old: Any, new: Any, name: str = "") -> list[str]:
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        if "sha256" in new:
            return [f"{name} changed"]
        return [line for key in sorted({*old, *new}) for line in _input_differences(old.get(key), new.get(key), key)]
    if isinstance(old, dict | list) or isinstance(new, dict | list):  # too long for a log line
        return [f"{name} changed"]
    return [f"{name} {_short(old)} → {_short(new)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, under any of the names of its builds, or None."""
    for name in BUILDS.get(distribution, (distribution,)):
        with suppress(PackageNotFoundError):
            return version(name)
    return None


class Sources(NamedTuple):
    """Modules whose code counts: those of a folder, or only some packages of it, named by their top level."""

    root: Path
    packages: tuple[str, ...] = ()

    def has(self, module: str) -> bool:
        """Whether a module's code counts."""
        top = module.partition(".")[0]
        return top in self.packages if self.packages else _source_path(self, top) is not None


OURS = Sources(ROOT, PROJECT)


def closure(module: str, sources: Sources = OURS) -> set[str]:
    """The modules of these sources that `module` imports, directly or not, and itself.

    Imports inside functions count too; so do the packages that somebody's own module is in, which run first.
    """
    modules: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name in modules or (sources == OURS and _is_exempt(name)):
            continue
        modules.add(name)
        pending.extend(_imports(name, sources))
        package = name.rpartition(".")[0]
        if sources != OURS and _source_path(sources, package):
            pending.append(package)
    return modules


def own_code(module: str, path: Sequence[str]) -> dict[str, str]:
    """The digest of a module that is not this project's, and of each that it imports from the same folder.

    Of an installed package those of the package itself count. Imports nothing.

    Args:
        module: Its name ("letters.networks").
        path: The folders in which Python looks for it.

    Raises:
        ModuleNotFoundError: It has no source there.
        SyntaxError: It is no Python.
    """
    top = module.partition(".")[0]
    spec = PathFinder.find_spec(top, path)
    if spec is None or not spec.origin:
        raise ModuleNotFoundError(f"no module named {top!r}")
    origin = Path(spec.origin)
    root = origin.parents[1] if origin.name == "__init__.py" else origin.parent
    installed = {"site-packages", "dist-packages"} & {root.name}
    sources = Sources(root, (top,) if installed else ())
    return {name: source_digest(name, sources) for name in sorted(closure(module, sources))}


def _is_exempt(module: str) -> bool:
    return module in DECLARATIONS or module.startswith(PLUMBING)


@cache
def _imports(module: str, sources: Sources) -> frozenset[str]:
    return frozenset(_project_imports(module, _tree(module, sources), sources))


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All statements, at any depth: a fifth of the nodes of a syntax tree."""
    for statement in body:
        yield statement
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(statement, field, ()))


def _project_imports(module: str, tree: ast.Module, sources: Sources) -> Iterator[str]:
    for node in _statements(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if sources.has(alias.name))
        elif isinstance(node, ast.ImportFrom) and sources.has(base := _absolute(module, node, sources)):
            yield base
            # `from package import name`: the name may be a module of its own.
            if _is_package(base, sources):
                yield from (full for alias in node.names if _source_path(sources, full := f"{base}.{alias.name}"))


def _absolute(module: str, node: ast.ImportFrom, sources: Sources) -> str:
    if not node.level:
        return node.module or ""
    package = module if _is_package(module, sources) else module.rpartition(".")[0]
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])


@cache
def _source_path(sources: Sources, module: str) -> Path | None:
    """The source file of a module, from its name alone: an import would run it."""
    base = sources.root.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _is_package(module: str, sources: Sources) -> bool:
    path = _source_path(sources, module)
    return path is not None and path.name == "__init__.py"


@cache
def _tree(module: str, sources: Sources) -> ast.Module:
    path = _source_path(sources, module)
    if path is None:
        raise ModuleNotFoundError(f"no source for the module {module}")
    return ast.parse(path.read_bytes())


@cache
def source_digest(module: str, sources: Sources = OURS) -> str:
    """SHA-256 of a module's syntax tree without docstrings: independent of comments, layout, line numbers and paths."""
    tree = _tree(module, sources)
    for node in (tree, *_statements(tree.body)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _has_docstring(
            node
        ):
            node.body = node.body[1:]
    # The dump differs between Python versions: then a result is computed again, never reused wrongly.
    digest = hashlib.sha256(ast.dump(tree).encode())
    for path in _data_files(module, sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _data_files(module: str, sources: Sources) -> list[Path]:
    """Templates and the like beside a package's modules, which count as code; its README does not."""
    path = _source_path(sources, module)
    if path is None or path.name != "__init__.py" or sources != OURS:
        return []
    return sorted(
        file for file in path.parent.iterdir() if file.is_file() and file.suffix not in {".py", ".pyc", ".md"}
    )


def _has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None
