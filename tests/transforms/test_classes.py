"""handgrad's classes of torchvision's names: the same parameters, the same pictures, in torchvision's own pipelines."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import pytest
import torch

from transform_pipelines import MEAN, STD, assert_same, assert_same_for_seeds, levels, native_levels, picture, seeded

pytest.importorskip("torchvision", exc_type=ImportError)
from torchvision import tv_tensors
from torchvision.transforms import v2

from handgrad import transforms
from handgrad.transforms import kernels

pytestmark = pytest.mark.tiers("whole")

CLASSES = {
    "Resize": ({"size": 20}, {"size": (31, 12), "interpolation": "bicubic"}, {"size": [9], "max_size": 13},
               {"size": None, "max_size": 17}, {"size": 25, "antialias": False}, {"size": 14, "interpolation": 0}),
    "CenterCrop": ({"size": 20}, {"size": (70, 10)}),
    "RandomCrop": ({"size": 20}, {"size": (30, 50), "padding": 6}, {"size": 60, "pad_if_needed": True}),
    "RandomResizedCrop": ({"size": 16}, {"size": (12, 30), "scale": (0.5, 0.6), "ratio": (0.2, 0.3)},
                          {"size": 20, "interpolation": "bicubic", "antialias": False}),
    "RandomHorizontalFlip": ({}, {"p": 0.2}),
    "RandomVerticalFlip": ({}, {"p": 0.9}),
    "ColorJitter": ({"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}, {"hue": (0.2, 0.5)},
                    {"contrast": (0.0, 3.0)}, {}),
    "Grayscale": ({}, {"num_output_channels": 3}),
    "RandomGrayscale": ({"p": 0.5},),
    "RandomAdjustSharpness": ({"sharpness_factor": 1.9}, {"sharpness_factor": 0, "p": 0.9},
                              {"sharpness_factor": 3.3, "p": 1.0}),
    "RandomPosterize": ({"bits": 3}, {"bits": 1, "p": 1.0}),
    "RandomSolarize": ({"threshold": 0.4}, {"threshold": 1, "p": 0.8}, {"threshold": -7, "p": 1.0}),
    "RandomInvert": ({}, {"p": 0.8}),
    "RandomAutocontrast": ({"p": 0.8},),
    "RandomEqualize": ({"p": 0.8},),
    "RandomAffine": ({"degrees": 30}, {"degrees": (5, 90), "translate": (0.2, 0.3), "scale": (0.5, 2.0), "shear": 20,
                      "interpolation": v2.InterpolationMode.BILINEAR, "fill": 77, "center": (3, 9)},
                     {"degrees": 0, "shear": (1, 9, -9, 9), "interpolation": v2.InterpolationMode.BILINEAR}),
    "RandomRotation": ({"degrees": 90}, {"degrees": 45, "expand": True, "fill": 9,
                                         "interpolation": v2.InterpolationMode.BILINEAR},
                       {"degrees": (90, 90), "expand": True}),
    "RandomPerspective": ({}, {"distortion_scale": 0.9, "p": 0.9, "fill": 200, "interpolation": 0}),
    "RandomErasing": ({}, {"value": "random", "p": 1.0, "scale": (0.1, 0.4)}, {"value": 300.5, "p": 0.8}),
    "ToDtype": ({"dtype": torch.float32, "scale": True}, {"dtype": {tv_tensors.Image: torch.float32, "others": None}}),
}  # fmt: skip
CASES = [(name, arguments) for name, several in CLASSES.items() for arguments in several]


def both(name, arguments):
    return getattr(transforms, name)(**arguments), getattr(v2, name)(**arguments)


def sample(kind):
    if kind == "everything":
        boxes = tv_tensors.BoundingBoxes(torch.tensor([[3, 4, 20, 30]]), format="XYXY", canvas_size=(47, 52))
        points = tv_tensors.KeyPoints(torch.tensor([[3.0, 40.0]]), canvas_size=(47, 52))
        mask = tv_tensors.Mask(levels(1, 47, 52, seed=2))
        return {"image": tv_tensors.Image(levels(3, 47, 52)), "boxes": boxes, "mask": mask, "points": points, "name": 7}
    video = levels(2, 3, 47, 52)
    return {
        "tensor": levels(3, 47, 52),
        "batch": levels(2, 3, 47, 52),
        "video": tv_tensors.Video(video.unsqueeze(0)),
        "picture": picture(47, 52),
        "gray": levels(1, 47, 52),
        "int16": levels(3, 47, 52).short(),
    }[kind]


@native_levels
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
@pytest.mark.parametrize("kind", ["tensor", "batch", "video", "picture", "gray", "int16", "everything"])
def test_pictures_are_torchvisions(name, arguments, kind):
    if isinstance(arguments.get("dtype"), dict) and kind != "everything":
        pytest.skip("the dictionary has no entry for it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, that it antialiases in any case
        assert_same_for_seeds(*both(name, arguments), sample(kind), seeds=range(6))


@pytest.mark.parametrize("name", ["RandomResizedCrop", "RandomCrop"])
def test_ten_thousand_seeds_give_the_same_parameters(name):
    ours, theirs = both(name, {"size": 24})
    image = levels(1, 90, 70)
    with torch.random.fork_rng(devices=[]):
        for seed in range(10_000):
            torch.default_generator.manual_seed(seed)
            found = ours.make_params([image])
            torch.default_generator.manual_seed(seed)
            assert found == theirs.make_params([image])


def test_numbers_are_torchvisions():
    numbers = torch.rand(3, 40, 37, dtype=torch.float64)
    for name, arguments in CASES:
        for dtype, tolerance in ((torch.float64, {}), (torch.float32, {"rtol": 0, "atol": 2e-5})):
            if arguments.get("interpolation") == 0 or isinstance(arguments.get("dtype"), dict):
                continue  # of float64 torch takes other nearest pixels
            wanted = {"rtol": 1e-7, "atol": 1e-7} if dtype is torch.float64 else tolerance
            if name == "ColorJitter":  # torchvision's hue is in float32 always
                wanted = {"rtol": 0, "atol": 1e-5}
            if name in ("RandomAffine", "RandomRotation", "RandomPerspective"):
                # Their nearest pixel is another where a position is rounded otherwise.
                wanted = {"rtol": 0, "atol": 0} if dtype is torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
            if arguments.get("size") != (70, 10):
                ours, theirs = both(name, {**arguments, **({"pad_if_needed": True} if name == "RandomCrop" else {})})
                assert_same_for_seeds(ours, theirs, numbers.to(dtype), seeds=range(2), **wanted)


def test_gaussian_blur():
    """torchvision's draws; levels within the one that its docs page allows, of pictures too."""
    for arguments in ({"kernel_size": 5}, {"kernel_size": (9, 3), "sigma": (0.3, 4.0)}, {"kernel_size": 3, "sigma": 1}):
        ours, theirs = both("GaussianBlur", arguments)
        assert isinstance(ours, v2.GaussianBlur)
        assert repr(ours) == repr(theirs)
        for kind in ("tensor", "batch", "video", "gray", "everything"):
            assert_same_for_seeds(ours, theirs, sample(kind), seeds=range(3), rtol=0, atol=1)
        assert_same_for_seeds(ours, theirs, sample("int16"), seeds=range(3))
        assert_same_for_seeds(ours, theirs, torch.rand(3, 9, 8).double(), seeds=range(3), rtol=0, atol=1e-14)
        for mode in ("RGB", "L", "RGBA", "CMYK"):
            image = picture(47, 52).convert(mode)
            results = [seeded(transform, image, seed=1)[0] for transform in (ours, theirs)]
            assert results[0].mode == results[1].mode == mode
            first, second = (v2.functional.pil_to_tensor(result).int() for result in results)
            assert (first - second).abs().max() <= 1
        for small in (levels(3, 1, 1), picture(1, 1)):  # whose error message is torchvision's own
            with pytest.raises(RuntimeError, match="Padding size should be less than"):
                ours(small)
    with pytest.raises(ValueError, match="should be an odd and positive number"):
        transforms.GaussianBlur(4)


