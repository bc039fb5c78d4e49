"""The command line `retrain`.

    retrain run --store s3://models/digits --min-accuracy 0.97
    retrain up | status | down | deploy
    retrain versions | champion | history | show V | compare A B | verify [V] | fetch DIR | rollback | pin V | unpin
    retrain gc | cache | doctor | config | init

The settings of `tasks.settings` are options, `RETRAIN_*` variables and keys of `retrain.toml`: see `flows.cli.config`.
Exit codes: 0 published, unchanged or passed, 1 error, 2 usage, 3 rejected by the gate. Logs go to standard error,
results to standard output. Only `run`, `up` and `deploy` import Prefect, and only the steps that need it import
TensorFlow.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from flows.cli import background, cleanup, compare, config, deploy, doctor, models, run
from flows.cli.ci_job import report_error
from flows.cli.command import Command
from flows.cli.streams import drop, prepare, settle, stdout_fails, stdout_is_closed, tell
from tasks.errors import RetrainError
from tasks.settings import Settings, StepName

COMMANDS: list[Command] = [
    *run.COMMANDS,
    *models.COMMANDS,
    *compare.COMMANDS,
    *cleanup.COMMANDS,
    *doctor.COMMANDS,
    *background.COMMANDS,
    *deploy.COMMANDS,
    *config.COMMANDS,
]


# Errors of the machine or its settings, not of the program; and how Python says that there is no temporary folder.
FAULTS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EMFILE, errno.ENFILE, errno.EIO}
NO_TEMPORARY = "No usable temporary directory"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    prepare()
    try:
        return _run(arguments)
    finally:
        settle()


def _run(arguments: Sequence[str] | None) -> int:
    atexit.register(gc.freeze)  # saves the last garbage collection, which would scan every imported module
    options = parser().parse_args(arguments)
    if options.allow_http:
        os.environ["RETRAIN_ALLOW_HTTP"] = "1"
    try:
        options.settings = _settings(options)
        code = int(options.command(options))
        print(end="", flush=True)  # raises BrokenPipeError here, and not when Python ends
        return code
    except RetrainError as error:
        if options.command is run.run:
            report_error(error, options.report_dir)
        if options.debug:
            raise
        tell(str(error))
        return error.exit_code
    except MemoryError:
        if options.debug:
            raise
        tell("memory ran out. Use a machine with more memory, then run again: finished steps are reused.")
        return 1
    except KeyboardInterrupt:
        tell("stopped. Run again: finished steps are reused.")
        return 130
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
    if getattr(options, "refresh", None) == []:  # --refresh without a step
        options.refresh = get_args(StepName)
    options.file = None if options.command is config.init else config.config_file(options)
    options.chosen = config.read_settings(options, options.fields, options.file)
    return config.checked(options.chosen)


def parser() -> argparse.ArgumentParser:
    """The parser with every command and its options."""
    root = argparse.ArgumentParser(
        prog="retrain", description="Retrain the MNIST model and publish it if it passes the gate."
    )
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        text = command.description or f"{command.text[0].upper()}{command.text[1:]}."
        subparser = subparsers.add_parser(command.function.__name__, help=command.text, description=text)
        for flag, arguments in command.arguments.items():
            subparser.add_argument(flag, **arguments)
        _add_fields(subparser, command.fields)
        if command.fields:
            subparser.add_argument("--config", metavar="FILE", help=f"settings to read instead of ./{config.FILE}")
        subparser.add_argument(
            "--allow-http", action="store_true", help="use an S3 endpoint of another machine without encryption"
        )
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        subparser.set_defaults(command=command.function, fields=command.fields)
    return root


def _add_fields(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        parser.add_argument(config.flag(name), dest=name, default=None, **_argument(Settings.model_fields[name]))


def _argument(field: FieldInfo) -> dict[str, Any]:
    """The keywords of `add_argument` for a field. `Settings` checks type and bounds, so the option takes any text."""
    text = (field.description or "").replace("%", "%%")
    with_default = f"{text} Default: {field.default}." if field.default not in {(), None, ""} else text
    if field.annotation is bool:
        return {"action": "store_true", "help": text}
    if get_origin(field.annotation) is tuple:
        names = get_args(get_args(field.annotation)[0])
        if names:
            return {
                "nargs": "*",
                "choices": names,
                "metavar": "STEP",
                "help": f"{text} One or more of {', '.join(names)}; none: all.",
            }
        return {"action": "append", "metavar": "URL", "help": text}
    choices = _choices(field.annotation)
    return {"help": with_default, "metavar": f"{{{','.join(choices)}}}" if choices else "VALUE"}


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal, which may stand inside a union or an Annotated."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((words for each in get_args(annotation) if (words := _choices(each))), ())


if __name__ == "__main__":
    sys.exit(main())
