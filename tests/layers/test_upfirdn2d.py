"""upfirdn2d: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import Upfirdn2d, upfirdn2d
from handgrad.layers.upfirdn2d import _checked_numbers, upfirdn2d_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

# StyleGAN 2's filter.
BINOMIAL = [1.0, 3.0, 3.0, 1.0]


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=reseeded(seed))


def reference(input, filter, up=1, down=1, padding=0, flip_filter=False, gain=1):
    filter = torch.ones(1, dtype=input.dtype) if filter is None else filter
    return upfirdn2d_reference(input, filter, *_checked_numbers(up, down, padding, flip_filter, gain))


def convolved(input, filter, up, down, padding, flip_filter, gain):
    """What people write without such an op: zeros between samples by a reshape, F.pad, F.conv2d of every channel."""
    batch, channels, height, width = input.shape
    samples = input.new_zeros(batch, channels, height, up[1], width, up[0])
    samples[:, :, :, 0, :, 0] = input
    samples = F.pad(samples.reshape(batch, channels, height * up[1], width * up[0]), padding)
    taps = filter if filter.dim() == 2 else torch.outer(filter, filter)
    taps = (taps if flip_filter else taps.flip([0, 1])) * gain
    return F.conv2d(samples, taps.expand(channels, 1, *taps.shape), stride=(down[1], down[0]), groups=channels)


# ---- identities ------------------------------------------------------------------------------------------------------


def no_filter_is_the_image():
    image = numbers(2, 3, 5, 4)
    assert torch.equal(upfirdn2d(image, None), image)
    torch.testing.assert_close(upfirdn2d(image, None, padding=(-1, 2, 0, -3), gain=2), 2 * F.pad(image, [-1, 2, 0, -3]))
    assert torch.equal(upfirdn2d(image, None, down=(2, 3)), image[:, :, ::3, ::2])


def one_axis_after_the_other():
    image, taps = numbers(2, 3, 6, 7), numbers(5, seed=1)
    both = upfirdn2d(image, taps, up=(2, 3), down=(3, 1), padding=(2, 3, 4, 1), gain=3)
    torch.testing.assert_close(both, upfirdn2d(image, torch.outer(taps, taps), (2, 3), (3, 1), (2, 3, 4, 1), gain=3))
    x = upfirdn2d(image, taps[None], up=(2, 1), down=(3, 1), padding=(2, 3, 0, 0), gain=3)
    torch.testing.assert_close(both, upfirdn2d(x, taps[:, None], up=(1, 3), padding=(0, 0, 4, 1)))


def flipped_is_mirrored():
    image, filter = numbers(2, 3, 6, 7), numbers(3, 4, seed=1)
    torch.testing.assert_close(
        upfirdn2d(image, filter, 2, padding=1, flip_filter=True), upfirdn2d(image, filter.flip([0, 1]), 2, padding=1)
    )


def the_gradient_is_the_transposed_matrix():
    for up, down, padding in ((2, 1, (2, 1, 2, 1)), ((1, 3), (2, 1), (-1, 4, 0, -2)), ((3, 4), (2, 3), (5, 0, 9, 1))):
        image, filter = numbers(1, 2, 7, 6), numbers(3, 4, seed=1)
        leaf = image.clone().requires_grad_()
        output = upfirdn2d(leaf, filter, up, down, padding)
        other = numbers(*output.shape, seed=2)
        (grad,) = torch.autograd.grad((output * other).sum(), leaf)
        torch.testing.assert_close((grad * image).sum(), (output * other).sum())


def numel_beyond_int32():
    # Of one pixel, so that nothing but the output is in memory: 4 GiB of it.
    image = torch.full((1, 1, 1, 1), 2.0, dtype=torch.bfloat16).expand(2**16 + 1, 2, 64, 64)
    output = upfirdn2d(image, torch.tensor([0.5, 0.5]), up=2, padding=(1, 0, 1, 0), gain=4)
    assert output.shape == (2**16 + 1, 2, 128, 128)
    assert output[:, :, -1, -1].eq(2).all()
    assert output[0].eq(2).all()
    assert output[-1].eq(2).all()


def sums_of_many():
    image = torch.full((1, 1, 1, 1), 0.1).expand(2, 8, 1024, 512)
    filter = torch.tensor([[1.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(upfirdn2d(image, filter).sum(), filter)
    torch.testing.assert_close(grad, torch.full((1, 1), 0.1 * image.numel()), rtol=1e-6, atol=0)


IMAGE, FILTER = numbers(2, 3, 5, 4), torch.tensor(BINOMIAL, dtype=torch.float64) / 8


def is_bad(name, message, error=ValueError, **kwargs):
    return Bad(name, lambda: upfirdn2d(IMAGE, FILTER, **kwargs), error, message)


SPEC = OpSpec(
    name="upfirdn2d",
    operator="handgrad::upfirdn2d",
    function=upfirdn2d,
    reference=reference,
    module=Upfirdn2d,
    samples=[
        Sample("up", (numbers(3, 2, 3, 5), FILTER), {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0}),
        Sample(
            "down_of_rows", (numbers(2, 2, 7, 5), numbers(2, 3, seed=1)), {"down": (2, 3), "padding": (-1, 2, 1, -1)}
        ),
        Sample(
            "both",
            (numbers(1, 2, 4, 5), numbers(3, seed=1)),
            {"up": (3, 2), "down": (2, 3), "padding": 4, "flip_filter": True},
        ),
    ],
    large=Sample(
        "large", (numbers(3, 37, 41, 23, dtype=torch.float32), FILTER.float()), {"up": 2, "padding": (2, 1, 2, 1)}
    ),
    empty=[
        Sample("no_batch", (numbers(0, 3, 4, 5), FILTER), {}),
        Sample("no_channels", (numbers(2, 0, 4, 5), FILTER), {"up": 2}),
        Sample("no_rows", (numbers(2, 3, 0, 5), FILTER), {"padding": 4}),
    ],
    # Of one dimension or two.
    lenient={"filter": lambda value: isinstance(value, torch.Tensor) and value.is_floating_point()},
    optional=["filter"],
    own=["filter"],
    module_kwargs=lambda sample: {"filter": sample.tensors[1], **sample.kwargs},
    rows=["batch", ""],
    shards=[((0, None), 0)],
    bad=[
        is_bad("up", "up must be a whole number, at least 1, or two of them; got 0", up=0),
        is_bad("down", "down must be a whole number, at least 1, or two of them; got", TypeError, down=(1, 2, 3)),
        is_bad("padding", "padding must be a whole number, or two, or four of them", TypeError, padding=(1, 2, 3)),
        is_bad("padding_large", "padding must be .* between -2.30 and 2.30; got", padding=2**31),
        is_bad("gain", "gain must be a finite number; got inf", gain=float("inf")),
        is_bad("flip", "flip_filter must be True or False; got 1", TypeError, flip_filter=1),
        is_bad(
            "small",
            "input must have at least as many rows .* as filter, 4; got 3",
            RuntimeError,
            padding=(0, 0, -1, -1),
        ),
        Bad("rank", lambda: upfirdn2d(IMAGE[0], FILTER), RuntimeError, r"input must have 4 dimensions .* \(3, 5, 4\)"),
        Bad(
            "filter_rank", lambda: upfirdn2d(IMAGE, FILTER.view(1, 1, 4)), RuntimeError, "filter must have 2 dimensions"
        ),
        Bad(
            "filter_type", lambda: upfirdn2d(IMAGE.float(), FILTER), TypeError, "filter must be of float32.*got float64"
        ),
        Bad("filter_list", lambda: upfirdn2d(IMAGE, BINOMIAL), TypeError, "filter must be a torch.Tensor; got list"),
    ],
    identities={
        "no_filter": no_filter_is_the_image,
        "axes": one_axis_after_the_other,
        "flip": flipped_is_mirrored,
        "transposed": the_gradient_is_the_transposed_matrix,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    device_scratch=64 * 1024,
    # What windows of a tile reach beyond it; for the filter, whose second derivative is two sums over all, both images
    # once more for each, and what each tile adds to sums in global memory.
    floor_factors={"forward": 1.2, "backward": 1.9, "double_backward": 3.0},
    # Of the filter: partial sums of the taps, sums, and what the gradient is made of them; one and two of these here.
    device_calls={"backward": (4, 3, 0), "double_backward": (7, 4, 0)},
)

test_matrix = matrix(SPEC)


# ---- the convolution that it stands for ------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (1,), (5,), (2, 7), (13,)], ids=str)
@pytest.mark.parametrize(
    ("up", "down"), [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2)), ((4, 3), (3, 2)), ((2, 1), (4, 3))]
)
def test_equals_the_convolution(shape, up, down, channels_last):
    for padding, flip_filter in (
        ((0, 0, 0, 0), False),
        ((1, 2, 2, 1), True),
        ((-1, 9, 9, -2), False),
        ((20, 15, 3, 8), True),
    ):
        image, filter = numbers(2, 3, 13, 15), numbers(*shape, seed=1)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        leaves = [tensor.requires_grad_() for tensor in (image, filter)]
        expected = convolved(image, filter, up, down, padding, flip_filter, 1.7)
        found = upfirdn2d(image, filter, up, down, padding, flip_filter, 1.7)
        torch.testing.assert_close(found, expected)
        weight = numbers(*found.shape, seed=2)
        torch.testing.assert_close(
            torch.autograd.grad(found, leaves, weight), torch.autograd.grad(expected, leaves, weight)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_filters_and_wide_images(dtype):
    """Strips of columns, windows of many rows, and windows that a device has no shared memory for."""
    for shape, taps, up, down in (
        ((1, 2, 3, 9000), (1, 5), 1, 2),
        ((1, 1, 90, 70), (81,), 2, 1),
        ((1, 70, 9, 300), (3, 3), 1, 1),
        ((1, 1, 3, 200), (150, 180), 60, 70),
    ):
        image, filter = numbers(*shape, dtype=torch.float32).to(dtype), numbers(*taps, seed=1, dtype=torch.float32)
        filter /= filter.abs().sum()
        expected = reference(image.double(), filter.double(), up, down, 60)
        for format in (torch.contiguous_format, torch.channels_last):
            found = upfirdn2d(image.contiguous(memory_format=format), filter, up, down, 60)
            torch.testing.assert_close(
                found.double(), expected, rtol=1e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-6
            )
            assert found.is_contiguous(memory_format=format)


# ---- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.tiers("whole")
def test_any_order_of_derivatives_is_the_op_again():
    """A penalty of a penalty: what StyleGAN's regularisation asks for, once more. No reference runs on the way."""
    image, filter = numbers(1, 2, 5, 4).requires_grad_(), FILTER
    for call in (upfirdn2d, reference):
        value = call(image, filter, up=2, padding=1).pow(4).sum()
        orders = []
        for _ in range(4):
            (grad,) = torch.autograd.grad(value, image, create_graph=True)
            orders.append(grad)
            value = grad.pow(2).sum()
        if call is upfirdn2d:
            found = orders
    torch.testing.assert_close(found, orders)