def test_elastic_transform():
    """torchvision's draws and, but for last bits, its field: levels within one, and a mask's pixel another where a
    position is half way. Boxes and keypoints go where torchvision's kernels take them."""
    nearest = v2.InterpolationMode.NEAREST
    for arguments in ({"sigma": 2.0}, {"alpha": (30.0, 300.0), "sigma": (0.5, 3.0), "fill": 77},
                      {"sigma": 0.0, "interpolation": nearest}, {"alpha": -40, "sigma": 3}):  # fmt: skip
        ours, theirs = both("ElasticTransform", arguments)
        assert isinstance(ours, v2.ElasticTransform)
        assert repr(ours) == repr(theirs)
        for kind in ("tensor", "batch", "video", "gray", "int16"):
            assert_same_for_seeds(ours, theirs, sample(kind), seeds=range(3), rtol=0, atol=1)
        found, *numbers = seeded(ours, sample("everything"), seed=2)
        expected, *others = seeded(theirs, sample("everything"), seed=2)
        assert numbers == others
        assert found["mask"].ne(expected["mask"]).sum() <= 2
        assert_same(*({**one, "mask": 0} for one in (found, expected)), rtol=1e-4, atol=1)
        for mode in ("RGB", "L", "RGBA"):
            image = picture(47, 52).convert(mode)
            results = [seeded(transform, image, seed=1)[0] for transform in (ours, theirs)]
            assert results[0].mode == results[1].mode == mode
            first, second = (v2.functional.pil_to_tensor(result).int() for result in results)
            assert (first - second).abs().max() <= 1
    for small in (levels(3, 12, 12), picture(12, 12)):  # whose error message is torchvision's own (vision#8566)
        with pytest.raises(RuntimeError, match="Padding size should be less than"):
            transforms.ElasticTransform()(small)


def test_masks_are_moved_by_the_kernel():
    field = torch.rand(1, 47, 52, 2) / 3
    for mask in (levels(47, 52), levels(1, 47, 52), levels(2, 5, 47, 52), levels(2, 47, 52) > 99):
        given = tv_tensors.Mask(mask)
        for fill in (None, 7):
            expected = v2.functional.elastic(given, field, fill=fill)
            assert_same(kernels.elastic(v2.functional.elastic, given, field, fill=fill), expected)


