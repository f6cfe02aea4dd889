"""``python -m handgrad new`` and ``add``: a package of ops of one's own, and another op in a package that exists.

The files come from ``templates/``, which Jinja fills in: ``package/`` once for a package, ``operator/<kind>/`` for each
op; ``classic/`` is a whole package of another style. PACKAGE and OP in their names are replaced, ``OP_math.h`` goes
where csrc/README.md says that an op's formula lies, and so on. ruff and clang-format then format the new files, where
these tools are at hand. Everything is written into a folder beside the target first and moved when all of it is there,
so that whatever fails leaves nothing behind.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handgrad._scaffold.naming import EPSILON, KINDS, PARAMETRIC, Named, ScaffoldError, name_of_package
from handgrad._scaffold.rendering import clashes, render_op, render_package
from handgrad._scaffold.writing import exported, shown, write

__all__ = ["KINDS", "STYLES", "ScaffoldError", "add", "add_command", "new"]

STYLES = ("stable", "classic")
# What a fresh clone may hold: its own files, and those of the same name as ours, which stay as they are.
_CLONED = frozenset({".git", ".gitattributes"})
_KEPT = frozenset({".gitignore", "LICENSE", "README.md"})


def add_command(commands: Any) -> None:
    """Adds ``new`` and ``add`` to the subcommands of ``python -m handgrad``."""
    new: argparse.ArgumentParser = commands.add_parser(
        "new",
        help="start a package of ops of your own",
        description="Writes a complete package with one op: kernels for CPU and CUDA, derivatives, tests, benchmark, "
        "docs. It builds and passes its tests as it is; TODO(author) marks the places to change.",
    )
    new.add_argument(
        "path", metavar="PATH", type=Path, help="a folder that does not exist yet, or is empty, or a fresh clone"
    )
    new.add_argument("--package", metavar="NAME", help="the package's import name; by default the folder's")
    new.add_argument(
        "--style",
        choices=STYLES,
        default=STYLES[0],
        help="stable: handgrad's own way; classic: pybind11, torch.utils.cpp_extension and autograd.Function, for "
        "comparison (docs/from-cpp-extension.md), with the kind elementwise_loss",
    )
    new.set_defaults(run=_run_new)
    add: argparse.ArgumentParser = commands.add_parser(
        "add",
        help="add an op to a package",
        description="Adds one more op to a package that `new` has made, or to handgrad itself.",
    )
    add.add_argument("op", metavar="OP", help="the op's name, as_python_writes_functions")
    add.add_argument("--root", metavar="PATH", type=Path, default=Path(), help="the package's root; by default here")
    add.set_defaults(run=_run_add)
    new.add_argument("--op", metavar="OP", required=True, help="the first op's name, as_python_writes_functions")
    for parser in (new, add):
        parser.add_argument("--kind", choices=sorted(KINDS), required=True, help="what the op is like")
        parser.add_argument(
            "--parameters",
            metavar='"NAME=DEFAULT ..."',
            help=f"the op's numbers and their defaults, for {PARAMETRIC}; by default {EPSILON}",
        )


def _run_new(arguments: argparse.Namespace) -> int:
    def run() -> None:
        written = new(
            arguments.path, arguments.op, arguments.kind, arguments.package, arguments.style, arguments.parameters
        )
        print(f"{len(written)} files in {arguments.path}. Next:\n")
        initialise = "" if (arguments.path / ".git").exists() else "git init && "
        print(f"    cd {shlex.quote(str(arguments.path))} && {initialise}git add .")
        print("    pip install --no-build-isolation -e . && pytest")
        print("    grep -rn 'TODO(author)' .")
        kept = sorted(
            name for name in _KEPT if (arguments.path / name).exists() and arguments.path / name not in written
        )
        if kept:
            print(f"\nYour own {', '.join(kept)} stayed. pyproject.toml says BSD-3-Clause: make it say what is true.")

    return _reported(run)


def _run_add(arguments: argparse.Namespace) -> int:
    def run() -> None:
        for path in add(arguments.root, arguments.op, arguments.kind, arguments.parameters):
            print(path)

    return _reported(run)


def _reported(run: Callable[[], None]) -> int:
    try:
        run()
    except ScaffoldError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def new(
    path: Path,
    op: str,
    kind: str,
    package: str | None = None,
    style: str = STYLES[0],
    parameters: str | None = None,
) -> list[Path]:
    """Writes a package with one op into ``path``; returns the files."""
    there = _already_there(path)
    named = Named.of(package or name_of_package(path), op, kind, parameters)
    named.check_package(path)
    if style == "classic":
        if kind != PARAMETRIC:
            raise ScaffoldError(f"new: --style classic is there for the kind {PARAMETRIC} alone; got {kind}.")
        if parameters is not None:
            raise ScaffoldError(
                f"new: --parameters must be left out unless --style is {STYLES[0]}; got {parameters!r} with {style}."
            )
    folder = "classic" if style == "classic" else "package"
    clashes(named, folder)
    texts = render_package(named, folder)
    return write(path, {name: text for name, text in texts.items() if name not in there}, "new: PATH")


def add(root: Path, op: str, kind: str, parameters: str | None = None) -> list[Path]:
    """Adds an op to the package with the root ``root``; returns the files written and changed."""
    listing = root / "CMakeLists.txt"
    match = re.search(r"^handgrad_add_library\((\w+) ", listing.read_text(), re.M) if listing.is_file() else None
    if match is None:
        raise ScaffoldError(
            f"add: --root must be the root of a package of ops, whose CMakeLists.txt calls handgrad_add_library; "
            f"{root.resolve()} is none. `python -m handgrad new` makes one."
        )
    named = Named.of(match[1], op, kind, parameters)
    taken = [path for path in root.glob(f"csrc/*/{op}") if path.is_dir()]
    if taken:
        raise ScaffoldError(f"add: OP must be a new name; {taken[0]} is there already.")
    clashes(named, "package")
    texts = render_op(named)
    package = f"python/{named.package}"
    family = f"{package}/{named.family}/__init__.py"
    if (root / family).is_file():
        texts |= _shown(root, family, exported, named, named.op)
    else:
        texts |= {family: exported("", named) or ""}
        texts |= _shown(root, f"{package}/__init__.py", shown, named, named.family)
    return write(root, texts, "add: --root")


def _shown(root: Path, name: str, show: Callable[[str, Named], str | None], named: Named, what: str) -> dict[str, str]:
    """The file ``name`` as ``show`` changes it; none, and a word to the author, where it is not as `new` writes it."""
    changed = show((root / name).read_text(), named)
    if changed is None:
        print(f"{root / name}: import {what} there.", file=sys.stderr)
        return {}
    return {name: changed}


def _already_there(path: Path) -> set[str]:
    """Names of files in ``path`` that stay as they are. Raises where something else is there."""
    try:
        if not path.exists():
            return set()
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
    except OSError as error:
        raise ScaffoldError(f"new: PATH must be a folder that can be read; {path}: {error.strerror}.") from None
    foreign = sorted(names - _CLONED - _KEPT) if path.is_dir() else [path.name]
    if foreign:
        raise ScaffoldError(
            f"new: PATH must be a folder that does not exist yet or is empty, or a fresh clone, which holds no more "
            f"than {', '.join(sorted(_CLONED | _KEPT))}; {path} is none of these: it "
            + (f"holds {foreign[0]}." if path.is_dir() else "is a file.")
        )
    return names & _KEPT
