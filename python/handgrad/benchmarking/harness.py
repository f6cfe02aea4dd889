"""Times ops beside their peers: same process, same inputs, results compared before anything is timed.

A bench file, ``bench_<op>.py`` anywhere under ``benchmarks/``, has one function ``benchmark(quick)`` that returns a
:class:`Benchmark`; everything else is here. What each number means: docs/benchmarks.md.
"""

from __future__ import annotations

import gc
import importlib.util
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from handgrad.sdk.loading import LOADED

Forward = Callable[..., Any]
PASSES = ("forward", "forward+backward")


class BenchmarkError(Exception):
    """A comparison that would mean nothing: the two sides do not compute the same."""


# ---- what a bench file declares --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A peer that is more than a forward function.

    Args:
        forward: takes the case's inputs, returns the output, a tensor or a tuple of them; None where the peer has no
            forward pass of its own.
        with_gradients: takes the inputs, returns the output and the gradients of its sum for the differentiable inputs;
            None lets autograd do it.
        remark: what a reader must know about it, printed below the table.
    """

    forward: Forward | None
    with_gradients: Callable[..., tuple[Tensor, Sequence[Tensor]]] | None = None
    remark: str = ""


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        name: what differs from the other cases, e.g. ``"100000x80 float32, mean"``.
        inputs: makes the tensors on a device; those that require a gradient are differentiated. Where none does, there
            is a forward pass only.
        handgrad: our function of these tensors.
        peers: the others, by name. A peer imports what it needs when called, so that one which is not installed becomes
            a row with the reason.
        forward_bytes, backward_bytes: what each pass must at least move between memory and processor: its inputs read
            once, its results written once.
        tolerance: largest difference allowed between our results and a peer's, relative to the largest value; integers
            must be the same.
        as_found: peers timed once more before :func:`wake_vector_functions`, as a process finds torch.
    """

    name: str
    inputs: Callable[[torch.device], tuple[Tensor, ...]]
    handgrad: Forward
    peers: Mapping[str, Forward | Peer]
    forward_bytes: int
    backward_bytes: int = 0
    tolerance: float = 1e-4
    as_found: Sequence[str] = ()


@dataclass(frozen=True)
class Sweep:
    """A curve: one case for each value of something. Timed forward+backward, where there is a backward, on all
    threads."""

    name: str
    axis: str
    values: Sequence[int]
    case: Callable[[int], Case]


@dataclass(frozen=True)
class Fact:
    """A single number, such as the time of an import; ``limit`` is what it may be at most."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Benchmark:
    """All that one bench file measures. ``facts`` is called when its turn comes, with the settings."""

    op: str
    cases: Sequence[Case] = ()
    sweeps: Sequence[Sweep] = ()
    facts: Callable[[Settings], list[Fact]] | None = None


@dataclass(frozen=True)
class Settings:
    """How long to measure. A block is how long one peer runs before the next has its turn; a comparison that would take
    longer than ``comparison_seconds`` has fewer rounds, but never under three. ``package`` is the name of our rows."""

    rounds: int = 9
    block_seconds: float = 0.02
    comparison_seconds: float = 4.0
    bandwidth_bytes: int = 256 * 2**20
    quick: bool = False
    package: str = "handgrad"

    @classmethod
    def for_quick(cls, package: str = "handgrad") -> Settings:
        return cls(
            3, block_seconds=0.002, comparison_seconds=0.5, bandwidth_bytes=16 * 2**20, quick=True, package=package
        )


# ---- what comes out --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median, quartiles and best over the rounds."""

    median: float
    low: float
    high: float
    best: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        if len(samples) < 2:
            return cls(*4 * [samples[0]])
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(middle, low, high, min(samples))


@dataclass
class Row:
    """One implementation in one pass. ``ratio`` is its time over ours; above 1, ours is faster."""

    implementation: str
    time: Timing | None = None
    ratio: float | None = None
    peak_bytes: int | None = None
    error: str = ""
    as_found: bool = False


