"""An image read wherever a grid says. Mathematics: docs/layers/grid_sample.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_gradient
from handgrad.arguments import as_computed, check_bool, check_choice, check_tensor
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "grid_sample"
# As torch numbers them.
_MODES = ("bilinear", "nearest", "bicubic")
_PADDING_MODES = ("zeros", "border", "reflection")

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = False,
) -> Tensor:
    """:func:`torch.nn.functional.grid_sample`, and its second derivatives: ``input`` is read at the points of ``grid``
    (the sampler of Jaderberg et al., `Spatial Transformer Networks <https://arxiv.org/abs/1506.02025>`_, 2015).

    torch's arguments, values and gradients. Beyond it: second derivatives and forward mode with respect to both; the
    same bits in every run and for any number of threads, on CUDA devices too; channels_last kept; vmap; half types
    computed in float32, with a grid in float32 beside them.

    Args:
        input: (batch, channels, height, width) or (batch, channels, depth, height, width); float32, float64, bfloat16
            or float16, any strides.
        grid: (batch, height, width, 2), each x, y; or (batch, depth, height, width, 3), each x, y, z. -1 and 1 are the
            ends of an axis. Of any floating-point type that the one which ``input`` is computed in can hold: float64
            beside a float64 ``input``, otherwise float32, bfloat16 or float16, which is too coarse for an image of more
            than a few dozen pixels.
        mode: ``"bilinear"`` (trilinear beside an ``input`` of 5 dimensions), ``"nearest"``, or ``"bicubic"`` (4
            dimensions alone).
        padding_mode: what is outside: ``"zeros"``, the nearest pixel of the ``"border"``, or the image's
            ``"reflection"``.
        align_corners: True: -1 and 1 are the centres of the first and last pixels; False, or None: their outer edges.

    Returns:
        (batch, channels, *sizes of the grid) in the type of ``input``, channels_last if ``input`` is.

    Raises:
        ValueError: a mode that there is not.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> grid_sample(image, torch.tensor([[[[0.0, 0.0], [-0.5, 0.5]]]]))
        tensor([[[[2.5000, 3.0000]]]])
    """
    check_tensor(_OP, "input", input)
    check_tensor(_OP, "grid", grid)
    kind = _MODES.index(check_choice(_OP, "mode", mode, _MODES))
    padding = _PADDING_MODES.index(check_choice(_OP, "padding_mode", padding_mode, _PADDING_MODES))
    aligned = False if align_corners is None else check_bool(_OP, "align_corners", align_corners)
    if mode == "bicubic" and input.dim() == 5:
        raise ValueError(f"{_OP}: mode must be 'bilinear' or 'nearest' for an input of 5 dimensions; got 'bicubic'")
    return _grid_sample(input, as_computed(_OP, "grid", grid, "an input", input), kind, padding, aligned)


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def grid_sample_reference(input: Tensor, grid: Tensor, mode: int, padding_mode: int, align_corners: bool) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the definition says: where each point falls along each axis,
    the pixels around it, gathered, and their weights. (:func:`torch.nn.functional.grid_sample` has no second
    derivative.)"""
    sizes = input.shape[2:]
    axes = [
        _axis_taps(grid[..., -1 - axis].flatten(1), size, mode, padding_mode, align_corners)
        for axis, size in enumerate(sizes)
    ]
    pixels = input.to(grid.dtype).flatten(2)
    shape = (*input.shape[:2], -1)
    output = pixels.new_zeros(())
    taps, *others = axes
    for size, along in zip(sizes[1:], others, strict=True):
        taps = [
            (index * size + pixel, valid & there, weight * part)
            for index, valid, weight in taps
            for pixel, there, part in along
        ]
    for index, valid, weight in taps:
        read = pixels.gather(2, index[:, None].expand(shape))
        # Beyond the image nothing is read, whatever its pixels are.
        output = output + torch.where(valid[:, None], read, 0.0) * weight[:, None]
    return output.unflatten(2, grid.shape[1:-1]).to(input.dtype)


