"""``transfer.accelerate``: torchvision's functions answered by handgrad's, and put back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from transform_pipelines import assert_same, levels, native_levels

pytest.importorskip("torchvision", exc_type=ImportError)
import torchvision
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

import handgrad
from handgrad import transfer

REGISTRY = functional._utils._KERNEL_REGISTRY


def everything():
    """Whatever torchvision holds, by where it holds it."""
    found = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("torchvision"):
            found.update({(module_name, name): value for name, value in vars(module).items() if callable(value)})
    for function, kernels in REGISTRY.items():
        found.update({(function, kind): kernel for kind, kernel in kernels.items()})
    return found


def test_everything_is_put_back():
    before = everything()
    with transfer.accelerate() as accelerated:
        names = [place for place, value in everything().items() if before[place] is not value]
        assert ("torchvision.ops", "nms") in names
        assert ("torchvision.ops.poolers", "roi_align") in names
        assert ("torchvision.ops.boxes", "batched_nms") in names
        assert (functional.resize, torch.Tensor) in names
        assert "torchvision.ops.nms" in accelerated.functions
        assert "torchvision.transforms.v2.functional.resize" in accelerated.functions
        assert "  torchvision.ops.nms\n" in repr(accelerated)
    assert everything() == before
    assert repr(accelerated) == "handgrad answers 0 functions of torchvision's"
    accelerated.undo()
    assert everything() == before


def test_without_a_context_and_twice():
    before = everything()
    first = transfer.accelerate("torchvision.ops")
    inside = everything()
    second = transfer.accelerate("torchvision.ops")
    assert second.functions == []
    assert everything() == inside
    second.undo()
    assert everything() == inside
    first.undo()
    assert everything() == before
    outer, inner = transfer.accelerate("torchvision.transforms"), transfer.accelerate("torchvision.transforms")
    inner.undo()
    outer.undo()
    assert everything() == before


def test_after_an_error():
    before = everything()
    with pytest.raises(KeyError), transfer.accelerate():
        raise KeyError
    assert everything() == before


def test_detectors_and_metrics_get_ours():
    """They look it up when they call it."""
    calls = []
    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [1, 1, 9, 9]]), torch.tensor([0.5, 0.9])
    with transfer.accelerate("torchvision.ops"):
        assert torchvision.ops.nms is handgrad.boxes.nms
        assert torchvision.ops.boxes.batched_nms is handgrad.boxes.batched_nms
        pooler = torchvision.ops.MultiScaleRoIAlign(["0"], 2, 2)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            pooler({"0": torch.rand(1, 2, 8, 8)}, [boxes], [(16, 16)])
            torchvision.ops.batched_nms(boxes, scores, torch.zeros(2, dtype=torch.int64), 0.5)
        calls = [event.key for event in profile.key_averages()]
    assert "handgrad::roi_align" in calls
    assert not any(call.startswith("torchvision::") for call in calls)
    assert torchvision.ops.nms is not handgrad.boxes.nms


def test_pools_of_boxes_are_ours():
    """As functions, and inside torchvision's modules, which look them up when they are called."""
    image, boxes = torch.rand(1, 8, 9, 9), [torch.tensor([[0.0, 0, 6, 5], [1, 1, 8, 8]])]
    modules = {
        "roi_pool": torchvision.ops.RoIPool(2, 1.0),
        "ps_roi_align": torchvision.ops.PSRoIAlign(2, 1.0, -1),
        "ps_roi_pool": torchvision.ops.PSRoIPool(2, 1.0),
    }
    before = {name: module(image, boxes) for name, module in modules.items()}
    with transfer.accelerate("torchvision.ops") as accelerated:
        for name, module in modules.items():
            assert f"torchvision.ops.{name}" in accelerated.functions
            assert getattr(torchvision.ops, name) is getattr(handgrad.layers, name)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                torch.testing.assert_close(module(image, boxes), before[name])
            assert f"handgrad::{name}" in [event.key for event in profile.key_averages()]