def test_a_field_is_in_halves_of_each_side():
    """The same alpha moves as many pixels down as across, of a picture that is not square (vision#9299)."""
    torch.manual_seed(0)
    by = transforms.ElasticTransform(alpha=40.0, sigma=0.0).make_params([levels(3, 60, 240)])["displacement"]
    pixels = by * torch.tensor([240 / 2, 60 / 2])
    torch.testing.assert_close(pixels.abs().amax((0, 1, 2)), torch.full((2,), 20.0), rtol=1e-2, atol=0)


def test_normalize():
    for shape in ((3, 9, 8), (2, 3, 9, 8)):
        for dtype in (torch.float32, torch.float64, torch.float16):
            image = torch.rand(shape).to(dtype)
            for memory in (image, image.transpose(-1, -2).contiguous().transpose(-1, -2)):
                for mean, std in ((MEAN, STD), ((0.5,), (0.25,))):
                    ours, theirs = transforms.Normalize(mean, std), v2.Normalize(mean, std)
                    assert_same(ours(memory), theirs(memory))
                    assert_same(ours(tv_tensors.Image(memory)), theirs(tv_tensors.Image(memory)))
    image = torch.rand(3, 4, 4)
    for arguments in ((MEAN, [0.0, 1, 1]), ([0.5, 0.5], [1.0, 1.0])):
        for kind in (transforms, v2):
            with pytest.raises((ValueError, RuntimeError), match=r"std evaluated to zero|must match the size"):
                kind.Normalize(*arguments)(image)
    kept = image.clone()
    transforms.Normalize(MEAN, STD, inplace=True)(image)
    assert not torch.equal(image, kept)
    with pytest.raises(TypeError, match="does not support PIL"):
        transforms.Normalize(MEAN, STD)(picture(4, 4))


def test_they_are_torchvisions_classes():
    """Whoever asks for torchvision's takes them, and error messages are torchvision's own."""
    for name, arguments in CASES:
        ours, theirs = both(name, arguments)
        assert isinstance(ours, getattr(v2, name))
        assert repr(ours) == repr(theirs)
        assert_same(pickle.loads(pickle.dumps(ours)).__dict__.keys(), ours.__dict__.keys())
    with pytest.raises(ValueError, match="size can be an integer"):
        transforms.Resize((1, 2, 3))
    with pytest.raises(ValueError, match="hue values should be between"):
        transforms.ColorJitter(hue=0.7)
    with pytest.raises(ValueError, match=r"sharpness_factor \(-1\) is not non-negative"):
        transforms.RandomAdjustSharpness(-1, p=1.0)(levels(3, 5, 5))
    with pytest.raises(TypeError, match="can have 1 or 3 channels, but found 4"):
        transforms.RandomAdjustSharpness(2, p=1.0)(levels(4, 5, 5))
    pipeline = v2.Compose([transforms.Resize(9), transforms.CenterCrop(8), transforms.RandomHorizontalFlip(1)])
    assert pipeline(levels(3, 20, 30)).shape == (3, 8, 8)


@native_levels
def test_empty_images_and_single_pixels():
    for shape in ((3, 0, 5), (0, 9, 9), (3, 1, 1), (3, 1, 30)):
        for name in ("Resize", "RandomResizedCrop"):
            ours, theirs = both(name, {"size": (4, 5)})
            image = levels(*shape) if 0 not in shape else torch.zeros(shape, dtype=torch.uint8)
            results = []
            for transform in (ours, theirs):
                torch.manual_seed(0)
                try:
                    results.append(transform(image))
                except (RuntimeError, ValueError, ZeroDivisionError) as error:
                    results.append(str(error))
            assert_same(results[0], results[1], f"{name} {shape}")


PROGRAM = """
import sys
sys.modules["torchvision"] = None
import torch, handgrad
from handgrad.sdk import lazy
from handgrad.transforms import *
print(handgrad.transforms.resized_crop(torch.zeros(3, 9, 9), 0, 0, 9, 9, 4).shape)
lazy.load_all("handgrad")
classes = (lambda: Resize(3), lambda: RandomHorizontalFlip(), lambda: ColorJitter())
for make in (*classes, lambda: fuse([]), lambda: Batched([])):
    try:
        make()
    except ImportError as error:
        print(error)
"""


def test_without_torchvision_there_is_an_error_message():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "torch.Size([3, 4, 4])"
    hint = "needs torchvision, which is not installed: pip install 'handgrad[vision]'"
    names = ("Resize", "RandomHorizontalFlip", "ColorJitter", "fuse", "fuse")
    assert lines[1:] == [f"handgrad.transforms.{name} {hint}" for name in names]


def test_importing_handgrad_imports_nothing_of_it():
    program = (
        "import sys, torch, handgrad; handgrad.transforms.resized_crop; "
        "print([name for name in sys.modules if name.startswith(('torchvision', 'PIL', 'handgrad.transforms.'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['handgrad.transforms.resized_crop']"
