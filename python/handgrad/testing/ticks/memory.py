"""Tick 15: what is saved for backward, and what is allocated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handgrad.testing.calls import Checks, as_tuple, directions, emulated
from handgrad.testing.spec import OpSpec


def cases(spec: OpSpec, root: Path) -> Checks:
    yield "saves_only_inputs", functools.partial(_saves_only_inputs, spec)
    yield "allocates_only_results", functools.partial(_allocates_only_results, spec)


def allocated(run: Callable[[], Any]) -> int:
    """Bytes that torch's allocator hands out while ``run`` runs."""
    from torch._C._profiler import _EventType

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = run()
    del kept
    # Each allocation by itself: the sums that events() shows by operator leave out what an operator has returned.
    events, sizes = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            sizes.append(event.extra_fields.alloc_size)
    return sum(size for size in sizes if size > 0)


def _saves_only_inputs(spec: OpSpec) -> None:
    for sample in (*spec.samples, spec.large):
        leaves = sample.leaves()
        inputs = {leaf.untyped_storage().data_ptr() for leaf in leaves}
        saved: list[Tensor] = []

        def keep(tensor: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            spec.function(*leaves, **sample.kwargs)
        foreign = [tuple(t.shape) for t in saved if t.untyped_storage().data_ptr() not in inputs]
        assert not foreign, f"saved beside the inputs: tensors of {foreign}"


def _allocates_only_results(spec: OpSpec) -> None:
    sample = spec.large
    leaves = sample.leaves()
    outputs = as_tuple(spec.function(*leaves, **sample.kwargs))
    along = directions(outputs)
    forward = allocated(lambda: spec.function(*sample.tensors, **sample.kwargs))
    backward = allocated(lambda: torch.autograd.grad(outputs, leaves, along))
    slack = spec.device_scratch if emulated(spec) else 4096
    results = sum(out.numel() * out.element_size() for out in outputs)
    assert results <= forward <= results + slack, f"forward allocates {forward} bytes for outputs of {results}"
    grads = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    assert grads <= backward <= grads + slack, f"backward allocates {backward} bytes for gradients of {grads}"
