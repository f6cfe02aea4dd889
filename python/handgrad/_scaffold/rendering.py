"""The templates, filled in: texts by the paths that they are to have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from handgrad import sdk
from handgrad._scaffold.naming import PARAMETRIC, Named, ScaffoldError
from handgrad._scaffold.words import in_cpp, in_python
from handgrad._scaffold.writing import exported

_SOURCES = (".cpp", "_math.h", "_host.h", "_cpu.cpp", "_cuda.cu")


def render_package(named: Named, folder: str) -> dict[str, str]:
    """A whole package with one op: ``folder`` of the templates, and the op where that does not hold one itself."""
    texts = _render(named, folder, {})
    if folder == "package":
        texts |= render_op(named)
        texts[f"python/{named.package}/{named.family}/__init__.py"] = exported("", named) or ""
    return texts


def render_op(named: Named) -> dict[str, str]:
    """The files of an op, and of nothing else."""
    op, family = named.op, named.family
    sources = {f"OP{end}": f"csrc/{family}/{op}/{op}{end}" for end in _SOURCES}
    targets = {
        **sources,
        "OP.py": f"python/{named.package}/{family}/{op}.py",
        "test_OP.py": f"tests/{family}/test_{op}.py",
        "bench_OP.py": f"benchmarks/{family}/bench_{op}.py",
        "OP.md": f"docs/{family}/{op}.md",
    }
    return _render(named, f"operator/{named.kind}", targets)


def _render(named: Named, folder: str, targets: dict[str, str]) -> dict[str, str]:
    """Fills in every template of ``folder``; ``targets`` says where they go, where that is not where they lie."""
    import jinja2  # torch needs it too, so that it is always there

    templates = sdk.templates_dir()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates / "operator", templates]),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    texts = {}
    for source in sorted((templates / folder).rglob("*.jinja")):
        name = source.relative_to(templates / folder).as_posix().removesuffix(".jinja")
        target = targets.get(name, name.replace("PACKAGE", named.package).replace("OP", named.op))
        template = environment.get_template(source.relative_to(templates).as_posix())
        texts[target] = template.render(named.values)
    return texts


def clashes(named: Named, folder: str) -> None:
    """Raises where a name that the author gives means something else in the files that it goes into.

    Which names these files use is read from themselves, filled in with names that nobody else has.
    """
    if named.kind == PARAMETRIC and folder == "package":
        fresh = {f"handgrad_parameter_{index}": number for index, number in enumerate(named.parameters.values())}
        used = _used(replace(named, parameters=fresh), folder) | set(dir(_module()))
        for name in named.parameters:
            if name in used:
                raise ScaffoldError(f"a name in --parameters must be new to the op's files; {name!r} is there already.")
    named.check_op("in its files", _used(replace(named, op="handgrad_op"), folder), "is there already")


def _used(named: Named, folder: str) -> set[str]:
    texts = render_op(named) if folder == "package" else render_package(named, folder)
    names: set[str] = set()
    for path, text in texts.items():
        if path.endswith(".py"):
            names |= in_python(text)
        elif path.endswith((".cpp", ".h", ".cu")):
            names |= in_cpp(text)
    return names


def _module() -> Any:
    """What an op's module is: its numbers become attributes beside those that every module has."""
    from torch import nn

    return nn.Module()