def test_a_filter_of_two_meanings():
    """The gradient of a filter of one axis is that of both its factors; along directions of both tensors too."""
    image, taps = numbers(1, 2, 5, 4).requires_grad_(), numbers(3, seed=1).requires_grad_()
    product = upfirdn2d(image, taps, 2, padding=1)
    whole = upfirdn2d(image, torch.outer(taps, taps), 2, padding=1)
    for order in range(2):
        weight = [numbers(*x.shape, seed=3 + order) for x in (product if order else [product])]
        product = torch.autograd.grad(product, (image, taps), weight, create_graph=True)
        whole = torch.autograd.grad(whole, (image, taps), weight, create_graph=True)
        torch.testing.assert_close(product, whole)


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_nan_and_infinity_stay_in_their_windows():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = float("nan")
    image[0, 0, 0, 0] = float("inf")
    output = upfirdn2d(image, torch.tensor([1.0, 1.0]), up=2, padding=(1, 0, 1, 0))
    assert output.isnan().sum() == 4
    assert output[0, 0, 4:6, 4:6].isnan().all()
    assert output.isinf().sum() == 4


def test_what_padding_alone_makes_is_zero():
    image = torch.full((1, 1, 2, 2), float("inf"))
    output = upfirdn2d(image, torch.ones(2, 2), padding=(7, 7, 7, 7))
    assert output[0, 0, :6].eq(0).all()
    assert output[0, 0, 6, 6].isinf()


def test_sums_are_of_float32():
    """Of half types: 256 + 1 + 1 + … would stay at 256 in bfloat16."""
    image = torch.ones(1, 1, 20, 20, dtype=torch.bfloat16)
    assert upfirdn2d(image, torch.ones(20, 20)).item() == 400


def test_layouts_are_kept():
    image = numbers(2, 3, 5, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    output = upfirdn2d(image, FILTER, down=2, padding=2)
    assert output.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(output.sum(), image)
    assert grad.is_contiguous(memory_format=torch.channels_last)
