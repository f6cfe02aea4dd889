"""CUDA graphs and streams: what a call asks of a device, counted in the emulator; on a GPU, captures and replays."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import device_calls
from handgrad.boxes import nms, soft_nms
from handgrad.sdk.loading import folder_of
from handgrad.testing.calls import as_tuple, value_and_grads
from ops_table import specs

ROOT = Path(__file__).resolve().parent.parent

needs_emulator = pytest.mark.skipif(
    not list(folder_of("handgrad").glob("libhandgrad_emulated*")), reason="no emulated library was built"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


@needs_emulator
def test_a_call_asks_no_more_of_a_device_than_its_spec_says():
    known = specs()
    for name, (*counts, results) in device_calls.counted().items():
        op, step = name.split(", ")
        allowed = known[op].device_calls.get(step, (1, results, 0))
        assert tuple(counts) == allowed, f"{name}: (launches, allocations, waits) {counts}, and its spec says {allowed}"


@needs_emulator
@pytest.mark.parametrize("op", ["nms", "soft_nms"])
def test_what_the_host_waits_for_is_refused_in_a_capture(op):
    program = f"""
import torch, handgrad
from cuda_report import emulator
boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
emulator().set_capturing(True)
handgrad.boxes.{op}(boxes[:0], scores[:0], iou_threshold=0.5)
try:
    handgrad.boxes.{op}(boxes, scores, iou_threshold=0.5)
except RuntimeError as error:
    print(error)
emulator().set_capturing(False)
handgrad.boxes.{op}(boxes, scores, iou_threshold=0.5)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**device_calls.EMULATED, "PYTHONPATH": f"{ROOT / 'tests'}:{device_calls.EMULATED.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{op}: it must be called outside of a CUDA graph, because the size of its result" in done.stdout


@needs_emulator
def test_what_nothing_depends_on_is_not_refused_in_a_capture():
    """Without a limit of scores as many are returned as came; with one the call is refused, and not half recorded."""
    program = """
import torch, handgrad
from cuda_report import emulator
from handgrad.boxes import mask_matrix_nms, matrix_nms
boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
masks, labels = torch.ones(1, 2, 2).bool(), torch.zeros(1, dtype=torch.int64)
emulator().set_capturing(True)
print(matrix_nms(boxes, scores, labels, min_score=None), mask_matrix_nms(masks, labels, scores)[3])
for call in (
    lambda: matrix_nms(boxes, scores), lambda: mask_matrix_nms(masks, labels, scores, filter_thr=0.1)
):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**device_calls.EMULATED, "PYTHONPATH": f"{ROOT / 'tests'}:{device_calls.EMULATED.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "(tensor([0]), tensor([1.])) tensor([0])" in done.stdout
    for op in ("matrix_nms", "mask_matrix_nms"):
        assert f"\n{op}: it must be called outside of a CUDA graph" in done.stdout


# ---- on a GPU --------------------------------------------------------------------------------------------------------

DIFFERENTIABLE = {name: spec for name, spec in specs().items() if spec.derivatives}


@needs_gpu
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_and_backward_are_captured_and_replayed_on_new_values(name):
    spec = DIFFERENTIABLE[name].on("cuda")
    sample = spec.large
    static = sample.map(torch.clone)
    # Before a capture everything has run once: libraries are loaded, and matrix products have their workspaces.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            value_and_grads(spec, spec.call, static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    leaves = static.leaves()
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    directions = tuple(torch.ones_like(out) for out in as_tuple(spec.call(*leaves, **static.kwargs)))
    with torch.cuda.graph(graph):
        outputs = as_tuple(spec.call(*leaves, **static.kwargs))
        grads = torch.autograd.grad(outputs, moving, directions)
    with torch.no_grad():
        for tensor, leaf in zip(sample.tensors, leaves, strict=True):
            leaf.copy_(0.5 * tensor if tensor.is_floating_point() else tensor)
    graph.replay()
    torch.cuda.synchronize()
    again = as_tuple(spec.call(*leaves, **static.kwargs))
    torch.testing.assert_close(outputs, again)
    torch.testing.assert_close(grads, torch.autograd.grad(again, moving, directions))


@needs_gpu
@pytest.mark.parametrize("name", list(specs()))
def test_a_side_stream_beside_a_busy_default_stream(name):
    spec = specs()[name].on("cuda")
    sample = spec.large
    expected = value_and_grads(spec, spec.call, sample)
    busy = torch.randn(4096, 4096, device="cuda")
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    for _ in range(20):
        busy = busy @ busy / 64
    with torch.cuda.stream(stream):
        actual = value_and_grads(spec, spec.call, sample)
    stream.synchronize()
    torch.testing.assert_close(actual, expected)


@needs_gpu
@pytest.mark.parametrize("op", [nms, soft_nms])
def test_a_capture_is_refused(op):
    boxes, scores = torch.rand(100, 4, device="cuda").cumsum(1), torch.rand(100, device="cuda")
    op(boxes, scores, iou_threshold=0.5)
    with pytest.raises(RuntimeError, match="outside of a CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        op(boxes, scores, iou_threshold=0.5)
    torch.cuda.synchronize()
    op(boxes, scores, iou_threshold=0.5)


@needs_gpu
@pytest.mark.parametrize("count", [3, 100, 1000])
def test_nan_scores_come_first_whatever_their_sign(count):
    """pytorch/pytorch#190781: torch's sort sees the sign of a NaN where it goes by bits, from 129 numbers on."""
    corners = 2.0 * torch.arange(count, device="cuda")[:, None].repeat(1, 2)
    for nan in (float("nan"), -float("nan")):
        scores = torch.linspace(0.1, 0.9, count, device="cuda")
        scores[1] = nan
        expected = [1, *(place for place in reversed(range(count)) if place != 1)]
        assert nms(torch.cat([corners, corners + 1], 1), scores, 0.5).tolist() == expected


@needs_gpu
def test_after_a_refused_call_a_good_one_is_not_blamed():
    boxes, scores = torch.rand(10, 4, device="cuda").cumsum(1), torch.rand(10, device="cuda")
    with pytest.raises(RuntimeError, match="scores"):
        nms(boxes, scores[:5], 0.5)
    nms(boxes, scores, 0.5)
    torch.cuda.synchronize()
