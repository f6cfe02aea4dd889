"""Run by the build, as a program of its own: loads the libraries that were built for one device and prints what is
wrong with them, a line for each op: its name, a tab, and an error message.

    python checking.py my_ops libmy_ops.so libmy_ops_cpu_v3.so

A package's ops are in the namespace of its name. This is a program because a schema that torch cannot read ends the
process that loads it.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch

_CPP = {"float": "double", "int": "int64_t", "str": "std::string", "Optional": "std::optional", "List": "std::vector"}


def without_schema() -> Iterator[tuple[str, str]]:
    """Kernels for ops that nobody has defined."""
    for name in re.findall(r"name: (\S+)", " ".join(torch._C._dispatch_find_dangling_impls())):
        yield (
            name,
            f"a kernel is registered for {name}, which no schema defines; handgrad::implement and library.def must "
            "name it alike",
        )


def with_other_types(package: str, library: ctypes.CDLL) -> Iterator[tuple[str, str]]:
    """Kernels whose function takes or returns other types than the schema says: torch would not notice, and take one's
    bits for the other's."""
    if not hasattr(library, "handgrad_signatures"):
        return  # it registers its kernels in torch's own words, which keep no types
    library.handgrad_signatures.restype = ctypes.c_char_p
    for line in library.handgrad_signatures().decode().splitlines():
        op, *functions = line.split("\t")
        name, _, overload = op.partition(".")
        for schema in torch._C._jit_get_schemas_for_operator(f"{package}::{name}"):
            if schema.overload_name == overload:
                declared = schema.arguments, schema.returns
                for what, types, given in zip(("argument", "result"), declared, functions, strict=True):
                    for problem in _differences(f"{package}::{op}", what, types, given.split()):
                        yield f"{package}::{op}", problem


def _differences(name: str, what: str, declared: list[Any], given: list[str]) -> Iterator[str]:
    if len(declared) != len(given):
        yield (
            f"{name} has {len(declared)} {what}s in its schema, and the function that implements it has {len(given)}"
        )
        return
    for number, (one, other) in enumerate(zip(declared, given, strict=True), 1):
        if "*" not in other and str(one.type) != other:
            called = f" ({one.name})" if one.name else ""
            yield (
                f"{what} {number}{called} of {name} is {one.type} in its schema, and {_in_cpp(other)} in the function "
                "that implements it"
            )


def _in_cpp(word: str) -> str:
    """``Optional[float]`` as the author wrote it: ``std::optional<double>``."""
    return re.sub(r"\w+", lambda found: _CPP.get(found[0], found[0]), word).replace("[", "<").replace("]", ">")


if __name__ == "__main__":
    _, *kernels = [ctypes.CDLL(path) for path in sys.argv[2:]]
    found = [*without_schema(), *(each for library in kernels for each in with_other_types(sys.argv[1], library))]
    print("\n".join("\t".join(each) for each in found))
