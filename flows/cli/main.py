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
import gc
import os
import select
import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from flows.cli import background, cleanup, compare, config, deploy, doctor, models, run
from flows.cli.ci_job import report_error
from flows.cli.command import Command
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
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
        print(f"retrain: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError:
        if options.debug:
            raise
        print(
            "retrain: memory ran out. Use a machine with more memory, then run again: finished steps are reused.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("retrain: stopped. Run again: finished steps are reused.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        return 141  # 128 + SIGPIPE, as a shell reports it


def _stdout_is_closed() -> bool:
    """Whether the reader of standard output has closed it, as `head` does; if so, drop what is still buffered."""
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), 0)
    if not stdout.poll(0):  # an event mask of 0 reports only errors and hang-ups
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
