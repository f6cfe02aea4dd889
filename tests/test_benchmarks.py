"""The benchmarks measure what they say: tables, comparison, memory, floor. No test here judges a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("matplotlib")
pytest.importorskip("tabulate")

from handgrad.benchmarking import (
    Benchmark,
    BenchmarkError,
    Case,
    Fact,
    Peer,
    Settings,
    Sweep,
    command,
    compiled,
    keeping,
    measuring,
    peers,
    running,
)
from handgrad.benchmarking.declaring import PASSES, Forward
from handgrad.benchmarking.markdown import markdown
from handgrad.benchmarking.results import Results, Row, Table, Timing, summarize
from handgrad.benchmarking.running import Run

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"

SETTINGS = Settings(rounds=2, block_seconds=1e-4, bandwidth_bytes=2**16, quick=True)
CPU = torch.device("cpu")
SHAPE = (8, 32)


def square(x: Tensor) -> Tensor:
    return x * x


def missing(x: Tensor) -> Tensor:
    import a_package_nobody_has  # noqa: F401

    return x


def case(**changes: object) -> Case:
    values: dict[str, object] = {
        "name": "8x32",
        "inputs": lambda device: (torch.randn(SHAPE, device=device, requires_grad=True),),
        "handgrad": square,
        "peers": {"pow": lambda x: x.pow(2)},
        "forward_bytes": 2 * 4 * 256,
        "backward_bytes": 3 * 4 * 256,
    }
    return Case(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _small_and_tidy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The bandwidth of memory needs a buffer larger than the cache; its arithmetic does not.
    monkeypatch.setattr(running, "last_level_cache", lambda: 2**12)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(*benchmarks: Benchmark) -> Results:
    return Run(SETTINGS, log=lambda line: None).run(benchmarks)


def both_gradients(x: Tensor) -> tuple[Tensor, list[Tensor]]:
    raise NotImplementedError("only its row is wanted")


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_results_are_written_in_three_forms(tmp_path: Path) -> None:
    benchmark = Benchmark(
        "square",
        [case(peers={"pow": lambda x: x.pow(2), "absent": missing}, as_found=("pow",))],
        [Sweep("rows", "rows", [1, 2], lambda rows: case(name=f"{rows} rows"))],
        lambda settings: [Fact("answer", 42.0, "µs", limit=40.0), Fact("wheel", float("nan"), "MB", error="not built")],
    )
    command.write(run(benchmark), tmp_path)

    data = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {"machine", "settings", "bandwidth", "tables", "sweeps", "facts"} <= data.keys()
    assert {"CPU", "threads", "torch", "date"} <= data["machine"].keys()
    threads = sorted({1, torch.get_num_threads()})
    assert [(t["step"], t["threads"]) for t in data["tables"]] == [(s, n) for n in threads for s in PASSES]
    table = data["tables"][0]
    assert {"floor", "cached_floor", "floor_share", "best_peer", "ratio_to_best", "working_set"} <= table.keys()
    assert [row["implementation"] for row in table["rows"]] == ["handgrad", "pow", "pow (as found)", "absent"]
    assert all(row["time"] and row["ratio"] for row in table["rows"][:3])
    assert [len(curve["seconds"]) for curve in data["sweeps"][0]["curves"]] == [2, 2]
    assert data["facts"]["square"][1]["value"] is None

    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    for promised in ("square", "**handgrad**", "42 µs", "**missed**", "not built", "No module named", "Bandwidth"):
        assert promised in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_facts_alone_are_written(tmp_path: Path) -> None:
    command.write(run(Benchmark("facts", facts=lambda settings: [Fact("answer", 42.0, "µs")])), tmp_path)
    assert "42 µs" in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert not (tmp_path / "results.png").exists()


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    run(Benchmark("square", [case()]))
    assert torch.get_num_threads() == before


# ---- what is compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (lambda x: x * x + 0.01, "output of handgrad and wrong differ by 0.01"),
        # The same values with another gradient.
        (lambda x: x * x.detach(), "gradient 0 of handgrad and wrong differ"),
        (lambda x: (x * x) * float("nan"), "output of handgrad and wrong differ by nan"),
        (lambda x: (x * x).sum(), "has shape"),
    ],
)
def test_wrong_values_stop_the_run(peer: Forward, message: str) -> None:
    wrong = case(peers={"wrong": peer}, handgrad=square)
    with pytest.raises(BenchmarkError, match=message):
        run(Benchmark("square", [wrong]))


def test_an_error_of_ours_is_not_a_row() -> None:
    with pytest.raises(ImportError):
        run(Benchmark("square", [case(handgrad=missing)]))


def test_a_peer_that_cannot_run_is_a_row_with_the_reason() -> None:
    results = run(Benchmark("square", [case(peers={"absent": missing, "odd": Peer(None, both_gradients)})]))
    for table in results.tables:
        reasons = {row.implementation: row.error for row in table.rows}
        assert reasons["absent"] == "ModuleNotFoundError: No module named 'a_package_nobody_has'"
        assert reasons["odd"] == "NotImplementedError: only its row is wanted"
        assert table.best_peer == ""
        assert table.ratio_to_best is None


def test_a_peer_without_a_forward_pass_runs_in_the_other() -> None:
    def with_gradients(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            # A runner asks for the gradient of a map through a random grad_output, of a scalar through 1.
            return (x * x).sum(), [2 * x]

    summed = case(handgrad=lambda x: (x * x).sum(), peers={"both": Peer(None, with_gradients, "a remark")})
    results = run(Benchmark("square", [summed]))
    rows = {table.step: [row.implementation for row in table.rows] for table in results.tables}
    assert rows == {"forward": ["handgrad"], "forward+backward": ["handgrad", "both"]}
    assert results.remarks == {"both": "a remark"}


def test_a_case_without_gradients_has_one_pass_and_compares_integers() -> None:
    def largest(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.argmax(), x.max()

    def off_by_one(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.argmax() + 1, x.max()

    plain = case(inputs=lambda device: (torch.arange(10_000.0),), handgrad=largest, peers={"max": largest})
    sweep = Sweep("rows", "rows", [1], lambda rows: plain)
    results = run(Benchmark("largest", [plain], [sweep]))
    assert {table.step for table in results.tables} == {"forward"}
    assert results.sweeps[0].step == "forward"
    assert "largest by rows: forward," in markdown(results)
    # One part in ten thousand, which a tolerance would let pass.
    wrong = case(inputs=plain.inputs, handgrad=largest, peers={"wrong": off_by_one})
    with pytest.raises(BenchmarkError, match="output of handgrad and wrong differ, and are integers"):
        run(Benchmark("largest", [wrong]))
    with pytest.raises(BenchmarkError, match="output of my_ops and wrong differ, and are integers"):
        peers.prepare(wrong, CPU, "my_ops")
    # Unless the case says how far they may be apart.
    rounded = case(inputs=plain.inputs, handgrad=largest, peers={"other": off_by_one}, levels=1)
    assert run(Benchmark("largest", [rounded])).tables


def test_another_result_by_design_is_timed_and_says_so():
    other = Peer(lambda x: x + 1, remark="another picture", same=False)
    table = run(Benchmark("square", [case(peers={"other": other})])).tables[0]
    assert all(row.time for row in table.rows)
    with pytest.raises(ValueError, match="remark must say in what a peer differs"):
        Peer(square, same=False)


def test_results_of_other_ops_are_kept(tmp_path):
    first, second = (run(Benchmark(op, [case()])) for op in ("square", "cube"))
    command.write(first, tmp_path)
    kept = keeping.read(tmp_path / "results.json")
    assert kept.as_dict() == first.as_dict()
    both = keeping.joined(keeping.joined(kept, second), second)
    assert [table.op for table in both.tables] == ["cube"] * len(second.tables) + ["square"] * len(first.tables)
    assert both.machine["measured later"] == {"cube": second.machine["date"]}
    second.machine["torch"] = "1.0"
    with pytest.raises(BenchmarkError, match=r"results of another machine are not kept: torch was .*, and is 1\.0"):
        keeping.joined(kept, second)


def test_torch_compile_is_a_peer() -> None:
    torch.set_num_threads(1)  # every further number of threads is compiled for again
    results = run(Benchmark("square", [case(peers={"compiled": compiled(square)})]))
    for table in results.tables:
        row = table.rows[1]
        assert row.time is not None or "Compile" in row.error, row.error


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_peak_memory_counts_what_is_held_at_one_time() -> None:
    x = torch.ones(1000, 1000)

    def call() -> Tensor:
        first = x + 1  # 4 MB
        second = first * 2  # 8 MB
        del first
        third = second + 1  # 8 MB
        return third.sum()

    assert 8_000_000 <= measuring.peak_bytes(call, CPU) < 8_001_000


def test_peak_memory_counts_results_and_not_inputs() -> None:
    x = torch.ones(1000, 1000)
    assert measuring.peak_bytes(lambda: x.mul_(1), CPU) < 1000
    assert 4_000_000 <= measuring.peak_bytes(lambda: x.clone(), CPU) < 4_001_000


def test_peak_memory_sees_the_backward_pass() -> None:
    x = torch.ones(1000, 1000, requires_grad=True)
    # exp keeps its result of 4 MB for backward, where its gradient of 4 MB is made of a third map.
    peak = measuring.peak_bytes(lambda: torch.autograd.grad(x.exp().sum(), x), CPU)
    assert 8_000_000 <= peak <= 12_001_000


# ---- floor and statistics --------------------------------------------------------------------------------------------


def test_floor_is_the_time_of_the_bytes_at_the_best_rate() -> None:
    assert measuring.floor_seconds(10**9, {"read": 2e9, "copy": 1e9, "triad": 4e9}) == 0.25


def test_shares_and_ratios_follow_from_the_rows() -> None:
    rows = [
        Row("handgrad", Timing(2.0, 1.9, 2.1, 1.8)),
        Row("slow", Timing(8.0, 8.0, 8.0, 8.0)),
        Row("best", Timing(6.0, 6.0, 6.0, 6.0)),
        Row("absent", error="not installed"),
    ]
    table = Table("op", "case", "cpu", 1, "forward", rows, 100, floor=1.0, cached_floor=0.5, working_set=10)
    summarize(table)
    assert (table.best_peer, table.ratio_to_best) == ("best", 3.0)
    assert (table.floor_share, table.cached_floor_share) == (0.5, 0.25)


def test_bandwidth_counts_every_byte_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "interleave", lambda calls, *_: {name: Timing(1.0, 0.7, 2.0, 0.5) for name in calls})
    rates = measuring.bandwidth(CPU, 1, 2**20, SETTINGS)
    # Each touches the whole working set once; taken is the best round, half a second.
    assert rates == pytest.approx(dict.fromkeys(["read", "copy", "triad"], 2 * 2**20), rel=1e-4)


def test_timing_is_median_quartiles_and_best() -> None:
    assert Timing.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(3.0, 2.0, 4.0, 1.0)
    assert Timing.of([1.0]) == Timing(1.0, 1.0, 1.0, 1.0)


# ---- the bench files -------------------------------------------------------------------------------------------------


def test_bench_files_are_found_and_declare_a_benchmark() -> None:
    benchmarks = {benchmark.op: benchmark for benchmark in running.collect(running.bench_files(BENCHMARKS), quick=True)}
    assert {"sigmoid_focal_loss", "local_response_norm", "overhead"} <= benchmarks.keys()
    # Names tell cases apart in the results.
    for benchmark in benchmarks.values():
        names = [case.name for case in benchmark.cases]
        assert len(names) == len(set(names))


def test_bench_files_are_chosen_by_their_names_or_by_parts_of_them() -> None:
    def chosen(*only: str) -> set[str]:
        return {path.stem.removeprefix("bench_") for path in running.bench_files(BENCHMARKS, only)}

    # A whole name is one file, though it is a part of others' names too.
    assert chosen("nms", "quick_gel") == {"nms", "quick_gelu"}
    assert chosen("nms", "oft_nms") == {"nms", "soft_nms"}
    assert {"sigmoid_focal_loss", "varifocal_loss"} <= chosen("focal") < chosen()


@pytest.mark.parametrize("name", ["sigmoid_focal_loss", "local_response_norm", "nms", "soft_nms"])
def test_ours_and_eager_peers_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    (benchmark,) = running.collect(running.bench_files(BENCHMARKS, [name]), quick=True)
    swept = [sweep.case(value) for sweep in benchmark.sweeps for value in sweep.values]
    for one in [*benchmark.cases, *swept]:
        runners, errors = peers.prepare(one, CPU)
        # What is not installed may be missing; nothing else may fail.
        assert all(reason.startswith("ModuleNotFoundError") for reason in errors.values()), errors
        assert "handgrad" in runners


def test_quick_runs_never_replace_the_committed_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(BENCHMARKS, "handgrad", ["--quick"])
    assert "--quick needs --out" in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        command.main(BENCHMARKS, "handgrad", ["--only", "nothing_of_that_name", "--out", str(tmp_path)])
    assert "sigmoid_focal_loss" in capsys.readouterr().err


def test_the_command_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(BENCHMARKS, "handgrad", ["--quick", "--only", "overhead", "--out", str(tmp_path)]) == 0
    assert "import handgrad" in capsys.readouterr().out
    assert (tmp_path / "results.json").exists()


def test_a_gpu_that_is_not_there_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert running.here("cpu") == [CPU]
    assert CPU in running.here("all")
    if torch.cuda.is_available():
        pytest.skip("here is one")
    with pytest.raises(SystemExit):
        command.main(BENCHMARKS, "handgrad", ["--device", "cuda"])
    assert "--device cuda needs a GPU" in capsys.readouterr().err


def test_devices_are_chosen() -> None:
    results = Run(SETTINGS, log=lambda line: None, devices=[]).run([Benchmark("square", [case(as_found=("pow",))])])
    assert not results.tables
