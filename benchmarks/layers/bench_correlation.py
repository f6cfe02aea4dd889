"""Cost volumes of optical flow: PWC-Net's of 81 displacements, FlowNet-C's of 441, 2 apart; then farther ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled


def _case(
    name: str,
    shape: tuple[int, int, int, int],
    radius: int,
    step: int = 1,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    all_peers: bool = True,
) -> Case:
    batch, channels, height, width = shape
    far, side = radius * step, 2 * radius + 1

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        maps = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
        if channels_last:
            maps = (tensor.contiguous(memory_format=torch.channels_last) for tensor in maps)
        return tuple(tensor.requires_grad_() for tensor in maps)

    def ours(input1: Tensor, input2: Tensor) -> Tensor:
        return handgrad.layers.correlation(input1, input2, max_displacement=radius, dilation_patch=step)

    def slices(input1: Tensor, input2: Tensor) -> Tensor:
        """A product for each displacement, as the ports of PWC-Net have it."""
        padded = F.pad(input2, [far] * 4)
        volume = [
            (input1 * padded[:, :, i : i + height, j : j + width]).sum(1)
            for i in range(0, 2 * far + 1, step)
            for j in range(0, 2 * far + 1, step)
        ]
        return torch.stack(volume, 1).unflatten(1, (side, side))

    def unfold(input1: Tensor, input2: Tensor) -> Tensor:
        """One product with what unfold makes of the second map: all displacements of it in memory."""
        moved = F.unfold(input2, side, dilation=step, padding=far)
        moved = moved.view(batch, channels, side * side, height, width)
        return (input1[:, :, None] * moved).sum(1).unflatten(1, (side, side))

    def mmcv(input1: Tensor, input2: Tensor) -> Tensor:
        from mmcv.ops import Correlation

        return Correlation(max_displacement=radius, dilation_patch=step)(input1, input2)

    def sampler(input1: Tensor, input2: Tensor) -> Tensor:
        from spatial_correlation_sampler import spatial_correlation_sample

        return spatial_correlation_sample(input1, input2, patch_size=side, dilation_patch=step)

    peers = {"slices": slices}
    if all_peers:
        peers |= {"unfold": unfold, "torch.compile": compiled(slices), "mmcv": mmcv, "spatial_correlation": sampler}
    pixels = dtype.itemsize * batch * height * width
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: both maps read, the volume written. Backward: they and its gradient read, two gradients written.
        forward_bytes=pixels * (2 * channels + side * side),
        backward_bytes=pixels * (4 * channels + side * side),
        # Sums over channels, in another order.
        tolerance=1e-3 if dtype is torch.float32 else 1.0,
    )


def benchmark(quick: bool) -> Benchmark:
    pwc = (1, 4, 6, 7) if quick else (4, 64, 64, 112)
    flownet = (1, 4, 5, 6) if quick else (1, 256, 48, 64)
    text, far = " x ".join(map(str, pwc)), " x ".join(map(str, flownet))
    return Benchmark(
        op="correlation",
        cases=[
            _case(f"{text}, 81 displacements", pwc, 4),
            _case(f"{text}, 81 displacements, channels_last", pwc, 4, channels_last=True, all_peers=False),
            _case(f"{text}, 81 displacements, bfloat16", pwc, 4, dtype=torch.bfloat16, all_peers=False),
            _case(f"{far}, 441 displacements, 2 apart", flownet, 10, 2, all_peers=False),
        ],
        sweeps=[
            Sweep(
                f"max_displacement, {text}",
                "max_displacement",
                [1, 2] if quick else [1, 2, 4, 8],
                lambda radius: _case(f"max_displacement {radius}", pwc, radius, all_peers=False),
            )
        ],
    )
