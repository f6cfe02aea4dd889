"""RoIAlign: its specs, and what is peculiar to it."""

import functools
import itertools

import pytest
import torch
from torch import nn

from handgrad import _library
from handgrad.layers import RoIAlign, roi_align
from handgrad.layers.roi_align import roi_align_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision", reason="torchvision does not load beside this torch")


def reference(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False, boxes_grad=False):
    pooled_h, pooled_w = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    return roi_align_reference(input, boxes, pooled_h, pooled_w, spatial_scale, max(0, sampling_ratio), aligned)


def places(first, second, bins, spatial_scale, sampling_ratio, aligned):
    """Where a box is looked at along one axis, and numbers that must not be whole: each jumps there, or has a kink."""
    start, end = (coordinate * spatial_scale - 0.5 * aligned for coordinate in (first, second))
    length = end - start if aligned else max(end - start, 1.0)
    grid = sampling_ratio if sampling_ratio > 0 else -int(-length // bins)
    found = [start + (p + (i + 0.5) / grid) * length / bins for p in range(bins) for i in range(grid)]
    return [*found, *([] if aligned else [end - start]), *([] if sampling_ratio > 0 else [length / bins])]


def boxes_at_ease(count, images, size, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False, seed=0):
    """Random boxes in and around images of ``size``, of which nothing is nearer to a kink than 0.01 pixels.

    The numbers of their images are k + 1/2: they are cut to whole ones, and gradcheck's small steps must not lead to
    another image.
    """
    generator = reseeded(seed)
    made = []
    while len(made) < count:
        corner, extent = torch.rand(2, 2, dtype=torch.float64, generator=generator)
        low = corner * torch.tensor(size[::-1]) * 1.2 - 1.5
        high = low + extent * torch.tensor(size[::-1]) + 0.1
        (x1, y1), (x2, y2) = ((end / spatial_scale).tolist() for end in (low, high))
        critical = [
            *places(y1, y2, output_size[0], spatial_scale, sampling_ratio, aligned),
            *places(x1, x2, output_size[1], spatial_scale, sampling_ratio, aligned),
        ]
        if all(abs(number - round(number)) > 0.01 for number in critical):
            made.append([len(made) % images + 0.5, x1, y1, x2, y2])
    return torch.tensor(made, dtype=torch.float64)


def sample(name, input, count, output_size, seed=0, dtype=torch.float64, **options):
    image = torch.randn(input, dtype=torch.float64, generator=reseeded(seed))
    boxes = boxes_at_ease(count, input[0], input[2:], output_size, seed=seed, **options)
    kwargs = {"output_size": output_size, **options, "boxes_grad": True}
    return Sample(name, (image.to(dtype), boxes.to(dtype)), kwargs)


def a_bin_that_is_a_pixel_is_that_pixel():
    image = torch.randn(1, 2, 6, 7, generator=reseeded())
    box = [torch.tensor([[2.0, 1.0, 5.0, 5.0]])]
    torch.testing.assert_close(roi_align(image, box, (4, 3), sampling_ratio=1, aligned=True), image[..., 1:5, 2:5])


def the_whole_image_in_one_bin_is_its_mean():
    image = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=reseeded())
    boxes = [torch.tensor([[0.0, 0.0, 8.0, 5.0]])] * 2
    torch.testing.assert_close(roi_align(image, boxes, 1, aligned=True)[..., 0, 0], image.mean((2, 3)))


def linear_in_the_image():
    image = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=reseeded())
    boxes = boxes_at_ease(5, 2, (5, 8), (2, 3))
    torch.testing.assert_close(roi_align(-3 * image, boxes, (2, 3)), -3 * roi_align(image, boxes, (2, 3)))


def a_ramp_gives_the_bins_centres():
    """Bilinear interpolation of a plane is the plane: so are averages, and by the coordinates everything is known."""
    image = torch.arange(12.0, dtype=torch.float64).expand(1, 1, 9, 12)
    boxes = torch.tensor([[0.5, 2.2, 1.1, 8.6, 6.3]], dtype=torch.float64, requires_grad=True)
    output = roi_align(image, boxes, (2, 4), aligned=True, boxes_grad=True)
    centres = 2.2 + (torch.arange(4, dtype=torch.float64) + 0.5) * 6.4 / 4 - 0.5
    torch.testing.assert_close(output[0, 0], centres.expand(2, 4))
    (grad,) = torch.autograd.grad(output[0, 0, 0, 1], boxes)
    torch.testing.assert_close(grad, torch.tensor([[0, 1 - 1.5 / 4, 0, 1.5 / 4, 0]], dtype=torch.float64))


def numel_beyond_int32():
    # One pixel for all: nothing but the output is in memory, 4.4 GB of it (pytorch/vision#8206: an int did not hold the
    # place of the last box's output).
    side, channels = 2**13, 33
    image = torch.arange(1.0, channels + 1).bfloat16().view(1, channels, 1, 1).expand(1, channels, 5, 5)
    output = roi_align(image, [torch.tensor([[1.0, 1.0, 3.0, 3.0]])], side, sampling_ratio=1)
    assert output.numel() > 2**31
    for channel in range(channels):
        assert output[0, channel].view(-1)[:: 2**14 + 1].eq(channel + 1).all()
        assert output[0, channel, -1, -1] == channel + 1


