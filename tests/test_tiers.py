"""The tiers of the matrix: what each asks, that nothing is lost by a name, and what pytest says of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handgrad.testing import tiers
from handgrad.testing.matrix import cases_of
from ops_table import specs
from test_python_mistakes import Planted

ROOT = Path(__file__).resolve().parent.parent


def asked(spec, tier, monkeypatch):
    monkeypatch.setenv(tiers.VARIABLE, tier)
    return [(case.tick, case.name) for case in cases_of(spec, ROOT)]


@pytest.mark.parametrize("tier", list(tiers.TIERS))
def test_a_tier_asks_a_part_of_the_whole_in_its_order(tier, monkeypatch):
    spec = specs()["losses.asymmetric_loss"]
    whole, part = asked(spec, "whole", monkeypatch), asked(spec, tier, monkeypatch)
    assert part
    assert [case for case in whole if case in part] == part
    assert {tick for tick, _ in whole} == set(range(1, 17))
    assert {tick for tick, _ in part} <= set(tiers.TIERS[tier].cases)


def test_every_pattern_means_a_case(monkeypatch):
    """A case that gets another name must not be left out unnoticed."""
    ops = [*specs().values(), Planted().spec]
    whole = [(*case, spec.samples[0].name) for spec in ops for case in asked(spec, "whole", monkeypatch)]
    # Cases of the emulator are there where it runs.
    whole.append((12, "any_schedule_map", "map"))
    for name, tier in tiers.TIERS.items():
        for tick, patterns in tier.cases.items():
            for pattern in patterns:
                assert any(number == tick and tiers.matches(pattern, case, first) for number, case, first in whole), (
                    f"{name}, {tick}: no case is named {pattern}"
                )


def test_every_tick_but_those_of_no_kernel_is_asked_of_other_kernels():
    """Python's alone: exports, autocast, torch.func, processes, documents; and what needs a GPU."""
    assert set(range(1, 17)) - set(tiers.TIERS["kernels"].cases) == {2, 8, 9, 11, 14, 16}


def test_an_unknown_tier_is_refused(monkeypatch):
    monkeypatch.setenv(tiers.VARIABLE, "fast")
    with pytest.raises(ValueError, match="must be one of whole, usual, kernels, torches, levels; got 'fast'"):
        tiers.chosen()


def test_pytest_collects_a_tier_and_says_so(tmp_path):
    test = tmp_path / "tests" / "losses" / "test_it.py"
    test.parent.mkdir(parents=True)
    test.write_text(
        "import pytest\n"
        "from handgrad.testing import matrix\n"
        "from test_python_mistakes import Planted\n"
        "test_matrix = matrix(Planted().spec)\n"
        "def test_of_kernels(): pass\n"
        "@pytest.mark.tiers('whole')\n"
        "def test_of_an_export(): pass\n"
        "@pytest.mark.tiers('whole', 'torches')\n"
        "def test_of_torch(): pass\n"
    )

    def collected(*arguments):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "handgrad.testing.plugin", *arguments]
        path = f"{ROOT / 'tests'}"
        done = subprocess.run(
            [*command, "-c", "/dev/null", f"--rootdir={tmp_path}", "-o", f"pythonpath={path}", test],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != tiers.VARIABLE},
        )
        return done.stdout + done.stderr

    whole = collected()
    assert all(name in whole for name in ("16_documented", "test_of_kernels", "test_of_an_export", "test_of_torch"))
    assert "Tier" not in whole
    usual = collected("--tier", "usual")
    assert "Tier usual: the CPU kernels" in usual
    assert all(name in usual for name in ("16_documented", "test_of_kernels", "test_of_an_export", "test_of_torch"))
    assert "numel_beyond_int32" in whole
    assert "numel_beyond_int32" not in usual
    kernels = collected("--tier", "kernels")
    assert "07_compile-layouts" in kernels
    assert "07_compile-export" not in kernels
    assert "::test_of_kernels" in kernels
    assert "::test_of_an_export" not in kernels
    assert "2 deselected" in kernels
    assert "Tier kernels: other kernels than the CPU's" in kernels
    assert "It asks ticks 1, 3 in part" in kernels
    torches = collected("--tier", "torches")
    assert "::test_of_torch" in torches
    assert "::test_of_kernels" not in torches
