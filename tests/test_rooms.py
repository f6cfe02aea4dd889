"""Rooms, not halls: budgets for the length of files and functions of handgrad's Python, and for nesting.

What is beyond them today is listed; it may shrink, and an entry that nothing needs must go.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python/handgrad"

#: Lines of a file; of a function, its docstring aside; and how deep the blocks in a function may lie in one another.
FILE, FUNCTION, NESTING = 350, 60, 5

# Each with the number that it may have.
LONG_FILES = {"layers/deform_conv2d.py": 360}
LONG_FUNCTIONS: dict[str, int] = {}
DEEP_FUNCTIONS: dict[str, int] = {}

BLOCKS = (
    ast.AsyncFor,
    ast.AsyncFunctionDef,
    ast.AsyncWith,
    ast.ClassDef,
    ast.For,
    ast.FunctionDef,
    ast.If,
    ast.Match,
    ast.Try,
    ast.While,
    ast.With,
)


def modules() -> dict[str, str]:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def functions():
    """Every function that lies in no other, with the name of its file and its own."""
    for name, text in modules().items():
        waiting = [(node, "") for node in ast.parse(text).body]
        while waiting:
            node, within = waiting.pop()
            if isinstance(node, ast.ClassDef):
                waiting += [(inner, f"{within}{node.name}.") for inner in node.body]
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}: {within}{node.name}", node


def length(function: ast.FunctionDef) -> int:
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def depth(node: ast.AST) -> int:
    """How many blocks lie in one another below this one; an elif is beside its if."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        for inner in value if isinstance(value, list) else [value]:
            if not isinstance(inner, ast.AST):
                continue
            is_elif = isinstance(node, ast.If) and field == "orelse" and isinstance(inner, ast.If) and len(value) == 1
            deepest = max(deepest, depth(inner) + (isinstance(inner, BLOCKS) and not is_elif))
    return deepest


def against(budget: int, found: dict[str, int], exceptions: dict[str, int]) -> list[str]:
    """What is beyond the budget or beyond its exception, and exceptions that nothing needs."""
    said = []
    for name, number in found.items():
        allowed = exceptions.get(name, budget)
        if number > allowed:
            said.append(f"{name} has {number}, and may have {allowed}: break it into rooms")
    for name in exceptions:
        if found.get(name, 0) <= budget:
            said.append(f"{name} is within {budget} or gone: take it off the list")
    return said


@pytest.mark.parametrize(
    ("budget", "found", "exceptions"),
    [
        (FILE, {name: len(text.splitlines()) for name, text in modules().items()}, LONG_FILES),
        (FUNCTION, {name: length(function) for name, function in functions()}, LONG_FUNCTIONS),
        (NESTING, {name: depth(function) for name, function in functions()}, DEEP_FUNCTIONS),
    ],
    ids=["lines of files", "lines of functions", "nesting of functions"],
)
def test_rooms_not_halls(budget, found, exceptions):
    said = against(budget, found, exceptions)
    assert not said, "\n".join(said)


def test_what_is_said_of_halls():
    assert against(10, {"a": 10, "b": 3}, {}) == []
    assert against(10, {"a": 11}, {}) == ["a has 11, and may have 10: break it into rooms"]
    assert against(10, {"a": 12}, {"a": 12}) == []
    assert against(10, {"a": 13}, {"a": 12}) == ["a has 13, and may have 12: break it into rooms"]
    assert against(10, {"a": 11}, {"a": 12}) == []
    assert against(10, {"a": 9}, {"a": 12, "b": 11}) == [
        "a is within 10 or gone: take it off the list",
        "b is within 10 or gone: take it off the list",
    ]


def test_how_deep_a_function_is():
    deep = "def f():\n if a:\n  pass\n elif b:\n  for i in c:\n   with d:\n    pass\n else:\n  pass\n"
    assert depth(ast.parse(deep).body[0]) == 3
