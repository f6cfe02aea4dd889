"""Budgets: what one op may cost in bytes and in lines, so that sixty stay as light as seven (tools/costs.py).

Seconds are printed by `make costs` and held by nobody, as machines differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tools import costs
from tools.costs import BUDGETS, Costs, Op

OPS = costs.ops()
IDS = [op.name for op in OPS]


def test_every_op_is_there():
    formulas = costs.ROOT.glob("csrc/*/*/*_math.h")
    assert {op.name for op in OPS} == {path.parent.name for path in formulas if path.parent.parent.name != "common"}


@pytest.mark.parametrize("op", OPS, ids=IDS)
def test_an_op_keeps_to_its_budget_of_bytes(op):
    """Of the libraries that `make build` has built."""
    found = costs.costs(op)
    assert found.cpu, "the CPU kernels are built at least for one level"
    for level, size in found.cpu.items():
        assert size <= op.budget.cpu, f"{op.name} has {size} bytes of machine code at the CPU level {level}"
    for architecture, size in found.cuda.items():
        assert size <= op.budget.cuda, f"{op.name} has {size} bytes of compressed code for {architecture}"


@pytest.mark.parametrize("op", OPS, ids=IDS)
def test_an_op_keeps_to_its_budget_of_lines(op):
    source = op.python.read_text()
    lines = len(source.splitlines()) - costs.lines_of_docstrings(source)
    limit = op.budget.python
    assert lines <= limit, f"{op.python.name} has {lines} lines beyond docstrings, and may have {limit}"


# ---- the tool --------------------------------------------------------------------------------------------------------


def test_an_op_without_derivatives_and_an_elementwise_one_are_simple(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "ROOT", tmp_path)

    def op(name: str, schema: str, cpu: str, cuda: str) -> Op:
        folder = tmp_path / "csrc" / "layers" / name
        folder.mkdir(parents=True)
        for ending, text in ((".cpp", schema), ("_cpu.cpp", cpu), ("_cuda.cu", cuda)):
            (folder / f"{name}{ending}").write_text(text)
        return Op("layers", name)

    parallel, launch = '#include "cpu/parallel.h"\n', '#include "cuda/launch.cuh"\n'
    loops = '#include "cpu/elementwise.h"\n', '#include "cuda/elementwise.cuh"\n'
    assert op("choice", 'def("choice(Tensor x) -> Tensor")', parallel, launch).kind == "simple"
    scored = 'def("scored(Tensor x) -> "\n"(Tensor indices, Tensor scores)")'
    assert op("scored", scored, parallel, launch).kind == "simple"
    made = 'def("made(Tensor x) -> "\n"(Tensor y, Tensor scores)")'
    assert op("made", made, parallel, launch).kind == "hard"
    for name, files, kind in (
        ("warp", (parallel, launch), "hard"),
        ("mixed", (loops[0], launch), "hard"),
        ("curve", loops, "simple"),
        ("loss", ('#include "kinds/elementwise_loss.h"\n', '#include "kinds/elementwise_loss.cuh"\n'), "simple"),
        ("boxes", ('#include "cpu/box_pairs.h"\n', '#include "cuda/box_pairs.cuh"\n'), "simple"),
        ("turned", ('#include "cpu/box_pairs.h"\n#include "kinds/rotated_box_pair.h"\n', loops[1]), "hard"),
        ("matrix", ('#include "cpu/box_matrix.h"\n', '#include "cuda/box_matrix.cuh"\n'), "simple"),
    ):
        schema = f'def("{name}(Tensor x) -> Tensor"); def("_{name}_backward(Tensor grad_output, Tensor x) -> Tensor")'
        assert op(name, schema, *files).kind == kind
    assert [each.name for each in costs.ops()] == [
        "boxes",
        "choice",
        "curve",
        "loss",
        "made",
        "matrix",
        "mixed",
        "scored",
        "turned",
        "warp",
    ]


def test_docstrings_are_not_counted():
    source = (
        '"""One\n\ntwo."""\n\nclass A:\n    """Three."""\n\n    def f(self):\n        """Four\n        five.\n'
        '        """\n        return "six"\n'
    )
    assert costs.lines_of_docstrings(source) == 7


