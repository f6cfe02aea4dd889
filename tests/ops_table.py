"""The tables of ops, one for people and one by the contract, generated from what each op says of itself.

python tests/ops_table.py           prints them
python tests/ops_table.py --write   writes them into README.md and docs/contract.md

The paragraph of its docs page that begins with "**In place of**" says what an op replaces and what is new in it;
benchmarks/results says how fast it is, and its SPEC which promises it keeps.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import re
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


# ---- for people ------------------------------------------------------------------------------------------------------


#: That of the machine on which most ops were timed, then others'.
RESULTS = [
    ROOT / "benchmarks/results/results.json",
    *sorted(path for path in ROOT.glob("benchmarks/results/*/results.json") if path.parent.name != "cuda"),
]
MARKS = ("¹", "²", "³")
NOT_MEASURED = "not measured"


def table() -> str:
    """What README shows: each op, what it stands in place of, what is new in it, and how fast it is."""
    runs = [json.loads(path.read_text()) for path in RESULTS]
    lines = []
    for family, names in itertools.groupby(specs(), lambda name: name.split(".")[0]):
        lines += [f"### {family.capitalize()}", ""]
        lines += ["| op | in place of | new | faster than the best peer |", "|---|---|---|---|"]
        lines += [row(runs, *name.split(".")) for name in names] + [""]
    note = (
        "Faster: the least and the most over all cases of the op's benchmark, each against the fastest of its peers, "
        "compiled ones included, and the peer that comes closest; forward+backward where there is a backward, on "
        f"{machine(runs[0])}. Every case: [benchmarks/results](benchmarks/results/results.md)."
    )
    for mark, run, path in zip(MARKS, runs[1:], RESULTS[1:], strict=False):
        folder = path.parent.relative_to(ROOT)
        note += f" {mark} on {machine(run)}: [{folder}]({folder}/results.md)."
    return "\n".join([*lines, note])


def row(runs: list[dict], family: str, op: str) -> str:
    page = f"docs/{family}/{op}.md"
    replaced, new = front(ROOT / page)
    return f"| [`{op}`]({page}) | {replaced} | {new} | {speed_of_runs(runs, op)} |"


def machine(run: dict) -> str:
    found = run["machine"]
    return (
        f"{found['threads']} threads of an {found['CPU']} with {found['vector instructions']}, torch "
        f"{found['torch'].partition('+')[0]}"
    )


def speed_of_runs(runs: list[dict], op: str) -> str:
    """An op's speed in the first run that timed it; marked, if that was on another machine than the first."""
    for mark, run in zip(("", *(f" {mark}" for mark in MARKS)), runs, strict=False):
        if (found := speed(run, op)) != NOT_MEASURED:
            return found + mark
    return NOT_MEASURED


def front(page: Path) -> tuple[str, str]:
    """What an op stands in place of, and what is new in it, as its page says."""
    found = re.search(r"^\*\*In place of\*\* (.+?)\. \*\*New:\*\* (.+?)\.$", page.read_text(), re.M | re.S)
    assert found, f'{page} must have a paragraph "**In place of** … . **New:** … ."'
    replaced, new = (" ".join(part.split()) for part in found.groups())
    assert "\n\n" not in found[0], f"{page}: it must be one paragraph"
    return replaced, new


def speed(results: dict, op: str) -> str:
    """From the least to the most that the op is faster than the best of its peers, over the cases of its benchmark; and
    who is closest."""
    tables = [each for each in results["tables"] if each["op"] == op and each["device"] == "cpu"]
    tables = [each for each in tables if each["threads"] == max(one["threads"] for one in tables)]
    # The last pass of a case has all that it has.
    last = {each["case"]: each for each in tables if each["ratio_to_best"] is not None}
    if not last:
        return NOT_MEASURED
    order = sorted(last.values(), key=lambda each: each["ratio_to_best"])
    ratios = order[0]["ratio_to_best"], order[-1]["ratio_to_best"]
    low, high = (f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}" for ratio in ratios)
    closest = order[0]["best_peer"]
    return f"{low}x ({closest})" if low == high else f"{low} to {high}x ({closest})"


# ---- by the contract -------------------------------------------------------------------------------------------------


def contract() -> str:
    """What docs/contract.md shows: each op by each promise, and why one does not apply or is to come."""
    numbers = list(TICKS)
    lines = ["| op | " + " | ".join(map(str, numbers)) + " |", "|---|" + ":-:|" * len(numbers)]
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
        lines.append(f"| [`{name}`]({family}/{op}.md) | " + " | ".join(marks) + " |")
    legend = [f"{number}. {promise}" for number, (_, promise) in TICKS.items()]
    said = [
        f"- {tick}, {'all ops' if len(ops) == len(specs()) else ', '.join(ops)}: {note}."
        for (tick, note), ops in sorted(notes.items())
    ]
    return "\n".join([*lines, "", *legend, "", *said])


#: Which page has which table.
PAGES = {ROOT / "README.md": table, ROOT / "docs" / "contract.md": contract}


def current(page: Path) -> str:
    """The table that a page has now."""
    return page.read_text().split(BEGIN)[1].split(END)[0].strip()


def write(page: Path) -> None:
    head, rest = page.read_text().split(BEGIN)
    _, tail = rest.split(END)
    page.write_text(f"{head}{BEGIN}\n{PAGES[page]()}\n{END}{tail}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write into README.md and docs/contract.md")
    asked = parser.parse_args()
    for each, made in PAGES.items():
        if asked.write:
            write(each)
        else:
            print(made(), end="\n\n")
