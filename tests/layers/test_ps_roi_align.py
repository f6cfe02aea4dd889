"""Position-sensitive RoIAlign: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.layers import PSRoIAlign, ps_roi_align
from handgrad.layers.ps_roi_align import ps_roi_align_reference
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision", reason="torchvision does not load beside this torch")


def reference(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1):
    pooled_h, pooled_w = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    computed = torch.float64 if input.dtype is torch.float64 else torch.float32
    return ps_roi_align_reference(input, boxes.to(computed), pooled_h, pooled_w, spatial_scale, max(sampling_ratio, 0))


def sample(name, input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, dtype=torch.float64, seed=0):
    image = torch.randn(input, dtype=torch.float64, generator=reseeded(seed)).to(dtype)
    kwargs = {"output_size": output_size, "spatial_scale": spatial_scale, "sampling_ratio": sampling_ratio}
    return Sample(name, (image, torch.tensor(boxes)), kwargs)


def many_boxes(count, images, size, seed=0):
    """Of whole numbers, in and around images of ``size``."""
    generator = reseeded(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor(size[::-1]) * 1.3 - 3
    high = low + torch.rand(count, 2, generator=generator) * torch.tensor(size[::-1])
    number = torch.arange(count)[:, None] % images
    return torch.cat([number, low.long(), high.long()], 1).tolist()


def bins_look_at_their_own_channels():
    image = torch.randn(2, 3 * 6, 9, 8, dtype=torch.float64, generator=reseeded())
    boxes = torch.tensor([[0, 1, 0, 7, 6], [1, 2, 3, 5, 9], [0, -2, 4, 3, 12]])
    output = ps_roi_align(image, boxes, (2, 3), 1.0, 2)
    for p in range(2):
        for q in range(3):
            channels = image[:, p * 3 + q :: 6].repeat_interleave(6, 1)
            torch.testing.assert_close(output[:, :, p, q], ps_roi_align(channels, boxes, (2, 3), 1.0, 2)[:, :, p, q])


def a_ramp_gives_the_bins_centres():
    image = torch.arange(12.0, dtype=torch.float64).expand(1, 8, 9, 12)
    boxes = torch.tensor([[0, 2.2, 1.1, 8.6, 6.3]], dtype=torch.float64)
    centres = 2.2 + (torch.arange(4, dtype=torch.float64) + 0.5) * 6.4 / 4 - 0.5
    torch.testing.assert_close(ps_roi_align(image, boxes, (2, 4))[0, 0], centres.expand(2, 4))


def numel_beyond_int32():
    # One pixel for all of a channel: hardly anything but the output is in memory, 4.4 GB of it.
    side, channels, count = 1021, 33, 64
    of_channels = torch.arange(1.0, channels + 1).bfloat16().repeat_interleave(side**2)
    image = of_channels.view(1, -1, 1, 1).expand(1, -1, 3, 3)
    output = ps_roi_align(image, torch.tensor([[0, 0, 0, 2, 2]]).expand(count, 5), side)
    assert output.numel() > 2**31
    for channel in range(channels):
        assert output[:: count - 1, channel].flatten()[:: 2**11 + 1].eq(channel + 1).all()
        assert output[-1, channel, -1, -1] == channel + 1


IMAGE = torch.randn(3, 8, 5, 6, generator=reseeded())
BOXES = torch.tensor([[0, 1, 1, 4, 3], [1, 0, 2, 5, 4], [2, -3, -1, 2, 2]])


def floor(sample):
    """Boxes and results in bytes: how many pixels are read, the boxes say."""
    image, boxes = sample.tensors
    results = ps_roi_align(*sample.tensors, **sample.kwargs)
    of_bins = (boxes.numel() + results.numel()) * image.element_size()
    return {"forward": of_bins, "backward": of_bins + image.numel() * image.element_size(), "double_backward": of_bins}


SPEC = OpSpec(
    name="ps_roi_align",
    operator="handgrad::ps_roi_align",
    function=ps_roi_align,
    reference=reference,
    module=PSRoIAlign,
    samples=[
        sample("plain", (2, 8, 5, 3), [[0, 1, 0, 5, 9], [1, -4, 3, 3, 8]], (2, 2), 0.5, 2),
        sample("adaptive", (1, 6, 4, 5), [[0, 1, 2, 9, 9], [0, 27, 27, 29, 29], [0, 7, 5, 2, 2]], (1, 3), 0.25, seed=1),
    ],
    large=sample(
        "large",
        (3, 5 * 12, 23, 29),
        many_boxes(17, 3, (46, 58)),
        (4, 3),
        spatial_scale=0.5,
        sampling_ratio=2,
        dtype=torch.float32,
        seed=3,
    ),
    empty=[
        Sample(
            "no_boxes", (IMAGE.double(), torch.zeros(0, 5, dtype=torch.int64)), {"output_size": 2, "sampling_ratio": 2}
        ),
        Sample(
            "no_images",
            (torch.zeros(0, 8, 5, 6, dtype=torch.float64), torch.zeros(0, 5, dtype=torch.int64)),
            {"output_size": (2, 4), "sampling_ratio": 2},
        ),
        Sample(
            "no_channels",
            (torch.zeros(3, 0, 5, 6, dtype=torch.float64), BOXES),
            {"output_size": (2, 3), "sampling_ratio": 2},
        ),
    ],
    bad=[
        Bad(
            "output_size",
            lambda: ps_roi_align(IMAGE, BOXES, 0),
            ValueError,
            "output_size must be .* at least 1.*; got 0",
        ),
        Bad(
            "scale", lambda: ps_roi_align(IMAGE, BOXES, 2, -1.0), ValueError, "spatial_scale must be .* greater than 0"
        ),
        Bad(
            "sampling",
            lambda: ps_roi_align(IMAGE, BOXES, 2, 1.0, 1.5),
            TypeError,
            "sampling_ratio must be a whole number",
        ),
        Bad("rank", lambda: ps_roi_align(IMAGE[0], BOXES, 2), RuntimeError, r"input must have 4 dim.* \(8, 5, 6\)"),
        Bad(
            "channels",
            lambda: ps_roi_align(IMAGE, BOXES, 3),
            RuntimeError,
            r"multiple of .*, here of 9; got \(3, 8, 5, 6\)",
        ),
        Bad(
            "columns",
            lambda: ps_roi_align(IMAGE, BOXES[:, 1:], 2),
            RuntimeError,
            r"boxes must have shape \(boxes, 5\).*\(3, 4\)",
        ),
        Bad(
            "wide", lambda: ps_roi_align(IMAGE, BOXES.double(), 2), TypeError, "boxes must be of float32.*; got float64"
        ),
        Bad(
            "list_length",
            lambda: ps_roi_align(IMAGE, [BOXES[:, 1:]], 2),
            ValueError,
            "boxes must be one tensor for each .* 3; got 1",
        ),
        Bad(
            "no_pixels",
            lambda: ps_roi_align(IMAGE[:, :, :0], BOXES, 2),
            RuntimeError,
            "input must have at least one pixel",
        ),
        Bad("module", lambda: PSRoIAlign(0, 1.0), ValueError, "output_size must be"),
    ],
    identities={"channels": bins_look_at_their_own_channels, "ramp": a_ramp_gives_the_bins_centres},
    numel_beyond_int32=numel_beyond_int32,
    # Boxes of whole numbers in the type that input is computed in, by the forward and by the backward.
    saves=2 * (17 * 5 * 4),
    rows=("images", "boxes"),
    # Boxes over devices that all have the images.
    shards=[((None, 0), 0)],
    lenient={
        # Boxes may be whole numbers, as the samples', which have no gradient.
        "boxes": lambda value: isinstance(value, torch.Tensor) and value.dtype is not torch.bool,
        "sampling_ratio": lambda value: isinstance(value, int) and value <= 0,
    },
    tolerances={
        # A coordinate of 40 pixels is rounded by 4e-6, and its distance from a pixel, a weight, is wrong by as much.
        torch.float32: (1.3e-5, 1e-4),
    },
    floor=floor,
    # A bin of this sample has about a dozen pixels.
    floor_factors={"forward": 14.5, "backward": 1.3, "double_backward": 14.5},
)

test_matrix = matrix(SPEC)


# ---- beside torchvision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 2])
def test_equals_torchvision(torchvision, sampling_ratio, dtype, channels_last):
    """Boxes that reach out of the image, lie outside, are a point, or are inside out; halves."""
    generator = reseeded(sampling_ratio + 1)
    boxes = torch.rand(60, 5, dtype=dtype, generator=generator) * torch.tensor([2, 60, 40, 60, 40], dtype=dtype)
    boxes[:, 3:] = boxes[:, 1:3] + boxes[:, 3:] * torch.rand(60, 1, dtype=dtype, generator=generator)
    boxes[:, 0] = boxes[:, 0].floor()
    boxes[:5, 1:] = boxes[:5, 1:].sub(20).mul(2)
    boxes[5:8, 3:] = boxes[5:8, 1:3]
    boxes[8:11, 1:] = boxes[8:11, 1:].roll(2, 1)
    boxes[12, 1:] = torch.tensor([100, 100, 120, 140])
    boxes[13:30, 1:] = boxes[13:30, 1:].floor() + 0.5
    image = torch.randn(2, 7 * 12, 20, 33, dtype=dtype, generator=generator)
    if channels_last:
        image = image.to(memory_format=torch.channels_last)
    image.requires_grad_()
    results = []
    for function in (ps_roi_align, torchvision.ops.ps_roi_align):
        output = function(image, boxes, (4, 3), 0.5, sampling_ratio)
        expected_shape = (60, 7, 4, 3)
        assert output.shape == expected_shape
        direction = torch.randn(expected_shape, dtype=dtype, generator=reseeded(1)) * output.detach().isfinite()
        (grad,) = torch.autograd.grad(output, image, direction)
        results.append([output.detach(), grad])
    ours, theirs = results
    # Of a box without area, looked at as often as it has pixels, torchvision makes 0 / 0.
    ours[0][theirs[0].isnan()] += theirs[0][theirs[0].isnan()]
    theirs[1][theirs[1].isnan()] = ours[1][theirs[1].isnan()]
    tolerance = {"rtol": 1e-4, "atol": 2e-4} if dtype is torch.float32 else {}
    torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)
    assert all(result.is_contiguous(memory_format=torch.channels_last) for result in ours) or not channels_last


def test_lists_and_modules_equal_torchvisions(torchvision):
    image = torch.randn(3, 12, 9, 8, generator=reseeded())
    boxes = [torch.rand(count, 4, generator=reseeded(count)) * 5 + torch.tensor([0, 0, 7, 7]) for count in (2, 0, 3)]
    theirs, pool = torchvision.ops.PSRoIAlign((3, 2), 0.5, 2), PSRoIAlign((3, 2), 0.5, 2)
    for given in (boxes, tuple(boxes)):
        torch.testing.assert_close(pool(image, given), theirs(image, boxes))
    assert repr(pool) == repr(theirs)


def test_boxes_have_no_gradient():
    image, boxes = IMAGE.clone().requires_grad_(), BOXES.float().requires_grad_()
    ps_roi_align(image, boxes, 2).sum().backward()
    assert boxes.grad is None
    assert not ps_roi_align(IMAGE, boxes, 2).requires_grad


# ---- pixels and boxes of every kind ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_boxes_that_are_nowhere(bad):
    """NaN in that box, and in nothing else."""
    image = torch.randn(2, 8, 6, 5, generator=reseeded(), requires_grad=True)
    good = torch.tensor([[0, 1.0, 1, 4, 4], [1, 0.5, 0.5, 3, 5]])
    (expected,) = torch.autograd.grad(ps_roi_align(image, good, 2).sum(), image)
    for column in range(1, 5):
        boxes = torch.cat([good[:1], good]).clone()
        boxes[0, column] = bad
        output = ps_roi_align(image, boxes, 2)
        assert output[0].isnan().all()
        torch.testing.assert_close(output[1:], ps_roi_align(image, good, 2))
        torch.testing.assert_close(torch.autograd.grad(output.nansum(), image)[0], expected)


@pytest.mark.parametrize("size", [1e5, 1e19, 3e37])
def test_huge_boxes_end(size):
    image = torch.ones(1, 8, 6, 5, requires_grad=True)
    output = ps_roi_align(
        image, torch.tensor([[0, -size / 2, -size / 2, size / 3, size / 3], [0, size / 4, 0, size, 3]]), 2
    )
    assert ((output >= 0) & (output <= 1 + 1e-6)).all()
    assert output[1].eq(0).all()
    assert torch.autograd.grad(output.sum(), image)[0].isfinite().all()


def test_pixels_that_are_not_finite_stay_where_they_are():
    image = torch.randn(1, 8, 9, 9, generator=reseeded())
    image[0, 0, 6, 6], image[0, 3, 6, 6] = NAN, INF
    output = ps_roi_align(image, torch.tensor([[0, 1, 1, 8, 8]]), 2)
    assert output[0, 0, 1, 1].isinf()
    assert output.isfinite().sum() == 7


@pytest.mark.parametrize("number", [2.0, -1.0, NAN])
def test_boxes_of_images_that_are_not_there(number):
    """torchvision reads beyond its memory. On a CUDA device, which must not wait: NaN."""
    boxes = torch.tensor([[0.0, 1, 1, 4, 4], [number, 1, 1, 4, 4]])
    image = torch.randn(2, 8, 6, 5, generator=reseeded(), requires_grad=True)
    if LOADED["handgrad"].emulated:
        output = ps_roi_align(image, boxes, 2)
        assert output[0].isfinite().all()
        assert output[1].isnan().all()
        (grad,) = torch.autograd.grad(output.nansum(), image)
        torch.testing.assert_close(grad, torch.autograd.grad(ps_roi_align(image, boxes[:1], 2).sum(), image)[0])
    else:
        with pytest.raises(RuntimeError, match=r"boxes must have a batch index .* below 2; got .* in row 1"):
            ps_roi_align(image, boxes, 2)
    assert reference(image, boxes, 2)[1].isnan().all()
