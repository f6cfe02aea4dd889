"""What the kernels take on a GPU, beside other libraries': `make bench-device`.

python tests/device_times.py            every case and sweep of benchmarks/, microseconds by CUDA's own clock
python tests/device_times.py focal      only bench files with this in their names
python tests/device_times.py --once     each call once, for a profiler
python tests/device_times.py --small    tiny inputs, each call once, on the CPU: does it run?

`python -m benchmarks` times calls one after another, which find their inputs in the device's cache, and times the host
where kernels are short. Here the cache is emptied before each call, as it is in a network, and the host does not count.
A backward pass is timed by itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handgrad.benchmarking.declaring import Benchmark, Case
from handgrad.benchmarking.peers import as_peer
from handgrad.benchmarking.running import bench_files, collect

ROOT = Path(__file__).resolve().parent.parent

#: Peers that are another library's own kernels; what a compiler makes of a formula is not asked here.
LIBRARIES = ("torchvision", "torch")


def calls(case: Case, device: torch.device) -> Iterator[tuple[str, dict[str, Callable[[], Any]]]]:
    """Each pass of a case, with what runs it in our library and in others that have it."""
    torch.manual_seed(0)
    inputs = case.inputs(device)
    moving = [tensor for tensor in inputs if tensor.requires_grad]
    forwards = {"handgrad": case.handgrad}
    for name, function in case.peers.items():
        if name in LIBRARIES and (forward := as_peer(function).forward) is not None:
            forwards[name] = forward
    plain = tuple(tensor.detach() for tensor in inputs)
    yield "forward", {name: lambda forward=forward: forward(*plain) for name, forward in forwards.items()}
    if moving:
        yield "backward", {name: _backward(forward, inputs, moving) for name, forward in forwards.items()}


def _backward(forward: Callable[..., Any], inputs: tuple[Tensor, ...], moving: list[Tensor]) -> Callable[[], Any]:
    output = forward(*inputs)
    grad = torch.rand_like(output)
    return lambda: torch.autograd.grad(output, moving, grad, retain_graph=True)


def cases(benchmark: Benchmark) -> Iterator[Case]:
    yield from benchmark.cases
    for sweep in benchmark.sweeps:
        yield from (sweep.case(value) for value in sweep.values)


def microseconds(call: Callable[[], Any]) -> float:
    """The median, each time with a cold cache."""
    try:
        from triton.testing import do_bench
    except ImportError:
        return _by_events(call)
    return 1e3 * float(do_bench(call, warmup=50, rep=200, return_mode="median"))


def _by_events(call: Callable[[], Any], rounds: int = 50) -> float:
    elsewhere = torch.empty(4 * torch.cuda.get_device_properties().L2_cache_size, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(rounds + 5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        elsewhere.zero_()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * begin.elapsed_time(end))
    return statistics.median(times[5:])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of bench files, or parts of them; none: all")
    parser.add_argument("--once", action="store_true", help="call everything once and time nothing")
    parser.add_argument("--small", action="store_true", help="tiny inputs on the CPU, each call once")
    options = parser.parse_args(arguments)
    if not options.small and not torch.cuda.is_available():
        parser.error(f"a GPU is needed, and torch {torch.__version__} finds none that it can use; --small needs none")
    device = torch.device("cpu" if options.small else "cuda")
    if not options.small:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, microseconds with a cold cache")
    # Where bench files share something, it lies beside them.
    sys.path.insert(0, str(ROOT))
    # What is not an op has no kernels of its own: it lies beside the families' folders.
    paths = [path for path in bench_files(ROOT / "benchmarks", options.only) if path.parent.name != "benchmarks"]
    for benchmark in collect(paths, quick=options.small):
        for case in cases(benchmark):
            try:
                for step, runs in calls(case, device):
                    _print(f"{benchmark.op}, {case.name}, {step}", runs, options.once or options.small)
            except Exception as error:  # One that fails must not cost the others, where a device is lent for minutes.
                print(f"{benchmark.op}, {case.name}: {type(error).__name__}: {error}", flush=True)
    return 0


def _print(name: str, runs: dict[str, Callable[[], Any]], once: bool) -> None:
    times = {}
    for library, run in runs.items():
        if once:
            run()
        else:
            times[library] = microseconds(run)
    ratio = f"  {times['torchvision'] / times['handgrad']:5.2f}x" if "torchvision" in times else ""
    print(f"{name:100}", *(f"{library} {time:10.1f}" for library, time in times.items()), ratio, flush=True)


if __name__ == "__main__":
    sys.exit(main())
