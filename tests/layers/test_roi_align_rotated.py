"""RoIAlign of rotated boxes: its specs, and what is peculiar to it."""

import math

import pytest
import torch
from torch import nn

from handgrad.layers import RoIAlignRotated, roi_align, roi_align_rotated
from handgrad.layers.roi_align_rotated import roi_align_rotated_reference
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.testing.ticks.memory import allocated

NAN, INF = float("nan"), float("inf")


def reference(
    input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=True, clockwise=False, boxes_grad=False
):
    pooled_h, pooled_w = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    return roi_align_rotated_reference(
        input, boxes, pooled_h, pooled_w, spatial_scale, max(0, sampling_ratio), aligned, clockwise
    )


def points(box, bins, spatial_scale, sampling_ratio, aligned, clockwise=False):
    """Where a box is looked at, one point after another; and numbers that must not be whole: each jumps there, or has a
    kink."""
    x, y, width, height, angle = box
    x, y = x * spatial_scale - 0.5 * aligned, y * spatial_scale - 0.5 * aligned
    width, height = (extent * spatial_scale for extent in (width, height))
    critical = [] if aligned else [width, height]
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    grid = [
        sampling_ratio if sampling_ratio > 0 else -int(-length // n)
        for length, n in zip((height, width), bins, strict=True)
    ]
    if sampling_ratio <= 0:
        critical += [height / bins[0], width / bins[1]]
    turn = math.radians(-angle if clockwise else angle)
    found = []
    for p in range(bins[0] * grid[0]):
        for q in range(bins[1] * grid[1]):
            v = height * ((p + 0.5) / (bins[0] * grid[0]) - 0.5)
            u = width * ((q + 0.5) / (bins[1] * grid[1]) - 0.5)
            found.append((y + v * math.cos(turn) - u * math.sin(turn), x + u * math.cos(turn) + v * math.sin(turn)))
    return found, critical


def boxes_at_ease(count, images, size, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=True, seed=0, **_):
    """Random boxes in and around images of ``size``, of which nothing is nearer to a kink than 0.01 pixels.

    The numbers of their images are k + 1/2: they are cut to whole ones, and gradcheck's small steps must not lead to
    another image.
    """
    generator = reseeded(seed)
    sides = torch.tensor(size[::-1], dtype=torch.float64)
    made = []
    while len(made) < count:
        centre, extent = torch.rand(2, 2, dtype=torch.float64, generator=generator)
        angle = 720 * torch.rand((), dtype=torch.float64, generator=generator).item() - 360
        numbers = [*((centre * 1.2 * sides - 1) / spatial_scale), *((extent * sides + 0.1) / spatial_scale)]
        box = [*map(float, numbers), angle]
        found, critical = points(box, output_size, spatial_scale, sampling_ratio, aligned)
        if all(abs(n - round(n)) > 0.01 for n in [*critical, *(c for point in found for c in point)]):
            made.append([len(made) % images + 0.5, *box])
    return torch.tensor(made, dtype=torch.float64)


def sample(name, input, count, output_size, seed=0, dtype=torch.float64, **options):
    image = torch.randn(input, dtype=torch.float64, generator=reseeded(seed))
    boxes = boxes_at_ease(count, input[0], input[2:], output_size, seed=seed, **options)
    kwargs = {"output_size": output_size, **options, "boxes_grad": True}
    return Sample(name, (image.to(dtype), boxes.to(dtype)), kwargs)


def any_boxes(count, images, size, seed=0, dtype=torch.float64):
    """In, around and beyond images of ``size``; some are quarter turns, points, lines, or far larger than the image."""
    generator = reseeded(seed)
    height, width = size
    boxes = torch.rand(count, 6, dtype=dtype, generator=generator)
    boxes *= torch.tensor([images, 1.4 * width, 1.4 * height, width, height, 1080], dtype=dtype)
    boxes -= torch.tensor([0, 0.2 * width, 0.2 * height, 0, 0, 540], dtype=dtype)
    boxes[:, 0] = boxes[:, 0].floor()
    boxes[:5, 5] = torch.tensor([0.0, 90, 180, 270, -90], dtype=dtype)
    boxes[5, 3:5] = 0
    boxes[6, 3] = 0
    boxes[7, 3:5] = torch.tensor([8 * width, 9 * height])
    boxes[8, 1:3] = torch.tensor([-5 * width, 6 * height])
    return boxes


# ---- independent formulas --------------------------------------------------------------------------------------------


def by_affine_grid(input, boxes, output_size, sampling_ratio):
    """torch's affine_grid and grid_sample, which read zeros around the image: for boxes inside it the same."""
    _, _, height, width = input.shape
    found = []
    for number, x, y, w, h, angle in boxes.tolist():
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        # From the box' frame, [-1, 1] along both axes, to the image's, whose corners are at -1 and 1.
        theta = torch.tensor(
            [
                [w * c / width, h * s / width, 2 * x / width - 1],
                [-w * s / height, h * c / height, 2 * y / height - 1],
            ],
            dtype=input.dtype,
        )
        fine = [1, 1, output_size[0] * sampling_ratio, output_size[1] * sampling_ratio]
        grid = nn.functional.affine_grid(theta[None], fine, align_corners=False)
        image = input[int(number)][None]
        pixels = nn.functional.grid_sample(image, grid, align_corners=False, padding_mode="zeros")
        found.append(nn.functional.avg_pool2d(pixels, sampling_ratio))
    return torch.cat(found)


def by_points(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=True, clockwise=False):
    """One point after another, in Python: interpolated, 0 farther out than a pixel, the edge's pixel up to there."""
    _, channels, height, width = input.shape
    output = input.new_zeros(len(boxes), channels, *output_size)
    for k, (number, *box) in enumerate(boxes.tolist()):
        found, _ = points(box, output_size, spatial_scale, sampling_ratio, aligned, clockwise)
        rows_of_points, columns_of_points = counts(box, output_size, spatial_scale, sampling_ratio, aligned)
        for index, (y, x) in enumerate(found):
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            p = index // columns_of_points * output_size[0] // rows_of_points
            q = index % columns_of_points * output_size[1] // columns_of_points
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
            for row, of_row in ((top, 1 - y + top), (min(top + 1, height - 1), y - top)):
                for column, of_column in ((left, 1 - x + left), (min(left + 1, width - 1), x - left)):
                    output[k, :, p, q] += input[int(number), :, row, column] * of_row * of_column
        per_bin = rows_of_points * columns_of_points / (output_size[0] * output_size[1])
        output[k] /= max(per_bin, 1)
    return output


def counts(box, bins, spatial_scale, sampling_ratio, aligned):
    """How many rows and columns of points a box has."""
    if sampling_ratio > 0:
        return bins[0] * sampling_ratio, bins[1] * sampling_ratio
    lengths = [box[3] * spatial_scale, box[2] * spatial_scale]
    if not aligned:
        lengths = [max(length, 1.0) for length in lengths]
    return tuple(n * -int(-length / n // 1) for length, n in zip(lengths, bins, strict=True))


# ---- spec ------------------------------------------------------------------------------------------------------------


def not_turned_it_is_roi_align():
    """Not to the bit: corners are not centres and extents, and samples are added in another order."""
    image = torch.randn(2, 3, 9, 11, dtype=torch.float64, generator=reseeded())
    boxes = boxes_at_ease(6, 2, (9, 11), (2, 3))
    boxes[:, 5] = torch.tensor([0.0, 360, -360, 720, 0, 0])
    corners = torch.cat([boxes[:, :1], boxes[:, 1:3] - boxes[:, 3:5] / 2, boxes[:, 1:3] + boxes[:, 3:5] / 2], 1)
    for ratio in (0, 2):
        torch.testing.assert_close(
            roi_align_rotated(image, boxes, (2, 3), 1.0, ratio), roi_align(image, corners, (2, 3), 1.0, ratio, True)
        )
    # Of numbers that are exact in binary, with one sampling point in a bin, there is nothing to round.
    image = torch.randint(-64, 64, (1, 3, 9, 11), generator=reseeded()).double()
    exact = torch.tensor([[0, 4.5, 3.75, 6.0, 3.5, 0.0]], dtype=torch.float64)
    corner = torch.tensor([[0, 1.5, 2.0, 7.5, 5.5]], dtype=torch.float64)
    assert roi_align_rotated(image, exact, (4, 8), 1.0, 1).equal(roi_align(image, corner, (4, 8), 1.0, 1, True))


def quarter_turns_turn_the_output():
    """Counter-clockwise, as rot90 does: what was along the box' width is then along the image's height."""
    image = torch.randn(1, 3, 12, 12, dtype=torch.float64, generator=reseeded())
    box = torch.tensor([[0, 5.3, 6.1, 7.0, 4.2, 0.0]], dtype=torch.float64)
    for turns in range(-3, 5):
        turned = box.clone()
        turned[0, 5] = 90 * turns
        # The image turned clockwise around the box, the box as it was.
        side = 12.0
        x, y = 5.3 - side / 2, 6.1 - side / 2
        for _ in range(turns % 4):
            x, y = -y, x
        back = torch.tensor([[0, x + side / 2, y + side / 2, 7.0, 4.2, 0.0]], dtype=torch.float64)
        expected = roi_align_rotated(torch.rot90(image, -turns, (2, 3)), back, (3, 4), 1.0, 2)
        torch.testing.assert_close(roi_align_rotated(image, turned, (3, 4), 1.0, 2), expected)


def a_ramp_gives_the_bins_centres():
    """Bilinear interpolation of a plane is the plane: so are averages, and with respect to the box all is known."""
    ramp_y, ramp_x = torch.arange(20.0, dtype=torch.float64)[:, None], torch.arange(30.0, dtype=torch.float64)
    image = (3 * ramp_y - 2 * ramp_x)[None, None]
    boxes = torch.tensor([[0.5, 14.2, 9.1, 8.6, 6.3, 25.0]], dtype=torch.float64, requires_grad=True)
    output = roi_align_rotated(image, boxes, (2, 4), boxes_grad=True)
    c, s = math.cos(math.radians(25)), math.sin(math.radians(25))
    v, u = 6.3 * (0.75 - 0.5), 8.6 * (0.125 - 0.5)
    y, x = 9.1 - 0.5 + v * c - u * s, 14.2 - 0.5 + u * c + v * s
    assert output[0, 0, 1, 0].item() == pytest.approx(3 * y - 2 * x)
    (grad,) = torch.autograd.grad(output[0, 0, 1, 0], boxes)
    degree = math.pi / 180
    expected = [
        0, -2, 3, (3 * -s - 2 * c) * (0.125 - 0.5), (3 * c - 2 * s) * (0.75 - 0.5),
        (3 * (-v * s - u * c) - 2 * (-u * s + v * c)) * degree,
    ]  # fmt: skip
    torch.testing.assert_close(grad[0], torch.tensor(expected, dtype=torch.float64))


def linear_in_the_image():
    image = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=reseeded())
    boxes = boxes_at_ease(5, 2, (5, 8), (2, 3))
    torch.testing.assert_close(
        roi_align_rotated(-3 * image, boxes, (2, 3)), -3 * roi_align_rotated(image, boxes, (2, 3))
    )


def numel_beyond_int32():
    # One pixel for all: nothing but the output is in memory, 4.4 GB of it.
    side, channels = 2**13, 33
    image = torch.arange(1.0, channels + 1).bfloat16().view(1, channels, 1, 1).expand(1, channels, 5, 5)
    output = roi_align_rotated(image, [torch.tensor([[2.5, 2.5, 2.0, 1.0, 30.0]])], side, sampling_ratio=1)
    assert output.numel() > 2**31
    for channel in range(channels):
        assert output[0, channel].view(-1)[:: 2**14 + 1].eq(channel + 1).all()
        assert output[0, channel, -1, -1] == channel + 1


IMAGE = torch.randn(3, 2, 5, 6, generator=reseeded())
BOXES = boxes_at_ease(3, 3, (5, 6), (2, 3)).float()


def bad_boxes(name, boxes, error, match):
    return Bad(name, lambda: roi_align_rotated(IMAGE, boxes, 2), error, match)


SPEC = OpSpec(
    name="roi_align_rotated",
    operator="handgrad::roi_align_rotated",
    function=roi_align_rotated,
    reference=reference,
    module=RoIAlignRotated,
    samples=[
        sample("plain", (2, 2, 5, 3), 3, (2, 2), spatial_scale=0.5, sampling_ratio=2, aligned=True, clockwise=False),
        sample(
            "adaptive",
            (2, 2, 5, 4),
            2,
            (2, 1),
            spatial_scale=1.0,
            sampling_ratio=0,
            aligned=True,
            clockwise=False,
            seed=1,
        ),
        sample(
            "adaptive_old_rule",
            (1, 2, 4, 6),
            3,
            (1, 2),
            spatial_scale=0.25,
            sampling_ratio=-1,
            aligned=False,
            clockwise=True,
            seed=2,
        ),
    ],
    large=sample(
        "large",
        (3, 67, 41, 37),
        29,
        (4, 9),
        spatial_scale=0.5,
        sampling_ratio=2,
        aligned=True,
        clockwise=False,
        dtype=torch.float32,
        seed=3,
    ),
    empty=[
        Sample(
            "no_boxes", (IMAGE.double(), torch.zeros(0, 6, dtype=torch.float64)), {"output_size": 2, "boxes_grad": True}
        ),
        Sample(
            "no_images",
            (torch.zeros(0, 2, 5, 6, dtype=torch.float64), torch.zeros(0, 6, dtype=torch.float64)),
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
            "output_size",
            lambda: roi_align_rotated(IMAGE, BOXES, 0),
            ValueError,
            "output_size must be .* at least 1.*; got 0",
        ),
        Bad("output_size_kind", lambda: roi_align_rotated(IMAGE, BOXES, 2.5), TypeError, "output_size must be a whole"),
        Bad("scale", lambda: roi_align_rotated(IMAGE, BOXES, 2, -1.0), ValueError, "spatial_scale must be .* greater"),
        Bad("sampling", lambda: roi_align_rotated(IMAGE, BOXES, 2, 1.0, 1.5), TypeError, "sampling_ratio must be a"),
        Bad("aligned", lambda: roi_align_rotated(IMAGE, BOXES, 2, aligned=1), TypeError, "aligned must be True or Fal"),
        Bad("clockwise", lambda: roi_align_rotated(IMAGE, BOXES, 2, clockwise=None), TypeError, "clockwise must be Tr"),
        Bad("boxes_grad", lambda: roi_align_rotated(IMAGE, BOXES, 2, boxes_grad=0), TypeError, "boxes_grad must be Tr"),
        Bad("rank", lambda: roi_align_rotated(IMAGE[0], BOXES, 2), RuntimeError, r"input must have 4 dim.* \(2, 5, 6"),
        Bad(
            "no_pixels", lambda: roi_align_rotated(IMAGE[:, :, :0], BOXES, 2), RuntimeError, "input must have at least"
        ),
        # Boxes that are not rotated, with their corners.
        bad_boxes("columns", BOXES[:, :5], RuntimeError, r"boxes must have shape \(boxes, 6\).*\(3, 5\)"),
        bad_boxes("wide", BOXES.double(), TypeError, "boxes must be of float32.*; got float64"),
        bad_boxes("list_length", [BOXES[:, 1:]], ValueError, "boxes must be one tensor for each .* 3; got 1"),
        bad_boxes(
            "list_columns",
            [BOXES[:, 2:]] * 3,
            RuntimeError,
            r"boxes\[0\] must have shape \(boxes, 5\): center x, center y, width, height, angle; got \(3, 4\)",
        ),
        bad_boxes("list_kind", [BOXES[:, 1:], None, 2], TypeError, "boxes must be .* a list of NoneType, Tensor, int"),
        bad_boxes("list_dtype", [BOXES[:, 1:].long()] * 3, TypeError, r"boxes\[0\] must be of float32"),
        Bad("module", lambda: RoIAlignRotated(0, 1.0, 2), ValueError, "output_size must be"),
    ],
    identities={
        "not_turned": not_turned_it_is_roi_align,
        "quarter_turns": quarter_turns_turn_the_output,
        "ramp": a_ramp_gives_the_bins_centres,
        "linear": linear_in_the_image,
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
    # Samples of a bin share corners, boxes share pixels, tiles share the bins that lie across their edges, and each is
    # read for itself, from the cache as a rule: 2.37, 3.74 and 5.67 times.
    floor_factors={"forward": 2.5, "backward": 3.9, "double_backward": 5.9},
)

test_matrix = matrix(SPEC)


# ---- boxes that are constants, as they are by default ----------------------------------------------------------------

# Of two images, as many as any sample has, and float32 beside every type of input.
FIXED = boxes_at_ease(3, 2, (5, 3), (3, 2), sampling_ratio=2, seed=4).float()


def fixed_boxes(input, output_size, sampling_ratio):
    return roi_align_rotated(input, FIXED, output_size, 1.0, sampling_ratio)


FIXED_SPEC = OpSpec(
    name="roi_align_rotated",
    operator="handgrad::roi_align_rotated",
    function=fixed_boxes,
    reference=lambda input, output_size, sampling_ratio: reference(
        input, FIXED.to(torch.float64), output_size, 1.0, sampling_ratio
    ),
    module=None,
    samples=[
        Sample(
            "fixed_boxes",
            (torch.randn(2, 2, 5, 3, dtype=torch.float64, generator=reseeded(5)),),
            {"output_size": (3, 2), "sampling_ratio": 2},
        )
    ],
    large=Sample(
        "fixed_boxes_large",
        (torch.randn(2, 70, 41, 37, generator=reseeded(6)),),
        {"output_size": (3, 2), "sampling_ratio": 2},
    ),
    empty=[
        Sample(
            "fixed_boxes_no_channels",
            (torch.zeros(2, 0, 4, 5, dtype=torch.float64),),
            {"output_size": (3, 2), "sampling_ratio": 2},
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
    """As to detectron2 and mmcv. The gradient of the angle was asked for in mmcv#1678."""
    image, boxes = IMAGE.clone().requires_grad_(), BOXES.clone().requires_grad_()
    roi_align_rotated(image, boxes, 2).sum().backward()
    assert boxes.grad is None
    assert image.grad is not None
    tangent = torch.func.jvp(lambda b: roi_align_rotated(IMAGE, b, 2), (BOXES,), (torch.ones_like(BOXES),))[1]
    assert tangent.eq(0).all()
    roi_align_rotated(image, boxes, 2, boxes_grad=True).square().sum().backward()
    assert boxes.grad[:, 5].ne(0).all()


def test_constant_boxes_cost_no_memory():
    """The gradient is all that the backward allocates, and two inputs are all that is saved."""
    image = torch.randn(2, 70, 41, 37, generator=reseeded()).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        output = roi_align_rotated(image, FIXED, 7, sampling_ratio=2)
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
    torch.testing.assert_close(torch.func.jacrev(of_image(roi_align_rotated))(boxes), expected)
    torch.testing.assert_close(torch.func.jacfwd(of_image(roi_align_rotated))(boxes), expected)


# ---- beside independent formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_inside_the_image_it_is_an_affine_grid(sampling_ratio):
    """torch's affine_grid and grid_sample, in float64: values and the image's gradient."""
    image = torch.randn(2, 5, 40, 50, dtype=torch.float64, generator=reseeded(), requires_grad=True)
    boxes = torch.rand(20, 6, dtype=torch.float64, generator=reseeded(1))
    boxes = boxes * torch.tensor([2, 10, 8, 14, 12, 720]) + torch.tensor([0, 20, 16, 1, 1, -360.0])
    expected = by_affine_grid(image, boxes, (3, 5), sampling_ratio)
    output = roi_align_rotated(image, boxes, (3, 5), 1.0, sampling_ratio)
    torch.testing.assert_close(output, expected)
    direction = torch.randn(output.shape, dtype=torch.float64, generator=reseeded())
    torch.testing.assert_close(
        torch.autograd.grad(output, image, direction), torch.autograd.grad(expected, image, direction)
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("aligned", "clockwise"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("sampling_ratio", [-1, 1, 2, 5])
def test_boxes_of_all_kinds(sampling_ratio, aligned, clockwise, dtype, channels_last):
    """One point after another, and the borders' rule: boxes that reach out of the image, lie outside, are turned by
    quarters, are a point or a line, are larger than the image."""
    boxes = any_boxes(24, 2, (12, 17), dtype=dtype)
    image = torch.randn(2, 37, 12, 17, dtype=dtype, generator=reseeded(2))
    if channels_last:
        image = image.to(memory_format=torch.channels_last)
    image.requires_grad_()
    expected = by_points(image.double(), boxes.double(), (3, 2), 0.6, sampling_ratio, aligned, clockwise)
    output = roi_align_rotated(image, boxes, (3, 2), 0.6, sampling_ratio, aligned, clockwise)
    # A sampling point in a box of a hundred pixels is rounded by 1e-5.
    tolerance = {"rtol": 1e-4, "atol": 2e-4} if dtype is torch.float32 else {}
    torch.testing.assert_close(output.double(), expected, **tolerance)
    direction = torch.randn(output.shape, dtype=dtype, generator=reseeded())
    (grad,) = torch.autograd.grad(output, image, direction)
    (expected_grad,) = torch.autograd.grad(expected, image, direction.double())
    torch.testing.assert_close(grad, expected_grad, **tolerance)
    assert not channels_last or output.is_contiguous(memory_format=torch.channels_last)
    assert not channels_last or grad.is_contiguous(memory_format=torch.channels_last)


def test_the_direction_of_angles():
    """A picture: a line that rises to the right, y pointing downwards. 45 degrees counter-clockwise the box lies along
    it, clockwise across it (detectron2's convention; ReDet#36 asks which)."""
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0] = torch.eye(21).flip(1)
    box = torch.tensor([[0, 10.5, 10.5, 16.0, 1.0, 45.0]])
    along = roi_align_rotated(image, box, (1, 8), 1.0, 4)
    across = roi_align_rotated(image, box, (1, 8), 1.0, 4, clockwise=True)
    assert along.min() > 0.5
    assert across[0, 0, 0, [0, 1, 6, 7]].eq(0).all()
    assert roi_align_rotated(image, -box.abs() * torch.tensor([1, -1, -1, -1, -1, 1]), (1, 8), 1.0, 4).equal(across)


def test_mmcvs_call():
    """Its arguments in its order; its angles are in radians, which is all to change."""
    image = torch.randn(1, 3, 20, 20, generator=reseeded())
    rois = torch.tensor([[0, 9.3, 8.1, 10.0, 6.0, 0.4]])
    boxes = torch.cat([rois[:, :5], torch.rad2deg(rois[:, 5:])], 1)
    output = roi_align_rotated(image, boxes, (2, 3), 0.9, 2, False, True)
    expected = by_points(image.double(), boxes.double(), (2, 3), 0.9, 2, False, True)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    assert RoIAlignRotated((2, 3), 0.9, 2, False, True)(image, boxes).equal(output)
    assert repr(RoIAlignRotated(7, 0.25)) == (
        "RoIAlignRotated(output_size=7, spatial_scale=0.25, sampling_ratio=-1, aligned=True, clockwise=False)"
    )


def test_lists_of_boxes():
    image = torch.randn(3, 4, 9, 8, dtype=torch.float64, generator=reseeded())
    table = boxes_at_ease(5, 1, (9, 8), (2, 2), sampling_ratio=2)[:, 1:]
    number = torch.tensor([0.0, 0, 2, 2, 2], dtype=torch.float64)[:, None]
    expected = roi_align_rotated(image, torch.cat([number, table], 1), 2, 1.0, 2)
    for given in ([table[:2], table[:0], table[2:]], (table[:2], table[:0], table[2:])):
        torch.testing.assert_close(roi_align_rotated(image, given, 2, 1.0, 2), expected)
    boxes = [table[:2].clone().requires_grad_(), table[:0], table[2:].clone().requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda first, last: roi_align_rotated(image, [first, boxes[1], last], 2, 1.0, 2, boxes_grad=True),
        (boxes[0], boxes[2]),
    )
    assert roi_align_rotated(IMAGE, [torch.zeros(0, 5)] * 3, (2, 3)).shape == (0, 2, 2, 3)
    assert roi_align_rotated(torch.zeros(0, 2, 4, 4), [], 2).shape == (0, 2, 2, 2)


# ---- boxes of every kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_boxes_that_are_nowhere(bad, sampling_ratio, aligned):
    """detectron2#4216, Rotated_ROIAlign#2: such boxes read beyond the image. Here: NaN in that box, and in nothing
    else."""
    image = torch.randn(2, 3, 6, 5, generator=reseeded(), requires_grad=True)
    good = torch.tensor([[0, 2.5, 2.5, 3, 3, 30], [1, 2.0, 3, 3, 5, -70]])
    (expected,) = torch.autograd.grad(roi_align_rotated(image, good, 2, 1.0, sampling_ratio, aligned).sum(), image)
    for column in range(1, 6):
        boxes = torch.cat([good[:1], good]).clone()
        boxes[0, column] = bad
        boxes.requires_grad_()
        output = roi_align_rotated(image, boxes, 2, 1.0, sampling_ratio, aligned, boxes_grad=True)
        assert output[0].isnan().all()
        torch.testing.assert_close(output[1:], roi_align_rotated(image, good, 2, 1.0, sampling_ratio, aligned))
        grad_image, grad_boxes = torch.autograd.grad(output.nansum(), (image, boxes))
        torch.testing.assert_close(grad_image, expected)
        assert grad_boxes.isfinite().all()
        assert grad_boxes[0].eq(0).all()
        assert reference(image, boxes, 2, 1.0, sampling_ratio, aligned)[0].isnan().all()


@pytest.mark.parametrize("size", [1e5, 3e9, 1e19, 1e30, 1e38])
@pytest.mark.parametrize("aligned", [False, True])
def test_huge_boxes_end(size, aligned):
    """An adaptive grid has as many points as the box has pixels; only those in the image are gone to."""
    image = torch.ones(1, 2, 6, 5, requires_grad=True)
    boxes = torch.tensor([[0, -size / 9, -size / 9, size, size, 33], [0, size / 2, 3, size / 4, 3, 0]])
    output = roi_align_rotated(image, boxes, 3, 1.0, 0, aligned)
    assert output.isfinite().all()
    # An average of ones, with zeros from outside the image.
    assert (output >= 0).all()
    assert (output <= 1).all()
    assert output[1].eq(0).all()
    assert torch.autograd.grad(output.sum(), image)[0].isfinite().all()


def test_a_fine_grid_is_looked_at_where_it_matters():
    """A box of ten thousand pixels, against every point of its grid."""
    image = torch.randn(1, 2, 6, 5, dtype=torch.float64, generator=reseeded())
    for angle in (0.0, 25.0, 90.0, -140.0):
        box = torch.tensor([[0, 2000.25, 3.3, 10000.5, 9.1, angle]], dtype=torch.float64)
        torch.testing.assert_close(
            roi_align_rotated(image, box, (2, 3), 1.0, 0), by_points(image, box, (2, 3), 1.0, 0), rtol=1e-6, atol=1e-9
        )


def test_degenerate_boxes():
    image = torch.randn(1, 2, 6, 5, generator=reseeded())
    point = torch.tensor([[0, 2.0, 3, 0, 0, 40.0]])
    # A point is a pixel to the older rule; to the other it covers nothing.
    assert roi_align_rotated(image, point, 2, 1.0, 0).eq(0).all()
    torch.testing.assert_close(
        roi_align_rotated(image, point, 2, 1.0, 0, False),
        roi_align_rotated(image, point + torch.tensor([0, 0, 0, 1, 1, 0]), 2, 1.0, 0, False),
    )
    # Looked at a fixed number of times, the point is all there is.
    torch.testing.assert_close(
        roi_align_rotated(image, point, 2, 1.0, 3)[0, :, 1, 1], image[0, :, 2:4, 1:3].mean((1, 2))
    )
    leaf = image.clone().requires_grad_()
    assert torch.autograd.grad(roi_align_rotated(leaf, point, 2, 1.0, 0).sum(), leaf)[0].eq(0).all()
    # With both extents negative a box is half a turn; detectron2 refuses it on the CPU alone. Adaptive: nothing.
    inside_out = torch.tensor([[0, 2.5, 3, -3.0, -4, 20]])
    upright = torch.tensor([[0, 2.5, 3, 3.0, 4, 200]])
    torch.testing.assert_close(
        roi_align_rotated(image, inside_out, 3, 1.0, 2), roi_align_rotated(image, upright, 3, 1.0, 2)
    )
    assert roi_align_rotated(image, inside_out, 3, 1.0, 0).eq(0).all()


def test_boxes_shorter_than_a_pixel_have_no_gradient_of_their_extents():
    """To the older rule they are a pixel, whatever they are."""
    image = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 5, 8)
    boxes = torch.tensor([[0, 6.2, 4.3, 1.5, 1.9, 0]], dtype=torch.float64, requires_grad=True)
    output = roi_align_rotated(image, boxes, (1, 2), 0.5, 2, False, boxes_grad=True)
    (grad,) = torch.autograd.grad(output[..., 0].sum(), boxes)
    # (The bin's middle is a quarter of a pixel to the left, and the angle moves it along y, where the image is even.)
    torch.testing.assert_close(grad, torch.tensor([[0, 0.5, 0, 0, 0, 0]], dtype=torch.float64))


def test_whole_turns_change_nothing():
    image = torch.randn(1, 3, 20, 20, generator=reseeded())
    box = torch.tensor([[0, 9.3, 8.1, 10.0, 6.0, 30.0]])
    expected = roi_align_rotated(image, box, 3, 1.0, 2)
    for turns in (-5, -1, 1, 2, 100):
        box[0, 5] = 30 + 360 * turns
        assert roi_align_rotated(image, box, 3, 1.0, 2).equal(expected)
    box[0, 5] = 210
    torch.testing.assert_close(roi_align_rotated(image, box, 3, 1.0, 2), expected.flip(2, 3))


def test_points_on_the_edges_of_the_image():
    """A pixel outside is the edge's pixel, what is farther out is 0; on whole coordinates there is nothing to round."""
    image = torch.arange(1.0, 13).view(1, 1, 3, 4)
    for x, y, value in (
        (-0.5, 1.5, 5), (-0.50001, 1.5, 0), (4.5, 0.5, 4), (4.50001, 0.5, 0), (1.5, -0.5, 2), (1.5, -0.50001, 0),
        (2.5, 3.5, 11), (2.5, 3.50001, 0), (-0.5, -0.5, 1), (4.5, 3.5, 12),
    ):  # fmt: skip
        for angle in (0.0, 33.0, 90.0):
            box = torch.tensor([[0, x, y, 0.0, 0.0, angle]])
            assert roi_align_rotated(image, box, 1, 1.0, 1).item() == value, (x, y, angle)


def test_pixels_that_are_not_finite_stay_where_they_are():
    image = torch.randn(1, 2, 8, 8, generator=reseeded())
    image[0, 0, 6, 6], image[0, 1, 1, 1] = NAN, INF
    boxes = torch.tensor([[0, 2.05, 2.05, 2.7, 2.7, 10], [0, 6, 6, 2.8, 2.8, -10], [0, 4.1, 4.1, 1.4, 1.4, 45]])
    output = roi_align_rotated(image, boxes, 2, 1.0, 2)
    broken = reference(image, boxes, 2, 1.0, 2)
    assert output[0, 0].isfinite().all()
    assert output[0, 1, 0, 0] == INF
    assert output[1, 0, 1, 1].isnan()
    assert output[1, 1].isfinite().all()
    assert output[2].isfinite().all()
    assert broken.isfinite().equal(output.isfinite())


@pytest.mark.parametrize("number", [2.0, -1.0, 1e9, NAN, INF])
def test_boxes_of_images_that_are_not_there(number):
    """On a CUDA device, which must not wait: NaN."""
    boxes = torch.tensor([[0.0, 3, 3, 4, 4, 20], [number, 3, 3, 4, 4, 20]])
    image = torch.randn(2, 3, 6, 5, generator=reseeded(), requires_grad=True)
    if LOADED["handgrad"].emulated:
        output = roi_align_rotated(image, boxes.requires_grad_(), 2, boxes_grad=True)
        assert output[0].isfinite().all()
        assert output[1].isnan().all()
        grad_image, grad_boxes = torch.autograd.grad(output.nansum(), (image, boxes))
        expected = torch.autograd.grad(roi_align_rotated(image, boxes[:1], 2).sum(), image)[0]
        torch.testing.assert_close(grad_image, expected)
        assert grad_boxes[1].eq(0).all()
    else:
        with pytest.raises(RuntimeError, match=r"boxes must have a batch index .* below 2; got .* in row 1"):
            roi_align_rotated(image, boxes, 2)
    assert reference(image, boxes, 2)[1].isnan().all()


# ---- types, order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_are_never_in_a_half_type(dtype):
    """detectron2#2502: Half meets Float. Coordinates stay float32, where they have digits."""
    image = torch.randn(1, 3, 20, 25, generator=reseeded()).to(dtype)
    boxes = torch.tensor([[0, 413.3, 301.7, 300.2, 155.5, 33.3]], requires_grad=True)
    output = roi_align_rotated(image, boxes, 4, 1 / 32, 2, boxes_grad=True)
    assert output.dtype is dtype
    torch.testing.assert_close(output, by_points(image.double(), boxes.double(), (4, 4), 1 / 32, 2).to(dtype))
    assert torch.autograd.grad(output.sum(), boxes)[0].dtype is torch.float32
    coarse = roi_align_rotated(image, boxes.detach().to(dtype), 4, 1 / 32, 2)
    assert coarse.equal(roi_align_rotated(image, boxes.detach().to(dtype).float(), 4, 1 / 32, 2))


def test_vmap_over_models_and_boxes():
    images = torch.randn(4, 2, 3, 6, 5, generator=reseeded())
    boxes = torch.stack([boxes_at_ease(3, 2, (6, 5), (2, 2), seed=seed) for seed in range(4)]).float()
    loop = torch.stack([roi_align_rotated(i, b, 2) for i, b in zip(images, boxes, strict=True)])
    torch.testing.assert_close(torch.vmap(lambda i, b: roi_align_rotated(i, b, 2))(images, boxes), loop)
    torch.testing.assert_close(torch.vmap(lambda i: roi_align_rotated(i, boxes[0], 2))(images)[0], loop[0])


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_onnx_of_boxes_of_all_kinds(sampling_ratio, tmp_path):
    """detectron2#1954, #1955: rotated heads could not be exported."""
    import handgrad.onnx

    image = torch.randn(2, 3, 12, 17, generator=reseeded())
    pool = RoIAlignRotated((3, 2), 0.6, sampling_ratio)
    handgrad.onnx.export(pool, (image, any_boxes(24, 2, (12, 17)).float()), tmp_path / "pool.onnx", verify=True)


def test_gradients_add_up_in_the_order_of_boxes():
    """Atomics would make training irreproducible. Boxes upon each other, more than a block lists at a time."""
    image = torch.randn(1, 40, 30, 30, generator=reseeded()).requires_grad_()
    boxes = torch.rand(300, 6, generator=reseeded()) * torch.tensor([0, 20, 20, 15, 15, 360.0]) + 5
    boxes[:, 0] = 0
    runs = []
    for _ in range(3):
        output = roi_align_rotated(image, boxes, 7, sampling_ratio=2)
        runs.append(torch.autograd.grad(output, image, output.detach())[0])
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=0)
    torch.testing.assert_close(runs[2], runs[0], rtol=0, atol=0)


def test_many_bins_of_a_tile():
    """Bins far smaller than a pixel, of which a pixel is in reach of all; and more of them than are taken at a time."""
    image = torch.randn(1, 3, 11, 9, dtype=torch.float64, generator=reseeded(), requires_grad=True)
    boxes = torch.tensor([[0, 4.2, 5.1, 1.3, 0.7, 20], [0, 5.0, 4.0, 7.0, 0.0, -50]], dtype=torch.float64)
    output = roi_align_rotated(image, boxes, (19, 10), 1.0, 1)
    expected = by_points(image, boxes, (19, 10), 1.0, 1)
    torch.testing.assert_close(output, expected)
    direction = torch.randn(output.shape, dtype=torch.float64, generator=reseeded())
    torch.testing.assert_close(
        torch.autograd.grad(output, image, direction), torch.autograd.grad(expected, image, direction)
    )
