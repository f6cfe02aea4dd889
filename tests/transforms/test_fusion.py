"""``fuse``: the same pipeline, the same seed, the same picture, to the bit; and what is left, and why."""

from __future__ import annotations

import functools
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from transform_pipelines import MEAN, STD, assert_same, assert_same_for_seeds, levels, native_levels, picture, seeded

pytest.importorskip("torchvision", exc_type=ImportError)
from PIL import Image
from torchvision import models, tv_tensors
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from handgrad import transforms
from handgrad.transforms import fuse, kernels
from handgrad.transforms.fusion import Run

pytestmark = pytest.mark.tiers("whole")

FLOAT = (v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD))
OLD_FLOAT = (v1.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD))
CUBIC = InterpolationMode.BICUBIC

# The reference presets of torchvision's own training scripts, for images of Pillow's and for tensors, v1 and v2.
TRAINING = {
    f"{name}, {backend}": (
        *([kind.PILToTensor()] if backend == "tensor" else []),
        kind.RandomResizedCrop(24, interpolation=CUBIC, antialias=True),
        kind.RandomHorizontalFlip(0.5),
        *([kind.PILToTensor()] if backend == "pil" else []),
        *(FLOAT if kind is v2 else OLD_FLOAT),
        kind.RandomErasing(p=0.4),
        *([v2.ToPureTensor()] if kind is v2 else []),
    )
    for name, kind, backend in (("v1", v1, "pil"), ("v2", v2, "pil"), ("v2", v2, "tensor"))
}
EVALUATION = {
    f"{name}, {backend}": (
        *([kind.PILToTensor()] if backend == "tensor" else []),
        kind.Resize(32, interpolation=InterpolationMode.BILINEAR, antialias=True),
        kind.CenterCrop(24),
        *([kind.PILToTensor()] if backend == "pil" else []),
        *(FLOAT if kind is v2 else OLD_FLOAT),
        *([v2.ToPureTensor()] if kind is v2 else []),
    )
    for name, kind, backend in (("v1", v1, "pil"), ("v2", v2, "pil"), ("v2", v2, "tensor"))
}
OF_PICTURES = {
    **{f"training, {name}": steps for name, steps in TRAINING.items()},
    **{f"evaluation, {name}": steps for name, steps in EVALUATION.items()},
    "the usual": (v1.RandomResizedCrop(24), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)),
    "CIFAR": (v1.RandomCrop(40, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)),
    "an image": (v2.ToImage(), v2.RandomResizedCrop(24), v2.RandomVerticalFlip(), *FLOAT),
    "an image late": (v2.RandomResizedCrop((9, 30)), v2.RandomVerticalFlip(), v2.ToImage(), *FLOAT),
    "colours between": (v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
                        v2.ToImage(), *FLOAT),
    "colours of an image": (v2.ToImage(), v2.RandomResizedCrop(24), v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
                            v2.RandomGrayscale(0.4), v2.RandomHorizontalFlip(), *FLOAT),
    "float64": (v2.RandomResizedCrop(24), v2.ToImage(), v2.ToDtype(torch.float64, scale=True), v2.Normalize(MEAN, STD)),
    "crops of crops": (v2.RandomCrop((45, 41)), v2.RandomHorizontalFlip(), v2.CenterCrop((30, 33)),
                       v2.RandomVerticalFlip(), v2.RandomCrop(20), v2.ToImage(), *FLOAT),
    "windows": (v2.RandomCrop((46, 41)), v2.Resize((50, 30)), v2.RandomHorizontalFlip(), v2.RandomCrop((33, 21)),
                v2.RandomVerticalFlip(), v2.CenterCrop((11, 20)), v2.ToImage(), *FLOAT),
    "two resizes": (v2.Resize(40), v2.RandomHorizontalFlip(), v2.RandomResizedCrop(30), v2.Resize((9, 11)),
                    v2.ToImage(), *FLOAT),
    "a wide one": (v2.Resize((22, 60)), v2.ToImage(), *FLOAT),
    "a size limit": (v1.Resize(30, max_size=31), v1.ToTensor()),
    "ours": (transforms.RandomResizedCrop(24), transforms.RandomHorizontalFlip(), v2.ToImage(),
             transforms.ToDtype(torch.float32, scale=True), transforms.Normalize(MEAN, STD)),
    "weights": (models.ResNet18_Weights.DEFAULT.transforms(crop_size=20, resize_size=28),),
    "a random choice": (v2.RandomApply([v2.Resize(20)], p=0.5), v2.Resize(24), v2.PILToTensor(), *FLOAT),
    "nearest": (v2.Resize(20, interpolation=InterpolationMode.NEAREST), v2.ToImage(), *FLOAT),
    "lanczos": (v2.RandomResizedCrop(20, interpolation=InterpolationMode.LANCZOS), v2.ToImage(), *FLOAT),
}  # fmt: skip
OF_TENSORS = {
    "training": (v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), *FLOAT),
    "evaluation": (v2.Resize(32), v2.CenterCrop(24), *FLOAT),
    "not antialiased": (v2.Resize((30, 61), antialias=False), v2.RandomVerticalFlip(), *FLOAT),
    "nearest": (v2.RandomResizedCrop(24, interpolation=InterpolationMode.NEAREST), *FLOAT),
    "nearest exactly": (v2.Resize(24, interpolation=InterpolationMode.NEAREST_EXACT), *FLOAT),
    "levels": (v2.RandomResizedCrop(24, interpolation=CUBIC), v2.RandomHorizontalFlip()),
    "windows": OF_PICTURES["windows"][:-3],
    "normalised first": (*FLOAT, v2.RandomHorizontalFlip(), v2.RandomCrop(20), v2.RandomVerticalFlip()),
    "no scale": (v2.RandomResizedCrop(24), v2.ToDtype(torch.float32), v2.Normalize(MEAN, STD)),
    "half": (v2.RandomResizedCrop(24), v2.ToDtype(torch.float16, scale=True), v2.Normalize(MEAN, STD)),
    "v1": (v1.RandomResizedCrop(24), v1.RandomHorizontalFlip(), *OLD_FLOAT),
    "colours": (v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1), *FLOAT),
    "colours alone": (v2.ColorJitter(contrast=(0.1, 3.0), hue=0.5),),
    "SimCLR": (
        v2.RandomResizedCrop(24),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.6),
        v2.RandomGrayscale(0.3),
        v2.RandomHorizontalFlip(),
        *FLOAT,
    ),
    "colours first": (v2.ColorJitter(0.5, 0.5), v2.RandomResizedCrop(24), v2.Grayscale(3), v2.RandomVerticalFlip()),
    "a crop after colours": (v2.Resize(30), v2.ColorJitter(contrast=0.9), v2.CenterCrop(20), *FLOAT),
    "one gray": (v2.RandomResizedCrop(24), v2.Grayscale(), v2.ColorJitter(0.5, 0.5), v2.Resize(9)),
    "one gray in the end": (
        v2.RandomResizedCrop(24),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandomEqualize(),
        v2.Grayscale(),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5], [0.25]),
    ),
    "one gray of levels": (v2.RandomVerticalFlip(), v2.Grayscale()),
    "one gray and no more": (v2.Grayscale(), v2.RandomInvert(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)),
    "one gray now and then": (v2.RandomApply([v2.Grayscale()]), v2.RandomInvert()),
    "v1's colours": (v1.RandomResizedCrop(24), v1.ColorJitter(0.4, 0.4, 0.4, 0.1), v1.RandomGrayscale(0.3), *OLD_FLOAT),
    "our colours": (
        transforms.ColorJitter(0.4, 0.4, 0.4, 0.1),
        transforms.RandomGrayscale(0.4),
        transforms.Grayscale(3),
    ),
    "tones": (
        v2.RandomResizedCrop(24),
        v2.RandomPosterize(4),
        v2.RandomSolarize(100, p=0.6),
        v2.RandomAutocontrast(),
        v2.RandomEqualize(),
        v2.RandomInvert(0.4),
        *FLOAT,
    ),
    "tones and colours": (
        v2.RandomSolarize(128),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandomApply([v2.RandomEqualize(0.7), v2.ColorJitter(0.3), v2.RandomInvert()], 0.7),
        v2.RandomHorizontalFlip(),
        *FLOAT,
    ),
    "tones alone": (v2.RandomAutocontrast(0.7), v2.RandomPosterize(5, 0.7), v2.RandomHorizontalFlip()),
    "our tones": (
        transforms.RandomEqualize(),
        transforms.RandomSolarize(90),
        transforms.RandomPosterize(3),
        transforms.RandomInvert(),
        transforms.RandomAutocontrast(),
    ),
    "tones beyond a chain": (*[v2.RandomInvert(0.9), v2.RandomAutocontrast(0.9)] * 5, *FLOAT),
    "a threshold below": (v2.RandomSolarize(-5), v2.RandomInvert()),
    "sharpness": (
        v2.RandomResizedCrop(24),
        v2.RandomAdjustSharpness(1.9, p=0.7),
        v2.RandomPosterize(5),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandomApply([v2.RandomAdjustSharpness(0.3), v2.RandomInvert()], 0.7),
        v2.RandomHorizontalFlip(),
        *FLOAT,
    ),
    "sharpness alone": (v2.RandomAdjustSharpness(2), v2.RandomVerticalFlip(), v2.RandomAdjustSharpness(0.5)),
    "our sharpness": (transforms.RandomAdjustSharpness(1.3), transforms.RandomInvert()),
    "v1's sharpness": (v1.RandomAdjustSharpness(1.9), v1.RandomInvert(), *OLD_FLOAT),
    "v1's tones": (v1.RandomPosterize(4), v1.RandomSolarize(100), v1.RandomEqualize(), v1.RandomInvert(), *OLD_FLOAT),
    "v1's contrast": (v1.RandomAutocontrast(), v1.RandomInvert(), *OLD_FLOAT),
    "v1 without a resize": (v1.RandomCrop(20), v1.RandomHorizontalFlip(), *OLD_FLOAT),
}


