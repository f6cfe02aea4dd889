"""RoI pooling: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.layers import RoIPool, roi_pool
from handgrad.layers.roi_pool import roi_pool_reference
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision", reason="torchvision does not load beside this torch")


def reference(input, boxes, output_size, spatial_scale=1.0):
    pooled_h, pooled_w = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    computed = torch.float64 if input.dtype is torch.float64 else torch.float32
    return roi_pool_reference(input, boxes.to(computed), pooled_h, pooled_w, spatial_scale)


def sample(name, input, boxes, output_size, spatial_scale=1.0, dtype=torch.float64, seed=0):
    image = torch.randn(input, dtype=torch.float64, generator=reseeded(seed)).to(dtype)
    return Sample(name, (image, torch.tensor(boxes)), {"output_size": output_size, "spatial_scale": spatial_scale})


def many_boxes(count, images, size, seed=0):
    """Of whole numbers, in and around images of ``size``."""
    generator = reseeded(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor(size[::-1]) * 1.3 - 3
    high = low + torch.rand(count, 2, generator=generator) * torch.tensor(size[::-1])
    number = torch.arange(count)[:, None] % images
    return torch.cat([number, low.long(), high.long()], 1).tolist()


def bins_of_a_pixel_are_the_image():
    image = torch.randn(1, 2, 6, 7, generator=reseeded())
    torch.testing.assert_close(roi_pool(image, [torch.tensor([[2, 1, 4, 4]])], (4, 3)), image[..., 1:5, 2:5])


def the_whole_image_in_one_bin_is_its_largest_pixel():
    image = torch.randn(2, 3, 5, 8, generator=reseeded())
    torch.testing.assert_close(
        roi_pool(image, [torch.tensor([[0, 0, 7, 4]])] * 2, 1)[..., 0, 0], image.amax((2, 3)), rtol=0, atol=0
    )


def bins_that_divide_the_box_are_those_of_max_pool2d():
    image = torch.randn(1, 3, 12, 8, generator=reseeded())
    pooled = torch.nn.functional.max_pool2d(image, (3, 2))
    torch.testing.assert_close(roi_pool(image, torch.tensor([[0, 0, 0, 7, 11]]), 4), pooled, rtol=0, atol=0)


def numel_beyond_int32():
    # One pixel for all: nothing but the output is in memory, 4.3 GB of it.
    side, channels = 2**13, 32
    image = torch.arange(1.0, channels + 1).bfloat16().view(1, channels, 1, 1).expand(1, channels, 5, 5)
    output = roi_pool(image, torch.tensor([[0, 1, 1, 3, 3]]), (side, side + 1))
    assert output.numel() > 2**31
    for channel in range(channels):
        assert output[0, channel].view(-1)[:: 2**14 + 1].eq(channel + 1).all()
        assert output[0, channel, -1, -1] == channel + 1


IMAGE = torch.randn(3, 2, 5, 6, generator=reseeded())
BOXES = torch.tensor([[0, 1, 1, 4, 3], [1, 0, 2, 5, 4], [2, -3, -1, 2, 2]])


def floor(sample):
    """Boxes and results in bytes: how many pixels are read, the boxes say."""
    image, boxes = sample.tensors
    results = roi_pool(*sample.tensors, **sample.kwargs)
    of_bins = (boxes.numel() + results.numel()) * image.element_size()
    return {"double_backward": of_bins}


SPEC = OpSpec(
    name="roi_pool",
    operator="handgrad::roi_pool",
    function=roi_pool,
    reference=reference,
    module=RoIPool,
    samples=[
        sample("plain", (2, 2, 5, 3), [[0, 1, 0, 5, 9], [1, -4, 3, 3, 8]], (2, 2), 0.5),
        sample("beyond", (1, 3, 4, 5), [[0, 3, 2, 9, 9], [0, 7, 7, 9, 9], [0, 2, 1, 1, -4]], (1, 3), seed=1),
    ],
    large=sample(
        "large", (3, 35, 23, 29), many_boxes(17, 3, (46, 58)), (4, 3), spatial_scale=0.5, dtype=torch.float32, seed=3
    ),
    empty=[
        Sample("no_boxes", (IMAGE.double(), torch.zeros(0, 5, dtype=torch.int64)), {"output_size": 2}),
        Sample(
            "no_images",
            (torch.zeros(0, 2, 5, 6, dtype=torch.float64), torch.zeros(0, 5, dtype=torch.int64)),
            {"output_size": (2, 3)},
        ),
        Sample("no_channels", (torch.zeros(3, 0, 5, 6, dtype=torch.float64), BOXES), {"output_size": (2, 3)}),
    ],
    bad=[
        Bad("output_size", lambda: roi_pool(IMAGE, BOXES, 0), ValueError, "output_size must be .* at least 1.*; got 0"),
        Bad("output_size_kind", lambda: roi_pool(IMAGE, BOXES, 2.5), TypeError, "output_size must be a whole number"),
        Bad("scale", lambda: roi_pool(IMAGE, BOXES, 2, -1.0), ValueError, "spatial_scale must be .* greater than 0"),
        Bad("rank", lambda: roi_pool(IMAGE[0], BOXES, 2), RuntimeError, r"input must have 4 dim.* \(2, 5, 6\)"),
        Bad(
            "columns",
            lambda: roi_pool(IMAGE, BOXES[:, 1:], 2),
            RuntimeError,
            r"boxes must have shape \(boxes, 5\).*\(3, 4\)",
        ),
        Bad("wide", lambda: roi_pool(IMAGE, BOXES.double(), 2), TypeError, "boxes must be of float32.*; got float64"),
        Bad(
            "list_length",
            lambda: roi_pool(IMAGE, [BOXES[:, 1:]], 2),
            ValueError,
            "boxes must be one tensor for each .* 3; got 1",
        ),
        Bad(
            "list_columns",
            lambda: roi_pool(IMAGE, [BOXES] * 3, 2),
            RuntimeError,
            r"boxes\[0\] must have shape \(boxes, 4\)",
        ),
        Bad(
            "no_pixels", lambda: roi_pool(IMAGE[:, :, :0], BOXES, 2), RuntimeError, "input must have at least one pixel"
        ),
        Bad("module", lambda: RoIPool(0, 1.0), ValueError, "output_size must be"),
    ],
    identities={
        "pixel": bins_of_a_pixel_are_the_image,
        "largest": the_whole_image_in_one_bin_is_its_largest_pixel,
        "max_pool2d": bins_that_divide_the_box_are_those_of_max_pool2d,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Where the largest pixels are, and the gradient.
    device_calls={"backward": (2, 2, 0)},
    # Where the largest pixels are: an index for each element of the output.
    device_scratch=4 * 17 * 35 * 12 + 16 * 1024,
    # Boxes of whole numbers in the type that input is computed in, by the forward and by the backward.
    saves=2 * (17 * 5 * 4),
    rows=("images", "boxes"),
    # Bins share rows and columns, boxes share pixels, and each is read for itself, from the cache as a rule, as
    # indices are by the pixels around: 1.46 and 2.86 times.
    floor=floor,
    floor_factors={"forward": 1.6, "backward": 3.0, "double_backward": 16.5},
    # Boxes over devices that all have the images, or channels over devices that all have the boxes.
    shards=[((None, 0), 0), ((1, None), 1)],
    # Boxes may be whole numbers, as the samples', which have no gradient.
    lenient={"boxes": lambda value: isinstance(value, torch.Tensor) and value.dtype is not torch.bool},
)

test_matrix = matrix(SPEC)


# ---- beside torchvision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spatial_scale", [1.0, 0.3])
def test_equals_torchvision(torchvision, spatial_scale, dtype, channels_last):
    """Boxes that reach out of the image, lie outside, are a point, are inside out, or far larger; halves."""
    generator = reseeded()
    boxes = torch.rand(80, 5, dtype=dtype, generator=generator) * torch.tensor([2, 60, 40, 60, 40], dtype=dtype)
    boxes[:, 3:] = boxes[:, 1:3] + boxes[:, 3:] * torch.rand(80, 1, dtype=dtype, generator=generator)
    boxes[:, 0] = boxes[:, 0].floor()
    boxes[:5, 1:] = boxes[:5, 1:].sub(20).mul(5)
    boxes[5:8, 3:] = boxes[5:8, 1:3]
    boxes[8:11, 1:] = boxes[8:11, 1:].roll(2, 1)
    boxes[11, 1:] = torch.tensor([-500, -300, 600, 800])
    boxes[12, 1:] = torch.tensor([100, 100, 120, 140])
    boxes[13:30, 1:] = boxes[13:30, 1:].floor() + 0.5
    boxes[30:35, 1:] = boxes[13:18, 1:] - 20
    # Levels, so that many pixels are equal.
    image = torch.randn(2, 37, 20, 33, dtype=dtype, generator=generator).mul(3).round()
    if channels_last:
        image = image.to(memory_format=torch.channels_last)
    image.requires_grad_()
    results = []
    for function in (roi_pool, torchvision.ops.roi_pool):
        output = function(image, boxes, (4, 5), spatial_scale)
        direction = torch.randn(output.shape, dtype=dtype, generator=reseeded(1))
        results.append((output, *torch.autograd.grad(output, image, direction)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-4)
    assert all(result.is_contiguous(memory_format=torch.channels_last) for result in results[0]) or not channels_last


def test_lists_and_modules_equal_torchvisions(torchvision):
    image = torch.randn(3, 4, 9, 8, generator=reseeded())
    boxes = [torch.rand(count, 4, generator=reseeded(count)) * 5 + torch.tensor([0, 0, 3, 3]) for count in (2, 0, 3)]
    theirs = torchvision.ops.RoIPool((3, 2), 0.5)
    for given in (boxes, tuple(boxes)):
        torch.testing.assert_close(RoIPool((3, 2), 0.5)(image, given), theirs(image, boxes))
    assert repr(RoIPool((3, 2), 0.5)) == repr(theirs)


def test_boxes_have_no_gradient():
    image, boxes = IMAGE.clone().requires_grad_(), BOXES.float().requires_grad_()
    roi_pool(image, boxes, 2).sum().backward()
    assert boxes.grad is None
    assert not roi_pool(IMAGE, boxes, 2).requires_grad
    assert torch.func.grad(lambda b: roi_pool(IMAGE, b, 2).sum())(boxes.detach()).eq(0).all()


def test_nothing_but_the_inputs_is_kept():
    """torchvision keeps an index for each element of the output."""
    image, boxes = torch.randn(2, 40, 20, 20, generator=reseeded()).requires_grad_(), torch.tensor([[0.0, 1, 2, 9, 8]])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        roi_pool(image, boxes, 7)
    assert sorted(saved) == sorted([image.data_ptr(), boxes.data_ptr()])


# ---- pixels and boxes of every kind ----------------------------------------------------------------------------------


def test_the_first_of_equal_pixels_gets_the_gradient():
    image = torch.zeros(1, 9, 6, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(roi_pool(image, torch.tensor([[0, 1, 2, 4, 5]]), 1).sum(), image)
    expected = torch.zeros(6, 6)
    expected[2, 1] = 1
    assert grad.eq(expected).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_nan_and_infinity(dtype):
    """torchvision loses NaN, and makes -3.4e38 of a bin of -inf, whose gradient goes nowhere. Here as max_pool2d."""
    image = torch.randn(1, 9, 8, 8, generator=reseeded()).to(dtype)
    image[0, 0, 1, 1], image[0, 0, 3, 3], image[0, 1, 2, 2] = NAN, INF, INF
    image[0, 2, :4, :4] = -INF
    image[0, 3, 0, 0], image[0, 3, 0, 2] = NAN, NAN
    image.requires_grad_()
    output = roi_pool(image, torch.tensor([[0, 0, 0, 3, 3], [0, 4, 4, 7, 7]]), 1)
    assert output[0, 0].isnan()
    assert output[0, 1] == INF
    assert output[0, 2] == -INF
    assert output[1].isfinite().all()
    assert output[0, 4:].isfinite().all()
    (grad,) = torch.autograd.grad(output[0].sum(), image)
    assert [grad[0, channel].nonzero().tolist() for channel in range(4)] == [[[1, 1]], [[2, 2]], [[0, 0]], [[0, 0]]]


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 3e38])
def test_boxes_that_are_nowhere(bad):
    """NaN in that box, and in nothing else; a box that is merely far away is empty."""
    image = torch.randn(2, 3, 6, 5, generator=reseeded(), requires_grad=True)
    good = torch.tensor([[0, 1.0, 1, 4, 4], [1, 0.5, 0.5, 3, 5]])
    (expected,) = torch.autograd.grad(roi_pool(image, good, 2).sum(), image)
    for column in range(1, 5):
        boxes = torch.cat([good[:1], good]).clone()
        boxes[0, column] = bad
        output = roi_pool(image, boxes, 2)
        if bad == 3e38 and column < 3:
            assert output[0].eq(0).all()
        elif bad == 3e38:
            assert output[0].isfinite().all()
        else:
            assert output[0].isnan().all()
            torch.testing.assert_close(torch.autograd.grad(output.nansum(), image, retain_graph=True)[0], expected)
        torch.testing.assert_close(output[1:], roi_pool(image, good, 2))
        assert torch.autograd.grad(output.nansum(), image)[0].isfinite().all()


def test_empty_bins_are_zero_and_points_are_pixels():
    image = torch.randn(1, 2, 6, 5, generator=reseeded()) - 10
    assert roi_pool(image, torch.tensor([[0, 9, 9, 12, 12], [0, -9, -9, -6, -5]]), 2).eq(0).all()
    torch.testing.assert_close(
        roi_pool(image, torch.tensor([[0, 2.0, 3, 2, 3]]), 2), image[:, :, 3:4, 2:3].expand(1, 2, 2, 2)
    )


@pytest.mark.parametrize("number", [2.0, -1.0, 1e9, NAN, INF])
def test_boxes_of_images_that_are_not_there(number):
    """torchvision reads beyond its memory. On a CUDA device, which must not wait: NaN."""
    boxes = torch.tensor([[0.0, 1, 1, 4, 4], [number, 1, 1, 4, 4]])
    image = torch.randn(2, 3, 6, 5, generator=reseeded(), requires_grad=True)
    if LOADED["handgrad"].emulated:
        output = roi_pool(image, boxes, 2)
        assert output[0].isfinite().all()
        assert output[1].isnan().all()
        (grad,) = torch.autograd.grad(output.nansum(), image)
        torch.testing.assert_close(grad, torch.autograd.grad(roi_pool(image, boxes[:1], 2).sum(), image)[0])
    else:
        with pytest.raises(RuntimeError, match=r"boxes must have a batch index .* below 2; got .* in row 1"):
            roi_pool(image, boxes, 2)
    assert reference(image, boxes, 2)[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_parts_of_channels_last_images(dtype):
    """Rows that do not follow each other, and blocks of channels that are left over."""
    image = torch.randn(2, 9, 11, 70, dtype=dtype, generator=reseeded()).permute(0, 3, 1, 2)[..., 1:-1]
    boxes = torch.tensor(many_boxes(9, 2, (9, 9)))
    leaves = [image.clone().requires_grad_(), image.contiguous().requires_grad_()]
    results = []
    for leaf in leaves:
        output = roi_pool(leaf[..., 1:] if leaf is leaves[0] else leaf[..., 1:].contiguous(), boxes, 3)
        (grad,) = torch.autograd.grad(output, leaf, output.detach(), create_graph=True)
        results.append((output, grad))
    torch.testing.assert_close(results[0], results[1])
