"""RoIAlign: its specs, and what is peculiar to it."""

import warnings

import pytest
import torch
from torch import nn

from handgrad.layers import RoIAlign, roi_align
from handgrad.layers.roi_align import roi_align_reference
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.testing.ticks.memory import allocated

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
        sample("plain", (2, 2, 5, 3), 3, (2, 2), spatial_scale=0.5, sampling_ratio=2, aligned=False),
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
        Bad("rank", lambda: roi_align(IMAGE[0], BOXES, 2), RuntimeError, r"input must have 4 dim.* \(2, 5, 6\)"),
        Bad(
            "columns",
            lambda: roi_align(IMAGE, BOXES[:, 1:], 2),
            RuntimeError,
            r"boxes must have shape \(boxes, 5\).*\(3, 4\)",
        ),
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
    # The image's gradient and the boxes'.
    device_calls={"backward": (2, 2, 0), "double_backward": (2, 2, 0)},
    rows=("images", "boxes"),
    # Boxes over devices that all have the images, or channels over devices that all have the boxes.
    shards=[((None, 0), 0), ((1, None), 1)],
    lenient={"sampling_ratio": lambda value: isinstance(value, int) and value <= 0},
    tolerances={
        # A coordinate of 40 pixels is rounded by 4e-6, and its distance from a pixel, a weight, is wrong by as much.
        torch.float32: (1.3e-5, 1e-4),
    },
    # Samples of a bin share corners, boxes share pixels, tiles share boxes, and each is read for itself, from the cache
    # as a rule: 1.82, 2.49 and 3.54 times.
    floor_factors={"forward": 1.9, "backward": 2.6, "double_backward": 3.7},
)

test_matrix = matrix(SPEC)


# ---- boxes that are constants, as they are by default ----------------------------------------------------------------

# Of two images, as many as any sample has, and float32 beside every type of input.
FIXED = boxes_at_ease(3, 2, (5, 3), (3, 2), sampling_ratio=2, aligned=True, seed=4).float()


def fixed_boxes(input, output_size, sampling_ratio, aligned):
    return roi_align(input, FIXED, output_size, 1.0, sampling_ratio, aligned)


FIXED_SPEC = OpSpec(
    name="roi_align",
    operator="handgrad::roi_align",
    function=fixed_boxes,
    reference=lambda input, output_size, sampling_ratio, aligned: reference(
        input, FIXED.to(torch.float64), output_size, 1.0, sampling_ratio, aligned
    ),
    module=None,
    samples=[
        Sample(
            "fixed_boxes",
            (torch.randn(2, 2, 5, 3, dtype=torch.float64, generator=reseeded(5)),),
            {"output_size": (3, 2), "sampling_ratio": 2, "aligned": True},
        )
    ],
    large=Sample(
        "fixed_boxes_large",
        (torch.randn(2, 70, 41, 37, generator=reseeded(6)),),
        {"output_size": (3, 2), "sampling_ratio": 2, "aligned": True},
    ),
    empty=[
        Sample(
            "fixed_boxes_no_channels",
            (torch.zeros(2, 0, 4, 5, dtype=torch.float64),),
            {"output_size": (3, 2), "sampling_ratio": 2, "aligned": True},
        )
    ],
    bad=[],
    identities={},
    numel_beyond_int32=lambda: None,
    lenient=SPEC.lenient,
    # The backward is linear in grad_output: its derivative is the op itself.
    private_ops=["backward"],
    not_applicable={
        6: "asked of the spec with a gradient to the boxes, which takes the same way",
        14: "the boxes are plain tensors, which do not go beside a DTensor",
        15: "the boxes are an input that the spec's function hides; asked in test_constant_boxes_cost_no_memory",
        16: "asked of the spec with a gradient to the boxes: one function, one page",
    },
)

test_matrix_of_fixed_boxes = matrix(FIXED_SPEC)