def quiet(*steps, **others):
    return fuse(list(steps), explain=False, **others)


def composed(steps):
    return (v2 if any(isinstance(step, v2.Transform) for step in steps) else v1).Compose(list(steps))


@native_levels
@pytest.mark.parametrize("name", OF_PICTURES)
def test_pictures_of_pillows(name):
    steps = OF_PICTURES[name]
    for k, (height, width) in enumerate(((60, 47), (53, 80), (120, 50))):
        image = picture(height, width, seed=k)
        assert_same_for_seeds(quiet(*steps), composed(steps), image, seeds=range(4 * k, 4 * k + 4))


@native_levels
@pytest.mark.parametrize("name", OF_TENSORS)
def test_tensors(name):
    steps = OF_TENSORS[name]
    for k, image in enumerate((levels(3, 60, 47), levels(53, 80, 3).permute(2, 0, 1), levels(2, 3, 70, 50))):
        seeds = range(4 * k, 4 * k + 4)
        assert_same_for_seeds(quiet(*steps), composed(steps), image, seeds=seeds)
        if all(isinstance(step, v2.Transform) for step in steps):
            assert_same_for_seeds(quiet(*steps), composed(steps), tv_tensors.Image(image), seeds=seeds)


@native_levels
def test_many_sizes():
    """Pillow resizes the axis first that it thinks cheaper; taps by the hundred; single pixels."""
    sizes = torch.randint(1, 140, (60, 4), generator=torch.Generator().manual_seed(0)).tolist()
    for k, (height, width, *size) in enumerate([*sizes, [1, 1, 3, 4], [900, 3, 5, 7], [3, 900, 8, 2]]):
        steps = (v2.Resize(size, CUBIC if k % 2 else "bilinear"), v2.PILToTensor(), *FLOAT)
        image = picture(height, width, seed=k)
        assert_same(quiet(*steps)(image), composed(steps)(image), f"{height} x {width} to {size}")
        crop = (v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor(), *FLOAT)
        assert_same_for_seeds(quiet(*crop), composed(crop), image, seeds=range(k, k + 1))
        assert_same_for_seeds(quiet(*crop), composed(crop), v2.PILToTensor()(image), seeds=range(k, k + 1))