@native_levels
def test_pipelines_get_ours():
    image, box = levels(3, 40, 50), {"top": 3, "left": 4, "height": 30, "width": 20}
    displacement = torch.rand(1, 40, 50, 2, generator=torch.Generator().manual_seed(0)) / 5
    calls = [
        lambda x: functional.resize(x, [20, 20]),
        lambda x: functional.resize(x, 13, interpolation="bicubic", antialias=False),
        lambda x: functional.resize(x, [13], max_size=17),
        lambda x: functional.resized_crop(x, **box, size=[9, 8]),
        lambda x: functional.resized_crop(x, -3, 40, 30, 20, [9, 8]),  # which is padded
        lambda x: functional.resize(x, [20, 20], interpolation="lanczos"),
        lambda x: v2.Resize(19)(x),
        lambda x: functional.resize(x.float(), [40, 50]),
        lambda x: functional.adjust_brightness(x, 1.3),
        lambda x: functional.adjust_contrast(x, contrast_factor=0.4),
        lambda x: functional.adjust_saturation(x, 0),
        lambda x: functional.adjust_hue(x, -0.2),
        lambda x: functional.adjust_sharpness(x, 1.9),
        lambda x: functional.adjust_sharpness(x, sharpness_factor=0),
        lambda x: functional.gaussian_blur(x, [5, 3], [1.5, 0.8]),
        lambda x: functional.gaussian_blur(x, kernel_size=1),
        lambda x: v2.ColorJitter(hue=(0.1, 0.1))(x),  # of several it draws an order
        lambda x: functional.elastic(x, displacement, fill=3),
        lambda x: functional.elastic(x, displacement, functional.InterpolationMode.NEAREST),
        lambda x: functional.posterize(x, bits=2),
        lambda x: functional.solarize(x, 100),
        lambda x: functional.solarize(x, threshold=-5),  # which torch takes for 251
        lambda x: functional.invert(x),
        lambda x: functional.autocontrast(x),
        lambda x: functional.equalize(x),
        lambda x: functional.erase(x, 3, 4, 20, 9, torch.tensor([7.5, 300.0, -1.0]).view(3, 1, 1)),
        lambda x: functional.erase(x, i=0, j=1, h=40, w=2, v=torch.tensor(9)),
    ]
    for call in calls:
        video = tv_tensors.Video(image.unsqueeze(0).unsqueeze(0))
        for value in (image, image.unsqueeze(0), tv_tensors.Image(image), video):
            expected = call(value)
            with transfer.accelerate("torchvision.transforms"):
                assert_same(call(value), expected)
    for channels in (1, 3):
        for value in (image, image[:1], tv_tensors.Image(image)):
            expected = functional.rgb_to_grayscale(value, channels)
            with transfer.accelerate("torchvision.transforms"):
                assert_same(functional.rgb_to_grayscale(value, channels), expected)
    with transfer.accelerate("torchvision.transforms"), pytest.raises(ValueError, match="is not non-negative"):
        functional.adjust_contrast(image, -1.0)
    picture = functional.to_pil_image(image)
    expected = functional.resize(picture, [9])
    with transfer.accelerate():
        assert_same(functional.resize(picture, [9]), expected)
    numbers = torch.rand(3, 9, 8)
    expected = functional.normalize(numbers, [0.5] * 3, [0.2] * 3)
    with transfer.accelerate("torchvision.transforms"):
        assert_same(functional.normalize(numbers, [0.5] * 3, [0.2] * 3), expected)
        with pytest.raises(ValueError, match="std evaluated to zero"):
            functional.normalize(numbers, [0.5] * 3, [0.0] * 3)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            v2.Compose([v2.RandomResizedCrop(8), v2.ToDtype(torch.float32, scale=True)])(image)
    assert "handgrad::resized_crop" in [event.key for event in profile.key_averages()]


def test_another_version(monkeypatch):
    """Of which handgrad does not know where things are: nothing is changed."""
    before = everything()
    with monkeypatch.context() as patch:
        patch.delitem(REGISTRY[functional.normalize], tv_tensors.Video)
        with pytest.raises(RuntimeError, match=r"of torchvision .* the kernels or the arguments of .*normalize"):
            transfer.accelerate()
    assert everything() == before

    def nms(boxes, scores, threshold):
        return None

    monkeypatch.setattr(torchvision.ops, "nms", nms)
    with transfer.accelerate("torchvision.ops") as accelerated:
        assert accelerated.left == ["torchvision.ops.nms"]
        assert torchvision.ops.nms is nms
        assert "left for its other arguments: torchvision.ops.nms" in repr(accelerated)


def test_error_messages():
    with pytest.raises(ValueError, match=r"accelerate: what must be 'torchvision', .* got 'timm'"):
        transfer.accelerate("timm")
    program = (
        "import sys; sys.modules['torchvision'] = None\nfrom handgrad import transfer\n"
        "try: transfer.accelerate()\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "accelerate needs torchvision, which is not installed: pip install 'handgrad[vision]'"
    )