@dataclass
class Table:
    """One case, one pass, one number of threads."""

    op: str
    case: str
    device: str
    threads: int
    step: str
    rows: list[Row]
    bytes: int
    # Seconds that the bytes take at the bandwidth of memory, and of a working set of this case's size.
    floor: float
    cached_floor: float
    working_set: int
    best_peer: str = ""
    ratio_to_best: float | None = None
    floor_share: float | None = None
    cached_floor_share: float | None = None

    @property
    def ours(self) -> Row:
        return self.rows[0]


@dataclass
class Curve:
    """One line of a sweep's plot; a value that could not be measured is None, the reason in ``errors``."""

    implementation: str
    seconds: list[float | None] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class SweepResult:
    op: str
    name: str
    axis: str
    values: list[int]
    device: str
    threads: int
    curves: list[Curve]
    step: str = PASSES[1]


@dataclass
class Results:
    machine: dict[str, Any]
    settings: dict[str, Any]
    bandwidth: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    sweeps: list[SweepResult] = field(default_factory=list)
    facts: dict[str, list[Fact]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ---- time ------------------------------------------------------------------------------------------------------------


def interleave(calls: Mapping[str, Callable[[], Any]], settings: Settings, threads: int) -> dict[str, Timing]:
    """Times all calls in turns, round after round: whatever else the machine does meanwhile hits all alike."""
    timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in calls.items()}
    # One block's worth of calls each; the estimate is itself a warm-up.
    numbers = {}
    round_seconds = 0.0
    for name, timer in timers.items():
        estimate = timer.timeit(1).median
        numbers[name] = max(1, round(settings.block_seconds / max(estimate, 1e-9)))
        # timeit warms up with two calls at least.
        round_seconds += (numbers[name] + max(numbers[name] // 100, 2)) * estimate
    rounds = max(3, min(settings.rounds, int(settings.comparison_seconds / max(round_seconds, 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            samples[name].append(timer.timeit(numbers[name]).median)
    return {name: Timing.of(times) for name, times in samples.items()}


# ---- memory ----------------------------------------------------------------------------------------------------------


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that ``call`` holds at one time beyond what was held before it, its results included.

    On the CPU every allocation and release of torch's allocator during the call is recorded, and added up in order;
    compiled code takes its tensors from the same allocator. Scratch memory from elsewhere (a vector in a kernel, a
    library's workspace) is not seen.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        results = call()
    del results
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


# ---- the floor -------------------------------------------------------------------------------------------------------


def bandwidth(device: torch.device, threads: int, working_set: int, settings: Settings) -> dict[str, float]:
    """Bytes per second that torch itself gets from ``working_set`` bytes: read (sum), copy, and triad (c = a + 2 b).

    The stores' own reading of the lines they overwrite is not counted, as it is not in the bytes of a case.
    """
    elements = max(12, working_set // 4)
    whole = torch.rand(elements, device=device)
    source, target = whole[: elements // 2], torch.empty(elements // 2, device=device)
    a, b = whole[: elements // 3], whole[elements // 3 : 2 * (elements // 3)]
    c = torch.empty_like(a)
    calls: dict[str, Callable[[], Any]] = {
        "read": whole.sum,
        "copy": lambda: target.copy_(source),
        "triad": lambda: torch.add(a, b, alpha=2, out=c),
    }
    moved = {"read": whole.nbytes, "copy": source.nbytes + target.nbytes, "triad": a.nbytes + b.nbytes + c.nbytes}
    times = interleave(calls, settings, threads)
    # The best round: a floor is what the machine can do, not what it did beside other work.
    return {name: moved[name] / times[name].best for name in calls}


def floor_seconds(bytes_moved: int, rates: Mapping[str, float]) -> float:
    """The least time for ``bytes_moved``, at the fastest of the measured rates."""
    return bytes_moved / max(rates.values())


def wake_vector_functions() -> None:
    """Calls torch's vector functions once with every special value.

    Sleef's AVX-512 functions, which torch and code made by torch.compile call, treat special values by masked loads of
    constants. Until something has touched the library's page with that constant, the load faults: with all lanes masked
    off the processor must suppress the fault, slowly, on every call, and nothing ever brings the page in. One element
    that needs the constant does, for the life of the process. The results state what that did to log1p. Peers are timed
    awake, so that a good ratio is never owed to this; rows marked "as found" show them before.
    """
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 200.0, -200.0, 1e-42, 1e38, float("inf"), float("-inf"), float("nan")]
    functions: list[Callable[[Tensor], Tensor]] = [
        torch.exp, torch.exp2, torch.expm1, torch.log, torch.log1p, torch.log2, torch.log10, torch.sigmoid, torch.tanh,
        torch.sin, torch.cos, torch.erf, torch.sqrt, torch.rsqrt, torch.nn.functional.softplus,
        torch.nn.functional.logsigmoid, lambda x: x**1.5, lambda x: x**-0.75,
    ]  # fmt: skip
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for value in special:
            # Whole vectors of one value, so that the vector code sees it and not the scalar rest.
            x = torch.full((64,), value).to(dtype)
            for function in functions:
                function(x)


def log1p_nanoseconds() -> float:
    """Per element on one thread; before and after :func:`wake_vector_functions` it shows whether that mattered here."""
    x, out = torch.rand(2, 2**18)
    timer = Timer("torch.log1p(x, out=out)", globals={"torch": torch, "x": x, "out": out}, num_threads=1)
    return min(timer.timeit(3).median for _ in range(5)) / x.numel() * 1e9


# ---- peers -----------------------------------------------------------------------------------------------------------


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``torch.compile(function)`` with what favours it: static shapes, and an error rather than a graph break.

    The number of threads is written into the generated code, so :class:`Run` lets torch compile anew after changing it.
    """
    return torch.compile(function, dynamic=False, fullgraph=True, **options)


def _as_tuple(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def _as_peer(peer: Forward | Peer) -> Peer:
    return peer if isinstance(peer, Peer) else Peer(peer)


@dataclass(frozen=True)
class _Runner:
    """One implementation on one case's inputs."""

    peer: Peer
    inputs: tuple[Tensor, ...]
    differentiable: tuple[Tensor, ...]
    grad_output: Tensor | None

    @property
    def passes(self) -> tuple[str, ...]:
        return PASSES if self.differentiable else PASSES[:1]

    def has(self, step: str) -> bool:
        return step != "forward" or self.peer.forward is not None

    def forward(self) -> Any:
        assert self.peer.forward is not None
        with torch.no_grad():
            return self.peer.forward(*self.inputs)

    def forward_backward(self) -> tuple[Any, Sequence[Tensor]]:
        if not self.differentiable:
            return self.forward(), ()
        if self.peer.with_gradients is not None:
            return self.peer.with_gradients(*self.inputs)
        assert self.peer.forward is not None
        output = self.peer.forward(*self.inputs)
        if self.grad_output is not None and output.shape != self.grad_output.shape:
            raise BenchmarkError(f"output has shape {tuple(output.shape)}, ours {tuple(self.grad_output.shape)}")
        return output, torch.autograd.grad(output, self.differentiable, self.grad_output)

    def step(self, step: str) -> Callable[[], Any]:
        return self.forward if step == "forward" else self.forward_backward


def _compare(case: Case, package: str, ours: _Runner, name: str, theirs: _Runner) -> None:
    output, gradients = ours.forward_backward()
    peer_output, peer_gradients = theirs.forward_backward()
    both = zip(_as_tuple(output), _as_tuple(peer_output), strict=True)
    pairs = [("output", a, b) for a, b in both]
    pairs += [(f"gradient {i}", a, b) for i, (a, b) in enumerate(zip(gradients, peer_gradients, strict=True))]
    for what, a, b in pairs:
        if a.shape != b.shape:
            raise BenchmarkError(f"{case.name}: {what} of {name} has shape {tuple(b.shape)}, ours {tuple(a.shape)}")
        if not a.is_floating_point():
            if not torch.equal(a, b):
                raise BenchmarkError(f"{case.name}: {what} of handgrad and {name} differ, and are integers")
            continue
        scale = b.detach().double().abs().max().item()
        difference = (a.detach().double() - b.detach().double()).abs().max().item()
        # Written so that NaN is a disagreement.
        if not difference <= case.tolerance * scale:
            raise BenchmarkError(
                f"{case.name}: {what} of {package} and {name} differ by {difference:.3g} where the largest value is "
                f"{scale:.3g}; one of them computes something else, so their times mean nothing"
            )


# ---- running ---------------------------------------------------------------------------------------------------------


def _set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    torch._dynamo.reset()


def _prepare(case: Case, device: torch.device, package: str = "handgrad") -> tuple[dict[str, _Runner], dict[str, str]]:
    """Runners by name, ours (``package``) first, all compared; and the reasons of those that cannot run."""
    torch.manual_seed(0)
    inputs = case.inputs(device)
    differentiable = tuple(x for x in inputs if x.requires_grad)
    output = case.handgrad(*inputs)
    grad_output = torch.rand_like(output) if differentiable and output.dim() else None
    ours = _Runner(Peer(case.handgrad), inputs, differentiable, grad_output)
    runners, errors = {package: ours}, {}
    for name, function in case.peers.items():
        runner = _Runner(_as_peer(function), inputs, differentiable, grad_output)
        try:
            for step in runner.passes:
                if runner.has(step):
                    runner.step(step)()
        except BenchmarkError as error:
            raise BenchmarkError(f"{case.name}: {name}: {error}") from None
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        _compare(case, package, ours, name, runner)
        runners[name] = runner
    return runners, errors


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_tensor_bytes, value)) if isinstance(value, (tuple, list)) else 0


class Run:
    """One run over bench files, filling :attr:`results`."""

    def __init__(self, settings: Settings, log: Callable[[str], None] = print) -> None:
        self.settings = settings
        self.log = log
        self.results = Results(machine_facts(settings.package), asdict(settings))
        self._rates: dict[tuple[str, int, int], dict[str, float]] = {}
        self._as_found: dict[tuple[str, str, str, int, str], Row] = {}

    def run(self, benchmarks: Sequence[Benchmark]) -> Results:
        threads = torch.get_num_threads()
        counts = sorted({1, threads})
        try:
            before = log1p_nanoseconds()
            for benchmark in benchmarks:
                for case in benchmark.cases:
                    if case.as_found:
                        for count in counts:
                            self._time_as_found(benchmark.op, case, count)
            wake_vector_functions()
            self.results.machine["log1p, ns per element"] = {"as found": before, "awake": log1p_nanoseconds()}
            devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
            for benchmark in benchmarks:
                for device in devices:
                    for case in benchmark.cases:
                        for count in counts if device.type == "cpu" else [threads]:
                            self._time(benchmark.op, case, device, count)
                    for sweep in benchmark.sweeps:
                        self._sweep(benchmark.op, sweep, device, threads)
                if benchmark.facts is not None:
                    self.log(f"{benchmark.op}: facts")
                    self.results.facts[benchmark.op] = benchmark.facts(self.settings)
        finally:
            torch.set_num_threads(threads)
        return self.results

    def rates(self, device: torch.device, threads: int, working_set: int) -> dict[str, float]:
        """Bandwidth of a working set, measured once for each size, to 5 %."""
        size = round(1.05 ** round(math.log(working_set, 1.05)))
        key = (device.type, threads, size)
        if key not in self._rates:
            self._rates[key] = bandwidth(device, threads, size, self.settings)
            self.results.bandwidth.append(
                {"device": device.type, "threads": threads, "working_set": size, **self._rates[key]}
            )
        return self._rates[key]

    def _time_as_found(self, op: str, case: Case, threads: int) -> None:
        self.log(f"{op}, {case.name}: as found, {threads} thread(s)")
        _set_threads(threads)
        runners, _ = _prepare(case, torch.device("cpu"), self.settings.package)
        chosen = {name: runners[name] for name in case.as_found if name in runners}
        for step in runners[self.settings.package].passes:
            times = interleave({name: runner.step(step) for name, runner in chosen.items()}, self.settings, threads)
            for name, time in times.items():
                self._as_found[op, case.name, name, threads, step] = Row(f"{name} (as found)", time, as_found=True)

    def _time(self, op: str, case: Case, device: torch.device, threads: int) -> None:
        self.log(f"{op}, {case.name}: {device.type}, {threads} thread(s)")
        _set_threads(threads)
        runners, errors = _prepare(case, device, self.settings.package)
        ours = runners[self.settings.package]
        working_set = _tensor_bytes(ours.inputs) + _tensor_bytes(ours.forward_backward())
        memory_rates = self.rates(device, threads, max(self.settings.bandwidth_bytes, 4 * last_level_cache()))
        cached_rates = self.rates(device, threads, working_set)
        moved_in = dict(zip(PASSES, (case.forward_bytes, case.forward_bytes + case.backward_bytes), strict=True))
        for step in ours.passes:
            moved = moved_in[step]
            calls = {name: runner.step(step) for name, runner in runners.items() if runner.has(step)}
            times = interleave(calls, self.settings, threads)
            rows = [
                Row(name, time, time.median / times[self.settings.package].median, peak_bytes(calls[name], device))
                for name, time in times.items()
            ]
            for name in case.as_found:
                row = self._as_found.get((op, case.name, name, threads, step)) if device.type == "cpu" else None
                if row is not None and row.time is not None:
                    row.ratio = row.time.median / times[self.settings.package].median
                    rows.append(row)
            rows += [Row(name, error=error) for name, error in errors.items()]
            table = Table(
                op, case.name, device.type, threads, step, rows, moved,
                floor_seconds(moved, memory_rates), floor_seconds(moved, cached_rates), working_set,
            )  # fmt: skip
            self.results.tables.append(summarize(table))
        for name, function in case.peers.items():
            if _as_peer(function).remark:
                self.results.remarks[name] = _as_peer(function).remark

    def _sweep(self, op: str, sweep: Sweep, device: torch.device, threads: int) -> None:
        self.log(f"{op}, {sweep.name}: {device.type}, {threads} thread(s)")
        curves: dict[str, Curve] = {}
        for value in sweep.values:
            case = sweep.case(value)
            _set_threads(threads)
            runners, errors = _prepare(case, device, self.settings.package)
            step = runners[self.settings.package].passes[-1]
            times = interleave({n: r.forward_backward for n, r in runners.items()}, self.settings, threads)
            for name in [self.settings.package, *case.peers]:
                curve = curves.setdefault(name, Curve(name))
                curve.seconds.append(times[name].median if name in times else None)
                if name in errors:
                    curve.errors.append(f"{sweep.axis} {value}: {errors[name]}")
        self.results.sweeps.append(
            SweepResult(
                op, sweep.name, sweep.axis, list(sweep.values), device.type, threads, list(curves.values()), step
            )
        )


def summarize(table: Table) -> Table:
    """Fills in what follows from the rows: the best peer, our ratio to it, our share of the floor."""
    assert table.ours.time is not None
    peers = {row.implementation: row.time.median for row in table.rows[1:] if row.time is not None}
    if peers:
        table.best_peer = min(peers, key=lambda name: peers[name])
        table.ratio_to_best = peers[table.best_peer] / table.ours.time.median
    table.floor_share = table.floor / table.ours.time.median
    table.cached_floor_share = table.cached_floor / table.ours.time.median
    return table


# ---- the machine, the files ------------------------------------------------------------------------------------------


def last_level_cache() -> int:
    """Bytes; 0 where the system does not say."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]])
    return max(sizes)


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_facts(ours: str = "handgrad") -> dict[str, Any]:
    facts: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": cpu_model(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "last-level cache, MiB": last_level_cache() / 2**20,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if hasattr(os, "getloadavg"):
        # Above 0 before a run, something else was at work.
        facts["load average at the start"] = round(os.getloadavg()[0], 2)
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    for package in dict.fromkeys((ours, "handgrad", "torchvision", "kornia")):
        if importlib.util.find_spec(package) is not None:
            facts[package] = getattr(__import__(package), "__version__", "unknown")
    loaded = LOADED[ours]
    facts[f"{ours}'s CPU level"] = f"{loaded.cpu_level}, of a processor with {loaded.processor_level}"
    return facts


def bench_files(root: Path, only: str = "") -> list[Path]:
    """The bench files whose name contains ``only``."""
    return [path for path in sorted(root.rglob("bench_*.py")) if only in path.stem]


def load(path: Path) -> ModuleType:
    name = f"benchmarks._files.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def collect(paths: Iterable[Path], quick: bool) -> list[Benchmark]:
    return [load(path).benchmark(quick) for path in paths]
