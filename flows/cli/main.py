"""The command line `retrain`.

    retrain run --store s3://models/digits --min-accuracy 0.97
    retrain up | status | down | deploy
    retrain versions | champion | history | show V | compare A B | verify [V] | fetch DIR | rollback | pin V | unpin
    retrain gc | cache | doctor

Every option of `run` is a field of `tasks.settings`; `RETRAIN_*` environment variables set the same, except for
`--force-publish`, which has to be said each time. Exit codes:
0 published or already published, 1 error, 2 usage, 3 rejected by the gate. What the job says goes to standard error,
results to standard output. Prefect is imported by `run`, `up` and `deploy` alone, TensorFlow by the steps that need it.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import select
import sys
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flows.cli import background, cleanup, compare, deploy, doctor, models, run
from flows.cli.ci_job import report_error
from flows.cli.command import Command
from tasks.errors import RetrainError, UsageError
from tasks.settings import Settings, StepName

COMMANDS: list[Command] = [
    *run.COMMANDS,
    *models.COMMANDS,
    *compare.COMMANDS,
    *cleanup.COMMANDS,
    *doctor.COMMANDS,
    *background.COMMANDS,
    *deploy.COMMANDS,
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    atexit.register(gc.freeze)  # the collection at the end would go through all that was imported once more
    options = parser().parse_args(arguments)
    if options.allow_http:
        os.environ["RETRAIN_ALLOW_HTTP"] = "1"
    try:
        options.settings = _settings(options)
        code = int(options.command(options))
        print(end="", flush=True)  # what nobody reads shows here, not when Python ends
        return code
    except RetrainError as error:
        if options.command is run.run:
            report_error(error)
        if options.debug:
            raise
        print(f"retrain: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError:
        if options.debug:
            raise
        print(
            "retrain: memory ran out. Use a machine with more, then run again: what was finished is kept.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("retrain: stopped. Run again: what was finished is kept.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 141  # as a shell tells of a command that ended like this


def _nobody_reads() -> bool:
    """Whether who was to read standard output has gone, as `head` does; what is left for it is then dropped."""
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)
    if not reader.poll(0):  # nothing but an error or a hang-up is ever told
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _settings(options: argparse.Namespace) -> Settings:
    given = {name: value for name in Settings.model_fields if (value := getattr(options, name, None)) is not None}
    if given.get("refresh") == []:  # the option alone
        given["refresh"] = get_args(StepName)
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "setting"
        raise UsageError(
            f"cannot use {_flag(name)} {first['input']!r}", first["msg"].lower(), "See `retrain run --help`."
        ) from error


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    made = argparse.ArgumentParser(prog="retrain", description="Retrain the MNIST model and publish it if it is good.")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for each in COMMANDS:
        text = each.description or f"{each.text[0].upper()}{each.text[1:]}."
        command = commands.add_parser(each.function.__name__, help=each.text, description=text)
        for flag, arguments in each.arguments.items():
            command.add_argument(flag, **arguments)
        _add_fields(command, each.fields)
        command.add_argument(
            "--allow-http", action="store_true", help="talk to an S3 endpoint of another machine without encryption"
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(command=each.function)
    return made


def _add_fields(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        parser.add_argument(_flag(name), dest=name, default=None, **_argument(Settings.model_fields[name]))


def _argument(field: FieldInfo) -> dict[str, Any]:
    """An option from a field; its bounds are the field's own, checked when the settings are made."""
    text = (field.description or "").replace("%", "%%")
    shown = f"{text} Default: {field.default}." if field.default != () else text
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
    choices = get_args(field.annotation)
    return {"help": shown, "choices": choices} if choices else {"help": shown, "metavar": "VALUE"}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    sys.exit(main())
