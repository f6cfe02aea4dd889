"""Command lines whose mistakes get a sentence."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from .files import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as everything else in the examples does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def known_name(kind: str, choices: Iterable[str]) -> Any:
    """A type for argparse: one of `choices`, or a sentence that names the closest of them."""
    choices = list(choices)

    def parse(text: str) -> str:
        if text not in choices:
            close = difflib.get_close_matches(text, choices, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(choices)}"
            raise argparse.ArgumentTypeError(f"there is no {kind} {text!r}: {hint}")
        return text

    return parse


def number(kind: type, low: float, high: float, low_allowed: bool = True) -> Any:
    """A type for argparse: a number of this kind within bounds."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not (low <= value <= high) or (value == low and not low_allowed):
            bounds = f"{'from' if low_allowed else 'above'} {low:g}" + ("" if high == float("inf") else f" to {high:g}")
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {noun} {bounds}, got {text!r}")
        return value

    return parse


def add_option(parser: Parser, defaults: Any, name: str, text: str, kind: Any = str, many: bool = False) -> None:
    """The option of a name, whose default is that attribute of ``defaults``; ``many``: it may be repeated."""
    default = getattr(defaults, name)
    if default not in (None, []) and name != "cache":
        text += f" (default: {default})"
    action = "append" if many else "store"
    parser.add_argument(f"--{name}", type=kind, default=default, help=text, action=action)


def exit_status(program: str, run: Callable[[], None]) -> int:
    """Runs a program; what the user can set right, or has stopped, is told in one line."""
    try:
        run()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    return 0