@pytest.mark.parametrize("options", [{}, {"interpolation": "random", "vflip": 0.3, "re_prob": 0.5},
                                     {"color_jitter": None, "use_prefetcher": True}, {"is_training": False},
                                     {"auto_augment": "rand-m9"}], ids=str)  # fmt: skip
def test_timms_pipelines(options):
    """They draw from Python's generator and torch's."""
    timm_data = pytest.importorskip("timm.data", exc_type=ImportError)
    options = {"is_training": True, "interpolation": "bicubic", **options}
    pipeline = timm_data.create_transform(24, **options)
    assert any(isinstance(part, Run) for part in fuse(pipeline, explain=False).transforms)
    assert_same_for_seeds(fuse(pipeline, explain=False), pipeline, picture(60, 47), seeds=range(8))


@native_levels
def test_boxes_masks_and_keypoints_go_with_their_image():
    steps = (v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), *FLOAT, v2.ToPureTensor())
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[3.0, 4, 20, 30], [1, 1, 9, 9]]), format="CXCYWH", canvas_size=(47, 52)
    )
    target = {
        "boxes": boxes,
        "masks": tv_tensors.Mask(levels(2, 47, 52, seed=2)),
        "points": tv_tensors.KeyPoints(torch.tensor([[3.0, 40.0]]), canvas_size=(47, 52)),
        "labels": torch.tensor([4, 5]),
        "name": "a photograph",
    }
    for image in (tv_tensors.Image(levels(3, 47, 52)), levels(3, 47, 52), picture(47, 52)):
        first = (v2.PILToTensor(), *steps) if isinstance(image, Image.Image) else steps
        assert_same_for_seeds(quiet(*first), v2.Compose(list(first)), image, target, seeds=range(6))
        sample = {"image": image, **target}
        assert_same_for_seeds(quiet(*first), v2.Compose(list(first)), sample, seeds=range(3))
    # What is not one image is torchvision's.
    several = [levels(3, 47, 52), tv_tensors.Image(levels(3, 47, 52)), tv_tensors.Image(levels(3, 47, 52, seed=1))]
    video = tv_tensors.Video(levels(2, 3, 47, 52))
    for sample in (several, [video], [torch.arange(3), picture(47, 52)]):
        assert_same_for_seeds(quiet(*steps[:3]), v2.Compose(list(steps[:3])), sample, seeds=range(3))


