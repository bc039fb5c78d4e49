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
import logging
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flows import background, compare, models
from flows.ahead import import_ahead
from flows.job import leave, leave_error
from flows.progress import show_progress
from flows.summary import as_json, as_text
from tasks.errors import GateRejected, MirrorsUnreachable, RetrainError, UsageError
from tasks.settings import Settings, StepName
from tasks.values import Outcome

LOG = logging.getLogger("retrain")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    atexit.register(gc.freeze)  # the collection at the end would go through all that was imported once more
    options = _parser().parse_args(arguments)
    if options.allow_http:
        os.environ["RETRAIN_ALLOW_HTTP"] = "1"
    try:
        options.settings = _settings(options)
        code = int(options.command(options))
        print(end="", flush=True)  # what nobody reads shows here, not when Python ends
        return code
    except RetrainError as error:
        if options.command is run:
            leave_error(error)
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


def run(options: argparse.Namespace) -> int:
    """`retrain run`."""
    show_progress()
    try:
        outcome = _run(options.settings, options.or_digits, options.force_publish or "")
    except GateRejected as rejection:
        if not isinstance(rejection.outcome, Outcome):
            raise
        outcome = rejection.outcome
    leave(outcome, options.report_dir)
    print(as_json(outcome) if options.json else as_text(outcome))
    return GateRejected.exit_code if outcome.verdict == "rejected" else 0


def _run(settings: Settings, or_digits: bool, force_publish: str) -> Outcome:
    from flows.server import client_settings, server

    prefect = server(otherwise=background.running())
    client_settings(prefect)
    LOG.info("starting a temporary Prefect server" if prefect.temporary else f"Prefect server {prefect.url}")
    # Beside a temporary server's start.
    import_ahead(settings)
    prefect.wait()
    try:
        return _flow(settings, force_publish)
    except MirrorsUnreachable:
        if not or_digits:
            raise
        LOG.warning("no mirror of MNIST can be reached: training on scikit-learn's digits, as the model `digits`")
        return _flow(settings.model_copy(update={"dataset": "digits"}), force_publish)


def _flow(settings: Settings, force_publish: str) -> Outcome:
    from flows.retrain import retrain

    data, recipe, gate = settings.cards()
    places = {name: getattr(settings, name) for name in ("device", "train_on", "seeds", "store", "refresh")}
    state = retrain(data, recipe, gate, **places, force_publish=force_publish, return_state=True)
    return cast(Outcome, state.result())


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retrain", description="Retrain the MNIST model and publish it if it is good."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    running = commands.add_parser("run", help="run the whole job", description=run_description())
    _add_fields(running, list(Settings.model_fields))
    running.add_argument(
        "--report-dir",
        type=Path,
        metavar="DIR",
        help="write report.html, .json and .md there as well, junit.xml, and comment.md for a pull request",
    )
    running.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")
    running.add_argument(
        "--or-digits",
        action="store_true",
        help="where no mirror can be reached, train on scikit-learn's digits instead",
    )
    running.add_argument(
        "--force-publish",
        type=_reason,
        metavar="REASON",
        help="publish even if the gate rejects the model; who and why is recorded with it. Not from the environment",
    )
    running.set_defaults(command=run)
    for function, text, arguments, fields in [*models.COMMANDS, *compare.COMMANDS, *background.COMMANDS]:
        command = commands.add_parser(function.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.")
        for flag, kinds in arguments.items():
            command.add_argument(flag, **kinds)
        _add_fields(command, fields)
        command.set_defaults(command=function)
    for command_parser in commands.choices.values():
        command_parser.add_argument(
            "--allow-http", action="store_true", help="talk to an S3 endpoint of another machine without encryption"
        )
        command_parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("give a reason")
    return text.strip()


def run_description() -> str:
    """What `retrain run --help` says first."""
    return (
        "Download, preprocess, train, evaluate, judge, publish. What was computed before is reused. "
        "Every option is also an environment variable: --min-accuracy is RETRAIN_MIN_ACCURACY."
    )


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
