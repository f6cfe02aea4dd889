"""A leaky ReLU at a higher rate of samples: its spec, and what is peculiar to it."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import FilteredLReLU, bias_act, filtered_lrelu, upfirdn2d
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=reseeded(seed))


def lowpass(taps):
    """A filter that keeps the mean, of so many taps."""
    filter = torch.hann_window(taps + 2, periodic=False, dtype=torch.float64)[1:-1]
    return filter / filter.sum()


def convolved(image, filter, up, down, padding, flip_filter, gain):
    """Zeros between samples by a reshape, F.pad, F.conv2d of every channel by itself."""
    batch, channels, height, width = image.shape
    samples = F.pad(image.reshape(batch * channels, 1, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
    samples = F.pad(samples.reshape(batch * channels, 1, height * up, width * up), padding)
    taps = filter if filter.dim() == 2 else torch.outer(filter, filter)
    taps = (taps if flip_filter else taps.flip([0, 1])) * gain
    return F.conv2d(samples, taps[None, None], stride=down).squeeze(1).unflatten(0, (batch, channels))


def sides(padding):
    given = list(padding) if isinstance(padding, (list, tuple)) else [padding]
    return given if len(given) == 4 else [given[0], given[0], given[-1], given[-1]]


def steps(
    x,
    fu=None,
    fd=None,
    b=None,
    up=1,
    down=1,
    padding=0,
    gain=2**0.5,
    slope=0.2,
    clamp=None,
    flip_filter=False,
):
    """The steps one after the other, as people write them."""
    one = torch.ones(1, dtype=x.dtype)
    fu, fd = (one if filter is None else filter.to(x.dtype) for filter in (fu, fd))
    z = x if b is None else x + b.view(-1, 1, 1)
    z = convolved(z, fu, up, 1, sides(padding), flip_filter, up * up)
    y = F.leaky_relu(z, slope) * gain
    y = y if clamp is None else y.clamp(-clamp, clamp)
    return convolved(y, fd, 1, down, [0, 0, 0, 0], flip_filter, 1.0)


def derivatives(function, leaves, seed=5):
    """The output, the gradients, and the second derivative that there is: along directions of the leaves."""
    output = function(*leaves)
    direction = numbers(*output.shape, seed=seed).requires_grad_()
    first = torch.autograd.grad(output, leaves, direction, create_graph=True)
    weighed = sum((grad * numbers(*grad.shape, seed=seed + 1 + k)).sum() for k, grad in enumerate(first))
    return [output, *first, torch.autograd.grad(weighed, direction)[0]]


# ---- identities ------------------------------------------------------------------------------------------------------


def without_filters_it_is_bias_act():
    image, b = numbers(2, 3, 5, 4), numbers(3, seed=1)
    torch.testing.assert_close(
        filtered_lrelu(image, b=b, clamp=1.0, slope=0.3), bias_act(image, b, act="lrelu", alpha=0.3, clamp=1.0)
    )


def with_a_slope_of_one_it_is_resampling():
    image, fu, fd = numbers(2, 3, 7, 6), numbers(4, seed=1), numbers(3, 2, seed=2)
    high = upfirdn2d(image, fu, up=3, padding=2, gain=9)
    torch.testing.assert_close(
        filtered_lrelu(image, fu, fd, up=3, down=2, padding=2, gain=0.5, slope=1.0),
        upfirdn2d(high, fd, down=2, gain=0.5),
    )


def it_is_the_composition():
    image, b, fu, fd = numbers(2, 3, 9, 8), numbers(3, seed=1), numbers(6, seed=2), numbers(5, seed=3)
    for flip in (False, True):
        high = upfirdn2d(image + b.view(-1, 1, 1), fu, 2, 1, (3, 4, 2, 5), flip, 4)
        expected = upfirdn2d(bias_act(high, act="lrelu", clamp=2.0), fd, 1, 3, 0, flip)
        found = filtered_lrelu(image, fu, fd, b, 2, 3, (3, 4, 2, 5), clamp=2.0, flip_filter=flip)
        torch.testing.assert_close(found, expected)


def a_constant_stays_one():
    """Behind low-pass filters, away from the borders."""
    image = torch.full((1, 1, 16, 16), -3.0)
    f = lowpass(12).float()
    output = filtered_lrelu(image, f, f, up=2, down=2, padding=11, gain=1.0)
    torch.testing.assert_close(
        output[0, 0, 6:-6, 6:-6], torch.full_like(output[0, 0, 6:-6, 6:-6], -0.6), rtol=0.1, atol=0
    )


def numel_beyond_int32():
    # Of one pixel, so that nothing but the output is in memory: 4 GiB of it.
    image = torch.full((1, 1, 1, 1), 2.0, dtype=torch.bfloat16).expand(2**16 + 1, 2, 64, 64)
    output = filtered_lrelu(
        image, torch.tensor([0.5, 0.5]), None, torch.tensor([0.0, -4.0]), up=2, padding=(1, 0, 1, 0), gain=1.0
    )
    assert output.shape == (2**16 + 1, 2, 128, 128)
    assert output[:, 0, -1, -1].eq(2).all()
    assert output[:, 1, -1, -1].eq(output[0, 1, 5, 5]).all()
    assert output[-1, 0].eq(2).all()


def sums_of_many():
    image = torch.zeros((1, 1, 1, 1)).expand(2, 1, 1024, 512)
    b = torch.ones(1, requires_grad=True)
    (grad,) = torch.autograd.grad(filtered_lrelu(image, b=b, gain=0.1).sum(), b)
    torch.testing.assert_close(grad, torch.full((1,), 0.1 * image.numel()), rtol=1e-6, atol=0)


IMAGE, B = numbers(2, 3, 5, 7), numbers(3, seed=1)
FU, FD = numbers(4, seed=2), numbers(3, seed=3)
LAST = numbers(2, 9, 4, 3, seed=4).contiguous(memory_format=torch.channels_last)


def is_bad(name, message, error=ValueError, **kwargs):
    return Bad(name, lambda: filtered_lrelu(IMAGE, FU, FD, B, **{"padding": 3, **kwargs}), error, message)


def is_filter(value):
    """None too; and any numbers of taps."""
    return value is None or (isinstance(value, torch.Tensor) and value.is_floating_point())


SPEC = OpSpec(
    name="filtered_lrelu",
    operator="handgrad::filtered_lrelu",
    function=filtered_lrelu,
    tensors=["x", "b"],
    # Of the sample's tensors by position.
    reference=lambda x, b=None, **kwargs: steps(x, b=b, **kwargs),
    module=FilteredLReLU,
    own={"b": "bias", "fu": "fu", "fd": "fd"},
    module_kwargs=lambda sample: {
        **sample.kwargs,
        "num_features": sample.tensors[0].shape[1] if len(sample.tensors) > 1 else None,
    },
    samples=[
        Sample("plain", (IMAGE, B), {"slope": 0.3, "clamp": 1.5}),
        Sample(
            "up_and_down",
            (numbers(2, 2, 4, 3, seed=5), numbers(2, seed=6)),
            {"fu": FU.float(), "fd": FD.float(), "up": 3, "down": 2, "padding": 2},
        ),
        Sample(
            "channels_last",
            (LAST, numbers(9, seed=7)),
            {"fu": FU.view(2, 2).float(), "up": 2, "padding": (1, 0, 0, -1), "gain": 0.8},
        ),
        Sample("no_bias", (IMAGE[:1],), {"down": 2, "flip_filter": True}),
    ],
    large=Sample(
        "large",
        (numbers(3, 37, 41, 23, dtype=torch.float32), numbers(37, dtype=torch.float32)),
        {"up": 2, "down": 2, "padding": 1, "clamp": 256.0},
    ),
    empty=[
        Sample("no_batch", (numbers(0, 3, 4, 5), B), {}),
        Sample("no_channels", (numbers(2, 0, 4, 5), numbers(0)), {"up": 2}),
        Sample("no_columns", (numbers(2, 3, 4, 0), B), {"up": 2, "padding": (1, 2, 0, 0)}),
        Sample("no_rows", (numbers(2, 3, 0, 5), B), {"padding": 4}),
    ],
    lenient={"clamp": lambda value: value is None, "fu": is_filter, "fd": is_filter},
    optional=["b"],
    rows=["batch", ""],
    shards=[((0, None), 0), ((1, 0), 1)],
    bad=[
        is_bad("up", "up must be a whole number, at least 1; got 0", up=0),
        is_bad("down", "down must be a whole number, at least 1; got", TypeError, down=(1, 2)),
        is_bad("padding", "padding must be a whole number, or two, or four of them", TypeError, padding=(1, 2, 3)),
        is_bad("gain", "gain must be a finite number; got inf", gain=math.inf),
        is_bad("slope", "slope must be a finite number; got nan", slope=math.nan),
        is_bad("clamp", "clamp must be a finite number, at least 0, or None; got -1", clamp=-1),
        is_bad("flip", "flip_filter must be True or False; got 1", TypeError, flip_filter=1),
        is_bad("small", "x must have at least as many rows .* 6; got 3", RuntimeError, padding=(0, 0, -1, -1)),
        Bad("rank", lambda: filtered_lrelu(IMAGE[0]), RuntimeError, r"x must have 4 dimensions .* \(3, 5, 7\)"),
        Bad("b_shape", lambda: filtered_lrelu(IMAGE, b=B[:2]), RuntimeError, r"b must have shape .* \(3,\); got"),
        Bad("fu_rank", lambda: filtered_lrelu(IMAGE, FU.view(1, 2, 2)), RuntimeError, "fu must have 2 dimensions"),
        Bad(
            "fd_type", lambda: filtered_lrelu(IMAGE.float(), None, FD), TypeError, "fd must be of float32.*got float64"
        ),
        Bad("fd_list", lambda: filtered_lrelu(IMAGE, None, [1.0]), TypeError, "fd must be a torch.Tensor; got list"),
        Bad(
            "fu_grad",
            lambda: filtered_lrelu(IMAGE, FU.clone().requires_grad_(), padding=3),
            TypeError,
            "fu must not require a gradient",
        ),
        Bad("features", lambda: FilteredLReLU(num_features=0), ValueError, "num_features must be a whole number"),
    ],
    identities={
        "bias_act": without_filters_it_is_bias_act,
        "resampling": with_a_slope_of_one_it_is_resampling,
        "composition": it_is_the_composition,
        "constant": a_constant_stays_one,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    tolerances={
        # The gradient of a bias is a sum of thousands of terms, rounded to 1e-7 each: 5e-6 of it.
        torch.float32: (1e-5, 5e-5),
    },
    # Filters in the type that is computed in, and those that None stands for.
    saves=128,
    # Along directions of x and b: grad_output is not read, and what is zeros is no kernel's.
    floor=lambda sample: {
        "double_backward": 4
        * (2 * sum(t.numel() for t in sample.tensors) + steps(sample.tensors[0], **sample.kwargs).numel())
    },
    # What windows of a tile reach beyond it; 1.46, 1.29 and 1.62 times the fewest.
    floor_factors={"forward": 1.5, "backward": 1.3, "double_backward": 1.7},
    # The sums of tiles, for the bias' gradient, and what adds them.
    device_calls={"backward": (2, 3, 0), "double_backward": (0, 1, 0)},
)

test_matrix = matrix(SPEC)


# ---- the steps that it stands for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("fu", "fd"),
    [((12,), (12,)), ((5, 4), (3,)), ((6,), (3, 5)), ((2, 3), (4, 4)), ((1,), (1,)), ((24,), (12,))],
    ids=str,
)
def test_equals_the_steps(fu, fd, channels_last):
    """Values, gradients and second derivatives; rates of StyleGAN's layers and others, cropped and padded."""
    x, b = numbers(2, 3, 13, 15), numbers(3, seed=1)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for up, down, padding in ((2, 2, (11, 10, 9, 12)), (4, 2, (-3, 30, 21, 1)), (1, 1, 22), (1, 3, 20), (3, 1, (9, 9))):
        kwargs = {
            "fu": numbers(*fu, seed=2),
            "fd": numbers(*fd, seed=3),
            "up": up,
            "down": down,
            "padding": padding,
            "clamp": 9.0,
            "flip_filter": up == 4,
        }
        leaves = [x.clone().requires_grad_(), b.clone().requires_grad_()]
        results = [derivatives(lambda x, b, f=f, k=kwargs: f(x, b=b, **k), leaves) for f in (filtered_lrelu, steps)]
        torch.testing.assert_close(*results)
        assert results[0][0].is_contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_filters_and_wide_images(dtype):
    """Strips of columns, many tiles, windows that a device has no shared memory for."""
    for shape, fu, fd, up, down in (
        ((1, 1, 3, 1500), (5,), (5,), 2, 2),
        ((1, 1, 40, 50), (31,), (40,), 2, 3),
        ((1, 40, 9, 130), (3, 3), (2,), 1, 1),
        ((1, 1, 3, 20), (80, 90), (60, 50), 30, 40),
    ):
        x = numbers(*shape, dtype=torch.float32).to(dtype)
        fu, fd = numbers(*fu, seed=1, dtype=torch.float32), numbers(*fd, seed=2, dtype=torch.float32)
        fu, fd = fu / fu.abs().sum(), fd / fd.abs().sum()
        expected = steps(x.double(), fu.double(), fd.double(), None, up, down, 75)
        for format in (torch.contiguous_format, torch.channels_last):
            found = filtered_lrelu(x.contiguous(memory_format=format), fu, fd, None, up, down, 75)
            rtol, atol = (1e-2, 1e-3) if dtype is torch.bfloat16 else (1e-5, 1e-4 * expected.abs().max().item())
            torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=atol)