def test_numbers():
    """Not to the bit: torch computes the weights of float32 images in float32."""
    for steps in (
        (v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.Normalize(MEAN, STD)),
        (v1.Resize(32, CUBIC), v1.CenterCrop(24), v1.Normalize(MEAN, STD)),
    ):
        image = torch.rand(3, 60, 47)
        assert_same_for_seeds(quiet(*steps), composed(steps), image, seeds=range(4), rtol=0, atol=1e-4)
        assert_same_for_seeds(quiet(*steps), composed(steps), image.double(), seeds=range(4), rtol=1e-7, atol=1e-7)
        leaf = image.double().requires_grad_()
        quiet(*steps)(leaf).sum().backward()
        assert leaf.grad.abs().sum() > 0


def test_colours_of_numbers():
    """Not to the bit either: each step may be rounded the other way, and torchvision's hue is in float32 always."""
    steps = (
        v2.RandomResizedCrop(24),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandomGrayscale(0.3),
        v2.Normalize(MEAN, STD),
    )
    for image in (torch.rand(3, 60, 47), torch.rand(3, 60, 47).double(), torch.rand(1, 60, 47)):
        own = steps if image.shape[0] == 3 else steps[:3]
        assert_same_for_seeds(quiet(*own), composed(own), image, seeds=range(8), rtol=0, atol=3e-4)
    image = levels(3, 60, 47)
    steps = (v2.ToDtype(torch.float32, scale=True), *steps)
    assert_same_for_seeds(quiet(*steps), composed(steps), image, seeds=range(8), rtol=0, atol=3e-4)


def test_one_gray():
    """In the run that it ends, in memory of its own; of numbers too, and nothing of an image that is gray."""
    steps = OF_TENSORS["one gray in the end"]
    assert len(quiet(*steps).lines()) == 1
    for image in (levels(1, 40, 50), torch.rand(3, 40, 50), torch.rand(1, 40, 50)):
        own = steps if image.dtype is torch.uint8 else (*steps[:2], *steps[3:5], steps[6])
        assert_same_for_seeds(quiet(*own), composed(own), image, seeds=range(4), rtol=0, atol=3e-4)
    for image in (levels(3, 40, 50), levels(40, 50, 3).permute(2, 0, 1)):
        found = quiet(v2.Grayscale())(image)
        assert found.untyped_storage().nbytes() == 40 * 50
        assert found.is_contiguous()


def test_sharpness_of_numbers():
    """Of a batch the images that it is drawn for are cut to 0 to 1, and no others."""
    steps = (v2.RandomAdjustSharpness(1.9), v2.RandomHorizontalFlip(), v2.RandomGrayscale(0.3))
    images = torch.rand(6, 3, 20, 17) * 3 - 1
    fused, batched = quiet(*steps), transforms.Batched(list(steps))
    assert fused.lines() == ["three kernels: RandomAdjustSharpness, RandomHorizontalFlip, RandomGrayscale"]

    def one_by_one(several):
        return torch.stack([composed(steps)(image) for image in several])

    for transform in (batched, lambda several: torch.stack([fused(image) for image in several])):
        assert_same_for_seeds(transform, one_by_one, images, seeds=range(4), rtol=0, atol=1e-5)


