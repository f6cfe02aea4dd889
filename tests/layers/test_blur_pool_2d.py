"""blur_pool_2d: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import BlurPool2d, blur_pool_2d
from handgrad.layers.blur_pool_2d import _checked, blur_pool_2d_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=reseeded(seed))


def reference(input, filter_size=3, stride=2, padding_mode="reflect", padding=None):
    return blur_pool_2d_reference(input, *_checked(filter_size, stride, padding_mode, padding))


def convolved(input, taps, stride, padding, mode):
    """What people write without such an op: F.pad, F.conv2d of every channel."""
    taps = torch.tensor(taps, dtype=input.dtype)
    weight = torch.outer(taps, taps).expand(input.shape[1], 1, len(taps), len(taps))
    return F.conv2d(F.pad(input, [*padding] * 2, mode=mode), weight, stride=stride, groups=input.shape[1])


# ---- identities ------------------------------------------------------------------------------------------------------


def one_tap_keeps_every_second_sample():
    image = numbers(2, 3, 7, 6)
    assert torch.equal(blur_pool_2d(image, 1), image[:, :, ::2, ::2])
    assert torch.equal(blur_pool_2d(image, 1, stride=1), image)


def one_colour_stays():
    """Taps add up to one."""
    image = torch.full((1, 2, 9, 8), 0.3, dtype=torch.float64)
    for size in (1, 2, 3, 4, 7):
        for mode in ("reflect", "replicate"):
            output = blur_pool_2d(image, size, padding_mode=mode)
            torch.testing.assert_close(output, torch.full_like(output, 0.3))


def a_size_is_its_binomial_taps():
    image = numbers(1, 2, 9, 8)
    torch.testing.assert_close(blur_pool_2d(image, 4), blur_pool_2d(image, [1 / 8, 3 / 8, 3 / 8, 1 / 8]))


def the_gradient_is_the_transposed_matrix():
    """Of every border, down to the smallest image that has one."""
    for mode in ("reflect", "replicate", "zeros"):
        for height, width, size, stride in ((4, 4, 7, 1), (9, 7, 7, 3), (5, 12, 4, 2), (4, 5, 3, 5), (13, 6, 9, 2)):
            image, padding = numbers(1, 2, height, width), min(size // 2, height - 1, width - 1)
            leaf = image.clone().requires_grad_()
            output = blur_pool_2d(leaf, list(range(1, size + 1)), stride, mode, padding)
            other = numbers(*output.shape, seed=2)
            (grad,) = torch.autograd.grad((output * other).sum(), leaf)
            torch.testing.assert_close((grad * image).sum(), (output * other).sum())


def numel_beyond_int32():
    # Of one pixel, so that nothing but the output is in memory: 4 GiB of it.
    image = torch.full((1, 1, 1, 1), 2.0, dtype=torch.bfloat16).expand(2**17 + 1, 2, 128, 64)
    output = blur_pool_2d(image, 3, stride=1)
    assert output.shape == image.shape
    assert output[0].eq(2).all()
    assert output[-1].eq(2).all()
    assert output[:, :, -1, -1].eq(2).all()


def floor(sample):
    """Nothing reads the input for a derivative."""
    (image,) = sample.tensors
    moved = (image.numel() + blur_pool_2d(image, **sample.kwargs).numel()) * image.element_size()
    return dict.fromkeys(("forward", "backward", "double_backward"), moved)


IMAGE = numbers(2, 3, 5, 6)


def is_bad(name, message, error=ValueError, **kwargs):
    return Bad(name, lambda: blur_pool_2d(IMAGE, **kwargs), error, message)


SPEC = OpSpec(
    name="blur_pool_2d",
    operator="handgrad::blur_pool_2d",
    function=blur_pool_2d,
    reference=reference,
    module=BlurPool2d,
    module_kwargs=lambda sample: {
        {"filter_size": "filt_size", "padding_mode": "pad_mode"}.get(name, name): value
        for name, value in sample.kwargs.items()
    },
    samples=[
        Sample("mirror", (numbers(2, 3, 5, 6),), {}),
        Sample("nearest", (numbers(2, 2, 4, 5),), {"filter_size": 4, "stride": 3, "padding_mode": "replicate"}),
        Sample(
            "zeros",
            (numbers(1, 2, 4, 3),),
            {"filter_size": [0.5, -1.0, 2.0], "stride": 1, "padding_mode": "zeros", "padding": (2, 1)},
        ),
    ],
    large=Sample("large", (numbers(3, 37, 41, 53, dtype=torch.float32),), {"filter_size": 5}),
    empty=[
        Sample("no_batch", (numbers(0, 3, 4, 5),), {}),
        Sample("no_channels", (numbers(2, 0, 4, 5),), {}),
        Sample("no_rows", (numbers(2, 3, 0, 5),), {"padding_mode": "zeros", "padding": 2}),
    ],
    # The gradient's own derivative is the op.
    private_ops=["backward"],
    lenient={
        "padding": lambda value: value is None,
        # Taps.
        "filter_size": lambda value: isinstance(value, (list, tuple)),
    },
    bad=[
        is_bad("size", "filter_size must be a whole number from 1 to 64, or taps; got 0", filter_size=0),
        is_bad("no_taps", r"filter_size must be 1 to 64 taps, or their number; got \[\]", filter_size=[]),
        is_bad("taps", "filter_size must be a whole number, or finite taps; got inf", filter_size=[1.0, float("inf")]),
        is_bad("stride", "stride must be a whole number, at least 1; got 0", stride=0),
        is_bad(
            "mode",
            "padding_mode must be 'zeros', 'constant', 'reflect' or 'replicate'; got 'circular'",
            padding_mode="circular",
        ),
        is_bad("padding", "padding must be a whole number, at least 0, or two of them; got -1", padding=-1),
        is_bad(
            "mirror", "input must have more rows than padding, 5, since its border is a mirror", RuntimeError, padding=5
        ),
        is_bad(
            "small",
            "input must have at least as many rows .* as there are taps, 9; got 5",
            RuntimeError,
            filter_size=9,
            padding=0,
        ),
        Bad("rank", lambda: blur_pool_2d(IMAGE[0]), RuntimeError, r"input must have 4 dimensions .* \(3, 5, 6\)"),
        Bad("channels", lambda: BlurPool2d(4)(IMAGE), RuntimeError, r"input must have 4 channels; got \(2, 3, 5, 6\)"),
    ],
    identities={
        "one_tap": one_tap_keeps_every_second_sample,
        "one_colour": one_colour_stays,
        "binomial": a_size_is_its_binomial_taps,
        "transposed": the_gradient_is_the_transposed_matrix,
    },
    numel_beyond_int32=numel_beyond_int32,
    floor=floor,
    # Of what windows of a tile reach beyond it.
    floor_factors={"forward": 1.3, "backward": 1.3, "double_backward": 1.3},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(2, 1), (3, 2), (4, 2), (5, 3), (7, 1)])
def test_equals_the_convolution(size, stride, channels_last):
    for mode, padding in (("reflect", None), ("reflect", (1, 2)), ("replicate", (6, 3)), ("constant", (0, 4))):
        image = numbers(2, 3, 11, 12)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        image.requires_grad_()
        taps, _, around, _ = _checked(size, stride, mode, padding)
        expected = convolved(image, taps, stride, around, mode)
        found = blur_pool_2d(image, size, stride, mode, padding)
        torch.testing.assert_close(found, expected)
        weight = numbers(*found.shape, seed=2)
        (grad,) = torch.autograd.grad(found, image, weight)
        torch.testing.assert_close(grad, torch.autograd.grad(expected, image, weight)[0])
        assert found.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.tiers("whole")
def test_equals_timm():
    timm = pytest.importorskip("timm.layers.blur_pool")
    for size in (2, 3, 4, 5):
        for stride in (1, 2, 3):
            for mode in ("reflect", "replicate", "constant"):
                image = numbers(1, 4, 11, 12, dtype=torch.float32)
                theirs, ours = timm.BlurPool2d(4, size, stride, mode), BlurPool2d(4, size, stride, mode)
                ours.load_state_dict(theirs.state_dict())
                torch.testing.assert_close(ours(image), theirs(image))


@pytest.mark.tiers("whole")
def test_any_order_of_derivatives_is_the_op_again():
    for call in (blur_pool_2d, reference):
        image = numbers(1, 2, 5, 6).requires_grad_()
        value = call(image).pow(4).sum()
        orders = []
        for _ in range(4):
            (grad,) = torch.autograd.grad(value, image, create_graph=True)
            orders.append(grad)
            value = grad.pow(2).sum()
        if call is blur_pool_2d:
            found = orders
    torch.testing.assert_close(found, orders)


def test_the_private_op_of_forward_mode():
    """The derivatives of samples do not come through it."""
    image, direction = numbers(2, 3, 6, 7), numbers(2, 3, 6, 7, seed=1)
    _, tangent = torch.func.jvp(lambda x: blur_pool_2d(x, 4), (image,), (direction,))
    torch.testing.assert_close(tangent, reference(direction, 4))
    double_backward = torch.ops.handgrad._blur_pool_2d_double_backward
    for given, mask in ((direction, [True, True]), (None, [True, True]), (direction, [False, False])):
        found = double_backward(given, image, image, [0.25, 0.5, 0.25], 1, [1, 1], 2, mask)
        if not mask[0]:
            assert [x.numel() for x in found] == [0, 0]
            continue
        zeros = torch.zeros_like(image)
        expected = zeros if given is None else reference(direction, 3, 1, "replicate", 1)
        torch.testing.assert_close(found, (expected, zeros))


def test_nan_and_infinity_stay_in_their_windows():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = float("nan")
    image[0, 0, 0, 0] = float("inf")
    output = blur_pool_2d(image, 3, stride=2)
    assert output.isnan().flatten().nonzero().flatten().tolist() == [12]
    assert output.isinf().flatten().nonzero().flatten().tolist() == [0]
