"""What a failed derivative means: which argument's gradient is off, where, by how much, analytic beside numeric."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handgrad.testing.calls import as_tuple, of_floating
from handgrad.testing.spec import OpSpec, Sample, reseeded

#: gradcheck's own: the step of a finite difference, and how far a derivative may be from it.
_STEP, _RTOL, _ATOL = 1e-6, 1e-3, 1e-5
_SHOWN = 5


def wrong_derivatives(spec: OpSpec, sample: Sample, root: Path, order: int) -> str:
    """A text about the derivatives of the given order (1 or 2) that a finite difference contradicts; empty if none."""
    function, tensors = of_floating(functools.partial(spec.call, **sample.kwargs), sample)
    known = spec.tensor_names(len(sample.tensors))
    names = [name for name, tensor in zip(known, sample.tensors, strict=True) if tensor.is_floating_point()]
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    outputs = ["output"]
    if order == 2:
        directions = [
            torch.randn(out.shape, dtype=out.dtype, generator=reseeded(1)).requires_grad_()
            for out in as_tuple(function(*leaves))
        ]
        outputs = [f"grad_{name}" for name in names]
        function = functools.partial(_gradients, function, len(leaves))
        names, leaves = [*names, "grad_output"], [*leaves, *directions]
    parts = []
    for index, name in enumerate(names):
        entries = _compared(function, leaves, index)
        wrong = [entry for entry in entries if not abs(entry[2] - entry[3]) <= _ATOL + _RTOL * abs(entry[3])]
        if wrong:
            parts.append(_of_argument(name, leaves[index], outputs, wrong, len(entries), order))
        else:
            parts.append(f"  The {_kind(order)} with respect to {name} is right.")
    if all(part.endswith("is right.") for part in parts):
        return ""
    what = {1: "gradient", 2: "second derivative"}[order]
    text = [f"{spec.name}: a {what} is wrong, for the sample {sample.name!r} with {sample.kwargs}.", *parts]
    sources = sorted(str(path.relative_to(root)) for path in root.glob(f"csrc/*/{spec.name}/{spec.name}_math.h"))
    if sources:
        member = {1: "first derivative", 2: "second derivative"}[order]
        text.append(f"  Look at the {member} in {sources[0]}, and at the host entries that use it.")
    return "\n".join(text)


def _kind(order: int) -> str:
    return {1: "gradient", 2: "derivative of the backward"}[order]


def _gradients(function: Callable[..., Any], arguments: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [
            tensor if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in tensors[:arguments]
        ]
        outputs = as_tuple(function(*leaves))
        return torch.autograd.grad(outputs, leaves, tensors[arguments:], create_graph=True, materialize_grads=True)


def _compared(
    function: Callable[..., Any], leaves: Sequence[Tensor], index: int
) -> list[tuple[tuple[int, int], int, float, float]]:
    """((which output, its element), the argument's element, analytic, numeric) for every pair of elements."""
    outputs = as_tuple(function(*leaves))
    analytic = []
    for which, output in enumerate(outputs):
        for element in range(output.numel()):
            grad = None
            if output.requires_grad:
                (grad,) = torch.autograd.grad(
                    output.reshape(-1)[element], leaves[index], retain_graph=True, allow_unused=True
                )
            row = torch.zeros_like(leaves[index]) if grad is None else grad
            analytic.append(((which, element), row.reshape(-1)))
    entries = []
    for element in range(leaves[index].numel()):
        ends = []
        for step in (_STEP, -_STEP):
            moved = leaves[index].detach().clone(memory_format=torch.contiguous_format)
            moved.view(-1)[element] += step
            arguments = [moved.requires_grad_() if i == index else leaf for i, leaf in enumerate(leaves)]
            ends.append([out.detach() for out in as_tuple(function(*arguments))])
        for (which, of_output), row in analytic:
            high, low = (end[which].reshape(-1)[of_output] for end in ends)
            numeric = (high - low).item() / (2 * _STEP)
            entries.append(((which, of_output), element, row[element].item(), numeric))
    return entries


def _of_argument(name: str, leaf: Tensor, outputs: Sequence[str], wrong: list[Any], count: int, order: int) -> str:
    wrong = sorted(wrong, key=lambda entry: -abs(entry[2] - entry[3]))
    lines = [f"  The {_kind(order)} with respect to {name} is off in {len(wrong)} of {count} entries:"]
    lines.append(f"    {'':34}{'analytic':>14}{'numeric':>14}{'off by':>14}")
    for (which, of_output), element, analytic, numeric in wrong[:_SHOWN]:
        index = "".join(f"[{int(i)}]" for i in torch.unravel_index(torch.tensor(element), leaf.shape))
        entry = f"d {outputs[which]}.flat[{of_output}] / d {name}{index}"
        lines.append(f"    {entry:34}{analytic:>14.6g}{numeric:>14.6g}{analytic - numeric:>14.3g}")
    ratios = [analytic / numeric for _, _, analytic, numeric in wrong if abs(numeric) > _ATOL]
    if len(ratios) == len(wrong) and max(ratios) - min(ratios) <= 1e-2 * abs(ratios[0]) + 1e-4:
        ratio = sum(ratios) / len(ratios)
        lines.append(f"    Everywhere the analytic one is {ratio:.3g} times the numeric one: {_meaning(ratio, leaf)}.")
    return "\n".join(lines)


def _meaning(ratio: float, leaf: Tensor) -> str:
    """What it may mean that a derivative is so many times another."""
    if abs(ratio + 1) < 1e-2:
        return "a wrong sign"
    if abs(ratio) < 1e-3:
        return "nothing is computed"
    for count, by in ((ratio, "multiplied"), (1 / ratio, "divided")):
        if leaf.numel() > 1 and abs(count - leaf.numel()) < 1e-2 * leaf.numel():
            return f"a wrong factor, the number of elements; is a mean {by} by it once too often?"
    return "a wrong factor"