def test_machine_code_belongs_to_the_op_in_whose_namespace_or_of_whose_types_it_is(tmp_path, monkeypatch):
    (tmp_path / "one.cpp").write_text(
        """
        char data[100000] = {1};
        int shared(int x) { return x + 1; }
        namespace handgrad {
        struct SigmoidFocalLossOp {};
        template <class Op> __attribute__((noinline)) int loop(int x) { return x * x + 2; }
        template int loop<SigmoidFocalLossOp>(int);
        template int loop<int>(int);
        namespace nms {
        namespace {
        __attribute__((noinline)) int own(int x) { return x - 3; }
        }
        int entry(int x) { return own(x) + own(x + 1); }
        }
        }
        """
    )
    subprocess.run(["c++", "-O1", "-c", "one.cpp", "-o", "one.o"], cwd=tmp_path, check=True)
    found = costs.machine_code(tmp_path / "one.o")
    assert found.keys() == {None, "nms", "sigmoid_focal_loss"}
    assert all(0 < size < 100 for size in found.values())


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A build of two ops, small enough to be compiled here."""
    monkeypatch.setattr(costs, "ROOT", tmp_path)
    commands, log = [], ["# ninja log v7"]
    folder = tmp_path / "build"
    for name, start in (("small", 0), ("large", 1000)):
        sources = tmp_path / "csrc" / "layers" / name
        sources.mkdir(parents=True)
        (sources / f"{name}.cpp").write_text(f'"{name}(Tensor x) -> Tensor"; "_{name}_backward("')
        (sources / f"{name}_cpu.cpp").write_text("int f(int x) { return x; }\n")
        python = tmp_path / "python/handgrad/layers" / f"{name}.py"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text('"""One\n\ntwo."""\n' + "x = 1\n" * (301 if name == "large" else 3))
        output = f"CMakeFiles/handgrad_cpu_v3.dir/csrc/layers/{name}/{name}_cpu.cpp.o"
        (folder / output).parent.mkdir(parents=True)
        source = sources / f"{name}_cpu.cpp"
        subprocess.run(["c++", "-c", source, "-o", folder / output], check=True)
        commands.append(
            {"directory": str(folder), "command": f"c++ -o {output} -c {source}", "file": str(source), "output": output}
        )
        log.append(f"{start}\t{start + 1500}\t1\t{output}\tabc")
    (folder / "compile_commands.json").write_text(json.dumps(commands))
    (folder / ".ninja_log").write_text("\n".join(log) + "\n")
    return folder


def test_the_tables(build, capsys):
    assert costs.main(["--build-dir", str(build)]) == 0
    printed = capsys.readouterr().out
    tables = [[line.split() for line in table.splitlines()] for table in printed.split("\n\n")[1::2]]
    summary, seconds, code, cuda, lines = tables
    assert [row[:4] for row in summary[1:]] == [["large", "hard", "2/90", "0/350"], ["small", "hard", "2/90", "0/350"]]
    assert [row[-3:] for row in summary[1:]] == [["-", "-", "301/300!"], ["-", "-", "3/300"]]
    assert seconds == [["handgrad_cpu_v3"], ["large", "1.5"], ["small", "1.5"], ["all", "3.0"]]
    assert code == [["v3"], ["large", "0"], ["small", "0"], ["all", "0"]]
    assert cuda == [[], ["large"], ["small"], ["all"]]
    assert lines[:2] == [["py", "schema", "cpu.cpp"], ["large", "304", "1", "1"]]


def test_one_op_measured(build, capsys):
    assert costs.main(["--build-dir", str(build), "--op", "small", "--build"]) == 0
    printed = capsys.readouterr().out
    assert "large" not in printed
    assert "Build, core-seconds" in printed
    with pytest.raises(SystemExit):
        costs.main(["--build-dir", str(build), "--op", "unheard_of"])
    assert "--op must be one of large, small; got 'unheard_of'" in capsys.readouterr().err


def test_what_was_not_built_is_said(build, tmp_path, capsys):
    (source,) = (tmp_path / "csrc/layers/small").glob("*_cpu.cpp")
    (path,) = build.rglob("small_cpu.cpp.o")
    newer = path.stat().st_mtime + 10
    os.utime(source, (newer, newer))
    assert costs.main(["--build-dir", str(build), "--op", "small"]) == 1
    assert "small_cpu.cpp.o must be as new as small_cpu.cpp; it is not: run make build" in capsys.readouterr().err
    shutil.rmtree(build)
    assert costs.main(["--build-dir", str(build)]) == 1
    assert f"{build} must hold a build of handgrad's libraries; there is none" in capsys.readouterr().err


def test_core_seconds_are_those_of_all_that_a_command_starts(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    starts_another = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    spent = costs.core_seconds([sys.executable, "-c", starts_another], tmp_path)
    assert 0.3 <= spent < 5
    with pytest.raises(RuntimeError, match="it says why"):
        costs.core_seconds([sys.executable, "-c", "import sys; sys.exit('it says why')"], tmp_path)


def test_every_class_has_a_budget():
    assert set(BUDGETS) == {"simple", "hard"} >= {op.kind for op in OPS}
    assert BUDGETS["simple"].cpu < BUDGETS["hard"].cpu
    assert Costs().tests is None