def test_slices_and_expanded_images():
    whole, b = numbers(2, 6, 9, 10), numbers(6, seed=1)
    f = numbers(4, seed=2)
    for x in (whole[..., 1:8], whole[:, :, ::2], whole.transpose(2, 3), whole[:, :1].expand(2, 6, 9, 10)):
        leaves = [x.detach().requires_grad_(), b.clone().requires_grad_()]
        ours, theirs = (derivatives(lambda x, b, g=g: g(x, f, f, b, 2, 2, 3), leaves) for g in (filtered_lrelu, steps))
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_of_the_bias_alone():
    b = numbers(3, seed=1).requires_grad_()
    results = [torch.autograd.grad(f(IMAGE, FU, FD, b, 2, 2, 3).sum(), b) for f in (filtered_lrelu, steps)]
    torch.testing.assert_close(*results)


def test_filters_of_each_sample():
    """vmap over a filter, and over a bias."""
    x, several = numbers(2, 1, 3, 5, 4), torch.stack([FU, 2 * FU])
    found = torch.vmap(lambda x, f: filtered_lrelu(x, f, FD, up=2, padding=3))(x, several)
    for index in range(2):
        torch.testing.assert_close(found[index], filtered_lrelu(x[index], several[index], FD, up=2, padding=3))
    biases = torch.stack([B, -B])
    found = torch.vmap(torch.func.grad(lambda b, x: filtered_lrelu(x, FU, FD, b, 2, padding=3).sin().sum()))(biases, x)
    for index in range(2):
        alone = torch.func.grad(lambda b, x: filtered_lrelu(x, FU, FD, b, 2, padding=3).sin().sum())
        torch.testing.assert_close(found[index], alone(biases[index], x[index]))


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_the_bias_does_not_reach_the_padding():
    """It is added before the zeros are."""
    output = filtered_lrelu(torch.zeros(1, 1, 2, 2), b=torch.tensor([3.0]), padding=2, gain=1.0)
    assert output[0, 0, 2:4, 2:4].eq(3).all()
    assert output.sum() == 12