def test_boxes_are_constants_unless_asked():
    """As in torchvision: no gradient, no tangent. Asked for in SparseR-CNN#27, faster-rcnn.pytorch#237, densecap#78."""
    image, boxes = IMAGE.clone().requires_grad_(), BOXES.clone().requires_grad_()
    roi_align(image, boxes, 2).sum().backward()
    assert boxes.grad is None
    assert image.grad is not None
    assert torch.func.grad(lambda b: roi_align(IMAGE, b, 2).sum())(BOXES).eq(0).all()
    assert torch.func.jvp(lambda b: roi_align(IMAGE, b, 2), (BOXES,), (torch.ones_like(BOXES),))[1].eq(0).all()
    output = roi_align(IMAGE, boxes, 2)
    assert not output.requires_grad


def test_constant_boxes_cost_no_memory():
    """pytorch/vision#8168: the deterministic backward took 30 GB. Ours allocates the gradient, and saves two inputs."""
    image = torch.randn(2, 70, 41, 37, generator=reseeded()).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        output = roi_align(image, FIXED, 7, sampling_ratio=2)
    assert sorted(saved) == sorted([image.data_ptr(), FIXED.data_ptr()])
    grad_output = torch.ones_like(output)
    torch.use_deterministic_algorithms(True)
    try:
        bytes_of_backward = allocated(lambda: torch.autograd.grad(output, image, grad_output))
    finally:
        torch.use_deterministic_algorithms(False)
    assert image.nbytes <= bytes_of_backward <= image.nbytes + 4096


def test_second_derivatives_of_image_and_boxes_mix():
    """Derivatives of the image's gradient by the boxes, whether or not the first backward was asked for theirs."""
    spec = SPEC.samples[0]
    image, boxes = spec.tensors

    def of_image(function):
        return lambda b: torch.func.grad(lambda x: function(x, b, **spec.kwargs).square().sum())(image)

    expected = torch.func.jacrev(of_image(reference))(boxes)
    torch.testing.assert_close(torch.func.jacrev(of_image(roi_align))(boxes), expected)
    torch.testing.assert_close(torch.func.jacfwd(of_image(roi_align))(boxes), expected)


# ---- beside torchvision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 1, 2, 5])
def test_equals_torchvision(torchvision, sampling_ratio, aligned, dtype, channels_last):
    """Boxes that reach out of the image, lie outside, are a point, are inside out, or are far larger than it."""
    generator = reseeded(sampling_ratio + 1)
    boxes = torch.rand(60, 5, dtype=dtype, generator=generator) * torch.tensor([2, 60, 40, 60, 40], dtype=dtype)
    boxes[:, 3:] = boxes[:, 1:3] + boxes[:, 3:] * torch.rand(60, 1, dtype=dtype, generator=generator)
    boxes[:, 0] = boxes[:, 0].floor()
    boxes[:5, 1:] = boxes[:5, 1:].sub(20).mul(5)
    boxes[5:8, 3:] = boxes[5:8, 1:3]
    boxes[8:11, 1:] = boxes[8:11, 1:].roll(2, 1)
    boxes[11, 1:] = torch.tensor([-500, -300, 600, 800])
    boxes[12, 1:] = torch.tensor([100, 100, 120, 140])
    image = torch.randn(2, 37, 20, 33, dtype=dtype, generator=generator)
    if channels_last:
        image = image.to(memory_format=torch.channels_last)
    image.requires_grad_()
    results = []
    for function in (roi_align, torchvision.ops.roi_align):
        output = function(image, boxes, (5, 7), 0.6, sampling_ratio, aligned)
        direction = torch.randn(output.shape, dtype=dtype, generator=reseeded())
        results.append((output, *torch.autograd.grad(output, image, direction)))
    # Sums in another order; a place in a box of a thousand pixels is rounded by 6e-5.
    torch.testing.assert_close(
        results[0], results[1], **({"rtol": 1e-4, "atol": 2e-4} if dtype is torch.float32 else {})
    )
    assert all(result.is_contiguous(memory_format=torch.channels_last) for result in results[0]) or not channels_last


