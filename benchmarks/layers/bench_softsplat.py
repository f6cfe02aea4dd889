"""softsplat of frames and of features that a smooth flow moves, in all modes; then of more channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled


def _plain(image: Tensor, flow: Tensor, metric: Tensor | None, mode: str) -> Tensor:
    """The authors' composition, of an addition for each of the four pixels."""
    counts = {"sum": None, "average": torch.ones_like(flow[:, :1]), "linear": metric}.get(mode)
    if mode == "softmax" and metric is not None:
        counts = metric.exp()
    image = image.to(flow.dtype)
    pixels = image if counts is None else torch.cat([image * counts, counts], 1)
    batch, channels, height, width = pixels.shape
    x = flow[:, 0] + torch.arange(width, device=flow.device)
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
    left, top = x.floor(), y.floor()
    output = pixels.new_zeros(batch, channels, height * width)
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, right in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = torch.where(inside, row * width + column, 0).long().flatten(1)[:, None].expand(-1, channels, -1)
            share = torch.where(inside, down * right, 0)[:, None]
            output = output.scatter_add(2, index, (pixels * share).flatten(2))
    output = output.unflatten(2, (height, width))
    return output if counts is None else output[:, :-1] / (output[:, -1:] + 1e-7)


def _case(
    name: str,
    batch: int,
    channels: int,
    height: int,
    width: int,
    mode: str = "softmax",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    compile_plain: bool = True,
) -> Case:
    with_metric = mode in ("linear", "softmax")

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        image = torch.randn(batch, channels, height, width, device=device).to(dtype)
        if channels_last:
            image = image.to(memory_format=torch.channels_last)
        coarse = 4 * torch.randn(batch, 2, 4, 4, device=device)
        flow = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
        leaves = (image, flow, torch.rand(batch, 1, height, width, device=device))
        return tuple(leaf.requires_grad_() for leaf in leaves[: 3 if with_metric else 2])

    def ours(image: Tensor, flow: Tensor, metric: Tensor | None = None) -> Tensor:
        return handgrad.layers.softsplat(image, flow, metric, mode)

    def torchs(image: Tensor, flow: Tensor, metric: Tensor | None = None) -> Tensor:
        return _plain(image, flow, metric, mode).to(image.dtype)

    peers: dict[str, Callable[..., Tensor]] = {"torch": torchs}
    if compile_plain:
        plain = compiled(_plain)
        peers["torch.compile"] = lambda image, flow, metric=None: plain(image, flow, metric, mode).to(image.dtype)
    pixels = batch * height * width
    image_bytes = dtype.itemsize * pixels * channels
    point_bytes = 4 * pixels * (3 if with_metric else 2)
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: image, flow and metric read, the output written. Backward: these and the gradient of the output read,
        # the gradients of all written.
        forward_bytes=2 * image_bytes + point_bytes,
        backward_bytes=3 * image_bytes + 2 * point_bytes,
        tolerance=1e-3 if dtype is torch.float32 else 2e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    side, channels = (8, 5) if quick else (128, 64)
    height, width = (6, 10) if quick else (540, 960)
    text, frame = f"4x{channels}x{side}x{side}", f"1x3x{height}x{width}"
    return Benchmark(
        op="softsplat",
        cases=[
            _case(f"{text}, softmax", 4, channels, side, side),
            _case(f"{text}, softmax, channels_last", 4, channels, side, side, channels_last=True),
            _case(f"{text}, softmax, bfloat16", 4, channels, side, side, dtype=torch.bfloat16, compile_plain=False),
            _case(f"{text}, sum", 4, channels, side, side, "sum", compile_plain=False),
            _case(f"{frame}, softmax", 1, 3, height, width),
            _case(f"{frame}, average", 1, 3, height, width, "average", compile_plain=False),
        ],
        sweeps=[
            Sweep(
                f"channels, 2xCx{side}x{side}, softmax",
                "channels",
                [4, 8] if quick else [1, 4, 16, 64, 256],
                lambda wide: _case(f"{wide} channels", 2, wide, side, side, compile_plain=False),
            )
        ],
    )
