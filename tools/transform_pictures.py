"""Draws docs/transforms.png: what pipelines make of a photograph, fused and as they are, and the difference, amplified.

    python tools/transform_pictures.py

Needs scikit-image, for the photograph, beside handgrad[vision].
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2

from handgrad.transforms import fuse

ROOT = Path(__file__).resolve().parent.parent
SIZE, GAP, HEAD = 176, 8, 34


def photograph() -> Any:
    from skimage import data

    return Image.fromarray(data.astronaut())


def rows() -> list[tuple[str, Any, list[Any], int]]:
    """What a row shows, the image, the pipeline, and the seed."""
    image = photograph()
    levels = v2.functional.pil_to_tensor(image)
    crop, flip = v1.RandomResizedCrop(SIZE), v1.RandomHorizontalFlip()
    new_crop, new_flip = v2.RandomResizedCrop(SIZE, scale=(0.2, 0.6)), v2.RandomHorizontalFlip(1)
    return [
        ("v1, Pillow's image: RandomResizedCrop, RandomHorizontalFlip, ToTensor", image,
         [crop, flip, v1.ToTensor()], 5),
        ("v2, tensor of levels: RandomResizedCrop, RandomHorizontalFlip, ToDtype", levels,
         [new_crop, new_flip, v2.ToDtype(torch.float32, scale=True)], 11),
        ("v2, Pillow's image: Resize, CenterCrop, ToImage, ToDtype", image,
         [v2.Resize(200, "bicubic"), v2.CenterCrop(SIZE), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)], 0),
        ("v2, tensor of float32: RandomResizedCrop, RandomHorizontalFlip", levels / 255, [new_crop, new_flip], 8),
        ("v1, tensor of levels, exact=False: RandomResizedCrop, ConvertImageDtype", levels,
         [crop, v1.ConvertImageDtype(torch.float32)], 2),
    ]  # fmt: skip


def made(pipeline: Callable[[Any], Any], image: Any, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return pipeline(image).as_subclass(Tensor)


def as_picture(numbers: Tensor) -> Any:
    return v2.functional.to_pil_image(numbers.clamp(0, 1).mul(255).round().to(torch.uint8))


def main() -> None:
    everything = rows()
    page = Image.new("RGB", (3 * SIZE + 4 * GAP, len(everything) * (SIZE + HEAD) + GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for index, (name, image, steps, seed) in enumerate(everything):
        ours = made(fuse(steps, explain=False, exact="exact=False" not in name), image, seed)
        theirs = made(v1.Compose(steps), image, seed)
        difference = (ours - theirs).abs()
        largest = difference.max().item()
        factor = 1 / largest if largest > 0 else 1.0
        said = f"{largest:.1e} of 1 at most, drawn {factor:.0f} times as large" if largest > 0 else "none"
        top = index * (SIZE + HEAD) + HEAD
        draw.text((GAP, top - HEAD + 2), name, "black", font)
        draw.text((GAP, top - HEAD + 16), f"fused, torchvision's, difference: {said}", "dimgray", font)
        for column, numbers in enumerate((ours, theirs, difference * factor)):
            page.paste(as_picture(numbers), (GAP + column * (SIZE + GAP), top))
        print(f"{name}: {said}; {(difference > 0).float().mean().item():.2%} of the numbers differ")
    page.save(ROOT / "docs/transforms.png", optimize=True)


if __name__ == "__main__":
    main()