def _axis_taps(
    coordinate: Tensor, size: int, mode: int, padding_mode: int, align_corners: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The pixels that each point lies between along an axis: their index, whether there is one, and their weight."""
    half = (size - 1) / 2 if align_corners else size / 2
    at = (coordinate + 1) * half - (0.0 if align_corners else 0.5)
    if mode != 2:
        at = _padded(at, size, padding_mode, align_corners)
    elif padding_mode != 2:
        at = torch.where(at.isnan(), at, at.clamp(-4, size + 3))
    if mode == 1:
        # 1, whatever the point is: a function of it with a derivative of 0.
        return [_tap(at.detach().round(), size, torch.where(at > torch.inf, at, 1.0))]
    low = at.detach().floor()
    if mode == 0:
        near = at.isnan() | ((at > -1) & (at < size))
        part = torch.where(near, at - low, 0.0)
        # Infinities are outside, and have no difference.
        part = torch.where(near, part, 0.0)
        return [_tap(low, size, 1 - part), _tap(low + 1, size, part)]
    part = at - low
    taps = []
    for k, distance in enumerate((part + 1, part, 1 - part, 2 - part)):
        pixel = torch.where(part.detach().isnan(), -1.0, _padded(low + (k - 1), size, padding_mode, align_corners))
        taps.append(_tap(pixel, size, _keys(distance, k in (1, 2))))
    return taps


def _tap(pixel: Tensor, size: int, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    valid = (pixel >= 0) & (pixel <= size - 1)
    return torch.where(valid, pixel, 0.0).long(), valid, weight


def _keys(x: Tensor, near: bool) -> Tensor:
    """Keys' kernel with a = -3/4 at distance ``x``, up to 1 and beyond."""
    a = -0.75
    return ((a + 2) * x - (a + 3)) * x * x + 1 if near else ((a * x - 5 * a) * x + 8 * a) * x - 4 * a


def _padded(at: Tensor, size: int, padding_mode: int, align_corners: bool) -> Tensor:
    if padding_mode == 0:
        return at
    if padding_mode == 2:
        low, span = (0.0, size - 1) if align_corners else (-0.5, size)
        if span == 0:
            return torch.zeros_like(at)
        distance = at - low
        distance = torch.where(distance < 0, -distance, distance)
        rest = distance - (distance.detach() / (2 * span)).trunc() * (2 * span)
        at = torch.where(rest > span, 2 * span - rest, rest) + low
    # What is clipped has no derivative, at the ends neither.
    return torch.where((at > 0) & (at < size - 1), at, torch.where(at > 0, size - 1.0, 0.0))


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, grid: Tensor, mode: int, padding_mode: int, align_corners: bool) -> Tensor:
    if input.dim() not in (4, 5):
        raise RuntimeError(
            f"{_OP}: input must have 4 or 5 dimensions (batch, channels, [depth,] height, width); got "
            f"{tuple(input.shape)}"
        )
    wanted = "(batch, height, width, 2)" if input.dim() == 4 else "(batch, depth, height, width, 3)"
    message = f"{_OP}: grid must have shape {wanted} beside an input of {tuple(input.shape)}; got {tuple(grid.shape)}"
    torch._check(grid.dim() == input.dim(), lambda: message)
    torch._check(grid.shape[-1] == input.dim() - 2, lambda: message)
    torch._check(grid.shape[0] == input.shape[0], lambda: message)
    if grid.device != input.device:
        raise RuntimeError(f"{_OP}: grid must be on the device of input, {input.device}; got {grid.device}")
    shape = (*input.shape[:2], *grid.shape[1:-1])
    last = input.movedim(1, -1)
    if input.is_contiguous() or not last.is_contiguous():
        return input.new_empty(shape)
    return input.new_empty((shape[0], *shape[2:], shape[1])).movedim(-1, 1)


# ---- onnx: ONNX's own operator ---------------------------------------------------------------------------------------


def _onnx(input: Tensor, grid: Tensor, mode: int, padding_mode: int, align_corners: bool) -> Any:
    from handgrad.onnx import operator

    if input.dtype is not torch.float32:
        return NotImplemented
    attributes: dict[str, Any] = {"align_corners": int(align_corners), "padding_mode": _PADDING_MODES[padding_mode]}
    # Its own words for bilinear and bicubic changed with version 20, which came with the third axis; bilinear is what
    # it does unless told.
    if mode != 0:
        attributes["mode"] = ("linear", "nearest", "cubic")[mode]
    shape = (*input.shape[:2], *grid.shape[1:-1])
    since = 20 if mode == 2 or input.dim() == 5 else 16
    return operator("GridSample", [input, grid], attributes, dtype=input.dtype, shape=shape, since=since)


# ---- registration ----------------------------------------------------------------------------------------------------

_grid_sample = Derivatives(
    "handgrad::grid_sample",
    reference=grid_sample_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=empty_gradient,
    onnx=_onnx,
)
