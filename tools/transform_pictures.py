"""Draws docs/transforms.png: what pipelines make of a photograph, fused and as they are, and the difference, amplified;
and docs/transforms_each.png: the same of every transform by itself, beside torchvision's.

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

from handgrad import transforms
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


def fused() -> list[tuple[str, Tensor, Tensor]]:
    """Of each pipeline what it shows, what is made of the image, and what torchvision makes of it."""
    made_of = []
    for name, image, steps, seed in rows():
        ours = made(fuse(steps, explain=False, exact="exact=False" not in name), image, seed)
        made_of.append((name, ours, made(v1.Compose(steps), image, seed)))
    return made_of


def each() -> list[tuple[str, Tensor, Tensor]]:
    """The same of transforms, of an image of levels."""
    levels = v2.functional.resize(v2.functional.pil_to_tensor(photograph()), [SIZE, SIZE])
    bilinear = v2.InterpolationMode.BILINEAR
    shown: list[tuple[str, dict[str, Any]]] = [
        ("Resize", {"size": [SIZE - 48, SIZE], "interpolation": v2.InterpolationMode.BICUBIC}),
        ("RandomResizedCrop", {"size": SIZE, "scale": (0.2, 0.4)}),
        ("RandomAffine", {"degrees": 30, "translate": (0.1, 0.1), "scale": (0.8, 1.2), "shear": 15,
                          "interpolation": bilinear}),
        ("RandomRotation", {"degrees": (25, 30), "interpolation": bilinear, "fill": 128}),
        ("RandomPerspective", {"p": 1.0, "distortion_scale": 0.6}),
        ("GaussianBlur", {"kernel_size": 9, "sigma": 2.0}),
        ("ElasticTransform", {"alpha": 150.0, "sigma": 6.0}),
        ("ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}),
        ("Grayscale", {"num_output_channels": 3}),
        ("RandomAdjustSharpness", {"sharpness_factor": 4.0, "p": 1.0}),
        ("RandomPosterize", {"bits": 2, "p": 1.0}),
        ("RandomSolarize", {"threshold": 128, "p": 1.0}),
        ("RandomInvert", {"p": 1.0}),
        ("RandomAutocontrast", {"p": 1.0}),
        ("RandomEqualize", {"p": 1.0}),
        ("RandomErasing", {"p": 1.0, "scale": (0.1, 0.2), "value": 128}),
        ("RandAugment", {"num_ops": 3, "magnitude": 15}),
        ("TrivialAugmentWide", {}),
        ("AugMix", {"severity": 10}),
    ]  # fmt: skip
    made_of = []
    for name, arguments in shown:
        both = [made(getattr(module, name)(**arguments), levels, 6) for module in (transforms, v2)]
        made_of.append((name, both[0] / 255, both[1] / 255))
    return made_of


def draw(pictures: list[tuple[str, Tensor, Tensor]], across: int, said_by: str, path: Path) -> None:
    """Ours, torchvision's and their difference of each, so many of these beside each other."""
    down, wide = -(-len(pictures) // across), 3 * (SIZE + GAP) + GAP
    page = Image.new("RGB", (across * wide + GAP, down * (SIZE + HEAD) + GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for index, (name, ours, theirs) in enumerate(pictures):
        difference = (ours - theirs).abs()
        largest = difference.max().item()
        factor = 1 / largest if largest > 0 else 1.0
        said = f"{largest:.1e} of 1 at most, drawn {factor:.0f} times as large" if largest > 0 else "none"
        left, top = GAP + index % across * wide, index // across * (SIZE + HEAD) + HEAD
        pen.text((left, top - HEAD + 2), name, "black", font)
        pen.text((left, top - HEAD + 16), f"{said_by}, torchvision's, difference: {said}", "dimgray", font)
        for column, numbers in enumerate((ours, theirs, difference * factor)):
            page.paste(as_picture(numbers), (left + column * (SIZE + GAP), top))
        print(f"{name}: {said}; {(difference > 0).float().mean().item():.2%} of the numbers differ")
    page.save(path, optimize=True)


def main() -> None:
    draw(fused(), 1, "fused", ROOT / "docs/transforms.png")
    draw(each(), 2, "handgrad's", ROOT / "docs/transforms_each.png")


if __name__ == "__main__":
    main()
