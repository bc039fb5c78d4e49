"""What documents may speak of: the project's files, commands, make targets, variables, modules, defaults, numbers."""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*|[$<].*")

# Of botocore's source, beside what is literally in it. It names AWS_REGION too, but takes no region from there.
AWS = {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS"}
NOT_AWS = {"AWS_REGION"}


def command_line() -> argparse.ArgumentParser:
    """The parser of `retrain`."""
    from flows.cli.main import parser

    return parser()


@cache
def files(root: Path = ROOT) -> frozenset[str]:
    """The repository's files, as Git lists them, new ones included; without Git, all that .gitignore does not name."""
    git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = _walk(root)
    return frozenset(name for name in listed if name and (root / name).is_file())


def _walk(root: Path) -> list[str]:
    ignored = {".git"} | {line.strip("/") for line in (root / ".gitignore").read_text().splitlines()}
    found: list[str] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in ignored]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in names]
    return found


def is_kept(path: str) -> bool:
    """Whether a file or a folder is in the repository."""
    return path == "." or path in files() or any(name.startswith(f"{path}/") for name in files())


def is_there(path: str) -> bool:
    """The same, also for a pattern like `tests/*.py`, and for what .gitignore names, as it is the reader's to make."""
    path = path.rstrip("/")
    ignored = any(fnmatch(f"/{path}", line.rstrip("/")) for line in (ROOT / ".gitignore").read_text().splitlines())
    return ignored or is_kept(path) or ("*" in path and any(ROOT.glob(path)))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


@cache
def options() -> dict[str, argparse.Action]:
    """Every option of any command; of one that several have, that of `run`."""
    every = reversed(_commands(command_line()).values())  # `run` is the first
    return {flag: action for command in every for action in command._actions for flag in action.option_strings}


class _Choices(tuple[Any, ...]):
    def __contains__(self, value: object) -> bool:
        return super().__contains__(value) or bool(PLACEHOLDER.fullmatch(str(value)))


def _or_placeholder(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: text if PLACEHOLDER.fullmatch(text) else kind(text)


@cache
def _lenient(whole: bool) -> argparse.ArgumentParser:
    """The real parser, which takes placeholders for values; not `whole`: what is required may be missing."""
    parser = command_line()
    for command in _commands(parser).values():
        command.allow_abbrev = False
        for action in command._actions:
            action.choices = _Choices(action.choices) if action.choices is not None else None
            action.type = _or_placeholder(action.type) if callable(action.type) else action.type
            if not whole:
                action.required = False
                action.nargs = "?" if action.nargs is None else action.nargs
    return parser


def refusal(arguments: Sequence[str], *, whole: bool) -> str:
    """What `retrain` has against these arguments; "" where they are good."""
    with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
        try:
            found = vars(_lenient(whole).parse_args(arguments))
        except SystemExit as end:  # 0: --help
            return said.getvalue().strip().removeprefix("retrain: ") if end.code else ""
    given = {name: found[name] for name in Settings.model_fields if found.get(name) is not None}
    try:
        Settings(**{name: value for name, value in given.items() if not PLACEHOLDER.fullmatch(str(value).strip("[]'"))})
    except ValidationError as error:
        return f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg'].lower()}"
    return ""


@cache
def makefile() -> tuple[frozenset[str], frozenset[str]]:
    """The Makefile's targets and variables."""
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z][\w-]*):(?!=)", text, re.MULTILINE)
    return frozenset(targets), frozenset(re.findall(r"^(\w+) *[?:+]?=", text, re.MULTILINE))


@cache
def _own_variables() -> frozenset[str]:
    """Those in the project's files; tests may name variables that must not do anything."""
    names = [name for name in files() if not name.endswith((".md", ".png", ".lock")) and "/test_" not in name]
    found = {each for name in names for each in re.findall(r"\b[A-Z]+_\w+", (ROOT / name).read_text(errors="ignore"))}
    return frozenset(found | {f"RETRAIN_{name.upper()}" for name in Settings.model_fields})


@cache
def _aws_variables() -> frozenset[str]:
    spec = find_spec("botocore")
    assert spec
    assert spec.origin
    text = "".join(path.read_text() for path in Path(spec.origin).parent.glob("*.py"))
    return frozenset(AWS.union(re.findall(r"""["'](AWS_[A-Z0-9_]+)["']""", text)) - NOT_AWS)


def is_variable(name: str) -> bool:
    """Whether something reads this environment variable: the project, botocore, Prefect."""
    if name.startswith("AWS_"):
        return name in _aws_variables()
    if name in _own_variables():
        return True
    import prefect.settings

    return name.startswith("PREFECT_") and hasattr(prefect.settings, name)


def is_defined(dotted: str) -> bool:
    """Whether a module of the project, or what it names in a module, is there; nothing is imported."""
    parts = dotted.split(".")
    if ROOT.joinpath(*parts).is_dir():
        return True
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return end == len(parts) or _holds(ast.parse(file.read_text()), parts[end], parts[end + 1 :])
    return False


def _holds(tree: ast.Module, name: str, members: Sequence[str]) -> bool:
    """Whether the module itself has the name; its members may be any that the module sets anywhere."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return is_defined(".".join([str(node.module), alias.name, *members]))
    everywhere = set().union(*map(_set_by, ast.walk(tree)))
    return name in set().union(*map(_set_by, tree.body)) and everywhere.issuperset(members)


def _set_by(node: ast.AST) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return {name}
        case ast.Assign() | ast.AnnAssign():
            return set().union(*map(_set_by, ast.iter_child_nodes(node)))
        case ast.Tuple(elts=elements):
            return set().union(*map(_set_by, elements))
    return set()


@cache
def operating() -> dict[str, dict[str, tuple[float, ...]]]:
    """The table of how often candidates pass: row, column, the number and its standard error."""
    rows = json.loads((ROOT / "tests/operating/characteristics.json").read_text())["losses"]
    return {
        f"{row['what']} ({row['loss']:.4f})" if row["what"] else f"true loss {row['loss']:.3f}": {
            "champion row": (row["champion"], row["champion error"]),
            "accuracy": (row["accuracy"],),
            "lower bound": (row["lower bound"],),
            "class recall": (row["recall"],),
            "all rows": (row["all"],),
        }
        for row in rows
    }
