"""Results of some ops beside those of others that were measured earlier, on the same machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from handgrad.benchmarking.declaring import BenchmarkError, Fact
from handgrad.benchmarking.results import Curve, Results, Row, SweepResult, Table, Timing

#: What must be the same, or times would stand side by side that have nothing to do with each other.
_SAME = ("CPU", "vector instructions", "threads", "last-level cache, MiB", "torch")
_LATER = "measured later"


def read(path: Path) -> Results:
    """What ``results.json`` holds."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Results(
        machine=found["machine"],
        settings=found["settings"],
        bandwidth=found["bandwidth"],
        tables=[Table(**{**table, "rows": [_row(row) for row in table["rows"]]}) for table in found["tables"]],
        sweeps=[
            SweepResult(**{**sweep, "curves": [Curve(**curve) for curve in sweep["curves"]]})
            for sweep in found["sweeps"]
        ],
        facts={op: [Fact(**_numbers(fact)) for fact in facts] for op, facts in found["facts"].items()},
        remarks=found["remarks"],
    )


def _row(row: dict[str, Any]) -> Row:
    return Row(**{**row, "time": Timing(**row["time"]) if row["time"] else None})


def _numbers(fact: dict[str, Any]) -> dict[str, Any]:
    # NaN, of what could not be measured, is null in JSON.
    return {**fact, "value": math.nan if fact["value"] is None else fact["value"]}


def joined(before: Results, after: Results) -> Results:
    """``after``, and what ``before`` has of other ops. The machine is that of ``before``, which must be the same."""
    for name in _SAME:
        if before.machine.get(name) != after.machine.get(name):
            raise BenchmarkError(
                f"results of another machine are not kept: {name} was {before.machine.get(name)}, and is "
                f"{after.machine.get(name)}"
            )
    ops = {table.op for table in after.tables} | {sweep.op for sweep in after.sweeps} | set(after.facts)
    earlier = before.machine.get(_LATER, {})
    later = {**earlier, **dict.fromkeys(sorted(ops), after.machine["date"])}
    return Results(
        machine={**before.machine, _LATER: later},
        settings=after.settings,
        bandwidth=before.bandwidth,
        tables=sorted((*(each for each in before.tables if each.op not in ops), *after.tables), key=lambda t: t.op),
        sweeps=[*(each for each in before.sweeps if each.op not in ops), *after.sweeps],
        facts={**before.facts, **after.facts},
        remarks={**before.remarks, **after.remarks},
    )
