"""Tick 15: what is saved for backward, what is kept beside it, and what is allocated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from handgrad.testing.calls import Checks, as_tuple, directions, emulated
from handgrad.testing.spec import OpSpec


def cases(spec: OpSpec, root: Path) -> Checks:
    yield "saves_only_inputs", functools.partial(_saves_only_inputs, spec)
    yield "keeps_nothing_else", functools.partial(_keeps_nothing_else, spec)
    yield "allocates_only_results", functools.partial(_allocates_only_results, spec)


# ---- saved and kept --------------------------------------------------------------------------------------------------


def _storages(tensors: tuple[Tensor, ...]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def _saves_only_inputs(spec: OpSpec) -> None:
    for sample in (*spec.samples, spec.large):
        leaves = sample.leaves()
        moving = [leaf for leaf in leaves if leaf.requires_grad]
        # A weight that has no gradient is given by name.
        given = (*leaves, *(value for value in sample.kwargs.values() if isinstance(value, Tensor)))
        saved: list[Tensor] = []

        def keep(tensor: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = as_tuple(spec.call(*leaves, **sample.kwargs))
            _saved_beside(spec, saved, given, "the inputs")
            along = directions(outputs)
            torch.autograd.grad(outputs, moving, along, create_graph=True)
            _saved_beside(spec, saved, (*given, *along), "the inputs and grad_output, for the second backward,")


def _saved_beside(spec: OpSpec, saved: list[Tensor], allowed: tuple[Tensor, ...], meaning: str) -> None:
    inputs = _storages(allowed)
    # A number, as the divisor of a mean is, is no intermediate of their size.
    foreign = [tensor for tensor in saved if tensor.dim() and tensor.untyped_storage().data_ptr() not in inputs]
    assert _bytes(tuple(foreign)) <= spec.saves, (
        f"saved beside {meaning}: tensors of {[tuple(tensor.shape) for tensor in foreign]}"
    )


def _keeps_nothing_else(spec: OpSpec) -> None:
    """What the hooks of saved tensors do not see: a tensor that lies on ctx, or in what lies there."""
    for sample in spec.samples:
        leaves = sample.leaves()
        outputs = as_tuple(spec.call(*leaves, **sample.kwargs))
        moving = [leaf for leaf in leaves if leaf.requires_grad]
        first = torch.autograd.grad(outputs, moving, directions(outputs), create_graph=True)
        for name, tensor in _on_contexts((*outputs, *first)):
            raise AssertionError(
                f"{spec.name}: {name} is a tensor of {tuple(tensor.shape)} that lies on the context of an autograd "
                "Function. What backward needs goes through ctx.save_for_backward, where checkpointing, hooks of saved "
                "tensors and torch's check for changes in place see it; and only inputs: what can be computed from "
                "them is computed again. Attributes of ctx are for numbers"
            )
    sample = spec.large
    leaves = sample.leaves()
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    outputs = as_tuple(spec.call(*leaves, **sample.kwargs))
    along = directions(outputs)
    for stage, run in (
        ("forward", lambda: spec.call(*leaves, **sample.kwargs)),
        ("backward with create_graph=True", lambda: torch.autograd.grad(outputs, moving, along, create_graph=True)),
    ):
        held, results = _memory(run, leaves[0].device).held, _bytes(outputs if stage == "forward" else tuple(moving))
        assert held <= results + _SMALL, (
            f"{spec.name}: after the {stage} {held - results} bytes are held beside the results, until the graph goes: "
            "an intermediate is kept (on ctx, in a closure, in a cache) that could be computed again from the inputs"
        )


def _on_contexts(results: tuple[Tensor, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that lie on the contexts of the Functions that made these, with the names they have there."""
    nodes: list[Any] = [result.grad_fn for result in results if result.grad_fn is not None]
    seen: set[int] = set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions if following is not None]
        for name, value in getattr(node, "__dict__", {}).items():
            for path, tensor in _tensors_in(value, set()):
                yield f"ctx.{name}{path}", tensor


def _tensors_in(value: Any, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that ``value`` is or holds, each after what leads to it."""
    if id(value) in seen:
        return
    seen.add(id(value))
    inner: list[tuple[str, Any]] = []
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, (list, tuple, set)):
        inner = [(f"[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
        inner = [(f"[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, functools.partial):
        inner = [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
    elif isinstance(value, FunctionType):
        names = value.__code__.co_freevars
        cells = zip(names, value.__closure__ or (), strict=True)
        inner = [(f"'s {name}", cell.cell_contents) for name, cell in cells if not _is_empty(cell)]
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        inner = [(f".{name}", item) for name, item in vars(value).items()]
    for step, item in inner:
        for path, tensor in _tensors_in(item, seen):
            yield step + path, tensor


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is None
    except ValueError:
        return True


# ---- allocated -------------------------------------------------------------------------------------------------------


#: Tensors of a few numbers, which cost what they are counted for.
_SMALL = 4096


@dataclass(frozen=True)
class Memory:
    """Bytes that a call took from torch's allocator, and those that its results still hold while they live."""

    allocated: int
    held: int


def allocated(run: Callable[[], Any]) -> int:
    """Bytes that torch's allocator hands out while ``run`` runs."""
    return _memory(run).allocated


def _memory(run: Callable[[], Any], device: torch.device | None = None) -> Memory:
    if device is not None and device.type == "cuda":
        return _memory_of_device(run, device)
    from torch._C._profiler import _EventType

    activities = [torch.profiler.ProfilerActivity.CPU]
    # Without acc_events some versions of torch warn, once, that events of later cycles are lost; here is one cycle.
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        kept = run()
    del kept
    # Each allocation by itself: the sums that events() shows by operator leave out what an operator has returned.
    events, sizes = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            sizes.append(event.extra_fields.alloc_size)
    return Memory(sum(size for size in sizes if size > 0), sum(sizes))


def _memory_of_device(run: Callable[[], Any], device: torch.device) -> Memory:
    # What was asked for, not the blocks it was rounded up to.
    name = "requested_bytes.all."
    before = torch.cuda.memory_stats(device)
    kept = run()
    after = torch.cuda.memory_stats(device)
    del kept
    return Memory(*(after[name + kind] - before[name + kind] for kind in ("allocated", "current")))


def _bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _allocates_only_results(spec: OpSpec) -> None:
    sample = spec.large
    device = sample.tensors[0].device
    leaves = sample.leaves()
    moving = tuple(leaf for leaf in leaves if leaf.requires_grad)
    outputs = as_tuple(spec.call(*leaves, **sample.kwargs))
    along = directions(outputs)
    forward = _memory(lambda: spec.call(*sample.tensors, **sample.kwargs), device).allocated
    backward = _memory(lambda: torch.autograd.grad(outputs, moving, along), device).allocated
    slack = max(spec.scratch, _SMALL if device.type == "cpu" and not emulated(spec) else spec.device_scratch)
    results = _bytes(outputs)
    assert results <= forward <= results + slack, f"forward allocates {forward} bytes for outputs of {results}"
    grads = _bytes(moving)
    assert grads <= backward <= grads + slack, f"backward allocates {backward} bytes for gradients of {grads}"
