"""``python -m handgrad``: the commands. Each is a module with ``add_command(commands)``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from handgrad import _info, _scaffold
from handgrad._version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, by default this process's, and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m handgrad",
        description="Vision layers, losses and transforms for PyTorch, with hand-written backward passes.",
    )
    parser.add_argument("--version", action="version", version=f"handgrad {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _info.add_command(commands)
    _scaffold.add_command(commands)

    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 0
    status: int = parsed.run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
