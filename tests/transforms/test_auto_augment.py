"""Automatic augmentations: torchvision's draws and pictures, and what it refuses: boxes, masks and keypoints."""

from __future__ import annotations

import pickle
import threading

import pytest
import torch

from transform_pipelines import assert_same_for_seeds, levels, native_levels, picture, seeded

pytest.importorskip("torchvision", exc_type=ImportError)
from torchvision import tv_tensors
from torchvision.transforms import v2

from handgrad import transforms
from handgrad.transforms import _warps, kernels

pytestmark = pytest.mark.tiers("whole")

BILINEAR = v2.InterpolationMode.BILINEAR
CLASSES = {
    "AutoAugment": ({}, {"policy": v2.AutoAugmentPolicy.CIFAR10, "interpolation": BILINEAR, "fill": 99},
                    {"policy": v2.AutoAugmentPolicy.SVHN}),
    "RandAugment": ({}, {"num_ops": 5, "magnitude": 17, "interpolation": BILINEAR, "fill": [9, 200, 31]}),
    "TrivialAugmentWide": ({}, {"num_magnitude_bins": 7, "fill": {tv_tensors.Image: 9, "others": 0}}),
    "AugMix": ({}, {"severity": 7, "mixture_width": 2, "chain_depth": 2, "fill": 128}),
}  # fmt: skip
CASES = [(name, arguments) for name, several in CLASSES.items() for arguments in several]
SPACE = {**v2.AutoAugment._AUGMENTATION_SPACE, **v2.RandAugment._AUGMENTATION_SPACE}
MOVES = ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]


def both(name, arguments):
    return getattr(transforms, name)(**arguments), getattr(v2, name)(**arguments)


def only(transform, *operations):
    """Drawing from these operations alone."""
    transform._AUGMENTATION_SPACE = {name: SPACE[name] for name in operations}
    return transform


@native_levels
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
@pytest.mark.parametrize("kind", ["tensor", "image", "video", "picture", "gray"])
def test_pictures_are_torchvisions(name, arguments, kind):
    sample = {
        "tensor": levels(3, 47, 52),
        "image": {"image": tv_tensors.Image(levels(3, 47, 52)), "name": 7},
        "video": tv_tensors.Video(levels(2, 3, 47, 52)),
        "picture": picture(47, 52),
        "gray": levels(1, 47, 52),
    }[kind]
    if kind == "gray" and isinstance(arguments.get("fill"), list):
        pytest.skip("one fill for each of three channels")
    ours, theirs = both(name, arguments)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert_same_for_seeds(ours, theirs, sample, seeds=range(25))


@native_levels
@pytest.mark.parametrize("operation", SPACE)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16], ids=str)
def test_every_operation(operation, dtype):
    ours, theirs = (only(each, operation) for each in both("RandAugment", {"num_ops": 1, "magnitude": 20}))
    image = levels(3, 31, 40).to(dtype)
    assert_same_for_seeds(ours, theirs, image, seeds=range(4))


@native_levels
def test_whole_pixels_are_copied(monkeypatch):
    """As torchvision finds them by way of a grid of float32, of long images too."""
    copied, by_copying = [], _warps.shifted
    monkeypatch.setattr(_warps, "shifted", lambda *arguments: copied.append(0) or by_copying(*arguments))
    generator = torch.Generator().manual_seed(0)

    def below(limit):
        return int(torch.randint(0, limit, (), generator=generator))

    for case in range(80):
        channels, height, width = (1, 3, 4)[below(3)], 1 + below(30), 1 + below(3000 if case % 10 == 0 else 30)
        image = torch.randint(0, 256, (2, height, width, channels), dtype=torch.uint8, generator=generator)
        image = image.permute(0, 3, 1, 2)
        image = image if below(2) else image.contiguous()
        translate = [below(2 * width + 6) - width - 3, below(3) * (below(2 * height + 6) - height - 3)]
        how = {
            "fill": [None, 7, [5.0], [3.0 * k for k in range(channels)]][below(4)],
            "center": [None, [0, 0]][below(2)],
        }
        arguments = {"angle": 0.0, "translate": translate, "scale": 1.0, "shear": [0.0, 0.0], **how}
        found = kernels.affine(v2.functional.affine, image, **arguments)
        assert torch.equal(found, v2.functional.affine(image, **arguments)), (image.shape, arguments)
    assert len(copied) == 80
    for others in ({"angle": 1.0}, {"shear": [0.0, 3.0]}, {"translate": [0.5, 0]}, {"interpolation": BILINEAR}):
        kernels.affine(v2.functional.affine, image, **{**arguments, **others})
    assert len(copied) == 80