def test_lists_equal_torchvisions(torchvision):
    image = torch.randn(3, 4, 9, 8, generator=reseeded())
    boxes = [torch.rand(count, 4, generator=reseeded(count)) * 5 + torch.tensor([0, 0, 3, 3]) for count in (2, 0, 3)]
    for given in (boxes, tuple(boxes)):
        torch.testing.assert_close(roi_align(image, given, 3), torchvision.ops.roi_align(image, boxes, 3))
    pool = RoIAlign((3, 2), 0.5, 2, aligned=True)
    theirs = torchvision.ops.RoIAlign((3, 2), 0.5, 2, aligned=True)
    torch.testing.assert_close(pool(image, boxes), theirs(image, boxes))
    assert repr(pool) == repr(theirs)


def test_gradient_to_a_list_of_boxes():
    image = torch.randn(2, 4, 9, 8, dtype=torch.float64, generator=reseeded())
    table = boxes_at_ease(5, 1, (9, 8), (2, 2), sampling_ratio=2)[:, 1:]
    boxes = [table[:2].clone().requires_grad_(), table[2:].clone().requires_grad_()]
    assert torch.autograd.gradcheck(lambda *b: roi_align(image, list(b), 2, 1.0, 2, boxes_grad=True), boxes)


# ---- boxes of every kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_boxes_that_are_nowhere(bad, sampling_ratio, aligned):
    """pytorch/vision#9273, #9629: NaN coordinates read beyond the image. Here: NaN in that box, and in nothing else."""
    image = torch.randn(2, 3, 6, 5, generator=reseeded(), requires_grad=True)
    good = torch.tensor([[0, 1.0, 1, 4, 4], [1, 0.5, 0.5, 3, 5]])
    (expected,) = torch.autograd.grad(roi_align(image, good, 2, 1.0, sampling_ratio, aligned).sum(), image)
    for column in range(1, 5):
        boxes = torch.cat([good[:1], good]).clone()
        boxes[0, column] = bad
        boxes.requires_grad_()
        output = roi_align(image, boxes, 2, 1.0, sampling_ratio, aligned, boxes_grad=True)
        assert output[0].isnan().all()
        torch.testing.assert_close(output[1:], roi_align(image, good, 2, 1.0, sampling_ratio, aligned))
        grad_image, grad_boxes = torch.autograd.grad(output.nansum(), (image, boxes))
        torch.testing.assert_close(grad_image, expected)
        assert grad_boxes.isfinite().all()
        assert grad_boxes[0].eq(0).all()


@pytest.mark.parametrize("size", [1e5, 3e9, 1e19, 1e30, 3e38])
@pytest.mark.parametrize("aligned", [False, True])
def test_huge_boxes_end(size, aligned):
    """torchvision looks at each place of an adaptive grid, wherever it is: 10^14 of them for a box of 10^8 pixels."""
    image = torch.ones(1, 2, 6, 5, requires_grad=True)
    boxes = torch.tensor([[0, -size / 2, -size / 2, size / 3, size / 3], [0, size / 4, 0, size / 2, 3]])
    output = roi_align(image, boxes, 3, 1.0, 0, aligned)
    assert output.isfinite().all()
    # An average of ones, with zeros from outside the image.
    assert (output >= 0).all()
    assert (output <= 1).all()
    assert output[1].eq(0).all()
    assert torch.autograd.grad(output.sum(), image)[0].isfinite().all()


def test_the_finest_grid_is_looked_at_where_it_matters():
    """A box of 10^5 pixels, against every place of its grid."""
    image = torch.randn(1, 2, 6, 5, dtype=torch.float64, generator=reseeded())
    box = torch.tensor([[0, -40000.25, -7.3, 60000.5, 9.1]], dtype=torch.float64)
    explicit = roi_align(image, box, (1, 1), 1.0, 100001, True)
    torch.testing.assert_close(
        roi_align(image, box, (2, 1), 1.0, -1, True), reference(image, box, (2, 1), 1.0, -1, True)
    )
    assert explicit.isfinite().all()


