"""The command line `retrain`.

    retrain run --store s3://models/digits --min-accuracy 0.97
    retrain up | status | down | deploy
    retrain models | versions | champion | history | show V | compare A B | verify [V] | fetch DIR
    retrain approve V | decline V | rollback | pin V | unpin | gc | cache | doctor | config | init
    retrain data check | calibrate | backfill

The settings of `tasks.settings` are options, `RETRAIN_*` variables and keys of `retrain.toml`: see `flows.cli.config`.
Exit codes: 0 published, waiting, unchanged or passed, 1 error, 2 usage, 3 rejected by the gate. Logs go to standard
error, results to standard output. Only what runs a flow or deploys imports Prefect, and only the steps that need it
import TensorFlow.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which a signal may interrupt
    import sys

    from flows.cli.start import start

    sys.exit(start())

import argparse
import atexit
import errno
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from flows.cli import (
    backfill,
    background,
    calibrate,
    cleanup,
    compare,
    config,
    data,
    deploy,
    doctor,
    models,
    overview,
    run,
)
from flows.cli.ci_job import report_error
from flows.cli.command import Command, Parser
from flows.cli.start import ends
from flows.cli.streams import drop, prepare, settle, stdout_fails, stdout_is_closed, tell
from tasks.address import hidden
from tasks.caching.keys import installed
from tasks.errors import RetrainError
from tasks.settings import Settings, StepName, require_usable_environment

COMMANDS: list[Command] = [
    *run.COMMANDS,
    *backfill.COMMANDS,
    *overview.COMMANDS,
    *models.COMMANDS,
    *compare.COMMANDS,
    *cleanup.COMMANDS,
    *doctor.COMMANDS,
    *background.COMMANDS,
    *deploy.COMMANDS,
    *config.COMMANDS,
    *data.COMMANDS,
    *calibrate.COMMANDS,
]


# Errors of the machine or its settings, not of the program; and how Python says that there is no temporary folder.
FAULTS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EMFILE, errno.ENFILE, errno.EIO}
NO_TEMPORARY = "No usable temporary directory"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    prepare()
    _ensure_home()
    _spare_loopback()
    sys.excepthook = _print_traceback
    try:
        return _run(arguments)
    finally:
        settle()


def _ensure_home() -> None:
    """Give a user who has no home the root folder, as container runtimes do: libraries would fail to find one."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _spare_loopback() -> None:
    """Keep what goes to this machine's own servers from a proxy that the environment names."""
    present = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, [present, *sorted({"127.0.0.1", "localhost", "::1"} - set(present.split(",")))]))
    os.environ |= {"no_proxy": hosts, "NO_PROXY": hosts}


def _run(arguments: Sequence[str] | None) -> int:
    atexit.register(gc.freeze)  # saves the last garbage collection, which would scan every imported module
    words = sys.argv[1:] if arguments is None else arguments
    if not words:  # a script that has lost its command must not go on
        parser().exit(2, parser().format_help())
    options = parser().parse_args(words)
    if options.allow_http:
        os.environ["RETRAIN_ALLOW_HTTP"] = "1"
    try:
        options.settings = _settings(options)
        with ends(at_once=False):
            code = int(options.command(options))
        print(end="", flush=True)  # raises BrokenPipeError here, and not when Python ends
        return code
    except RetrainError as error:
        located: RetrainError = error
        for model in getattr(options, "models", []):
            located = config.located(located, model.chosen)
        if options.command is run.run:
            report_error(located, options.report_dir)
        if options.debug:
            raise
        tell(str(located))
        return error.exit_code
    except MemoryError:
        if options.debug:
            raise
        tell("memory ran out. Use a machine with more memory, then run again: finished steps are reused.")
        return 1
    except ImportError as error:
        if options.debug or "socksio" not in str(error):
            raise
        tell("cannot use a SOCKS proxy: a package is missing. Install it (pip install socksio), or unset ALL_PROXY.")
        return 2
    except BrokenPipeError:
        if not stdout_is_closed():
            raise
        drop(sys.stdout)
        return 141  # 128 + SIGPIPE, as a shell reports it
    except OSError as error:
        if options.debug or not (fault := _environment_fault(error)):
            raise
        tell(fault)
        return 1


