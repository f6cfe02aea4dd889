"""The words that a file of Python or C++ gives a meaning to: what an author's names must differ from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator


def in_python(text: str) -> set[str]:
    """Every name that is read, bound, imported or taken as an argument; attributes and keywords of calls are not."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names


def in_cpp(text: str) -> set[str]:
    """Every word outside of comments, and those of schemas, whose arguments torch takes by name."""
    code = _without_comments(text)
    schemas = [literal for literal in re.findall(r'"([^"\n]*)"', code) if "Tensor" in literal]
    code = re.sub(r'^\s*#\s*include.*$|"[^"\n]*"', " ", code, flags=re.M)
    return set(re.findall(r"\b[A-Za-z_]\w*", " ".join([code, *schemas])))


def at_namespace_scope(header: str) -> set[str]:
    """The words of a C++ header that are seen wherever it is included: not those inside functions, classes and
    parameter lists. Words of macros are, as they are read where the macro stands."""
    code = re.sub(r'"[^"\n]*"', " ", _without_comments(header).replace("\\\n", " "))
    macros = re.findall(r"^\s*#\s*define(.*)$", code, re.M)
    code = re.sub(r"^\s*#.*$", " ", code, flags=re.M)
    return set(re.findall(r"\b[A-Za-z_]\w*", " ".join([*macros, *_outermost(code)])))


def _outermost(code: str) -> Iterator[str]:
    """The pieces of ``code`` that no bracket but a namespace's encloses."""
    hidden: list[str] = []  # the brackets that enclose and are no namespace's
    statement = ""  # what stands since the last ; or bracket
    for piece in re.findall(r"[(){};]|[^(){};]+", code):
        if hidden:
            if piece in "({":
                hidden.append(piece)
            elif piece in ")}":
                hidden.pop()
        elif piece == "(" or (piece == "{" and not re.match(r"\s*(inline\s+)?(namespace|extern)\b", statement)):
            hidden.append(piece)
        elif piece in "{};":
            statement = ""
        else:
            statement += piece
            yield piece


def _without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