IMAGE = torch.randn(3, 2, 5, 6, generator=reseeded())
BOXES = boxes_at_ease(3, 3, (5, 6), (2, 3)).float()

SPEC = OpSpec(
    name="roi_align",
    operator="handgrad::roi_align",
    function=roi_align,
    reference=reference,
    module=RoIAlign,
    samples=[
        sample("plain", (2, 2, 4, 5), 3, (2, 2), spatial_scale=0.5, sampling_ratio=2, aligned=False),
        sample("adaptive", (2, 2, 5, 4), 2, (2, 1), spatial_scale=1.0, sampling_ratio=0, aligned=True, seed=1),
        sample(
            "adaptive_old_rule", (1, 2, 4, 6), 3, (1, 2), spatial_scale=0.25, sampling_ratio=-1, aligned=False, seed=2
        ),
    ],
    large=sample(
        "large",
        (3, 67, 41, 37),
        29,
        (4, 8),
        spatial_scale=0.5,
        sampling_ratio=2,
        aligned=True,
        dtype=torch.float32,
        seed=3,
    ),
    empty=[
        Sample(
            "no_boxes", (IMAGE.double(), torch.zeros(0, 5, dtype=torch.float64)), {"output_size": 2, "boxes_grad": True}
        ),
        Sample(
            "no_images",
            (torch.zeros(0, 2, 5, 6, dtype=torch.float64), torch.zeros(0, 5, dtype=torch.float64)),
            {"output_size": (2, 3), "boxes_grad": True},
        ),
        Sample(
            "no_channels",
            (torch.zeros(3, 0, 5, 6, dtype=torch.float64), BOXES.double()),
            {"output_size": (2, 3), "boxes_grad": True},
        ),
    ],
    bad=[
        Bad(
            "output_size", lambda: roi_align(IMAGE, BOXES, 0), ValueError, "output_size must be .* at least 1.*; got 0"
        ),
        Bad("output_size_kind", lambda: roi_align(IMAGE, BOXES, 2.5), TypeError, "output_size must be a whole number"),
        Bad("output_size_three", lambda: roi_align(IMAGE, BOXES, (1, 2, 3)), TypeError, r"got \(1, 2, 3\)"),
        Bad("scale", lambda: roi_align(IMAGE, BOXES, 2, -1.0), ValueError, "spatial_scale must be .* greater than 0"),
        Bad(
            "sampling", lambda: roi_align(IMAGE, BOXES, 2, 1.0, 1.5), TypeError, "sampling_ratio must be a whole number"
        ),
        Bad(
            "aligned", lambda: roi_align(IMAGE, BOXES, 2, aligned=1), TypeError, "aligned must be True or False; got 1"
        ),
        Bad("boxes_grad", lambda: roi_align(IMAGE, BOXES, 2, boxes_grad=None), TypeError, "boxes_grad must be True"),
        Bad("none", lambda: roi_align(IMAGE, None, 2), TypeError, "boxes must be a torch.Tensor; got NoneType"),
        Bad("rank", lambda: roi_align(IMAGE[0], BOXES, 2), RuntimeError, r"input must have 4 dim.* \(2, 5, 6\)"),
        Bad(
            "columns",
            lambda: roi_align(IMAGE, BOXES[:, 1:], 2),
            RuntimeError,
            r"boxes must have shape \(boxes, 5\).*\(3, 4\)",
        ),
        Bad("integers", lambda: roi_align(IMAGE, BOXES.long(), 2), TypeError, "boxes must be of float32.*; got int64"),
        Bad("wide", lambda: roi_align(IMAGE, BOXES.double(), 2), TypeError, "boxes must be of float32.*; got float64"),
        Bad(
            "list_length",
            lambda: roi_align(IMAGE, [BOXES[:, 1:]], 2),
            ValueError,
            "boxes must be one tensor for each .* 3; got 1",
        ),
        Bad(
            "list_columns",
            lambda: roi_align(IMAGE, [BOXES] * 3, 2),
            RuntimeError,
            r"boxes\[0\] must have shape \(boxes, 4\)",
        ),
        Bad(
            "list_kind",
            lambda: roi_align(IMAGE, [BOXES[:, 1:], None, 2], 2),
            TypeError,
            "boxes must be .* a list of NoneType, Tensor, int",
        ),
        Bad(
            "list_dtype",
            lambda: roi_align(IMAGE, [BOXES[:, 1:].long()] * 3, 2),
            TypeError,
            r"boxes\[0\] must be of float32",
        ),
        Bad(
            "no_pixels",
            lambda: roi_align(IMAGE[:, :, :0], BOXES, 2),
            RuntimeError,
            "input must have at least one pixel",
        ),
        Bad("module", lambda: RoIAlign(0, 1.0, 2), ValueError, "output_size must be"),
    ],
    identities={
        "pixel": a_bin_that_is_a_pixel_is_that_pixel,
        "mean": the_whole_image_in_one_bin_is_its_mean,
        "linear": linear_in_the_image,
        "ramp": a_ramp_gives_the_bins_centres,
    },
    numel_beyond_int32=numel_beyond_int32,
    pending={2: "the CUDA kernels pass the matrix in the emulator and have not run on a device"},
)

test_matrix = matrix(SPEC)