def test_degenerate_boxes():
    """A point is a pixel to the older rule (pytorch/vision#2438); to the other it covers nothing."""
    image = torch.randn(1, 2, 6, 5, generator=reseeded())
    point = torch.tensor([[0, 2.0, 3, 2, 3]])
    assert roi_align(image, point, 2, 1.0, 0, True).eq(0).all()
    torch.testing.assert_close(
        roi_align(image, point, 2, 1.0, 0, False), roi_align(image, point + torch.tensor([0, 0, 0, 1, 1]), 2, 1.0, 0)
    )
    # Looked at a fixed number of times, the point is all there is.
    torch.testing.assert_close(roi_align(image, point, 2, 1.0, 3, True)[0, :, 1, 1], image[0, :, 2:4, 1:3].mean((1, 2)))
    # detectron2#804: forward and backward counted the places of a box of no area differently.
    leaf = image.clone().requires_grad_()
    assert torch.autograd.grad(roi_align(leaf, point, 2, 1.0, 0, True).sum(), leaf)[0].eq(0).all()
    # Inside out, a box is looked at from its far end.
    inside_out = torch.tensor([[0, 4.0, 5, 1, 1]])
    torch.testing.assert_close(
        roi_align(image, inside_out, 3, 1.0, 2, True),
        roi_align(image, torch.tensor([[0, 1.0, 1, 4, 5]]), 3, 1.0, 2, True).flip(2, 3),
    )
    assert roi_align(image, inside_out, 3, 1.0, 0, True).eq(0).all()


def test_boxes_shorter_than_a_pixel_move_as_a_pixel():
    """To the older rule both ends are the first end's affair then."""
    image = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 5, 8).requires_grad_()
    boxes = torch.tensor([[0, 2.2, 1.3, 2.5, 1.9]], dtype=torch.float64, requires_grad=True)
    output = roi_align(image, boxes, (1, 2), 0.5, 2, boxes_grad=True)
    (grad,) = torch.autograd.grad(output.sum(), boxes)
    torch.testing.assert_close(grad, torch.tensor([[0, 2 * 0.5, 0, 0, 0]], dtype=torch.float64))


def test_kinks_take_the_derivative_towards_larger_coordinates():
    """At whole coordinates the derivative by the place jumps; ours is that of the next cell."""
    image = torch.tensor([[[[1.0, 10.0, 100.0]]]], dtype=torch.float64)
    for place, slope in (
        (-1.0, 0.0),
        (-0.5, 0.0),
        (0.0, 9.0),
        (1.0, 90.0),
        (1.5, 90.0),
        (2.0, 0.0),
        (3.0, 0.0),
        (3.5, 0),
    ):
        boxes = torch.tensor([[0, place - 1, 0, place + 1, 1]], dtype=torch.float64, requires_grad=True)
        output = roi_align(image, boxes, 1, 1.0, 1, boxes_grad=True)
        inside = -1 <= place <= 3
        assert (
            output.item() == (image[0, 0, 0, int(max(0, min(2, place)))].item() if place % 1 == 0 else 0) or place % 1
        )
        assert (output.item() == 0) == (not inside)
        (grad,) = torch.autograd.grad(output.sum(), boxes)
        assert grad[0, 1] + grad[0, 3] == slope, f"at {place}"


def test_pixels_that_are_not_finite_stay_where_they_are():
    image = torch.randn(1, 2, 8, 8, generator=reseeded())
    image[0, 0, 6, 6], image[0, 1, 1, 1] = NAN, INF
    boxes = torch.tensor([[0, 0.2, 0.2, 3.9, 3.9], [0, 4.1, 4.1, 7.9, 7.9], [0, 3.1, 3.1, 5.1, 5.1]])
    output = roi_align(image, boxes, 2, 1.0, 2, True)
    broken = reference(image, boxes, 2, 1.0, 2, True)
    assert output[0, 0].isfinite().all()
    assert output[0, 1, 0, 0] == INF
    assert output[1, 0, 1, 1].isnan()
    assert output[1, 1].isfinite().all()
    assert output[2].isfinite().all()
    assert broken.isfinite().equal(output.isfinite())


