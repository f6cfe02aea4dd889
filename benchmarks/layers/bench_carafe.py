"""The upsampling of a feature pyramid, of a mask head, and a filter that does not enlarge: FreqFusion's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled


def _case(
    name: str,
    shape: tuple[int, int, int, int],
    kernel: int = 5,
    groups: int = 1,
    scale: int = 2,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    all_peers: bool = True,
) -> Case:
    batch, channels, height, width = shape
    taps = groups * kernel**2

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        features = torch.randn(shape, device=device)
        masks = torch.randn(batch, groups, kernel**2, height * scale, width * scale, device=device).softmax(2)
        tensors: tuple[Tensor, ...] = (features.to(dtype), masks.flatten(1, 2).to(dtype))
        if channels_last:
            tensors = tuple(tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors)
        return tuple(tensor.requires_grad_() for tensor in tensors)

    def ours(features: Tensor, masks: Tensor) -> Tensor:
        return handgrad.layers.carafe(features, masks, kernel, groups, scale)

    def enlarged(features: Tensor, masks: Tensor) -> Tensor:
        """As it is usually written without a kernel: the map enlarged, and unfolded with a dilation."""
        large = F.interpolate(features, scale_factor=float(scale), mode="nearest")
        seen = F.unfold(large, kernel, dilation=scale, padding=kernel // 2 * scale)
        seen = seen.view(batch, groups, channels // groups, kernel**2, height * scale, width * scale)
        weights = masks.view(batch, groups, 1, kernel**2, height * scale, width * scale)
        return (seen * weights).sum(3).view(batch, channels, height * scale, width * scale)

    def unfolded(features: Tensor, masks: Tensor) -> Tensor:
        """Less of it: the map unfolded as it is, and a product of matrices for each pixel."""
        seen = F.unfold(features, kernel, padding=kernel // 2)
        seen = seen.view(batch, groups, channels // groups, kernel**2, height, width)
        weights = masks.view(batch, groups, kernel**2, height, scale, width, scale)
        output = torch.einsum("ngckhw,ngkhawb->ngchawb", seen, weights)
        return output.reshape(batch, channels, height * scale, width * scale)

    def mmcv(features: Tensor, masks: Tensor) -> Tensor:
        from mmcv.ops import carafe

        return carafe(features, masks, kernel, groups, scale)

    peers = {"interpolate and unfold": enlarged, "unfold and einsum": unfolded}
    if all_peers:
        peers |= {"torch.compile": compiled(enlarged), "mmcv": mmcv}
    pixels = dtype.itemsize * batch * height * width
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: features and weights read, outputs written. Backward: their gradient and both read, two written.
        forward_bytes=pixels * (channels + scale**2 * (taps + channels)),
        backward_bytes=pixels * (2 * channels + scale**2 * (2 * taps + channels)),
        # Sums of the window and of channels, in another order.
        tolerance=1e-3 if dtype is torch.float32 else 1.0,
    )


def benchmark(quick: bool) -> Benchmark:
    pyramid = (1, 16, 6, 7) if quick else (2, 256, 50, 76)
    head = (2, 16, 4, 4) if quick else (32, 256, 14, 14)
    filtered = (1, 16, 6, 7) if quick else (2, 64, 64, 64)
    small = (1, 8, 5, 6) if quick else (1, 64, 64, 64)
    text = " x ".join(map(str, pyramid))
    return Benchmark(
        op="carafe",
        cases=[
            _case(f"{text}, 5 x 5, twice as large", pyramid),
            _case(f"{text}, channels_last", pyramid, channels_last=True, all_peers=False),
            _case(f"{text}, bfloat16", pyramid, dtype=torch.bfloat16, all_peers=False),
            _case(f"{' x '.join(map(str, head))}, a mask head's", head, all_peers=False),
            _case(f"{' x '.join(map(str, filtered))}, 3 x 3, as large", filtered, kernel=3, scale=1, all_peers=False),
        ],
        sweeps=[
            Sweep(
                f"kernel_size, {' x '.join(map(str, small))}",
                "kernel_size",
                [1, 3] if quick else [1, 3, 5, 7],
                lambda kernel: _case(f"kernel_size {kernel}", small, kernel=kernel, all_peers=False),
            )
        ],
    )
