"""Makes `0.1.0.tar.xz` and `expected.json`: a small store of version 0.1.0, and what that version says of it.

Made once, by the code of commit 3cc9097 (retrain-mnist 0.1.0) with the packages of its requirements-dev.lock, and kept
so that newer code can be tested on it. From the root of the checkout:

    git worktree add ../retrain-0.1.0 3cc9097
    PYTHONPATH=../retrain-0.1.0 python tests/stores/make_store.py tests/stores

It runs the real command line on scikit-learn's digits, so it needs no network. Only the model is made small: 8 hidden
units instead of 512. Another call makes a store of the same shape; times and publish ids differ. Code of another commit
is refused.

The store holds the model `digits` and the records of four runs:

    version 1      seed 0; pinned
    version 2      two more epochs, a validation split
    version 3      the median of three seeds, published with --force-publish
    history        six entries: versions 1, 2, 1 (rolled back), 2 (put back, with RETRAIN_HISTORY_DECIDES=1), 3, and
                   2 (rolled back)
    champion       version 2
    runs/          the three that published, and the one that was rejected

What is safe to expire is left out: cache, checkpoints, and the store's temporary files.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import lzma
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REVISION = "3cc909717490"
MODEL = "digits"
HIDDEN = 8

# What of a store is kept.
KEPT = ("models", "runs")

# The first argument of the process that runs one command.
ONE_COMMAND = "--command"

LIMITS = ("--min-accuracy-lower-bound", "0.4", "--min-class-recall", "0", "--max-regression", "0.5")
RUN = ("run", "--device", "cpu", "--learning-rate", "0.003", *LIMITS)
PASSES, FAILS = ("--min-accuracy", "0.5"), ("--min-accuracy", "1")
OTHERS = ("--seeds", "3", "--seed", "2")

# Each command, the exit code that it must end with, and what its environment holds more.
STORY: Sequence[tuple[Sequence[str], int, Mapping[str, str]]] = (
    ((*RUN, *PASSES), 0, {}),
    ((*RUN, *PASSES, "--epochs", "22", "--validation-fraction", "0.1"), 0, {}),
    (("pin", "1", "--reason", "the first one that was good enough"), 0, {}),
    ((*RUN, *FAILS, *OTHERS), 3, {}),
    (("rollback", "--to", "1", "--reason", "customers complained"), 0, {}),
    (("rollback", "--to", "2", "--reason", "it was something else"), 0, {"RETRAIN_HISTORY_DECIDES": "1"}),
    ((*RUN, *FAILS, *OTHERS, "--force-publish", "the limit is about to change"), 0, {}),
    (("rollback",), 0, {}),
)

# What the old code is asked about the store.
QUESTIONS = (
    "versions",
    "champion",
    "history",
    "verify",
    "verify 2",
    "show 1",
    "show 2",
    "show 3",
    "show 4",
    "compare 1 2",
    "compare 2 3",
)


def main(target: Path) -> int:
    """Make both files in a folder."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store, unpacked = Path(folder) / "store", Path(folder) / "unpacked"
        for arguments, code, settings in STORY:
            found, _ = retrain(store, arguments, settings)
            if found != code:
                raise SystemExit(f"{' '.join(arguments)} ended with {found} instead of {code}")
        archive = packed(store)
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            opened.extractall(unpacked, filter="data")
        check_anonymous(unpacked, [folder, str(Path.home()), *filter(None, sys.path)])
        expected = answers(unpacked)
    (target / "0.1.0.tar.xz").write_bytes(archive)
    (target / "expected.json").write_text(json.dumps(expected, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
    return 0


def retrain(store: Path, arguments: Sequence[str], settings: Mapping[str, str] = {}) -> tuple[int, str]:
    """Run a command on a store, in a process and with settings of its own: its exit code, and what it printed."""
    private = ("PREFECT_", "RETRAIN_", "GITHUB_", "CI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(private)}
    environment |= {
        "PREFECT_HOME": str(store.parent / "prefect"),
        "RETRAIN_HOME": str(store.parent / "home"),
        "LOGNAME": "maintainer",
    }
    done = subprocess.run(
        [sys.executable, __file__, ONE_COMMAND, *arguments, "--store", str(store), "--dataset", MODEL],
        env=environment | dict(settings),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def one_command(arguments: Sequence[str]) -> int:
    """Run a command of the old code in this process, with the small network and a name that is not this machine's."""
    platform.node = lambda: "laptop"
    command_line = old("flows.cli")
    import_ahead = command_line.import_ahead

    def and_the_small_network(settings: Any) -> None:
        """Not before: `tasks.train` imports Prefect, which takes its server's address when it is imported."""
        import_ahead(settings)
        old("tasks.train").build = build

    command_line.import_ahead = and_the_small_network
    return int(command_line.main(arguments))


def build(inputs: int) -> Any:
    """The project's network with fewer hidden units."""
    import keras

    return keras.Sequential(
        [
            keras.Input((inputs,), dtype="float32", name="pixels"),
            keras.layers.Dense(HIDDEN, activation="relu", name="hidden"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="chollet_mnist",
    )


def old(module: str) -> Any:
    """A module of the old code, by the name it has there: newer code may have it elsewhere."""
    return importlib.import_module(module)


def packed(store: Path) -> bytes:
    """What of a store is kept, as a tar archive with neither times nor owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(path for name in KEPT for path in (store / name).rglob("*") if path.is_file()):
            member = tarfile.TarInfo(path.relative_to(store).as_posix())
            data = path.read_bytes()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def check_anonymous(store: Path, places: Sequence[str]) -> None:
    """Refuse a store that names a folder of this machine."""
    for path in store.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if found := [place for place in places if place.encode() in data]:
            raise SystemExit(f"{path.relative_to(store)} names {found}")


def answers(store: Path) -> dict[str, Any]:
    """What the old code says of the store, whose folder is called STORE."""
    commands = {}
    for question in QUESTIONS:
        code, printed = retrain(store, question.split())
        commands[question] = {"code": code, "stdout": printed.replace(str(store), "STORE")}
    storage = old("tasks.storage")
    registry = storage.Registry(storage.open_store(str(store)), MODEL)
    champion = registry.champion()
    return {
        "champion": {name: getattr(champion, name) for name in ("version", "generation", "publish_id")},
        "commands": commands,
        "versions": {str(version): version_of(registry, version) for version in registry.versions()},
    }


def version_of(registry: Any, version: int) -> dict[str, Any]:
    """What the old code reads of a version."""
    manifest = registry.manifest(version)
    if manifest.facts["provenance"]["code"] != REVISION:
        raise SystemExit(f"made by {manifest.facts['provenance']['code']} instead of {REVISION}")
    files = [[file.path, hashlib.sha256(registry.read_file(version, file)).hexdigest()] for file in manifest.files]
    return {"files": files, "identity": manifest.identity, "weights_digest": manifest.facts["weights_digest"]}


if __name__ == "__main__":
    sys.exit(one_command(sys.argv[2:]) if sys.argv[1] == ONE_COMMAND else main(Path(sys.argv[1])))
