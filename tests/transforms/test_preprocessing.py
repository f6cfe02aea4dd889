"""``transfer.accelerate`` of an image processor of transformers and of timm's loader: the same numbers, in one pass."""

from __future__ import annotations

import json
import pickle

import numpy
import pytest
import torch

pytest.importorskip("torchvision", exc_type=ImportError)
transformers = pytest.importorskip("transformers", exc_type=ImportError)
backends = pytest.importorskip("transformers.image_processing_backends", exc_type=ImportError)
timm_loader = pytest.importorskip("timm.data.loader", exc_type=ImportError)
from PIL import Image  # noqa: E402

from handgrad import transfer  # noqa: E402
from handgrad.transforms import _preprocessing as preprocessing  # noqa: E402

FUSED = "_preprocess"
STEPS = "resize and rescale_and_normalize"


def pictures():
    generator = numpy.random.default_rng(0)
    sizes = ((70, 90), (90, 70), (41, 50), (70, 90))
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=numpy.uint8)) for size in sizes]


@pytest.mark.parametrize(
    ("kind", "answers", "options"),
    [
        ("ViTImageProcessor", FUSED, {"size": {"height": 24, "width": 20}}),
        ("ViTImageProcessor", FUSED, {"size": {"height": 24, "width": 20}, "do_normalize": False}),
        ("ViTImageProcessor", FUSED, {"size": {"height": 24, "width": 20}, "do_rescale": False}),
        ("ViTImageProcessor", FUSED, {"do_resize": False}),
        ("ViTImageProcessor", FUSED, {"size": {"height": 24, "width": 20}, "resample": 0}),
        ("ViTImageProcessor", FUSED, {"size": {"height": 24, "width": 20}, "rescale_factor": 1 / 128}),
        ("CLIPImageProcessor", FUSED, {"size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}}),
        ("CLIPImageProcessor", FUSED, {"size": {"shortest_edge": 16}, "crop_size": {"height": 24, "width": 24}}),
        ("SiglipImageProcessor", FUSED, {"size": {"height": 24, "width": 24}}),
        ("BeitImageProcessor", STEPS, {"size": {"height": 32, "width": 28}}),
        ("DetrImageProcessor", "rescale_and_normalize", {"size": {"shortest_edge": 32, "longest_edge": 40}}),
    ],
)
def test_a_processor_gives_its_own_numbers(kind, answers, options):
    processor, images = getattr(transformers, kind)(**options), pictures()
    original, saved = type(processor), processor.to_json_string()
    call = {} if options.get("do_resize") is False else {"return_tensors": "pt"}
    before = processor(images, **call)
    with transfer.accelerate(processor) as accelerated:
        assert accelerated.functions == [f"{original.__module__}.{kind}: {answers}"]
        assert f"handgrad answers 1 function of transformers's\n  {original.__module__}" in repr(accelerated)
        assert type(processor) is not original
        assert processor.to_json_string() == saved
        after = processor(images, **call)
        again = pickle.loads(pickle.dumps(processor))
        assert type(again) is type(processor)
        assert json.loads(again.to_json_string()) == json.loads(saved)
    assert type(processor) is original
    assert list(after) == list(before)
    for found, expected in zip(after["pixel_values"], before["pixel_values"], strict=True):
        assert found.dtype is expected.dtype
        assert torch.equal(found, expected)


def test_what_the_kernel_does_not_compute_is_left_to_them():
    """Lanczos and float64, and a list of images in which one is of another type."""
    for options in ({"resample": 1}, {"rescale_factor": 0.01, "do_normalize": False}):
        processor = transformers.ViTImageProcessor(size={"height": 24, "width": 20}, **options)
        before = processor(pictures(), return_tensors="pt")["pixel_values"]
        with transfer.accelerate(processor):
            assert torch.equal(processor(pictures(), return_tensors="pt")["pixel_values"], before)
    numbers = [torch.rand(3, 30, 40, dtype=torch.float64), torch.rand(3, 30, 40)]
    processor = transformers.ViTImageProcessor(size={"height": 24, "width": 20}, do_rescale=False)
    before = [processor(image)["pixel_values"][0] for image in numbers]
    with transfer.accelerate(processor):
        for image, expected in zip(numbers, before, strict=True):
            torch.testing.assert_close(processor(image)["pixel_values"][0], expected, rtol=0, atol=1e-5)


def test_the_kernel_is_called_once_for_an_image(monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return kernel(*args, **kwargs)

    kernel = preprocessing.resized_crop
    monkeypatch.setattr(preprocessing, "resized_crop", counted)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 24, "width": 24})
    with transfer.accelerate(processor):
        processor(pictures(), return_tensors="pt")
    assert len(calls) == len(pictures())


class OfItsOwn(backends.TorchvisionBackend):
    def _preprocess(self, images, **kwargs):
        raise NotImplementedError

    def resize(self, image, size, resample=None, antialias=True, **kwargs):
        raise NotImplementedError

    def rescale(self, image, scale, **kwargs):
        raise NotImplementedError


def test_refusals(monkeypatch):
    with pytest.raises(RuntimeError, match="OfItsOwn has _preprocess, rescale, resize of its own"):
        transfer.accelerate(OfItsOwn())
    with pytest.raises(TypeError, match="ViTImageProcessorPil computes with Pillow"):
        transfer.accelerate(transformers.ViTImageProcessorPil())
    with pytest.raises(
        TypeError, match=r"must be a string, an image processor .* or a PrefetchLoader of timm; got int"
    ):
        transfer.accelerate(3)
    processor = transformers.ViTImageProcessor()
    with transfer.accelerate(processor), pytest.raises(RuntimeError, match="accelerated before"):
        transfer.accelerate(processor)
    monkeypatch.setitem(preprocessing._METHODS, "resize", "image size")
    with pytest.raises(RuntimeError, match=r"does not know the arguments of TorchvisionBackend\.resize"):
        transfer.accelerate(processor)


# ---- timm ------------------------------------------------------------------------------------------------------------


def batches(dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 8, 9), dtype=torch.uint8, generator=generator).to(dtype)
    data = torch.utils.data.TensorDataset(images, torch.arange(5))
    return torch.utils.data.DataLoader(data, batch_size=2)