def test_what_is_not_finite_stays_in_its_windows():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = math.nan
    x[0, 0, 0, 0] = math.inf
    f = torch.tensor([1.0, 1.0])
    output = filtered_lrelu(x, f, f, up=2, down=2, padding=(1, 1, 1, 1))
    expected = steps(x, f, f, up=2, down=2, padding=(1, 1, 1, 1))
    torch.testing.assert_close(output, expected, equal_nan=True)
    assert output.isnan().sum() < 10


def test_kinks_are_as_in_bias_act():
    """At 0 the slope is that of negative samples; on the border of the clamp, and beyond it, nothing comes back."""
    x = torch.tensor([0.0, -0.0, 1.0, -5.0, 0.5, 2.0]).view(1, 1, 1, 6).requires_grad_()
    for call in (filtered_lrelu, lambda x, **k: bias_act(x, act="lrelu", gain=k["gain"], clamp=k["clamp"])):
        (grad,) = torch.autograd.grad(call(x, gain=1.0, clamp=1.0).sum(), x)
        torch.testing.assert_close(grad.flatten(), torch.tensor([0.2, 0.2, 0.0, 0.2 * 0, 1.0, 0.0]))


def test_a_negative_gain_or_slope():
    """open-mmlab/mmcv#2620, of its sibling: signs are those of x, not of the output."""
    leaves = [IMAGE.clone().requires_grad_(), B.clone().requires_grad_()]
    for gain, slope in ((-1.0, 0.2), (1.0, -0.5)):
        ours, theirs = (
            derivatives(lambda x, b, f=f, g=gain, s=slope: f(x, FU, FD, b, 2, 2, 3, g, s), leaves)
            for f in (filtered_lrelu, steps)
        )
        torch.testing.assert_close(ours, theirs)


