"""The commands in lines of shell, as documents write them: `retrain up | down` is two, `[--to V]` may be left out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

PUNCTUATION = "|&;()<>"
FILTERS = {"awk", "column", "cut", "grep", "head", "jq", "less", "sed", "sort", "tail", "tee", "wc", "xargs"}
# What may stand before a command: NAME=value, a word of the shell's.
LEADING = re.compile(r"[A-Za-z_]\w*=.*|!|do|else|env|exec|if|sudo|then|time|while", re.DOTALL)


def simple_commands(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Each command's words, with the index of its first line. Raises ValueError(index) where a quote is left open."""
    text, start, marker = "", 0, ""
    for number, line in enumerate(lines):
        if marker:  # in a here-document
            marker = "" if line.strip() == marker else marker
            continue
        start = start if text else number
        text += line
        if text.endswith("\\"):
            text = text[:-1] + " "
            continue
        try:
            words = _words(text)
        except ValueError:
            text += "\n"
            continue
        text = ""
        if "<<" in words[:-1]:
            marker = words[words.index("<<") + 1].removeprefix("-")
        yield from ((start, command) for command in _split(words))
    if text.strip():
        raise ValueError(start)


def typed(lines: Sequence[str]) -> list[str]:
    """Of a terminal's lines those that somebody typed, after `$ `; the others become empty."""
    found: list[str] = []
    for line in lines:
        goes_on = bool(found) and found[-1].endswith("\\")
        found.append(line[2:] if line.startswith("$ ") else line if goes_on else "")
    return found


def retrain_arguments(command: Sequence[str]) -> list[str]:
    """What `retrain` is given in this command, also inside of `docker run IMAGE retrain …`; empty where it is not."""
    for index, word in enumerate(command):
        given = [clean for each in command[index + 1 :] if (clean := each.strip("[]")) not in {"", "...", "…"}]
        option_before = index > 0 and command[index - 1] != "--" and command[index - 1].startswith("-")
        called = word == "retrain" or word.endswith("bin/retrain")
        if called and given and not option_before and (index == 0 or not given[0].startswith("-")):
            return given
    return []


def _words(text: str) -> list[str]:
    reader = shlex.shlex(re.sub(r"(?<=\s)\d(?=[<>])", "", text), posix=True, punctuation_chars=PUNCTUATION)
    reader.whitespace_split = True
    return list(reader)


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    command: list[str] = []
    piped = False  # from `retrain`: what follows is one more of its commands, or a filter
    for word in [*words, ";"]:
        if set(word) - set(PUNCTUATION) or not word:
            if command or not LEADING.fullmatch(word):
                command.append(word)
            continue
        if piped and command and command[0] not in FILTERS:
            command = ["retrain", *command]
        if command:
            yield command
        piped = word == "|" and bool(retrain_arguments(command))
        command = []
