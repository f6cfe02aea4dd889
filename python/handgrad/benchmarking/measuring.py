"""Time, memory, and the floor that no implementation can be under."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from handgrad.benchmarking.declaring import Settings
from handgrad.benchmarking.results import Timing

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
