"""A photograph turned, sheared and scaled, and seen in perspective; a batch with matrices of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import handgrad
from benchmarks.photographs import photograph
from handgrad.benchmarking import Benchmark, Case, Peer

_AFFINE: dict[str, Any] = {"angle": 30.0, "translate": [7, -5], "scale": 1.1, "shear": [5.0, 3.0]}
_OPENCV = "roundings of its own: other levels"
_COEFFICIENTS = [0.9, 0.1, 5.0, 0.05, 0.95, 3.0, 1e-5, 2e-5]


def _matrix(side: int) -> list[list[float]]:
    from handgrad._warping import affine_matrix

    return affine_matrix("affine", (side, side), center=None, **_AFFINE)


def _from_corners(side: int) -> Any:
    """The same matrix for those who count whole pixels from the first one's centre."""
    import numpy as np

    (a, b, c), (d, e, f) = _matrix(side)
    middle = (side - 1) / 2
    return np.array([[a, b, c + middle - (a + b) * middle], [d, e, f + middle - (d + e) * middle]])


def _opencv(mode: str) -> Callable[..., Any]:
    def opencv(image: Tensor) -> Any:
        import cv2

        side = image.shape[-1]
        flags = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}[mode] | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image.permute(1, 2, 0).numpy(), _from_corners(side), (side, side), flags=flags)

    return opencv


def _opencv_perspective(image: Tensor) -> Any:
    import cv2
    import numpy as np

    side = image.shape[-1]
    by = np.array([*_COEFFICIENTS, 1.0]).reshape(3, 3)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(image.permute(1, 2, 0).numpy(), by, (side, side), flags=flags)


def _torchvision(mode: str) -> Callable[..., Any]:
    def torchvision(image: Tensor) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        return functional.affine(image, **_AFFINE, interpolation=InterpolationMode(mode), fill=0)

    return torchvision


def _pillow(mode: str) -> Callable[..., Any]:
    def pillow(image: Tensor) -> Any:
        from PIL import Image
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        return functional.affine(picture, **_AFFINE, interpolation=InterpolationMode(mode), fill=0)

    return pillow


def _torchvision_perspective(image: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.perspective(image, None, None, fill=0, coefficients=_COEFFICIENTS)


def _kornia(image: Tensor) -> Tensor:
    from kornia.geometry import transform

    side = image.shape[-1]
    forward = torch.tensor(_from_corners(side), dtype=torch.float32)
    whole = torch.linalg.inv(torch.cat([forward, torch.tensor([[0.0, 0.0, 1.0]])]))
    return transform.warp_affine(image[None].float(), whole[None, :2], (side, side), align_corners=False)[0]


def _case(mode: str, side: int, packed: bool) -> Case:
    peers: dict[str, Callable[..., Any] | Peer] = {
        "torchvision": _torchvision(mode),
        "torchvision on Pillow": Peer(_pillow(mode), remark="another sampler: another picture", same=False),
    }
    if packed:
        peers["OpenCV"] = Peer(_opencv(mode), remark=_OPENCV, same=False)
    if mode == "bilinear":
        peers["kornia"] = Peer(_kornia, remark="float32 numbers in place of levels", same=False)
    return Case(
        name=f"3x{side}x{side} uint8{'' if packed else ' in planes'}, affine, {mode}",
        inputs=lambda device: (photograph(side, device, packed, waves=(40, 0)),),
        handgrad=lambda image: handgrad.transforms.affine(image, **_AFFINE, interpolation=mode, fill=0),
        peers=peers,
        # Levels are read once, and written.
        forward_bytes=6 * side * side,
    )


def _perspective(side: int) -> Case:
    return Case(
        name=f"3x{side}x{side} uint8, perspective, bilinear",
        inputs=lambda device: (photograph(side, device, waves=(40, 0)),),
        handgrad=lambda image: handgrad.transforms.perspective(image, None, None, fill=0, coefficients=_COEFFICIENTS),
        peers={
            "torchvision": _torchvision_perspective,
            "OpenCV": Peer(_opencv_perspective, remark=_OPENCV, same=False),
        },
        forward_bytes=6 * side * side,
    )


def _numbers(images: int, side: int) -> Case:
    """With gradients of the images and the matrices, as a spatial transformer has them."""

    def grid_sample(image: Tensor, matrix: Tensor) -> Tensor:
        # Its positions are from -1 to 1, ours are pixels.
        scaled = torch.cat([matrix[:, :, :2], matrix[:, :, 2:] * (2 / image.shape[-1])], 2)
        grid = torch.nn.functional.affine_grid(scaled, list(image.shape), align_corners=False)
        return torch.nn.functional.grid_sample(image, grid, align_corners=False)

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        turn = torch.tensor([[0.8, -0.4, 3.0], [0.4, 0.8, -2.0]], device=device).expand(images, 2, 3).contiguous()
        return torch.rand(images, 3, side, side, device=device).requires_grad_(), turn.requires_grad_()

    return Case(
        name=f"{images}x3x{side}x{side} float32, a matrix each",
        inputs=inputs,
        handgrad=lambda image, matrix: handgrad.transforms.warp(image, matrix, centered=True),
        peers={"affine_grid, grid_sample": grid_sample},
        forward_bytes=24 * images * side * side,
        backward_bytes=36 * images * side * side,
    )


def benchmark(quick: bool) -> Benchmark:
    side = 48 if quick else 512
    return Benchmark(
        op="warp",
        cases=[
            _case("bilinear", side, True),
            _case("nearest", side, True),
            _case("bilinear", side, False),
            _perspective(side),
            _numbers(2, side // 2),
        ],
    )