def test_a_thousand_seeds_give_the_same_colours():
    """Order and factors, drawn by either version of torchvision's class."""
    from handgrad.transforms._reading import steps_of
    from handgrad.transforms._steps import Plan

    for kind in (v1, v2):
        jitter = kind.ColorJitter(0.4, (0.2, 1.9), 0, 0.1)
        (step,) = steps_of(jitter)
        names = ("brightness", "contrast", "saturation", "hue")
        with torch.random.fork_rng(devices=[]):
            for seed in range(1000):
                plan = Plan((0, 0, 9, 9))
                torch.default_generator.manual_seed(seed)
                step.draw(9, 9, plan)
                torch.default_generator.manual_seed(seed)
                drawn = (
                    list(jitter.make_params([]).values())
                    if kind is v2
                    else list(jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue))
                )
                factors = dict(zip(names, drawn[1:], strict=True))
                order = [names[k] for k in drawn[0].tolist() if factors[names[k]] is not None]
                assert plan.colours == [(name, factors[name]) for name in order]


def test_v1s_colours_of_tensors_are_asked_for():
    image, steps = levels(3, 60, 47), (v1.ColorJitter(0.4, 0.4, 0.4, 0.1),)
    with pytest.warns(UserWarning, match=r"v1 rounds the colours of levels in another way; exact=False"):
        fuse(list(steps), explain=True)(image)
    for seed in range(6):
        found, *_ = seeded(quiet(*steps, exact=False), image, seed=seed)
        expected, *_ = seeded(v2.ColorJitter(0.4, 0.4, 0.4, 0.1), image, seed=seed)
        assert torch.equal(found, expected)


@native_levels
def test_other_levels_are_asked_for():
    steps = (v1.RandomResizedCrop(24), v1.RandomHorizontalFlip())
    image = levels(3, 60, 47)
    with pytest.warns(UserWarning, match=r"left to torchvision.* v1 resizes levels by way of float32; exact=False"):
        fuse(list(steps))(image)
    differences = 0
    for seed in range(10):
        found, *_ = seeded(quiet(*steps, exact=False), image, seed=seed)
        expected, *_ = seeded(composed(steps), image, seed=seed)
        difference = (found.int() - expected.int()).abs()
        assert difference.max() <= 1  # bilinear; bicubic ones differ by more at edges
        differences += int(difference.sum())
    assert differences > 0


# ---- odd pictures ----------------------------------------------------------------------------------------------------

ODD = {
    "palette": lambda: picture(40, 50).quantize(16),
    "two levels": lambda: picture(40, 50, "L").convert("1"),
    "gray": lambda: picture(40, 50, "L"),
    "gray and alpha": lambda: picture(40, 50, "LA"),
    "alpha": lambda: picture(40, 50, "RGBA"),
    "premultiplied": lambda: picture(40, 50, "RGBA").convert("RGBa"),
    "CMYK": lambda: picture(40, 50, "CMYK"),
    "YCbCr": lambda: picture(40, 50, "YCbCr"),
    "HSV": lambda: picture(40, 50, "HSV"),
    "LAB": lambda: picture(40, 50, "LAB"),
    "16 bits": lambda: Image.frombytes("I;16", (50, 40), levels(40, 100).numpy().tobytes()),
    "32 bits": lambda: picture(40, 50, "L").convert("I"),
    "floats": lambda: picture(40, 50, "L").convert("F"),
    "a pixel": lambda: picture(1, 1),
    "a row": lambda: picture(1, 300),
    "8,000 pixels": lambda: picture(11, 8000),
    "16 megabytes": lambda: picture(4100, 1100),  # which Pillow keeps in several pieces
    "no pixels": lambda: Image.new("RGB", (0, 5)),
    "corrupt": lambda: Image.open(io.BytesIO(jpeg()[:900])),
    "a file": lambda: Image.open(io.BytesIO(jpeg())),
    "an animation": lambda: Image.open(io.BytesIO(animation())),
}


def jpeg():
    file = io.BytesIO()
    picture(40, 50).save(file, "JPEG")
    return file.getvalue()


