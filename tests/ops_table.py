"""The table of ops in README.md, generated from the specs in the tests.

python tests/ops_table.py           prints it
python tests/ops_table.py --write   writes it into README.md
"""

import argparse
import functools
import importlib.util
from pathlib import Path

from handgrad.testing import TICKS, OpSpec

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- ops: begin (make table) -->", "<!-- ops: end -->"


@functools.cache
def specs() -> dict[str, OpSpec]:
    """Every SPEC under tests/, by ``family.op``."""
    found = {}
    for path in sorted(ROOT.glob("tests/*/test_*.py")):
        location = importlib.util.spec_from_file_location(f"spec_{path.stem}", path)
        module = importlib.util.module_from_spec(location)
        location.loader.exec_module(module)
        if hasattr(module, "SPEC"):
            found[f"{path.parent.name}.{module.SPEC.name}"] = module.SPEC
    return found


def table() -> str:
    numbers = list(TICKS)
    lines = [
        "| op | " + " | ".join(map(str, numbers)) + " |",
        "|---|" + ":-:|" * len(numbers),
    ]
    # By tick and reason, so that what holds for several ops is said once.
    notes: dict[tuple[int, str], list[str]] = {}
    for name, spec in specs().items():
        family, op = name.split(".")
        marks = []
        for tick in numbers:
            marks.append("·" if tick in spec.not_applicable else " " if tick in spec.pending else "✓")
            for kind, reasons in (("does not apply", spec.not_applicable), ("to come", spec.pending)):
                if tick in reasons:
                    notes.setdefault((tick, f"{kind}, {reasons[tick]}"), []).append(op)
        lines.append(f"| [`{name}`](docs/{family}/{op}.md) | " + " | ".join(marks) + " |")
    legend = "; ".join(f"{number} {promise}" for number, (_, promise) in TICKS.items())
    said = [
        f"{tick}, {'all ops' if len(ops) == len(specs()) else ', '.join(ops)}: {note}."
        for (tick, note), ops in sorted(notes.items())
    ]
    return "\n".join([*lines, "", f"Ticks: {legend}.", "", *said])


def readme_with_table(text: str) -> str:
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write into README.md")
    if parser.parse_args().write:
        readme = ROOT / "README.md"
        readme.write_text(readme_with_table(readme.read_text()))
    else:
        print(table())
