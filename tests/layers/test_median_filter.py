"""A median filter: its spec, and what is peculiar to it."""

import math

import pytest
import torch

from handgrad._borders import BORDERS
from handgrad.layers import MedianFilter, median_filter
from handgrad.layers.median_filter import median_filter_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def numbers(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def reference(input, kernel_size, border_type="reflect"):
    taps = [kernel_size] * 2 if isinstance(kernel_size, int) else list(kernel_size)
    return median_filter_reference(input, taps, BORDERS.index(border_type))


def one_tap_is_the_image():
    image = numbers(2, 3, 7, 5)
    assert torch.equal(median_filter(image, 1), image)


def order_is_all_that_counts():
    """An increasing function may be applied before or after."""
    image = numbers(2, 2, 9, 8)
    for taps in (3, 5, (3, 7)):
        assert torch.equal(median_filter(image.exp(), taps), median_filter(image, taps).exp())
        assert torch.equal(median_filter(-image, taps), -median_filter(image, taps))


def turned_images_are_filtered_to_turned_ones():
    image = numbers(2, 3, 9, 11)
    for border in BORDERS:
        found = median_filter(image, (3, 5), border)
        assert torch.equal(median_filter(image.transpose(2, 3), (5, 3), border).transpose(2, 3), found)
        assert torch.equal(median_filter(image.flip(2, 3), (3, 5), border).flip(2, 3), found)


def impulses_go():
    image = torch.full((1, 1, 9, 9), 0.5)
    image[0, 0, ::3, ::3] = 1e30
    assert median_filter(image, 3)[0, 0].eq(0.5).all()


def an_image_beyond_int32():
    """The images of a batch far apart."""
    small = numbers(2, 1, 5, 37).bfloat16()
    memory = torch.empty(2**31 + 200, dtype=torch.bfloat16)
    far = memory.as_strided((2, 1, 5, 37), (2**31, 185, 37, 1)).copy_(small)
    assert torch.equal(median_filter(far, 3), median_filter(small, 3))


IMAGE = torch.rand(2, 3, 8, 9)

SPEC = OpSpec(
    name="median_filter",
    operator="handgrad::median_filter",
    function=median_filter,
    reference=reference,
    module=MedianFilter,
    samples=[
        # No multiple of the batch is one of the other sizes, which would be taken for it.
        Sample("three", (numbers(2, 3, 3, 5),), {"kernel_size": 3}),
        Sample("wide", (numbers(2, 1, 3, 5),), {"kernel_size": (1, 7), "border_type": "replicate"}),
    ],
    large=Sample("large", (numbers(3, 3, 67, 91).float(),), {"kernel_size": 5}),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5),), {"kernel_size": 3}),
        Sample("pixels", (numbers(2, 3, 0, 5),), {"kernel_size": (1, 3)}),
    ],
    lenient={"kernel_size": lambda value: isinstance(value, int) and value % 2 == 1 and 0 < value < 5},
    bad=[
        Bad(
            "even",
            lambda: median_filter(IMAGE, 4),
            ValueError,
            "kernel_size must be a whole number, odd and from 1 to 1023, or two of them; got 4",
        ),
        Bad(
            "columns",
            lambda: median_filter(IMAGE, (3, 19)),
            RuntimeError,
            "input must have more columns than kernel_size // 2, 9, for a border that is reflect; got 8 x 9 pixels",
        ),
        Bad(
            "rows",
            lambda: median_filter(IMAGE, (19, 3), "circular"),
            RuntimeError,
            "input must have at least as many rows as kernel_size // 2, 9, for a border that is circular; got 8 x 9",
        ),
        Bad(
            "border",
            lambda: median_filter(IMAGE, 3, "mirror"),
            ValueError,
            "border_type must be 'reflect', 'replicate', 'constant' or 'circular'; got 'mirror'",
        ),
        Bad("rank", lambda: median_filter(IMAGE[0], 3), RuntimeError, "input must have 4 dimensions"),
        Bad("layer", lambda: MedianFilter((3, 2)), ValueError, r"kernel_size must be .* got \(3, 2\)"),
    ],
    identities={
        "one_tap": one_tap_is_the_image,
        "order": order_is_all_that_counts,
        "turned": turned_images_are_filtered_to_turned_ones,
        "impulses": impulses_go,
    },
    numel_beyond_int32=an_image_beyond_int32,
    # The double backward selects by the input what it takes of the direction, and needs no grad_output.
    floor=lambda sample: {"double_backward": 3 * sample.tensors[0].numel() * sample.tensors[0].element_size()},
    # What windows reach beyond a tile is read again, of a gradient twice as far.
    floor_factors={"forward": 1.25, "backward": 1.35, "double_backward": 1.35},
    onnx=("three",),
)