def animation():
    file = io.BytesIO()
    frames = [picture(40, 50, seed=k).quantize(8) for k in range(2)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@native_levels
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("normalises", [False, True])
def test_odd_pictures(name, normalises):
    """The right picture, or torchvision's and Pillow's error message; nothing is drawn twice on the way."""
    results = []
    end = [v1.ToTensor(), v1.Normalize([0.5], [0.25])] if normalises else []
    for pipeline in (v1.RandomResizedCrop(16), v1.RandomHorizontalFlip(), *end), (v1.Resize((9, 8)), *end):
        for kind in (quiet, lambda *steps: composed(steps)):
            try:
                results.append(seeded(kind(*pipeline), ODD[name](), seed=3))
            except (OSError, RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
                results.append(str(error))
        assert_same(results[-2], results[-1], name)
    # Normalize takes no integers, and torchvision makes some of deep pictures.
    refused = ("corrupt", "16 bits", "32 bits") if normalises else ("corrupt",)
    assert isinstance(results[-1], str) == (name in refused)


def test_a_picture_keeps_what_is_known_of_it():
    image = picture(40, 50)
    image.info["dpi"] = (72, 72)
    assert quiet(v2.Resize(9))(image).info == {"dpi": (72, 72)}


def test_a_picture_that_nobody_holds_any_more():
    """Its memory is read where it lies, while it is there."""
    run = quiet(v1.Resize(200), v1.ToTensor())
    expected = run(picture(300, 300))
    for _ in range(20):
        assert torch.equal(run(picture(300, 300)), expected)


@native_levels
@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomAffine(40, (0.2, 0.1), (0.5, 2), 10, v2.InterpolationMode.BILINEAR, 7),
        v2.RandomRotation(40, expand=True),
        v2.RandomPerspective(p=1.0),
        v2.AutoAugment(),
        v2.RandAugment(),
        v2.TrivialAugmentWide(),
        v2.AugMix(),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_what_has_a_kernel_is_called_by_it(transform, monkeypatch):
    """Between runs, with the same draws and the same levels."""
    pipeline = [v2.RandomResizedCrop(40), transform, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    fused = pickle.loads(pickle.dumps(quiet(*pipeline)))
    assert fused.lines()[1] == f"a kernel of its own: {type(transform).__name__}"
    for image in (levels(3, 90, 70), tv_tensors.Image(levels(3, 50, 90))):
        assert_same_for_seeds(fused, v2.Compose(pipeline), image, seeds=range(12))
    # By its kernel indeed, and not on another device.
    called = []
    monkeypatch.setitem(kernels.KERNELS, "affine", lambda theirs, inpt, *args, **kwargs: called.append(0) or inpt)
    if isinstance(transform, v2.RandomAffine):
        fused(levels(3, 50, 50))
        assert called
        assert fused.transforms[1](torch.empty(3, 9, 9, device="meta")).is_meta
        assert len(called) == 1


@native_levels
@pytest.mark.parametrize("module", [v1, v2])
def test_erasing_is_in_place_where_the_image_was_just_made(module):
    erasing = module.RandomErasing(p=0.9, value="random")
    numbers = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    pipeline = [v2.RandomResizedCrop(40), *numbers, erasing]
    fused = pickle.loads(pickle.dumps(quiet(*pipeline)))
    assert fused.lines()[1] == "in place: RandomErasing"
    for image in (levels(3, 90, 70), levels(2, 3, 50, 90)):
        assert_same_for_seeds(fused, v2.Compose(pipeline), image, seeds=range(12))
    allocated = []
    for steps in ([*pipeline[:-1], nn.Identity()], pipeline):
        with torch.profiler.profile(profile_memory=True) as profile:
            quiet(*steps)(levels(3, 400, 400))
        allocated.append(sum(event.self_cpu_memory_usage > 3 * 40 * 40 * 3 for event in profile.events()))
    assert allocated[0] == allocated[1]
    # What was there before is not written to.
    for steps in ([erasing], [v2.CenterCrop(30), erasing], [v2.Resize(40), erasing]):
        image = torch.rand(3, 40, 40)
        before = image.clone()
        assert_same_for_seeds(quiet(*steps), v2.Compose(steps), image, seeds=range(5))
        assert torch.equal(image, before)
    for steps in ([v2.ToImage(), v2.RandomInvert(0.5), erasing], [v1.ToTensor(), v1.Normalize(MEAN, STD), erasing]):
        shown = picture(40, 50)
        assert_same_for_seeds(quiet(*steps), composed(steps), shown, seeds=range(5))
        assert shown.tobytes() == picture(40, 50).tobytes()


@pytest.mark.parametrize("blur", [v2.GaussianBlur(5), v2.ElasticTransform(sigma=1.0)], ids=["blur", "elastic"])
def test_a_blur_is_nearly_the_same(blur):
    name = type(blur).__name__
    pipeline = [blur, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    assert f"as it is: {name} (" in quiet(*pipeline).lines()[0]
    nearly = fuse(blur, explain=False, exact=False)
    assert nearly.lines() == [f"a kernel of its own: {name}"]
    assert_same_for_seeds(nearly, blur, levels(3, 30, 40), seeds=range(3), rtol=0, atol=1)


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_explanations(capsys):
    fuse(v2.Compose([
        v2.RandomHorizontalFlip(), v2.Resize(30), v2.RandomCrop(20, padding=2), v2.ColorJitter(), v2.CenterCrop(9),
        v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]), nn.Sequential(v2.ToDtype({}), v1.Normalize(MEAN, [0.0])),
        v2.Normalize(MEAN, STD, inplace=True), str,
    ]))  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "as it is: RandomHorizontalFlip (there is nothing beside it to do in the same pass)",
        "one kernel: Resize",
        "as it is: RandomCrop (it pads, which the kernel does not)",
        "as it is: ColorJitter (Pillow's colours are others than a tensor's: make tensors of images before)",
        "one kernel: CenterCrop, ToTensor, Normalize",
        "as it is: ToDtype (its types are a dictionary's)",
        "as it is: Normalize (its deviations must be greater than 0, and all of its numbers finite)",
        "as it is: Normalize (it works in place)",
        "as it is: type (the kernel does not know it)",
    ]
    fused = fuse(v2.Resize(30), explain=False)
    assert capsys.readouterr().out == ""
    assert "one kernel: Resize" in str(fused)
    with pytest.raises(TypeError, match="pipeline must be made of transforms, which are called; got int"):
        fuse([3])


def test_a_reason_is_said_once():
    fused = fuse([v2.Resize(9), v2.ToImage()])
    with pytest.warns(UserWarning, match="by Resize, ToImage: an image of Pillow's mode P, whose"):
        fused(picture(20, 30).quantize(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused(picture(20, 30).quantize(4))
        fused(picture(20, 30))
        quiet(v2.Resize(9))(picture(20, 30).quantize(4))


# ---- workers, threads, files -----------------------------------------------------------------------------------------


class Photographs(torch.utils.data.Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.transform(picture(50 + index, 60, seed=index)), index


def usual(size=24):
    return v1.Compose([v1.RandomResizedCrop(size), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)])


def batches(transform, **options):
    generator = torch.Generator().manual_seed(7)
    loader = torch.utils.data.DataLoader(Photographs(transform), 4, generator=generator, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return [images for _ in range(2 if options.get("persistent_workers") else 1) for images, _ in loader]


@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_workers": 2, "multiprocessing_context": "fork"},
                                     {"num_workers": 1, "multiprocessing_context": "spawn"},
                                     {"num_workers": 1, "persistent_workers": True}], ids=str)  # fmt: skip
def test_workers(options):
    """They draw from torch's generator, which torch seeds for each."""
    found, expected = batches(fuse(usual(), explain=False), **options), batches(usual(), **options)
    assert_same(found, expected)
    assert not torch.equal(found[0], found[-1])


def test_any_number_of_threads():
    before = torch.get_num_threads()
    image, found = picture(300, 280), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(seeded(fuse(usual(100), explain=False), image, seed=2)[0])
    finally:
        torch.set_num_threads(before)
    assert_same(found[1:], [found[0]] * 2)


def test_files():
    fused = fuse(usual(), explain=False)
    fused(picture(50, 60))
    again = pickle.loads(pickle.dumps(fused))
    assert repr(again) == repr(fused)
    assert_same(seeded(again, picture(50, 60), seed=4), seeded(fused, picture(50, 60), seed=4))
    assert repr(fuse(fused, explain=False)) == repr(fused)


# ---- batches ---------------------------------------------------------------------------------------------------------

BATCHED = {
    "training": OF_TENSORS["training"],
    "evaluation": OF_TENSORS["evaluation"],
    "levels": OF_TENSORS["levels"],
    "windows": OF_TENSORS["windows"],
    "crops": (v2.RandomCrop(20), v2.RandomHorizontalFlip(), *FLOAT),
    "whole": FLOAT,
    "colours": OF_TENSORS["colours"],
    "colours alone": OF_TENSORS["colours alone"],
    "SimCLR": OF_TENSORS["SimCLR"],
    "one gray in the end": OF_TENSORS["one gray in the end"],
    "one gray of levels": OF_TENSORS["one gray of levels"],
    "tones": OF_TENSORS["tones"],
    "tones and colours": OF_TENSORS["tones and colours"],
    "tones alone": OF_TENSORS["tones alone"],
    "sharpness": OF_TENSORS["sharpness"],
    "sharpness alone": OF_TENSORS["sharpness alone"],
}


@native_levels
@pytest.mark.parametrize("name", BATCHED)
def test_a_batch_is_its_images(name):
    steps = BATCHED[name]
    if name == "windows":
        steps = (*steps, *FLOAT)
    batched = transforms.Batched(list(steps))

    def one_by_one(images):
        return torch.stack([v2.Compose(list(steps))(image) for image in images])

    assert_same_for_seeds(batched, one_by_one, levels(5, 3, 60, 47), seeds=range(4))
    assert_same_for_seeds(batched, one_by_one, [levels(3, 60, 47, seed=k) for k in range(3)], seeds=range(3))
    if name in ("training", "evaluation"):
        several = [levels(3, 60 + k, 47 - k, seed=k) for k in range(4)]
        assert_same_for_seeds(batched, one_by_one, several, seeds=range(3))


@native_levels
def test_batches_that_need_not_be_exact():
    """v1's pipelines take v2's levels."""
    batched = transforms.Batched(fuse([v1.RandomResizedCrop(24), v1.ToTensor()], explain=False, exact=False))
    with pytest.raises(ValueError, match="takes no tensors"):
        batched(levels(2, 3, 60, 47))
    batched = transforms.Batched(fuse([v1.RandomResizedCrop(24)], explain=False, exact=False))

    def one_by_one(images):
        return torch.stack([v2.RandomResizedCrop(24)(image) for image in images])

    assert_same_for_seeds(batched, one_by_one, levels(5, 3, 60, 47), seeds=range(3))


def test_collate():
    batched = transforms.Batched(usual())
    samples = [(picture(50 + k, 60, seed=k), k, {"name": f"{k}"}) for k in range(3)]
    images, numbers, names = batched.collate(samples)
    assert images.shape == (3, 3, 24, 24)
    assert numbers.tolist() == [0, 1, 2]
    assert names == {"name": ["0", "1", "2"]}
    assert batched.collate([picture(50, 60)]).shape == (1, 3, 24, 24)
    assert_same(seeded(pickle.loads(pickle.dumps(batched)).collate, samples, seed=1),
                seeded(batched.collate, samples, seed=1))  # fmt: skip
    assert "RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize" in str(batched)


@pytest.mark.parametrize(
    ("steps", "images", "error", "said"),
    [
        (
            [v2.RandomRotation(9)],
            None,
            ValueError,
            "pipeline must be one that fuse makes one run of; got\n  a kernel of its own: RandomRotation",
        ),
        (FLOAT, [], TypeError, "images must be a tensor, or a list of at least one image"),
        ([v1.Resize(9)], levels(2, 3, 4, 4), ValueError, "torchvision's v1 resizes levels by way of float32; exact=F"),
        (FLOAT, torch.zeros(3, 4, 4), ValueError, r"images must have 4 dimensions; got \(3, 4, 4\)"),
        (FLOAT, torch.zeros(0, 3, 4, 4, dtype=torch.uint8), ValueError, "a batch without images"),
        (FLOAT, torch.zeros(2, 3, 4, 4, dtype=torch.int16), ValueError, "a tensor of 4 dimensions of torch.int16"),
        ([v2.CenterCrop(9), *FLOAT], levels(2, 3, 4, 4), ValueError, "a crop larger than its image is padded"),
        ([v2.Resize(9)], [picture(4, 4)], ValueError, "pipeline must make tensors of images; add PILToTensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_error_messages_of_batches(steps, images, error, said):
    with pytest.raises(error, match=f"Batched: {said}"):
        transforms.Batched(list(steps))(images)


def test_timms_interpolations_of_a_batch():
    timm_data = pytest.importorskip("timm.data", exc_type=ImportError)
    pipeline = timm_data.create_transform(24, is_training=True, color_jitter=None, interpolation="random")
    images = [picture(50 + k, 60, seed=k) for k in range(4)]
    one_by_one = functools.partial(lambda several: torch.stack([pipeline(image) for image in several]))
    assert_same_for_seeds(transforms.Batched(pipeline), one_by_one, images, seeds=range(3))