def prefetched(loader, **options):
    return timm_loader.PrefetchLoader(loader, device=torch.device("cpu"), **options)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_timms_loader_gives_its_own_numbers(dtype):
    before = list(prefetched(batches(dtype)))
    loader = prefetched(batches(dtype))
    inner = loader.loader
    with transfer.accelerate(loader) as accelerated:
        assert accelerated.functions == ["timm.data.loader.PrefetchLoader.__iter__"]
        assert (len(loader), loader.dataset) == (3, inner.dataset)
        assert not loader.mixup_enabled
        after = list(pickle.loads(pickle.dumps(loader)))
        with pytest.raises(RuntimeError, match="accelerated before"):
            transfer.accelerate(loader)
    assert loader.loader is inner
    for (images, target), (expected, labels) in zip(after, before, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(target, labels)


def test_half_of_timms_loader_is_rounded_once():
    loader = prefetched(batches(), img_dtype=torch.bfloat16)
    exact = [images for images, _ in prefetched(batches())]
    with transfer.accelerate(loader):
        for (images, _), expected in zip(loader, exact, strict=True):
            # timm keeps the mean itself as bfloat16.
            means = torch.tensor(loader.loader.mean)[:, None, None], torch.tensor(loader.loader.std)[:, None, None]
            assert images.dtype is torch.bfloat16
            torch.testing.assert_close(images.float(), expected, rtol=0.02, atol=0.02)
            levels = expected * (torch.tensor(timm_loader.IMAGENET_DEFAULT_STD) * 255)[:, None, None]
            levels = (levels + (torch.tensor(timm_loader.IMAGENET_DEFAULT_MEAN) * 255)[:, None, None]).round()
            assert torch.equal(images, ((levels - means[0]) / means[1]).bfloat16())


def test_another_version_of_timm(monkeypatch):
    monkeypatch.setattr(preprocessing, "_STATEMENT", "next_input.normalised()")
    with pytest.raises(RuntimeError, match="does not know how PrefetchLoader goes on"):
        transfer.accelerate(prefetched(batches()))