test_matrix = matrix(SPEC)


def gradients(call, image):
    leaf = image.clone().requires_grad_()
    output = call(leaf)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape).cos()
    return output, torch.autograd.grad((output * weight).sum(), leaf)[0]


@pytest.mark.parametrize("border", BORDERS)
def test_borders_and_windows(border):
    """Windows as wide as their border lets them be, images of one row; many equal numbers, where the first counts."""
    shapes = (((1, 2, 6, 7), (3, 3)), ((2, 1, 6, 7), (5, 5)), ((1, 1, 1, 9), (1, 9)), ((1, 2, 6, 6), (11, 7)))
    for dtype in (torch.float32, torch.float64):
        for shape, taps in shapes:
            for image in (numbers(*shape).to(dtype), (numbers(*shape) * 4).round().to(dtype) - 2):
                found = gradients(lambda x: median_filter(x, taps, border), image)  # noqa: B023
                expected = gradients(lambda x: reference(x, taps, border), image)  # noqa: B023
                assert torch.equal(found[0], expected[0])
                torch.testing.assert_close(found[1], expected[1])


def test_windows_beyond_the_image_and_large_ones():
    """Where the border lets them be; and windows that a device has no shared memory for, in strips of columns."""
    for shape, taps, border in (((1, 1, 3, 4), (9, 13), "constant"), ((1, 1, 3, 1300), (3, 5), "reflect"),
                                ((1, 1, 90, 3), (177, 5), "reflect")):  # fmt: skip
        image = numbers(*shape)
        found = gradients(lambda x: median_filter(x, taps, border), image)  # noqa: B023
        expected = gradients(lambda x: reference(x, taps, border), image)  # noqa: B023
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])


def test_nan_is_where_windows_see_it():
    """Its gradient goes to the first NaN of the window. Infinities are numbers like others."""
    for taps in (3, 5, (1, 3)):
        image = numbers(1, 1, 11, 11)
        image[0, 0, 5, 5] = math.nan
        found, grad = gradients(lambda x: median_filter(x, taps), image)  # noqa: B023
        expected, wanted = gradients(lambda x: reference(x, taps), image)  # noqa: B023
        torch.testing.assert_close(found, expected, equal_nan=True)
        torch.testing.assert_close(grad, wanted)
        assert found.isnan().sum() == math.prod(taps if isinstance(taps, tuple) else (taps, taps))
        image[0, 0, 5, 5] = math.inf
        assert median_filter(image, taps).isfinite().all()
        assert median_filter(torch.full_like(image, -math.inf), taps).eq(-math.inf).all()


def test_signs_of_zero_and_subnormal_numbers():
    tiny = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 0.0, -0.0, 1e-45]).repeat(9).view(1, 1, 9, 9)
    for taps in (3, 5, 7):
        assert torch.equal(median_filter(tiny, taps), reference(tiny, taps))


def test_half_types_are_exact():
    for dtype in (torch.bfloat16, torch.float16):
        image = numbers(1, 2, 9, 8).to(dtype)
        for taps in (3, (3, 5)):
            assert torch.equal(median_filter(image, taps), median_filter(image.double(), taps).to(dtype))


@pytest.mark.tiers("whole")
def test_equals_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    image = numbers(1, 1, 17, 19)
    for border, mode in (
        ("reflect", "mirror"),
        ("replicate", "nearest"),
        ("constant", "constant"),
        ("circular", "wrap"),
    ):
        for taps in ((3, 3), (5, 5), (3, 7)):
            expected = ndimage.median_filter(image[0, 0].numpy(), size=taps, mode=mode)
            assert torch.equal(median_filter(image, taps, border)[0, 0], torch.from_numpy(expected))