def test_nothing_is_compiled_and_nothing_warns():
    """NVlabs/stylegan3#2, #48: "Setting up PyTorch plugin filtered_lrelu_plugin... Failed!"; and its warning that other
    sizes of filters or rates than the network's fall back to the generic implementation."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.rand(1, 2, 8, 8, requires_grad=True)
        filtered_lrelu(x, torch.rand(13), torch.rand(7, 9), up=3, down=5, padding=20).sum().backward()
    assert x.grad is not None


def test_penalties_of_gradients():
    """R1 and path lengths, differentiated with respect to weights between and behind two such layers."""
    f = lowpass(6)
    weights = [numbers(4, 3, 3, 3, seed=1), numbers(4, seed=2), numbers(2, 4, 1, 1, seed=3), numbers(2, seed=4)]
    results = []
    for function in (filtered_lrelu, steps):
        x = numbers(2, 3, 8, 8).requires_grad_()
        w1, b1, w2, b2 = leaves = [weight.clone().requires_grad_() for weight in weights]
        y = function(F.conv2d(x, w1), f, f, b1, 2, 2, 5, clamp=256)
        y = function(F.conv2d(y, w2), f, f, b2, 4, 2, (3, 4, 6, 7), clamp=256)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        r1, path = grad.square().sum(), (grad.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
        results.append(torch.autograd.grad(r1 + path, leaves))
    torch.testing.assert_close(*results)


@pytest.mark.tiers("whole")
def test_third_derivatives():
    x = numbers(1, 2, 4, 4).requires_grad_()
    results = []
    for function in (filtered_lrelu, steps):
        value = function(x, FU, FD, None, 2, 2, 3).pow(4).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            value = grad.pow(2).sum()
        results.append(grad)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_rounded_once(dtype):
    """What the high rate has is float32, beside filters and a bias of float32; float16 ends at 65,504."""
    x = (100 * numbers(1, 2, 9, 9, dtype=torch.float32)).to(dtype)
    f, b = lowpass(6).float(), torch.tensor([6e4, -6e4])
    found = filtered_lrelu(x, f, f, b, 2, 2, 5, clamp=256)
    expected = steps(x.double(), f.double(), f.double(), b.double(), 2, 2, 5, clamp=256)
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), expected.to(dtype).double(), rtol=1e-2, atol=1e-2)
    assert found.isfinite().all()


def test_the_module_is_stylegans_layer():
    """torgb of a synthesis network has no filters; others have buffers, which a state dict keeps."""
    layer = FilteredLReLU(lowpass(12), lowpass(12), 2, 2, padding=11, num_features=4)
    assert set(layer.state_dict()) == {"fu", "fd", "bias"}
    x = numbers(1, 4, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(layer(x), filtered_lrelu(x, layer.fu, layer.fd, layer.bias, 2, 2, 11))
    assert layer.double()(x.double()).dtype is torch.float64
