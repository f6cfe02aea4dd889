"""The guided filter: its specs, and what is peculiar to it."""

import math

import pytest
import torch
import torch.nn.functional as F

from handgrad._borders import BORDERS
from handgrad.layers import GuidedFilter, guided_filter
from handgrad.layers.guided_filter import guided_filter_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def numbers(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def reference(guidance, input, kernel_size, eps, border_type="reflect", subsample=1):
    taps = [kernel_size] * 2 if isinstance(kernel_size, int) else list(kernel_size)
    of_images = torch.as_tensor(eps, dtype=torch.float64, device=guidance.device).reshape(-1).expand(len(guidance))
    return guided_filter_reference(guidance, input, of_images, taps, 0.0, BORDERS.index(border_type), subsample)


def reference_in_order(guidance, input, eps=None, **kwargs):
    return reference(guidance, input, eps=eps, **kwargs)


def of_itself(guidance, kernel_size, eps, border_type="reflect", subsample=1):
    return guided_filter(guidance, guidance, kernel_size, eps, border_type, subsample)


of_itself.__doc__ = guided_filter.__doc__


def reference_of_itself(guidance, kernel_size, eps, border_type="reflect", subsample=1):
    return reference(guidance, guidance, kernel_size, eps, border_type, subsample)


# ---- other people's formulas ----------------------------------------------------------------------------------------


def box(image, kernel_size, border):
    """kornia's box_blur: means of windows, of an even window one more pixel is behind the middle."""
    rows, columns = kernel_size
    above, left = (rows - 1) // 2, (columns - 1) // 2
    around = F.pad(image, (left, columns - 1 - left, above, rows - 1 - above), mode=border)
    return F.avg_pool2d(around, (rows, columns), 1)


def in_kornias_steps(guidance, input, kernel_size, eps, border="reflect", subsample=1):
    """E[x^2] - E[x]^2 and torch's solve, as kornia.filters.guided_blur computes it in version 0.9.0."""

    def left(image):
        for dim in (2, 3):
            size = image.shape[dim]
            rows = max(size // subsample, 1)
            seen = torch.arange(rows)
            seen = ((2 * seen + 1) * size + rows * (1 - subsample)).div(2 * rows, rounding_mode="floor")
            image = image.index_select(dim, seen.clamp(0, size - 1))
        return image

    small, small_input = left(guidance), left(input)
    taps = [(size - 1) // subsample + 1 for size in kernel_size]
    batch, guides, height, width = small.shape
    channels = input.shape[1]
    mean, mean_input = box(small, taps, border), box(small_input, taps, border)
    square = box((small[:, :, None] * small[:, None]).flatten(1, 2), taps, border)
    product = box((small[:, :, None] * small_input[:, None]).flatten(1, 2), taps, border)
    square = square.view(batch, guides, guides, height, width) - mean[:, :, None] * mean[:, None]
    product = product.view(batch, guides, channels, height, width) - mean[:, :, None] * mean_input[:, None]
    matrix_of = square.permute(0, 3, 4, 1, 2) + eps * torch.eye(guides, dtype=guidance.dtype)
    fits = torch.linalg.solve(matrix_of, product.permute(0, 3, 4, 1, 2)).permute(0, 3, 4, 1, 2)
    constants = mean_input - (fits * mean[:, :, None]).sum(1)
    fits = box(fits.flatten(1, 2), taps, border)
    constants = box(constants, taps, border)
    if subsample > 1:
        fits, constants = (
            F.interpolate(plane, size=guidance.shape[2:], mode="bilinear") for plane in (fits, constants)
        )
    return (fits.view(batch, guides, channels, *guidance.shape[2:]) * guidance[:, :, None]).sum(1) + constants


# ---- identities ------------------------------------------------------------------------------------------------------


def an_image_guides_itself():
    """As one tensor and as two: values, and the gradient, which is the sum of both."""
    for border, channels in zip(BORDERS, (1, 2, 3, 5), strict=True):
        image, weight = numbers(2, channels, 6, 7).requires_grad_(), numbers(2, channels, 6, 7, seed=1)
        other = image.detach().clone().requires_grad_()
        alone = guided_filter(image, image, (3, 5), 0.1, border)
        beside = guided_filter(image, other, (3, 5), 0.1, border)
        torch.testing.assert_close(alone, beside)
        of_both = torch.autograd.grad(beside, (image, other), weight)
        torch.testing.assert_close(torch.autograd.grad(alone, image, weight)[0], of_both[0] + of_both[1])


def one_colour_stays():
    for border in ("reflect", "replicate", "circular"):
        for dtype in (torch.float32, torch.float64):
            image = torch.full((1, 3, 9, 8), 0.3, dtype=dtype)
            assert torch.equal(guided_filter(image, image, 5, 0.1, border), image)
            assert torch.equal(guided_filter(torch.rand_like(image), image, 5, 0.1, border), image)


def one_tap_is_the_input():
    image = numbers(2, 3, 7, 5)
    torch.testing.assert_close(guided_filter(numbers(2, 2, 7, 5), image, 1, 0.1), image)


def a_flat_guidance_takes_means_of_means():
    image = numbers(2, 3, 9, 11)
    for guidance in (torch.ones_like(image), image.new_empty(2, 0, 9, 11)):
        for eps in (0.0, 0.1):
            found = guided_filter(guidance, image, (3, 5), eps)
            torch.testing.assert_close(found, box(box(image, (3, 5), "reflect"), (3, 5), "reflect"))


def without_eps_what_the_guidance_explains_stays():
    guidance = numbers(2, 3, 9, 11)
    explained = torch.einsum("kc,nkhw->nchw", numbers(3, 4, seed=1), guidance) + 5
    torch.testing.assert_close(guided_filter(guidance, explained, 5, 0.0), explained)
    torch.testing.assert_close(guided_filter(guidance, guidance, 5, 0.0), guidance)


def turned_images_are_filtered_to_turned_ones():
    guidance, image = numbers(2, 2, 9, 11), numbers(2, 3, 9, 11, seed=1)
    for border in BORDERS:
        found = guided_filter(guidance, image, (3, 5), 0.02, border)
        turned = guided_filter(guidance.transpose(2, 3), image.transpose(2, 3), (5, 3), 0.02, border)
        torch.testing.assert_close(turned.transpose(2, 3), found)
        mirrored = guided_filter(guidance.flip(2, 3), image.flip(2, 3), (3, 5), 0.02, border)
        torch.testing.assert_close(mirrored.flip(2, 3), found)


def an_image_beyond_int32():
    """The images of a batch far apart."""
    small = numbers(2, 1, 5, 37).bfloat16()
    memory = torch.empty(2**31 + 200, dtype=torch.bfloat16)
    far = memory.as_strided((2, 1, 5, 37), (2**31, 185, 37, 1)).copy_(small)
    assert torch.equal(guided_filter(far, far, 3, 0.1), guided_filter(small, small, 3, 0.1))


def gradients_of_eps_are_sums_in_double():
    """Of stripes whose every window contributes the same."""
    side = 300
    image = (torch.arange(side) % 2).float().expand(1, 1, side, side)
    eps = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)
    output = guided_filter(image, image.clone(), (1, 5), eps, "circular")
    (output * (image * 2 - 1)).sum().backward()
    # Three pixels of five are as the one in the middle: the variance is 6/25, and y = a (g - m) + m with m the mean of
    # five windows' means, 3/5 around ones and 2/5 around zeros, which alternate.
    variance = 6 / 25
    slope = -variance / (variance + 0.25) ** 2 * side * side / 2
    ones, zeros = (3 * 3 / 5 + 2 * 2 / 5) / 5, (3 * 2 / 5 + 2 * 3 / 5) / 5
    torch.testing.assert_close(eps.grad.item(), slope * ((1 - ones) + zeros), rtol=3e-6, atol=0)


# ---- specs -----------------------------------------------------------------------------------------------------------

# Planes of coefficients are in memory between passes: of one guide and one channel two, which are written, read,
# written and read forward; backward ten more, and moments are made twice, of pixels that tiles have in common.
FACTORS = {"forward": 5.0, "backward": 9.5, "double_backward": 15.5}
# Of three guides that are three channels too there are twelve such planes for three of the image, and nine more back.
OWN_FACTORS = {"forward": 12.0, "backward": 28.0, "double_backward": 40.0}

# Launches, allocations, waits: of three passes forward, of six backward.
CALLS = {"forward": (3, 3, 0), "backward": (6, 7, 0), "double_backward": (6, 7, 0)}


def between_passes(images, channels, guides, height, width):
    """Bytes of the planes between passes, all that one call of the backward allocates; and of eps' sums."""
    fits, returns = channels * (guides + 1), (channels + 3) // 4 * guides * (guides + 3) // 2
    return 4 * images * height * width * (5 * fits + 2 * returns) + 16 * 1024


IMAGE = torch.rand(2, 3, 8, 9)
NUMBERS = {"eps": 0.05}


def is_eps(value):
    """In place of that of each image."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.shape in ((), (1,))
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def filtered(**kwargs):
    return guided_filter(**{"guidance": IMAGE, "input": IMAGE[:, :2], "kernel_size": 3, "eps": 0.1, **kwargs})


SPEC = OpSpec(
    name="guided_filter",
    operator="handgrad::guided_filter",
    function=guided_filter,
    reference=reference,
    module=GuidedFilter,
    samples=[
        # No multiple of the batch is one of the other sizes, which would be taken for it.
        Sample(
            "gray",
            (numbers(2, 1, 3, 5), numbers(2, 3, 3, 5, seed=1)),
            {"kernel_size": (3, 5), "eps": 0.05, "border_type": "replicate"},
        ),
    ],
    large=Sample(
        "large",
        (numbers(3, 1, 67, 91).float(), numbers(3, 1, 67, 91, seed=1).float()),
        {"kernel_size": (5, 7), "eps": 0.05},
    ),
    empty=[Sample("channels", (numbers(2, 1, 4, 5), numbers(2, 0, 4, 5)), {"kernel_size": 3, **NUMBERS})],
    lenient={"eps": is_eps},
    bad=[
        Bad(
            "even",
            lambda: filtered(kernel_size=4),
            ValueError,
            "kernel_size must be a whole number, odd and from 1 to 1023, or two of them; got 4",
        ),
        Bad("three_sizes", lambda: filtered(kernel_size=(3, 3, 3)), TypeError, r"kernel_size must be .* got \(3, 3, 3"),
        Bad(
            "columns",
            lambda: filtered(kernel_size=(3, 19)),
            RuntimeError,
            "guidance must have more columns than half the window, 9, for a border that is reflect; got 9",
        ),
        Bad(
            "rows",
            lambda: filtered(kernel_size=(19, 3), border_type="circular"),
            RuntimeError,
            "guidance must have at least as many rows as half the window, 9, for a border that is circular; got 8",
        ),
        Bad(
            "subsampled",
            lambda: filtered(kernel_size=(17, 3), subsample=3),
            RuntimeError,
            "guidance must have more rows than half the window, 3, once subsampled, for a border that .* got 2",
        ),
        Bad(
            "negative",
            lambda: filtered(eps=-0.1),
            ValueError,
            "eps must be a finite number of 0 or more, or a tensor; got -0.1",
        ),
        Bad("nan", lambda: filtered(eps=math.nan), ValueError, "eps must be .* got nan"),
        Bad("pair", lambda: filtered(eps=(1.0, 1.0)), TypeError, "eps must be a finite number"),
        Bad(
            "kind",
            lambda: filtered(eps=torch.tensor(1)),
            TypeError,
            "eps must be a number or a tensor of floating-point ones; got int64",
        ),
        Bad(
            "eps_rows",
            lambda: filtered(eps=torch.ones(3)),
            RuntimeError,
            r"eps must be a tensor of one number or of \(batch,\); got \(3,\) beside a guidance of \(2, 3",
        ),
        Bad("eps_shape", lambda: filtered(eps=torch.ones(2, 1)), RuntimeError, r"eps must be a tensor of one number"),
        Bad(
            "border",
            lambda: filtered(border_type="mirror"),
            ValueError,
            "border_type must be 'reflect', 'replicate', 'constant' or 'circular'; got 'mirror'",
        ),
        Bad("subsample", lambda: filtered(subsample=0), ValueError, "subsample must be .* got 0"),
        Bad(
            "guides",
            lambda: filtered(guidance=torch.rand(2, 65, 8, 9)),
            RuntimeError,
            "guidance must have at most 64 channels; got 65",
        ),
        Bad(
            "input_size",
            lambda: filtered(input=IMAGE[:, :, 1:]),
            RuntimeError,
            r"input must have shape \(batch, any, height, width\) of guidance.*; got \(2, 3, 7, 9\)",
        ),
        Bad(
            "guidance_kind",
            lambda: filtered(guidance=IMAGE.double()),
            TypeError,
            "guidance must be of float32, bfloat16 or float16 beside an input that is computed in float32; got float64",
        ),
        Bad("rank", lambda: filtered(input=IMAGE[0]), RuntimeError, "input must have 4 dimensions"),
        Bad("layer", lambda: GuidedFilter(2, 1.0), ValueError, "kernel_size must be a whole number, odd"),
        Bad("layer_eps", lambda: GuidedFilter(3, -1.0), ValueError, "eps must be .* got -1.0"),
    ],
    identities={
        "itself": an_image_guides_itself,
        "one_colour": one_colour_stays,
        "one_tap": one_tap_is_the_input,
        "flat": a_flat_guidance_takes_means_of_means,
        "explained": without_eps_what_the_guidance_explains_stays,
        "turned": turned_images_are_filtered_to_turned_ones,
    },
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors=FACTORS,
    scratch=between_passes(3, 1, 1, 67, 91),
    device_calls=CALLS,
    onnx=(),
)

COLOUR_SPEC = OpSpec(
    name="guided_filter",
    operator="handgrad::guided_filter",
    function=guided_filter,
    tensors=("guidance", "input", "eps"),
    reference=reference_in_order,
    module=None,
    samples=[
        Sample(
            "colours",
            (numbers(2, 3, 3, 5), numbers(2, 1, 3, 5, seed=1), numbers(2) + 0.1),
            {"kernel_size": 3},
        ),
    ],
    large=Sample(
        "large_colours",
        (numbers(3, 3, 67, 91).float(), numbers(3, 1, 67, 91, seed=1).float(), numbers(3).float() + 0.1),
        {"kernel_size": (5, 3), "subsample": 2},
    ),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5), numbers(0, 1, 4, 5), numbers(0)), {"kernel_size": 3}),
        Sample("pixels", (numbers(2, 3, 0, 5), numbers(2, 1, 0, 5), numbers(2)), {"kernel_size": (1, 3)}),
    ],
    lenient={"eps": is_eps},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors=FACTORS,
    scratch=between_passes(3, 1, 3, 33, 45),
    sums_of_many=gradients_of_eps_are_sums_in_double,
    # That of all images, a number each, for both.
    saves=2 * 3 * 8,
)

OWN_SPEC = OpSpec(
    name="guided_filter",
    operator="handgrad::guided_filter",
    function=of_itself,
    tensors=("guidance",),
    reference=reference_of_itself,
    module=None,
    samples=[
        Sample(
            "own",
            (numbers(2, 2, 7, 5),),
            {"kernel_size": (5, 3), "eps": 0.05, "border_type": "circular", "subsample": 2},
        ),
    ],
    large=Sample("large_own", (numbers(3, 3, 67, 91).float(),), {"kernel_size": 5, "eps": 0.05}),
    empty=[],
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors=OWN_FACTORS,
    scratch=between_passes(3, 3, 3, 67, 91),
    onnx=(),
)

test_matrix = matrix(SPEC)
test_matrix_of_colours = matrix(COLOUR_SPEC)
test_matrix_of_own = matrix(OWN_SPEC)


# ---- borders, sizes, channels ----------------------------------------------------------------------------------------


def gradients(call, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = call(*leaves)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape).cos()
    return output, torch.autograd.grad((output * weight).sum(), leaves)


@pytest.mark.parametrize("border", BORDERS)
def test_borders_channels_and_subsampling(border):
    """Windows as wide as their border lets them be, images of one row, more channels than go together."""
    for shape, guides, taps, step in (
        ((1, 5, 4, 7), 7, (7, 5), 1), ((2, 1, 1, 9), 4, (1, 9), 1), ((1, 3, 9, 1), 3, (5, 1), 1),
        ((1, 9, 6, 6), 1, (11, 11), 1), ((2, 2, 9, 11), 2, (7, 5), 2), ((1, 1, 13, 8), 3, (7, 3), 3),
        ((1, 2, 3, 5), 1, (3, 1), 7),
    ):  # fmt: skip
        tensors = (numbers(shape[0], guides, *shape[2:]), numbers(*shape, seed=1), numbers(shape[0]) + 0.02)

        def ours(*args, taps=taps, step=step):
            return guided_filter(*args[:2], taps, args[2], border, step)

        def plain(*args, taps=taps, step=step):
            return reference(*args[:2], taps, args[2], border, step)

        torch.testing.assert_close(gradients(ours, *tensors), gradients(plain, *tensors))


@pytest.mark.parametrize("border", ["reflect", "replicate", "circular"])
def test_values_of_kornias_formula(border):
    """Another derivation of the same: squares of means taken from means of squares, torch's solve and interpolate."""
    for guides, channels, taps, step in ((1, 1, (5, 3), 1), (3, 2, (3, 5), 1), (2, 3, (7, 5), 2), (1, 2, (9, 9), 4)):
        guidance, image = numbers(2, guides, 19, 22), numbers(2, channels, 19, 22, seed=1)
        found = gradients(lambda g, x: guided_filter(g, x, taps, 0.01, border, step), guidance, image)  # noqa: B023
        expected = gradients(lambda g, x: in_kornias_steps(g, x, taps, 0.01, border, step), guidance, image)  # noqa: B023
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("step", [1, 2])
def test_windows_beyond_the_image(step):
    """Where the border lets them be: zeros, or the last pixel."""
    tensors = (numbers(1, 2, 4, 5), numbers(1, 1, 4, 5, seed=1))
    for border in ("replicate", "constant"):
        found = gradients(lambda g, x: guided_filter(g, x, (9, 13), 0.1, border, step), *tensors)  # noqa: B023
        expected = gradients(lambda g, x: reference(g, x, (9, 13), 0.1, border, step), *tensors)  # noqa: B023
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide_images_and_large_windows(dtype):
    """Tiles beside each other, and windows that a device has no shared memory for."""
    for shape, taps in (((1, 1, 5, 1300), (3, 9)), ((1, 1, 130, 9), (9, 3)), ((1, 1, 41, 50), (41, 49))):
        guidance, image = numbers(*shape).to(dtype), numbers(*shape, seed=1).to(dtype)
        found = gradients(lambda g, x: guided_filter(g, x, taps, 0.05), guidance, image)  # noqa: B023
        expected = gradients(
            lambda g, x: in_kornias_steps(g, x, taps, 0.05),  # noqa: B023
            guidance.double(),
            image.double(),
        )
        for one, other in ((found[0], expected[0]), *zip(found[1], expected[1], strict=True)):
            torch.testing.assert_close(one, other.to(dtype), rtol=2e-5, atol=2e-5 if dtype is torch.float32 else 1e-9)


def test_layouts_are_one_picture():
    guidance, image = numbers(2, 2, 12, 11).float(), numbers(2, 3, 12, 11, seed=1).float()
    expected = guided_filter(guidance, image, 5, 0.05)
    last = image.contiguous(memory_format=torch.channels_last)
    turned = image.transpose(2, 3).contiguous().transpose(2, 3)
    crop = image.new_zeros(2, 3, 15, 14)[:, :, 2:14, 1:12].copy_(image)
    for other in (last, turned, crop):
        found = guided_filter(guidance, other, 5, 0.05)
        assert torch.equal(found, expected)
        kept = torch.channels_last if other is last else torch.contiguous_format
        assert found.is_contiguous(memory_format=kept)


def test_an_image_is_filtered_as_in_a_batch():
    """Whatever is beside it; and a piece of it as the whole, where windows see the same."""
    guidance, image = numbers(3, 1, 60, 110).float(), numbers(3, 1, 60, 110, seed=1).float()
    whole = guided_filter(guidance, image, 7, 0.05)
    for n in range(3):
        assert torch.equal(guided_filter(guidance[n : n + 1], image[n : n + 1], 7, 0.05)[0], whole[n])
    piece = guided_filter(guidance[..., 20:50, 30:90], image[..., 20:50, 30:90], 7, 0.05)
    torch.testing.assert_close(piece[..., 6:-6, 6:-6], whole[..., 26:44, 36:84])


# ---- eps -------------------------------------------------------------------------------------------------------------


@pytest.mark.tiers("whole")
def test_eps_of_every_form():
    """Of one number, of each image, of another type than the image's."""
    guidance, image = numbers(2, 2, 4, 5), numbers(2, 3, 4, 5, seed=1)
    expected = guided_filter(guidance, image, 3, 0.125)
    for eps in (torch.tensor(0.125), torch.tensor([0.125]), torch.full((2,), 0.125), torch.full((2,), 0.125).half()):
        torch.testing.assert_close(guided_filter(guidance, image, 3, eps), expected)
    eps = torch.tensor(0.125, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: guided_filter(guidance, image, 3, *t), (eps,))
    assert torch.autograd.gradgradcheck(lambda *t: guided_filter(guidance, image, 3, *t), (eps,))
    layer = GuidedFilter(3, 0.5, learnable=True)
    layer(guidance.float(), image.float()).square().sum().backward()
    assert layer.eps.grad.shape == (1,)
    assert "learnable=True" in repr(layer)
    fixed = GuidedFilter(3, torch.tensor(0.5))
    assert list(fixed.state_dict()) == ["eps"]
    assert not list(fixed.parameters())
    assert "eps=0.5, border_type='reflect', subsample=1, learnable=False" in repr(GuidedFilter(3, 0.5))


def test_no_eps_and_no_variance():
    """0 / 0, of a guidance of one colour in some windows: there the mean; finite derivatives."""
    image = numbers(1, 1, 12, 12)
    guidance = image.clone()
    guidance[..., :7] = 0.7
    for dtype in (torch.float32, torch.float64):
        found, grads = gradients(lambda g, x: guided_filter(g, x, 3, 0.0), guidance.to(dtype), image.to(dtype))
        assert found.isfinite().all()
        assert all(grad.isfinite().all() for grad in grads)
        mean = box(box(image, (3, 3), "reflect"), (3, 3), "reflect").to(dtype)
        torch.testing.assert_close(found[..., :5], mean[..., :5])
        torch.testing.assert_close(
            gradients(lambda x: guided_filter(torch.ones_like(x), x, 3, 0.0), image.to(dtype))[1][0],
            gradients(lambda x: box(box(x, (3, 3), "reflect"), (3, 3), "reflect"), image.to(dtype))[1][0],
        )


def test_a_guide_that_repeats_another_says_nothing_new():
    """A gray photograph in three channels: without eps the covariance has no inverse."""
    gray, image = numbers(1, 1, 12, 13).float(), numbers(1, 2, 12, 13, seed=1).float()
    once = guided_filter(gray, image, 5, 0.0)
    torch.testing.assert_close(guided_filter(gray.expand(1, 3, 12, 13), image, 5, 0.0), once)
    torch.testing.assert_close(
        guided_filter(gray.expand(1, 3, 12, 13), image, 5, 0.3), guided_filter(gray, image, 5, 0.1)
    )


# ---- what users of other implementations report ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_of_many_guides(dtype):
    """kornia#4087: no LU of half types; and another type of eps. Values are those of float32, rounded."""
    guidance, image = numbers(1, 3, 20, 21).to(dtype), numbers(1, 2, 20, 21, seed=1).to(dtype)
    for eps in (1e-4, torch.tensor([1e-4]), torch.tensor([1e-4]).to(dtype)):
        found = guided_filter(guidance, image, 5, eps)
        assert found.dtype is dtype
        torch.testing.assert_close(found, guided_filter(guidance.float(), image.float(), 5, eps).to(dtype))


@pytest.mark.parametrize("offset", [1e2, 1e4, -3e5])
def test_bright_images_of_low_contrast(offset):
    """opencv_contrib#760, ansel#283: in float32 E[x^2] - E[x]^2 cancels, and may be negative: wrong edges, or NaN."""
    # Multiples of what float32 has beside the offset.
    pattern = (numbers(1, 2, 20, 41) * 8).round() / 8
    image = (numbers(1, 1, 20, 41, seed=1) * 8).round() / 8
    for eps in (1e-6, 1e-2):
        guidance = (pattern + offset).float()
        assert torch.equal(guidance.double(), pattern + offset)
        found = gradients(lambda g, x: guided_filter(g, x, 5, eps), guidance, image.float())  # noqa: B023
        expected = gradients(lambda g, x: reference(g, x, 5, eps), pattern, image)  # noqa: B023
        scale = [tensor.abs().max() for tensor in (expected[0], *expected[1])]
        # The means of such windows are rounded to 2^-24 of the offset.
        atol = 2e-7 * abs(offset) + 1e-5
        for one, other, most in zip((found[0], *found[1]), (expected[0], *expected[1]), scale, strict=True):
            torch.testing.assert_close(one.double() / most, other / most, rtol=0, atol=atol)


def test_variances_are_not_negative():
    """Of windows whose pixels are equal, beside ones that are far off: kornia divides by what rounding leaves."""
    guidance = torch.full((1, 1, 30, 30), 1234.567)
    guidance[..., 15:] += 4000
    image = numbers(1, 1, 30, 30).float()
    found = guided_filter(guidance, image, 5, 1e-12)
    mean = box(box(image, (5, 5), "reflect"), (5, 5), "reflect")
    torch.testing.assert_close(found[..., :11], mean[..., :11])


def test_windows_are_not_expanded():
    """tody411/GuidedFilter#4: kernel_size is the whole window."""
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[..., 4, 4] = 1.0
    found = guided_filter(torch.ones_like(image), image, 3, 1.0)
    assert found[..., 2:7, 2:7].gt(0).all()
    assert found.count_nonzero() == 25


@pytest.mark.tiers("whole")
def test_tall_images_are_whole():
    """opencv_contrib#1288: of an image of more than 625 rows and a ratio of 3 to 4 a third was cut off."""
    guidance = torch.arange(640.0).view(1, 1, 640, 1).expand(1, 1, 640, 480)
    torch.testing.assert_close(guided_filter(guidance, guidance.clone(), 5, 1e-9), guidance, rtol=1e-5, atol=1e-3)


def test_non_finite_pixels_are_where_windows_see_them():
    """Sums that run along a row carry a NaN to its end."""
    for value in (math.nan, math.inf):
        guidance, image = numbers(1, 1, 15, 15), numbers(1, 1, 15, 15, seed=1)
        seen = torch.zeros(1, 1, 15, 15, dtype=torch.bool)
        seen[0, 0, 5:10, 5:10] = True
        for spoilt in (guidance, image):
            kept, spoilt[0, 0, 7, 7] = spoilt[0, 0, 7, 7].item(), value
            assert torch.equal(guided_filter(guidance, image, 3, 0.1).isnan(), seen)
            spoilt[0, 0, 7, 7] = kept
    eps = torch.tensor([math.nan, 1.0])
    image = numbers(2, 1, 5, 5)
    assert guided_filter(image, image, 3, eps).isnan().flatten(1).all(1).tolist() == [True, False]


def test_windows_of_many_levels():
    """63 by 33 pixels: parts are merged five times along each axis, with one more pixel each time, or only once."""
    guidance, image = numbers(1, 1, 40, 45), numbers(1, 1, 40, 45, seed=1)
    found = guided_filter(guidance, image, (63, 33), 0.01)
    torch.testing.assert_close(found, in_kornias_steps(guidance, image, (63, 33), 0.01))
