"""Erasing, mixup, cutmix and mosaic: torchvision's pictures and draws, and what belongs to the images."""

from __future__ import annotations

import math
import pickle
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from handgrad.testing import reseeded
from handgrad.transforms import cutmix, erase, mixing, mixup, mosaic
from transform_pipelines import assert_same, assert_same_for_seeds, levels, seeded

pytestmark = pytest.mark.tiers("whole")

KINDS = (torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16)


def images(kind, *shape, seed=0):
    return levels(*shape, seed=seed) if kind is torch.uint8 else (levels(*shape, seed=seed) / 255).to(kind)


def packed(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


# ---- functions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("small", [False, True])
def test_erase_is_an_assignment(kind, small, monkeypatch):
    """Of any value that torch broadcasts and converts, into images of any rank and layout; by the kernel too."""
    monkeypatch.setattr(mixing, "is_small", lambda inpt: small)
    generator = reseeded(1)
    for case in range(40):
        height, width = torch.randint(2, 30, (2,), generator=generator).tolist()
        h, w = (int(torch.randint(1, side + 1, (), generator=generator)) for side in (height, width))
        i, j = (int(torch.randint(0, room + 1, (), generator=generator)) for room in (height - h, width - w))
        image = images(kind, 2, 3, height, width, seed=case)
        image = (image, packed(image), image[0], image.unsqueeze(0), image.transpose(2, 3).contiguous().mT)[case % 5]
        noise = 300 * torch.randn(3, h, w, generator=generator)
        for value in (
            torch.tensor(7.9),
            torch.tensor([1.0, 250.5, 1e5]).view(3, 1, 1),
            noise,
            noise[:1],
            noise.double(),
        ):
            expected = image.clone()
            expected[..., i : i + h, j : j + w] = value
            found = erase(image, i, j, h, w, value)
            assert torch.equal(found, expected)
            assert found.stride() == expected.stride() or case % 5 > 1
            copy = image.clone()
            assert erase(copy, i, j, h, w, value, inplace=True) is copy
            assert torch.equal(copy, expected)
        assert torch.equal(
            erase(image, i, j, h, w, [1, 0.5, 2]), erase(image, i, j, h, w, torch.tensor([[[1]], [[0.5]], [[2]]]))
        )
    special = erase(images(torch.float32, 1, 2, 2), 0, 0, 1, 1, torch.tensor(math.nan))
    assert special.isnan().sum() == 1
    assert erase(torch.zeros(0, 3, 4, 4), 0, 0, 2, 2, 1.0).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("small", [False, True])
def test_erase_has_slopes_of_both(small, monkeypatch):
    monkeypatch.setattr(mixing, "is_small", lambda inpt: small)
    image = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    value = torch.rand(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: erase(a, 1, 2, 2, 2, b), (image, value))
    assert torch.autograd.gradgradcheck(lambda a, b: erase(a, 1, 2, 2, 2, b).sin(), (image, value))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_mixup_is_torchvisions_sum(kind):
    """To the bit where torch computes in the images' type; half types and levels are rounded once."""
    for case, lam in enumerate((0.3, 0.0, 1.0, 0.123456789, 1 - 1e-9)):
        for shape in ((5, 3, 17, 23), (1, 1, 9, 9), (3, 2, 4, 7, 5)):
            batch = images(kind, *shape, seed=case)
            batch = packed(batch) if case % 2 and len(shape) == 4 else batch
            found = mixup(batch, lam)
            wide = batch.float() if kind not in (torch.float32, torch.float64) else batch
            expected = wide.roll(1, 0).mul_(1.0 - lam).add_(wide.mul(lam))
            assert torch.equal(found, expected.round().byte() if kind is torch.uint8 else expected.to(kind))


def test_each_image_has_a_lam_and_a_partner():
    batch, lam = images(torch.float32, 6, 3, 9, 8), torch.rand(6)
    partner = torch.tensor([3, 3, 0, 5, 4, 1])
    boxes = torch.tensor([[k, 2, 3, k + 1] for k in range(6)])
    mixed, cut = mixup(batch, lam, partner), cutmix(batch, boxes, partner)
    for n in range(6):
        pair = torch.stack([batch[n], batch[partner[n]]])
        assert torch.equal(mixed[n], mixup(pair, lam[n].double().item())[0])
        assert torch.equal(cut[n], cutmix(pair, boxes[n].tolist())[0])
    assert torch.equal(cutmix(batch, boxes[0]), cutmix(batch, boxes[0].tolist()))
    assert torch.equal(mixup(batch, torch.full((6,), 0.25)), mixup(batch, 0.25))


def test_infinity_is_mixed_as_numbers_are():
    batch = torch.tensor([math.inf, 1.0, math.nan]).view(3, 1, 1, 1)
    expected = batch.roll(1, 0) * 0.0 + batch * 1.0
    torch.testing.assert_close(mixup(batch, 1.0), expected, equal_nan=True)
    assert torch.equal(cutmix(batch, [0, 0, 0, 0])[:2], batch[:2])  # an opaque rectangle hides what is below


def test_a_mosaic_is_four_images_that_meet():
    """ultralytics' definition, written out; centers at and beyond the borders too."""
    generator = reseeded(3)
    for case in range(60):
        sizes = torch.randint(1, 14, (4, 2), generator=generator).tolist()
        four = [images(KINDS[case % 5], 3, *size, seed=k) for k, size in enumerate(sizes)]
        four = [image.movedim(0, 2).contiguous().movedim(2, 0) for image in four] if case % 2 else four
        y, x = torch.randint(-2, 22, (2,), generator=generator).tolist()
        expected = torch.full((3, 20, 18), 114.0)
        for k, (image, (h, w)) in enumerate(zip(four, sizes, strict=True)):
            top, left = (y - h if k < 2 else y), (x - w if k % 2 == 0 else x)
            for row in range(max(top, 0), min(top + h, 20)):
                for column in range(max(left, 0), min(left + w, 18)):
                    expected[:, row, column] = image[:, row - top, column - left].float()
        found = mosaic(four, (y, x), (20, 18))
        assert found.dtype is four[0].dtype
        assert torch.equal(found.float(), expected)


def test_a_mosaic_of_a_batch():
    batch, partners = images(torch.uint8, 5, 3, 7, 9), torch.randint(0, 5, (5, 4), generator=reseeded(2))
    centers = torch.randint(3, 16, (5, 2), generator=reseeded(3))
    found = mosaic(batch, centers, (14, 18), partners=partners)
    around = mosaic(batch, (7, 9), (14, 18), fill=[1, 2, 3])
    for n in range(5):
        assert torch.equal(found[n], mosaic([batch[k] for k in partners[n]], centers[n].tolist(), (14, 18)))
        assert torch.equal(around[n], mosaic([batch[(n + k) % 5] for k in range(4)], (7, 9), (14, 18)))


def test_error_messages():
    batch = torch.rand(3, 2, 4, 4)
    for error, said, call in (
        (RuntimeError, r"erase: inpt must be \(..., channels", lambda: erase(batch[0, 0], 0, 0, 1, 1, 0.0)),
        (RuntimeError, r"v must be a tensor that can be broadcast", lambda: erase(batch, 0, 0, 2, 2, torch.ones(3, 3))),
        (RuntimeError, "v must be a tensor that can be broadcast", lambda: erase(batch, 0, 0, 2, 2, [1.0] * 3)),
        (ValueError, "i must be", lambda: erase(batch, -1, 0, 2, 2, 0.0)),
        (RuntimeError, r"lam must be a number or \(3,\) of them; got \(2,\)", lambda: mixup(batch, torch.ones(2))),
        (ValueError, "lam must be a finite number", lambda: mixup(batch, math.nan)),
        (RuntimeError, r"partner must be \(3,\) indices", lambda: mixup(batch, 0.5, torch.zeros(2).long())),
        (RuntimeError, r"images must be \(batch, ..., channels", lambda: mixup(batch[0], 0.5)),
        (TypeError, "box must be top, left, height and width", lambda: cutmix(batch, [1, 2, 3])),
        (RuntimeError, r"box must be \(4,\) or \(batch, 4\) integers", lambda: cutmix(batch, torch.zeros(3, 4))),
        (TypeError, "images must be a batch, or four images", lambda: mosaic([batch[0]] * 3, (1, 1), 4)),
        (RuntimeError, "images must be .* each; got", lambda: mosaic([batch[0, 0]] * 4, (1, 1), 4)),
        (TypeError, "images must be uint8", lambda: mixup(batch.int(), 0.5)),
    ):  # fmt: skip
        with pytest.raises(error, match=said):
            call()


# ---- classes ---------------------------------------------------------------------------------------------------------

torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from handgrad import transforms  # noqa: E402


def assert_same_parameters(ours, theirs, image, seeds):
    """What both draw, and nothing more."""
    with torch.random.fork_rng(devices=[]):
        for seed in range(seeds):
            drawn = []
            for transform in (ours, theirs):
                torch.default_generator.manual_seed(seed)
                drawn.append((transform.make_params([image]), torch.default_generator.get_state()))
            assert_same(drawn[0], drawn[1], f"seed {seed}")


def test_three_thousand_seeds_erase_the_same(monkeypatch):
    monkeypatch.setattr(mixing, "is_small", lambda inpt: False)
    image = levels(3, 24, 31)
    for arguments in ({"p": 1.0}, {"p": 0.7, "value": "random"}, {"value": (1.0, 2.0, 300.0), "scale": (0.3, 1.0)}):
        ours, theirs = transforms.RandomErasing(**arguments), v2.RandomErasing(**arguments)
        assert_same_parameters(ours, theirs, image, 1000)
        assert_same_for_seeds(ours, theirs, image, seeds=range(60))


def test_what_is_hidden_is_there():
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[1, 1, 9, 9]]), format="XYXY", canvas_size=(20, 20))
    mask = tv_tensors.Mask(levels(1, 20, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = transforms.RandomErasing(1.0)(tv_tensors.Image(levels(3, 20, 20)), boxes, mask)
    assert not torch.equal(found[0], levels(3, 20, 20))
    assert found[1] is boxes
    assert found[2] is mask


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_three_thousand_seeds_mix_the_same(name):
    for alpha, labels, kind in (
        (1.0, torch.tensor([3, 0, 2]), lambda x: x),
        (0.2, torch.rand(3, 4), tv_tensors.Image),
        (4.0, torch.eye(4).long()[:3], lambda x: tv_tensors.Video(x.unsqueeze(1))),
    ):
        arguments = {"alpha": alpha, "num_classes": 4}
        ours, theirs = getattr(transforms, name)(**arguments), getattr(v2, name)(**arguments)
        assert isinstance(ours, getattr(v2, name))
        sample = {"image": kind(torch.rand(3, 2, 11, 13)), "labels": labels, "id": torch.arange(3)}
        assert_same_parameters(ours, theirs, sample["image"], 1000)
        assert_same_for_seeds(ours, theirs, sample, seeds=range(60))
    for wrong in (
        levels(2, 3, 4),
        [torch.rand(2, 1, 3, 3), torch.rand(2, 5)],
        [torch.rand(1, 1, 3, 3), torch.zeros(2)],
    ):
        said = []
        for transform in (ours, theirs):
            with pytest.raises((ValueError, TypeError)) as caught:
                transform(wrong)
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_levels_are_mixed_too():
    """torchvision's refuses them."""
    batch, labels = levels(4, 3, 9, 8), torch.arange(4)
    found, soft = seeded(transforms.MixUp(num_classes=4), batch, labels, seed=2)[0]
    lam = soft[0, 0].item()
    torch.testing.assert_close(found.float(), mixup(batch.float(), lam).round(), rtol=0, atol=1)
    assert found.dtype is torch.uint8


@pytest.mark.parametrize(
    "kind", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.float32], ids=str
)
@pytest.mark.parametrize("per_image", [False, True])
def test_masks_are_cut_as_images_are(kind, per_image):
    """torchvision's refuses them (vision#9215)."""
    classes = levels(5, 9, 8).to(kind)
    for masks in (tv_tensors.Mask(classes), tv_tensors.Mask(classes.unsqueeze(1))):
        batch = masks.reshape(5, 1, 9, 8).as_subclass(torch.Tensor).double()
        cut = transforms.CutMix(num_classes=5, per_image=per_image)
        for seed in range(10):
            image, labels, mask = seeded(cut, batch, torch.arange(5), masks, seed=seed)[0]
            assert torch.equal(image.reshape(mask.shape).to(kind), mask)
            assert type(mask) is tv_tensors.Mask
            torch.testing.assert_close(labels.sum(1), torch.ones(5))
            alone = seeded(transforms.CutMix(per_image=per_image), batch, masks, seed=seed)[0]
            assert_same(alone, (image, mask))


@pytest.mark.parametrize("per_image", [False, True])
def test_masks_become_soft_as_labels_do(per_image):
    classes = torch.randint(0, 4, (5, 9, 8), generator=reseeded(1))
    classes[:, 0] = 255  # none
    mix = transforms.MixUp(num_classes=4, per_image=per_image)
    # Labels of images whose pixels all are of one class are their masks.
    flat = torch.arange(4).view(4, 1, 1).expand(4, 9, 8)
    _, labels, masks = mix(torch.rand(4, 3, 9, 8), torch.arange(4), tv_tensors.Mask(flat))
    torch.testing.assert_close(masks.as_subclass(torch.Tensor), labels[:, :, None, None].expand(4, 4, 9, 8))
    _, masks = mix(torch.rand(5, 3, 9, 8), tv_tensors.Mask(classes.unsqueeze(1)))
    assert masks.shape == (5, 4, 9, 8)
    assert masks[:, :, 0].eq(0).all()
    torch.testing.assert_close(masks[:, :, 1:].sum(1), torch.ones(5, 8, 8))
    soft = tv_tensors.Mask(torch.rand(5, 4, 9, 8))
    image, mask = mix(soft.as_subclass(torch.Tensor).clone(), soft)
    assert torch.equal(image, mask.as_subclass(torch.Tensor))
    with pytest.raises(ValueError, match="num_classes must be given"):
        transforms.MixUp()(torch.rand(5, 3, 9, 8), tv_tensors.Mask(classes))


def targets(count, height, width, format="XYXY"):
    """A box an object, with the mask that it is the box of, and a label that is its number."""
    made = []
    for n in range(count):
        generator = reseeded(n)
        masks = torch.zeros(n, height, width, dtype=torch.bool)
        for k in range(n):
            y, x = (int(torch.randint(0, side - 2, (), generator=generator)) for side in (height, width))
            masks[k, y : y + 2 + 3 * k, x : x + 3 + 2 * n] = True
        labels = 10 * n + torch.arange(n)
        made.append(
            {"boxes": boxes_of(masks, format), "labels": labels, "masks": tv_tensors.Mask(masks), "image_id": n}
        )
    return made


def boxes_of(masks, format="XYXY"):
    rows = [
        [*(found := mask.nonzero()).amin(0).flip(0).tolist(), *(found.amax(0) + 1).flip(0).tolist()] for mask in masks
    ]
    boxes = tv_tensors.BoundingBoxes(torch.tensor(rows).reshape(-1, 4), format="XYXY", canvas_size=masks.shape[-2:])
    return v2.functional.convert_bounding_box_format(boxes, new_format=format)


@pytest.mark.parametrize("name", ["MixUp", "CutMix", "Mosaic"])
@pytest.mark.parametrize("format", ["XYXY", "XYWH"])
def test_boxes_are_those_of_what_is_seen(name, format):
    """Rectangles' masks are cut with the images; each box that is left is the box of its mask, and has its label."""
    height, width, count = 21, 25, 6
    given = targets(count, height, width, format)
    batch = levels(count, 3, height, width)
    for seed in range(30):
        if name == "Mosaic":
            transform = transforms.Mosaic((height, width))
            found = seeded(transform, list(zip(batch, given, strict=True)), seed=seed)[0]
            made, sides = [target for _, target in found], (2 * height, 2 * width)
        else:
            transform = getattr(transforms, name)(per_image=seed % 2 == 1)
            (_, made), sides = seeded(transform, batch, given, seed=seed)[0], (height, width)
        for n, target in enumerate(made):
            boxes, masks, labels = target["boxes"], target["masks"], target["labels"]
            assert len(boxes) == len(masks) == len(labels)
            assert boxes.canvas_size == sides == tuple(masks.shape[-2:])
            assert boxes.format.value == format
            assert target["image_id"] == n
            assert torch.equal(
                boxes.as_subclass(torch.Tensor),
                boxes_of(masks.as_subclass(torch.Tensor), format).as_subclass(torch.Tensor),
            )
            if name == "MixUp":
                assert labels.unique().numel() == len(labels) >= n


def test_images_in_a_list_and_keypoints():
    place = torch.tensor([[1.0, 2.0]])
    points = [
        {"points": tv_tensors.KeyPoints(place, canvas_size=(8, 9)), "labels": torch.tensor([n])} for n in range(4)
    ]
    pictures = [tv_tensors.Image(levels(3, 8, 9, seed=n)) for n in range(4)]
    found, made = transforms.MixUp()(pictures, points)
    assert [type(image) for image in found] == [tv_tensors.Image] * 4
    assert made[0]["points"].shape == (2, 2)
    moved = transforms.Mosaic((8, 9)).of_four(list(zip(pictures, points, strict=True)), (8, 9))
    assert moved[1]["points"].tolist() == [[1, 2], [10, 2], [1, 10], [10, 10]]
    assert torch.equal(moved[0][:, 8:, 9:], pictures[3])
    with pytest.raises(ValueError, match="images must be tensors of one size"):
        transforms.MixUp()([levels(3, 8, 9), levels(3, 8, 8)], points[:2])
    with pytest.raises(ValueError, match="there must be a target for each image; got 3"):
        transforms.CutMix()(pictures, points[:3])
    with pytest.raises(ValueError, match="must be of one structure"):
        transforms.CutMix()(pictures, [*points[:3], {}])
    with pytest.raises(ValueError, match="boxes and keypoints must be in a list of targets"):
        transforms.CutMix()({"images": levels(4, 3, 8, 9), "points": points[0]["points"]})


def test_masks_of_images_in_a_mosaic():
    samples = [(tv_tensors.Image(levels(3, 6 + n, 9 - n)), tv_tensors.Mask(torch.full((6 + n, 9 - n), n + 1)))
               for n in range(4)]  # fmt: skip
    image, mask = transforms.Mosaic(8, mask_fill=255).of_four(samples, (7, 8))
    assert mask.dtype is torch.int64
    assert image.shape[-2:] == mask.shape == (16, 16)
    assert mask[:, 1].tolist() == [255] * 1 + [1] * 6 + [3] * 8 + [255]
    assert torch.equal(mask.as_subclass(torch.Tensor) == 255, image.eq(114).all(0))


def test_a_mosaic_draws_what_it_says():
    samples = [levels(3, 8, 8, seed=n) for n in range(5)]
    with torch.random.fork_rng(devices=[]):
        for seed in range(20):
            found, *after = seeded(transforms.Mosaic(8, p=0.5), samples, seed=seed)
            torch.default_generator.manual_seed(seed)
            for n, image in enumerate(samples):
                if torch.rand(1) >= 0.5:
                    assert found[n] is image
                    continue
                others = torch.randint(5, (3,)).tolist()
                center = [int(torch.randint(4, 12, ())) for _ in range(2)]
                assert torch.equal(found[n], mosaic([image, *(samples[k] for k in others)], center, 16))
            assert torch.rand(1).item() == after[0]
    for error, said, call in (
        (TypeError, "samples must be a list", lambda: transforms.Mosaic(8)(levels(3, 8, 8))),
        (TypeError, "must have an image that is a tensor", lambda: transforms.Mosaic(8)([3])),
        (ValueError, "there must be four samples; got 1", lambda: transforms.Mosaic(8).of_four([samples[0]])),
        (ValueError, "p must be", lambda: transforms.Mosaic(8, p=2)),
    ):
        with pytest.raises(error, match=said):
            call()


class Collate:
    """As a script of training has it."""

    def __init__(self):
        self.mosaic, self.mix = transforms.Mosaic(8), transforms.CutMix(num_classes=9, per_image=True)

    def __call__(self, samples):
        pictures = default_collate([image for image, _ in self.mosaic(samples)])
        return self.mix(pictures, torch.tensor([label for _, label in samples]))


def test_workers_and_pickles():
    samples = [(levels(3, 8, 8, seed=n), n) for n in range(9)]
    found = []
    for workers in (0, 0, 1):
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(samples, 3, collate_fn=Collate(), num_workers=workers, generator=generator)
        torch.manual_seed(4)
        found.append([*loader])
    assert_same(found[0], found[1])
    assert [image.shape for image, _ in found[2]] == [(3, 3, 16, 16)] * 3
    for transform in (transforms.RandomErasing(), transforms.MixUp(per_image=True), transforms.Mosaic(8)):
        assert repr(pickle.loads(pickle.dumps(transform))) == repr(transform)
