"""Where each case of the matrix is asked: a question is asked where it can fail, once.

A tier is chosen with ``pytest --tier NAME`` (by :mod:`handgrad.testing.plugin`) or ``HANDGRAD_TEST_TIER=NAME``; without
either it is ``whole``. What a tier leaves out is not collected, and the last lines of a run say which tier it was.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

VARIABLE = "HANDGRAD_TEST_TIER"

#: All cases of a tick.
ALL = (".*",)


@dataclass(frozen=True)
class Tier:
    """What is asked in one setting.

    Args:
        setting: what it is to be run with, and what can fail there.
        cases: by tick, patterns of which the name of a case must match one as a whole; ``{first}`` is the name of the
            spec's first sample. A tick that is not here is not asked.
        own_tests: whether the tests of an op's own, beside the matrix, are asked where no marker says otherwise.
    """

    setting: str
    cases: dict[int, tuple[str, ...]]
    own_tests: bool = True

    def asks(self, tick: int, case: str, first: str) -> bool:
        return any(matches(pattern, case, first) for pattern in self.cases.get(tick, ()))


def matches(pattern: str, case: str, first: str) -> bool:
    return re.fullmatch(pattern.replace("{first}", re.escape(first)), case) is not None


TIERS = {
    "whole": Tier("the CPU kernels, the newest torch: everything", dict.fromkeys(range(1, 17), ALL)),
    "usual": Tier(
        "the CPU kernels, the newest torch: everything but what is traced, exported and transformed once more with "
        "other arguments, and tensors of more than 2^31 elements",
        dict.fromkeys(range(1, 17), ALL)
        | {
            # Strides beyond 2^31 are asked everywhere; so many elements take gigabytes and seconds of each op.
            6: ("addresses_.*",),
            7: (
                "opcheck_.*",
                "layouts_.*",
                "compile_{first}",
                "export_{first}",
                "one_graph_for_all_sizes",
                "compiled_transforms",
                "aoti",
            ),
            9: ("vmap_.*", "per_sample_{first}", "transforms_{first}"),
            11: ("{first}",),
        },
    ),
    "kernels": Tier(
        "other kernels than the CPU's, as the emulated ones: what they compute and allocate, and what they refuse; "
        "nothing that is Python's alone",
        {
            1: ALL,
            # That the references' derivatives are right is found out once; kernels are held against them, see 10.
            3: ("only_what_is_asked_.*", "one_argument_at_a_time", "identity_.*"),
            4: ALL,
            5: ALL,
            6: ALL,
            7: ("layouts_.*",),
            10: ("of_.*",),
            # Types differ in how they are loaded and stored, and not in the order of a sum.
            12: ("any_number_of_threads_float32", "any_schedule_.*"),
            # A fake kernel is Python's.
            13: ("(?!compiled).*",),
            15: ALL,
        },
    ),
    "torches": Tier(
        "another version of torch: that it loads, calls and differentiates the ops, and traces them",
        {
            1: (".*_float32",),
            3: (
                "gradcheck_{first}",
                "gradgradcheck_{first}",
                "checkpointed_{first}",
                "offloaded_{first}",
                "only_what_is_asked_.*",
            ),
            7: ("compile_{first}", "export_{first}"),
            8: ALL,
            9: ("vmap_{first}", "per_sample_{first}", "transforms_{first}", "vmap_of_raw_op"),
            14: ("dtensor",),
        },
        own_tests=False,
    ),
    "levels": Tier(
        "loops compiled for other processors: what they compute, the same for any number of threads",
        {1: ALL, 12: ALL},
    ),
}


def chosen() -> str:
    """The name of the tier that is asked."""
    name = os.environ.get(VARIABLE) or "whole"
    if name not in TIERS:
        raise ValueError(f"{VARIABLE} and --tier must be one of {', '.join(TIERS)}; got {name!r}.")
    return name
