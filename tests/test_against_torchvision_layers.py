"""What torchvision asks of its layers, asked of ours through torchvision's own names, against plain
loops. The differences that stay are in docs/torchvision.md; each is a test here.
"""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swapped_torchvision import THEIRS, ops, random, swapped  # noqa: F401 (a fixture that is used of itself)


def in_another_order(tensor: Tensor) -> Tensor:
    """The same values, not contiguous."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


# ---- RoIAlign --------------------------------------------------------------------------------------------------------

ROIS = torch.tensor([[0, 0, 0, 9, 9], [0, 0, 5, 4, 9], [0, 5, 5, 9, 9], [1, 0, 0, 9, 9]], dtype=torch.float64)


def sample(image: Tensor, y: float, x: float) -> Tensor:
    """The image (channels, height, width) between its pixels: edges reach one pixel further out."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(image.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    row, column = min(int(y), height - 1), min(int(x), width - 1)
    below, right = min(row + 1, height - 1), min(column + 1, width - 1)
    top = image[:, row, column] * (1 - (x - column)) + image[:, row, right] * (x - column)
    bottom = image[:, below, column] * (1 - (x - column)) + image[:, below, right] * (x - column)
    return top * (1 - (y - row)) + bottom * (y - row)


def pooled_by_a_loop(images: Tensor, rois: Tensor, size: int, ratio: int, aligned: bool) -> Tensor:
    result = images.new_zeros(len(rois), images.shape[1], size, size)
    for k, (number, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner - (0.5 if aligned else 0.0) for corner in corners)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        rows, columns = (ratio if ratio > 0 else math.ceil(length / size) for length in (height, width))
        for p in range(size):
            for q in range(size):
                points = [
                    sample(
                        images[int(number)],
                        y1 + (p + (i + 0.5) / rows) * height / size,
                        x1 + (q + (j + 0.5) / columns) * width / size,
                    )
                    for i in range(rows)
                    for j in range(columns)
                ]
                result[k, :, p, q] = torch.stack(points).mean(0)
    return result


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("deterministic", [True, False])
def test_roi_align_is_the_loop(aligned, ratio, dtype, contiguous, deterministic):
    images = random(2, 10, 10, 10, dtype=dtype)
    images = images if contiguous else in_another_order(images)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        found = ops.roi_align(images, ROIS.to(dtype), 5, sampling_ratio=ratio, aligned=aligned)
        layer = ops.RoIAlign((5, 5), spatial_scale=1, sampling_ratio=ratio, aligned=aligned)
        assert torch.equal(layer(images, ROIS.to(dtype)), found)
    finally:
        torch.use_deterministic_algorithms(before)
    assert found.dtype is dtype
    expected = pooled_by_a_loop(images.double(), ROIS, 5, ratio, aligned)
    tolerance = 4e-3 if dtype is torch.float16 else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rois_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_roi_align_under_autocast_keeps_the_images_type(dtype, rois_dtype):
    images = random(2, 4, 10, 10).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ops.roi_align(images, ROIS.to(rois_dtype), 3, sampling_ratio=2, aligned=True)
    assert found.dtype is dtype
    expected = pooled_by_a_loop(images.double(), ROIS, 3, 2, True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("contiguous", [True, False])
def test_gradients_of_roi_align(contiguous):
    images = random(1, 3, 5, 5)
    images = (images if contiguous else in_another_order(images)).requires_grad_()
    rois = torch.tensor([[0, 0, 0, 4, 4], [0, 0, 2, 3, 4], [0, 2, 2, 4, 4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ops.roi_align(x, rois, 2, 1, 1), images)
    rois.requires_grad_()
    (output,) = torch.autograd.grad(ops.roi_align(images, rois, 2).sum(), rois, allow_unused=True)
    assert output is None  # as torchvision has it


def test_boxes_in_a_list_and_in_a_table_are_the_same():
    first, second = (random(count, 4, seed=count, dtype=torch.float32) * 8 for count in (3, 2))
    images = random(2, 3, 10, 10, dtype=torch.float32)
    table = ops._utils.convert_boxes_to_roi_format([first, second])
    assert torch.equal(ops.roi_align(images, [first, second], 2), ops.roi_align(images, table, 2))
    assert ops.RoIAlign([3, 3], 1.0, 2)(images, [first, second[:0]]).shape == (3, 3, 3, 3)


def test_boxes_of_another_shape_are_a_runtime_error_here():
    image = torch.rand(1, 1, 8, 8)
    for boxes in (torch.tensor([[0.0, 0, 3, 3]]), [torch.tensor([[0.0, 0, 3]])]):
        with pytest.raises(AssertionError):
            THEIRS["roi_align"](image, boxes, 2)
        with pytest.raises(
            RuntimeError, match=r"roi_align: boxes.* must have shape \(boxes, [45]\).*; got \(1, [34]\)"
        ):
            ops.roi_align(image, boxes, 2)


def test_roi_align_of_quantized_images_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.quantize_per_tensor(torch.rand(1, 1, 8, 8), 0.1, 0, torch.quint8)
        with pytest.raises(TypeError, match=r"roi_align: input must not be quantized; .* input.dequantize\(\)"):
            ops.roi_align(image, torch.tensor([[0.0, 0, 0, 4, 4]]), 2)


def test_the_pooler_of_several_scales():
    pooler = ops.MultiScaleRoIAlign(["low", "high"], output_size=3, sampling_ratio=2)
    assert "output_size=(3, 3)" in repr(pooler)
    maps = {"low": random(1, 4, 32, 32, dtype=torch.float32), "high": random(1, 4, 8, 8, dtype=torch.float32)}
    boxes = [torch.tensor([[4.0, 4, 60, 60], [0, 0, 127, 127], [10, 20, 30, 50]])]
    found = pooler(maps, boxes, [(128, 128)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops.poolers, "roi_align", THEIRS["roi_align"])
        torch.testing.assert_close(found, pooler(maps, boxes, [(128, 128)]))


def test_nodes_that_feature_extraction_sees():
    """One for the layer, one for each input."""
    names = pytest.importorskip("torchvision.models.feature_extraction").get_graph_node_names

    class OfTwo(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, a: Tensor, b: Tensor) -> None:
            self.layer(a, b)

    class OfThree(OfTwo):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> None:  # type: ignore[override]
            self.layer(a, b, c)

    layers = (
        (OfTwo(ops.RoIAlign(5, 1.0, -1)), 2),
        (OfThree(ops.DeformConv2d(4, 2, 3)), 3),
        (OfThree(ops.MultiScaleRoIAlign(["0"], 7, 2)), 3),
    )
    for module, inputs in layers:
        train, evaluation = names(module)
        assert len(train) == len(evaluation) == 1 + inputs


# ---- RoI pooling, and position-sensitive -----------------------------------------------------------------------------


def pooled_pixels_by_a_loop(images: Tensor, rois: Tensor, size: int, scale: float, position_sensitive: bool) -> Tensor:
    """The largest pixel of each bin; or the average of a bin's own channels, never of the last row and column."""
    channels, height, width = images.shape[1:]
    outputs = channels // size**2 if position_sensitive else channels
    result = images.new_zeros(len(rois), outputs, size, size)
    for k, (number, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(c * scale) + 0.5), c)) for c in corners)
        ends, last = (0, 1) if position_sensitive else (1, 0)
        tall, wide = max(y2 - y1 + ends, 1) / size, max(x2 - x1 + ends, 1) / size
        for c, p, q in itertools.product(range(outputs), range(size), range(size)):
            top, bottom = (min(max(y, 0), height - last) for y in (y1 + int(p * tall), y1 + math.ceil((p + 1) * tall)))
            left, right = (min(max(x, 0), width - last) for x in (x1 + int(q * wide), x1 + math.ceil((q + 1) * wide)))
            channel = (c * size + p) * size + q if position_sensitive else c
            pixels = images[int(number), channel, top:bottom, left:right]
            if pixels.numel():
                result[k, c, p, q] = pixels.mean() if position_sensitive else pixels.max()
    return result


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("name", ["roi_pool", "ps_roi_pool"])
def test_pools_of_whole_pixels_are_the_loop(name, contiguous):
    """torchvision's own tests compare at these boxes; and at ones with halves, beyond the image, and of no extent."""
    images = random(2, 18, 10, 10)
    images = images if contiguous else in_another_order(images)
    more = torch.tensor([[1, 2.5, 1.5, 6.5, 7.5], [0, -4, -3, 3, 20], [1, 3, 3, 3, 3], [0, 30, 30, 40, 40]])
    rois = torch.cat([ROIS, more.double()])
    layer = {"roi_pool": ops.RoIPool, "ps_roi_pool": ops.PSRoIPool}[name]((3, 3), spatial_scale=1.0)
    found = layer(images, rois)
    assert torch.equal(getattr(ops, name)(images, rois, 3, 1.0), found)
    torch.testing.assert_close(found, pooled_pixels_by_a_loop(images, rois, 3, 1.0, name == "ps_roi_pool"))
    torch.testing.assert_close(found, THEIRS[name](images, rois, 3, 1.0))


@pytest.mark.parametrize("ratio", [-1, 2])
def test_ps_roi_align_is_the_loop(ratio):
    images = random(2, 18, 10, 10)
    every = pooled_by_a_loop(images, ROIS, 3, ratio, True)
    bins = torch.arange(9).view(3, 3)
    expected = every.unflatten(1, (2, 9)).gather(2, bins.expand(len(ROIS), 2, 1, 3, 3))[:, :, 0]
    torch.testing.assert_close(ops.ps_roi_align(images, ROIS, 3, 1.0, ratio), expected)
    torch.testing.assert_close(ops.PSRoIAlign(3, 1.0, ratio)(images, [ROIS[:3, 1:], ROIS[3:, 1:]]), expected)


@pytest.mark.parametrize("name", ["roi_pool", "ps_roi_align", "ps_roi_pool"])
def test_gradients_of_pools(name):
    images = random(1, 8, 5, 5).requires_grad_()
    rois = torch.tensor([[0, 0, 0, 4, 4], [0, 0, 2, 3, 4], [0, 2, 2, 4, 4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: getattr(ops, name)(x, rois, 2), images)
    assert torch.autograd.gradgradcheck(lambda x: getattr(ops, name)(x, rois, 2), images)


# ---- deformable convolution ------------------------------------------------------------------------------------------

STRIDE, PADDING, DILATION, GROUPS, OFFSET_GROUPS, KERNEL = (2, 1), (1, 0), (2, 1), 2, 3, (3, 2)


def deform_arguments(batch: int, dtype: torch.dtype = torch.float64, contiguous: bool = True) -> dict[str, Tensor]:
    height, width = 5, 4
    out_h = (height + 2 * PADDING[0] - (DILATION[0] * (KERNEL[0] - 1) + 1)) // STRIDE[0] + 1
    out_w = (width + 2 * PADDING[1] - (DILATION[1] * (KERNEL[1] - 1) + 1)) // STRIDE[1] + 1
    taps = KERNEL[0] * KERNEL[1]
    made = {
        "input": random(batch, 6, height, width, seed=1),
        "offset": 2 * random(batch, 2 * OFFSET_GROUPS * taps, out_h, out_w, seed=2) - 1,
        "mask": random(batch, OFFSET_GROUPS * taps, out_h, out_w, seed=3),
        "weight": random(2, 6 // GROUPS, *KERNEL, seed=4) - 0.5,
        "bias": random(2, seed=5),
    }
    return {
        name: (tensor if contiguous or tensor.dim() < 2 else in_another_order(tensor)).to(dtype)
        for name, tensor in made.items()
    }


def deformed_by_a_loop(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    batch, channels, height, width = input.shape
    out_h, out_w = offset.shape[2:]
    group_channels, per_group = channels // GROUPS, weight.shape[0] // GROUPS
    result = bias[:, None, None].expand(batch, -1, out_h, out_w).clone()
    ranges = (batch, weight.shape[0], out_h, out_w, group_channels, *KERNEL)
    for n, o, i, j, c, u, v in itertools.product(*map(range, ranges)):
        channel = o // per_group * group_channels + c
        tap = channel // (channels // OFFSET_GROUPS) * KERNEL[0] * KERNEL[1] + u * KERNEL[1] + v
        y = float(i * STRIDE[0] - PADDING[0] + u * DILATION[0] + offset[n, 2 * tap, i, j])
        x = float(j * STRIDE[1] - PADDING[1] + v * DILATION[1] + offset[n, 2 * tap + 1, i, j])
        row, column, value = math.floor(y), math.floor(x), 0.0
        for r in (row, row + 1):
            for s in (column, column + 1):
                if 0 <= r < height and 0 <= s < width:
                    value += (1 - abs(y - r)) * (1 - abs(x - s)) * float(input[n, channel, r, s])
        factor = 1.0 if mask is None else float(mask[n, tap, i, j])
        result[n, o, i, j] += float(weight[o, c, u, v]) * factor * value
    return result


def deform(arguments: dict[str, Tensor], mask: bool, function: Any = None) -> Tensor:
    given = {name: tensor for name, tensor in arguments.items() if mask or name != "mask"}
    return (function or ops.deform_conv2d)(stride=STRIDE, padding=PADDING, dilation=DILATION, **given)


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_deform_conv2d_is_the_loop(batch, contiguous, mask):
    arguments = deform_arguments(batch, contiguous=contiguous)
    expected = deformed_by_a_loop(**{**arguments, "mask": arguments["mask"] if mask else None})
    torch.testing.assert_close(deform(arguments, mask), expected)
    low = {name: tensor.float() for name, tensor in arguments.items()}
    torch.testing.assert_close(deform(low, mask).double(), expected, rtol=2e-3, atol=2e-3)
    layer = ops.DeformConv2d(6, 2, KERNEL, STRIDE, PADDING, DILATION, GROUPS).double()
    with torch.no_grad():
        layer.weight.copy_(arguments["weight"])
        layer.bias.copy_(arguments["bias"])
    found = layer(arguments["input"], arguments["offset"], arguments["mask"] if mask else None)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("batch", [0, 2])
def test_gradients_of_deform_conv2d(batch):
    arguments = deform_arguments(batch, contiguous=False)
    names = list(arguments)
    for mask in (True, False):
        leaves = [arguments[name].detach().requires_grad_() for name in names if mask or name != "mask"]
        used = [name for name in names if mask or name != "mask"]
        assert torch.autograd.gradcheck(
            lambda *tensors, used=used, mask=mask: deform(dict(zip(used, tensors, strict=True)), mask),
            leaves,
            nondet_tol=0.0,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_deform_conv2d_under_autocast_keeps_the_inputs_type(dtype):
    arguments = deform_arguments(2, torch.float32)
    arguments["input"] = arguments["input"].to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert deform(arguments, True).dtype is dtype


def test_deform_conv2d_of_shapes_that_do_not_fit():
    """As torchvision's, a RuntimeError for each; but of a wrong type and a wrong shape ours names the type."""
    layer = ops.DeformConv2d(6, 2, KERNEL, STRIDE, PADDING, DILATION, GROUPS)
    arguments = deform_arguments(2, torch.float32)
    input, offset, mask = (arguments[name] for name in ("input", "offset", "mask"))
    for wrong, message in (
        ((input, offset[:, :-2], mask), "offset"),
        ((input, offset[:, :, 1:], mask), "offset must have shape"),
        ((input, offset, mask[:, :-1]), "mask"),
        ((input[:, :4], offset, mask), "weight|input"),
        ((input.double(), offset[:, :-2].double(), mask.double()), "dtype"),
    ):
        with pytest.raises(RuntimeError, match=message):
            layer(*wrong)