@pytest.mark.parametrize("number", [2.0, -1.0, 1e9, NAN, INF])
def test_boxes_of_images_that_are_not_there(number):
    """pytorch/vision#4828: torchvision reads beyond its memory. On a CUDA device, which must not wait: NaN."""
    boxes = torch.tensor([[0.0, 1, 1, 4, 4], [number, 1, 1, 4, 4]])
    image = torch.randn(2, 3, 6, 5, generator=reseeded(), requires_grad=True)
    if LOADED["handgrad"].emulated:
        output = roi_align(image, boxes.requires_grad_(), 2, boxes_grad=True)
        assert output[0].isfinite().all()
        assert output[1].isnan().all()
        grad_image, grad_boxes = torch.autograd.grad(output.nansum(), (image, boxes))
        torch.testing.assert_close(grad_image, torch.autograd.grad(roi_align(image, boxes[:1], 2).sum(), image)[0])
        assert grad_boxes[1].eq(0).all()
    else:
        with pytest.raises(RuntimeError, match=r"boxes must have a batch index .* below 2; got .* in row 1"):
            roi_align(image, boxes, 2)
    assert reference(image, boxes, 2)[1].isnan().all()


def test_no_boxes_in_a_list():
    output = roi_align(IMAGE, [torch.zeros(0, 4)] * 3, (2, 3))
    assert output.shape == (0, 2, 2, 3)
    assert roi_align(torch.zeros(0, 2, 4, 4), [], 2).shape == (0, 2, 2, 2)


# ---- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_are_never_in_a_half_type(dtype):
    """torchvision wants boxes in the type of the image: coordinates of 800 then have steps of 4 (bfloat16), or 1/2."""
    image = torch.randn(1, 3, 20, 25, generator=reseeded()).to(dtype)
    boxes = torch.tensor([[0, 513.3, 201.7, 700.2, 555.5]], requires_grad=True)
    output = roi_align(image, boxes, 4, 1 / 32, 2, True, boxes_grad=True)
    assert output.dtype is dtype
    exact = roi_align(image.double(), boxes.double(), 4, 1 / 32, 2, True)
    torch.testing.assert_close(output, exact.to(dtype))
    assert torch.autograd.grad(output.sum(), boxes)[0].dtype is torch.float32
    coarse = roi_align(image, boxes.detach().to(dtype), 4, 1 / 32, 2, True)
    torch.testing.assert_close(
        coarse, roi_align(image.double(), boxes.to(dtype).double(), 4, 1 / 32, 2, True).to(dtype)
    )
    # Image numbers too: bfloat16 cannot hold 257.
    many = torch.arange(300.0).view(300, 1, 1, 1).expand(300, 1, 2, 2).to(torch.float16).to(dtype)
    each = [torch.tensor([[0.0, 0, 2, 2]], dtype=dtype)] * 300
    torch.testing.assert_close(roi_align(many, each, 1).flatten(), many[:, 0, 0, 0])


def test_under_autocast():
    """detectron2#2502: Half meets Float. Convolutions give bfloat16 under autocast, boxes are float32."""
    boxes = BOXES.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = nn.functional.conv2d(IMAGE, torch.randn(4, 2, 1, 1, generator=reseeded())).requires_grad_()
        output = roi_align(image, boxes, 2, sampling_ratio=2, boxes_grad=True)
        assert roi_align(IMAGE, BOXES, 2).dtype is torch.float32
    assert image.dtype is output.dtype is torch.bfloat16
    grads = torch.autograd.grad(output.sum(), (image, boxes))
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32]


# ---- transforms, compilers -------------------------------------------------------------------------------------------