@pytest.mark.parametrize("name", ["AutoAugment", "RandAugment", "TrivialAugmentWide"])
def test_masks_boxes_and_keypoints_move_with_the_image(name):
    """vision#6609. A mask of the image's own levels is its first channel afterwards."""
    transform = getattr(transforms, name)()
    if name == "AutoAugment":
        transform._policies = [((one, 1.0, 6), (two, 1.0, 4)) for one in MOVES for two in MOVES]
    else:
        only(transform, *MOVES)
    image = torch.arange(60 * 64).view(1, 60, 64)
    image = tv_tensors.Image((image // 2**8).to(torch.uint8).repeat(3, 1, 1))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[20, 18, 44, 40]]), format="XYXY", canvas_size=(60, 64))
    moved = 0
    for seed in range(40):
        sample = {"image": image, "mask": tv_tensors.Mask(image[0].clone()), "boxes": boxes, "label": 3}
        output, alone = (seeded(transform, each, seed=seed)[0] for each in (sample, image))
        assert torch.equal(output["image"], alone)
        assert torch.equal(output["mask"], output["image"][0])
        assert type(output["mask"]) is tv_tensors.Mask
        assert output["boxes"].canvas_size == (60, 64)
        assert output["label"] == 3
        moved += not torch.equal(output["boxes"], boxes)
    assert moved > 30


def test_keypoints_and_boxes_go_where_torchvisions_functionals_put_them():
    points = tv_tensors.KeyPoints(torch.tensor([[10.0, 20.0], [30.0, 5.0]]), canvas_size=(60, 64))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[20.0, 18.0, 10.0, 12.0]]), format="XYWH", canvas_size=(60, 64))
    transform = only(transforms.RandAugment(num_ops=2, magnitude=15), "TranslateX")
    distance = int(float(torch.linspace(0.0, 150.0 / 331.0 * 64, 31)[15]))
    places = set()
    for seed in range(12):
        _, p, b = seeded(transform, (levels(3, 60, 64), points, boxes), seed=seed)[0]
        by = int(p[0, 0] - 10)
        assert by in (-2 * distance, 0, 2 * distance) or p[0, 0] == 0  # beyond the border it is at the border
        if by == 0:
            assert torch.equal(p, points)
            assert torch.equal(b, boxes)
        places.add(by)
    assert len(places) > 1


def test_augmix_refuses_what_has_no_place():
    sample = levels(3, 20, 20), tv_tensors.Mask(levels(1, 20, 20))
    with pytest.raises(TypeError, match="Inputs of type Mask are not supported by AugMix"):
        transforms.AugMix()(*sample)


@pytest.mark.parametrize("name", CLASSES)
def test_pickles(name):
    ours, theirs = both(name, {})
    assert_same_for_seeds(pickle.loads(pickle.dumps(ours)), theirs, levels(3, 30, 30), seeds=range(3))


def test_threads_do_not_move_each_others_masks():
    transform = only(transforms.RandAugment(num_ops=3, magnitude=20), *MOVES)
    image = tv_tensors.Image(levels(1, 40, 40))
    wrong = []

    def work():
        for _ in range(30):
            output, mask = transform(image, tv_tensors.Mask(image[0].clone()))
            wrong.append(not torch.equal(output[0], mask))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 120
    assert not any(wrong)