def _print_traceback(_: object, error: BaseException, __: object) -> None:
    """As Python prints it, but for the secrets: errors of HTTP clients repeat whole addresses."""
    sys.stderr.write(hidden("".join(traceback.format_exception(error))))


def _environment_fault(error: OSError) -> str:
    """What is wrong with this machine, as one line; "" for an error that is a defect."""
    if not _current_folder_exists():
        return "the current folder was deleted. Change to another."
    if error.filename is None and stdout_fails():
        return f"cannot write standard output: {error.strerror}. Write it elsewhere."
    text = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{text}. Free space, or set TMPDIR and RETRAIN_HOME to folders with room."
    if error.errno in FAULTS or NO_TEMPORARY in text:
        return f"{text}. Make it accessible, or set TMPDIR and RETRAIN_HOME to folders of your own."
    return ""


def _current_folder_exists() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _settings(options: argparse.Namespace) -> Settings:
    """The settings of a command that takes any; a broken file must not keep `down` from ending what runs."""
    if not options.fields:
        return Settings()
    require_usable_environment()
    if getattr(options, "refresh", None) == []:  # --refresh without a step
        options.refresh = get_args(StepName)
    files = [] if options.command is config.init else config.config_files(options)
    if options.command is background.up and not files:
        files = background.remembered_files()
    models = [_model(options, file) for file in files] or [_model(options, None)]
    config.find_networks(models)
    options.models = models
    return models[0].settings


def _model(options: argparse.Namespace, file: Path | None) -> config.ModelSettings:
    chosen = config.read_settings(options, options.fields, file)
    return config.ModelSettings(config.checked(chosen), chosen, file)


def parser() -> argparse.ArgumentParser:
    """The parser with every command and its options."""
    root = Parser(prog="retrain", description="Retrain a model and publish it if it passes the gate.")
    root.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        text = command.description or f"{command.text[0].upper()}{command.text[1:]}."
        subparser = subparsers.add_parser(command.function.__name__, help=command.text, description=text)
        for flag, arguments in command.arguments.items():
            subparser.add_argument(flag, **arguments)
        _add_fields(subparser, command.fields)
        if command.fields:
            more = "; repeatable, each file is one model" if command.several else ""
            text = f"settings to read instead of ./{config.FILE}{more}"
            subparser.add_argument("--config", action="append", metavar="FILE", help=text)
        subparser.add_argument(
            "--allow-http", action="store_true", help="use an S3 endpoint of another machine without encryption"
        )
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        subparser.set_defaults(command=command.function, fields=command.fields, several=command.several)
    return root


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"retrain {installed('retrain-mnist') or '(not installed)'}")
        parser.exit()


def _add_fields(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        former = [config.flag(old) for old, new in config.FORMER.items() if new == name]
        parser.add_argument(config.flag(name), *former, dest=name, default=None, **_argument(name))


def _argument(name: str) -> dict[str, Any]:
    """The keywords of `add_argument` for a field. `Settings` checks type and bounds, so the option takes any text."""
    field, text = Settings.model_fields[name], config.described(name).replace("%", "%%")
    with_default = f"{text} Default: {field.default}." if field.default not in {(), None, ""} else text
    if field.annotation is bool:
        return {"action": "store_true", "help": text}
    if get_origin(field.annotation) is tuple:
        names = _choices(get_args(field.annotation)[0])
        if names:
            return {
                "nargs": "*",
                "choices": names,
                "metavar": "STEP",
                "help": f"{text} One or more of {', '.join(names)}; none: all.",
            }
        return {"action": "append", "metavar": "URL" if name == "mirror" else "NAME", "help": text}
    choices = _choices(field.annotation)
    return {"help": with_default, "metavar": f"{{{','.join(choices)}}}" if choices else "VALUE"}


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal, which may stand inside a union or an Annotated."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((words for each in get_args(annotation) if (words := _choices(each))), ())