def test_vmap_over_models_and_boxes():
    """pytorch/vision#8593: roi_align had no batching rule. Images and boxes of each sample stay together."""
    images = torch.randn(4, 2, 3, 6, 5, generator=reseeded())
    boxes = torch.stack([boxes_at_ease(3, 2, (6, 5), (2, 2), seed=seed) for seed in range(4)]).float()
    loop = torch.stack([roi_align(i, b, 2) for i, b in zip(images, boxes, strict=True)])
    torch.testing.assert_close(torch.vmap(lambda i, b: roi_align(i, b, 2))(images, boxes), loop)
    torch.testing.assert_close(torch.vmap(lambda i: roi_align(i, boxes[0], 2))(images)[0], loop[0])
    # One of them of an image that is not its sample's, though another sample has it.
    boxes[2, 1, 0] = 2.0
    if LOADED["handgrad"].emulated:
        assert torch.vmap(lambda i, b: roi_align(i, b, 2))(images, boxes).isnan().flatten(2).all(
            2
        ).nonzero().tolist() == [[2, 1]]
    else:
        with pytest.raises(RuntimeError, match="boxes must have a batch index"):
            torch.vmap(lambda i, b: roi_align(i, b, 2))(images, boxes)


@pytest.mark.tiers("whole")
def test_compiled_with_a_number_of_boxes_that_depends_on_values():
    """As detectors do: keep the boxes of one level, and pool them."""
    image = torch.randn(2, 3, 12, 10, generator=reseeded())
    boxes = boxes_at_ease(20, 2, (12, 10), (2, 2), sampling_ratio=2).float()

    def pooled(image, boxes):
        return roi_align(image, boxes[boxes[:, 1] > 3], 2, 1.0, 2)

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        torch.testing.assert_close(torch.compile(pooled, fullgraph=True)(image, boxes), pooled(image, boxes))


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_onnx_has_the_operator(dynamo, sampling_ratio, aligned, tmp_path):
    """pytorch/vision#3355, #4692, onnx#3428, onnxruntime#6921: other coordinates and clamping, no sampling_ratio < 0.

    Boxes of all kinds, in onnxruntime, from both exporters.
    """
    import handgrad.onnx

    generator = reseeded()
    image = torch.randn(2, 3, 14, 17, generator=generator)
    boxes = boxes_at_ease(30, 2, (14, 17), (4, 3), 0.5, sampling_ratio, aligned).float()
    boxes[0, 1:] = torch.tensor([5.0, 5.0, 5.5, 5.25])
    boxes[1, 1:] = torch.tensor([9.0, 9.0, 3.0, 2.0])
    boxes[2, 1:] = torch.tensor([90.0, 90.0, 99.0, 99.0])
    pool = RoIAlign((4, 3), 0.5, sampling_ratio, aligned)
    if dynamo:
        exported = handgrad.onnx.export(pool, (image, boxes), tmp_path / "pool.onnx", verify=True)
        assert "RoiAlign" in [node.op_type for node in exported.program.model.graph]
        return
    with warnings.catch_warnings():
        # of this exporter as a whole, by torch
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        torch.onnx.export(pool, (image, boxes), str(tmp_path / "pool.onnx"), dynamo=False, opset_version=17)
    handgrad.onnx.verify(pool, tmp_path / "pool.onnx", (image, boxes))


@pytest.mark.tiers("whole")
def test_onnx_of_float64_is_the_reference(tmp_path):
    import handgrad.onnx

    image, boxes = SPEC.samples[1].tensors
    exported = handgrad.onnx.export(RoIAlign((2, 1), aligned=True), (image, boxes), tmp_path / "pool.onnx", verify=True)
    assert "RoiAlign" not in [node.op_type for node in exported.program.model.graph]


def test_gradients_add_up_in_the_order_of_boxes():
    """detectron2#4723, vision#1058, #7579: atomics made training irreproducible. Boxes upon each other, two runs."""
    image = torch.randn(1, 40, 30, 30, generator=reseeded()).requires_grad_()
    boxes = torch.cat(
        [torch.zeros(200, 1), torch.rand(200, 4, generator=reseeded()) * 15 + torch.tensor([0, 0, 12, 12])], 1
    )
    runs = []
    for _ in range(3):
        output = roi_align(image, boxes, 7, sampling_ratio=2)
        runs.append(torch.autograd.grad(output, image, output.detach())[0])
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=0)
    torch.testing.assert_close(runs[2], runs[0], rtol=0, atol=0)
