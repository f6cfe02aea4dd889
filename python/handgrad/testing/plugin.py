"""The tiers of the matrix for pytest: ``-p handgrad.testing.plugin``, in ``addopts`` for example.

* ``--tier NAME`` chooses one of :data:`handgrad.testing.tiers.TIERS`;
* ``@pytest.mark.tiers("whole")`` says in which a test of an op's own is asked, where it is not in all that run other
  kernels: a test of an export, say;
* the last lines of a run say which tier it was.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from handgrad.testing.tiers import ALL, TIERS, VARIABLE, chosen


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--tier", choices=list(TIERS), help=f"which cases of the matrix are asked (or {VARIABLE}): whole")


def pytest_configure(config: Any) -> None:
    config.addinivalue_line("markers", "tiers(*names): the tiers of the matrix in which a test of an op's own is asked")
    if config.getoption("--tier"):
        # What test files read, in this process and in those that it starts.
        os.environ[VARIABLE] = config.getoption("--tier")
    chosen()
    # Of pytest-xdist's processes each has as many threads as the machine has processors, and by default those without
    # work spin, at the expense of the others: five times the processor's time. Read when torch is loaded, so not here.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Tensors of gigabytes, beyond 2^31 elements, in pages of 2 MiB in place of 4 KiB: a third of the system's time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Some thousand lines a compilation, which pytest would print beside a failure.
    logging.getLogger("torch.__trace").propagate = False


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    asked = [item for item in items if _is_asked(item, chosen())]
    if len(asked) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in asked])
        items[:] = asked


def _is_asked(item: Any, name: str) -> bool:
    marker = item.get_closest_marker("tiers")
    if marker is not None:
        return name in marker.args or (name == "usual" and "whole" in marker.args)
    beside_a_matrix = any(
        hasattr(value, "of_matrix") for value in vars(getattr(item, "module", None) or object).values()
    )
    return TIERS[name].own_tests or not beside_a_matrix or hasattr(getattr(item, "function", None), "of_matrix")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    name = chosen()
    if name != "whole":
        ticks = ", ".join(f"{tick}{'' if cases == ALL else ' in part'}" for tick, cases in TIERS[name].cases.items())
        terminalreporter.write_line(f"Tier {name}: {TIERS[name].setting}.")
        terminalreporter.write_line(f"It asks ticks {ticks}; the rest is asked in tier whole.")
