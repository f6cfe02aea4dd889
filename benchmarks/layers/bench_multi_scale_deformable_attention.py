"""Deformable attention of Deformable DETR at 512 x 512 pixels: 300 queries of a decoder, all positions of an encoder;
then with more queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled

_HEADS, _CHANNELS, _POINTS = 8, 32, 4


def _case(
    name: str,
    queries: int | None,
    side: int,
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
    compile_plain: bool = True,
) -> Case:
    shapes = [(side >> level, side >> level) for level in range(4)]
    positions = sum(height * width for height, width in shapes)
    count = queries or positions

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        value = torch.randn(batch, positions, _HEADS, _CHANNELS, device=device).to(dtype)
        if queries is None:
            # Each position looks around itself.
            centres = torch.cat([_centres(size, device) for size, _ in shapes])
            locations = centres[:, None, None, None, :].expand(batch, -1, _HEADS, 4, _POINTS, 2)
            locations = locations + torch.randn(locations.shape, device=device) * 2 / side
        else:
            locations = torch.rand(batch, count, _HEADS, 4, _POINTS, 2, device=device)
        # Away from the centres of pixels, where derivatives jump, and peers round to the other side.
        sizes = torch.tensor([size for size, _ in shapes], device=device)[:, None, None]
        pixels = locations * sizes - 0.5
        locations = (pixels.floor() + (pixels - pixels.floor()).clamp(0.01, 0.99) + 0.5) / sizes
        weights = torch.rand(batch, count, _HEADS, 4 * _POINTS, device=device).softmax(-1)
        weights = weights.unflatten(-1, (4, _POINTS))
        return tuple(tensor.requires_grad_() for tensor in (value, locations, weights))

    def ours(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return handgrad.layers.multi_scale_deformable_attention(value, shapes, locations, weights)

    def grid_sample(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """How Deformable DETR, mmcv and Hugging Face compute it where their kernels are not, a CPU for one."""
        value = value.float()
        samples = []
        for level, part in enumerate(value.split([height * width for height, width in shapes], 1)):
            image = part.flatten(2).transpose(1, 2).reshape(batch * _HEADS, _CHANNELS, *shapes[level])
            grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
            samples.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        factors = weights.transpose(1, 2).reshape(batch * _HEADS, 1, count, 4 * _POINTS)
        output = (torch.stack(samples, -2).flatten(-2) * factors).sum(-1)
        return output.view(batch, _HEADS * _CHANNELS, count).transpose(1, 2).contiguous().to(dtype)

    def transformers(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

        sizes = torch.tensor(shapes)
        return MultiScaleDeformableAttention()(value, sizes, shapes, None, locations, weights, 64)

    def mmcv(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

        return multi_scale_deformable_attn_pytorch(value, torch.tensor(shapes), locations, weights)

    peers = {"grid_sample": grid_sample}
    if compile_plain:
        peers["torch.compile"] = compiled(grid_sample)
        peers |= {"transformers": transformers, "mmcv": mmcv}
    value_bytes = dtype.itemsize * batch * positions * _HEADS * _CHANNELS
    sample_bytes = 4 * batch * count * _HEADS * 4 * _POINTS * 3
    output_bytes = dtype.itemsize * batch * count * _HEADS * _CHANNELS
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: all tensors read, the output written. Backward: they and its gradient read, their gradients written.
        forward_bytes=value_bytes + sample_bytes + output_bytes,
        backward_bytes=2 * value_bytes + 2 * sample_bytes + output_bytes,
        tolerance=1e-3 if dtype is torch.float32 else 2e-2,
    )


def _centres(size: int, device: torch.device) -> Tensor:
    """(size * size, 2), each x, y in [0, 1]."""
    middle = (torch.arange(size, device=device) + 0.5) / size
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def benchmark(quick: bool) -> Benchmark:
    side, queries, batch = (8, 6, 1) if quick else (64, 300, 2)
    text = f"{batch} x 4 levels from {side}x{side}, {_HEADS} heads of {_CHANNELS}, {_POINTS} points"
    return Benchmark(
        op="multi_scale_deformable_attention",
        cases=[
            _case(f"{text}, {queries} queries", queries, side, batch),
            _case(f"{text}, encoder", None, side, batch),
            _case(f"{text}, {queries} queries, bfloat16 value", queries, side, batch, torch.bfloat16, False),
        ],
        sweeps=[
            Sweep(
                f"queries, {text}",
                "queries",
                [4, 8] if quick else [30, 100, 300, 1000, 3000],
                lambda count: _case(f"{count} queries", count, side, batch, compile_plain=False),
            )
        ],
    )
