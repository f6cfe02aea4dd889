"""Bilateral filters: their specs, and what is peculiar to them."""

import math

import pytest
import torch

from handgrad._borders import BORDERS
from handgrad.layers import BilateralFilter, JointBilateralFilter, bilateral_filter, joint_bilateral_filter
from handgrad.layers.joint_bilateral_filter import _DISTANCES, joint_bilateral_filter_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def numbers(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def reference(input, guidance, kernel_size, sigma_color, sigma_space, border_type="reflect", color_distance_type="l1"):
    taps = [kernel_size] * 2 if isinstance(kernel_size, int) else list(kernel_size)
    border, distance = BORDERS.index(border_type), _DISTANCES.index(color_distance_type)
    color = torch.as_tensor(sigma_color, dtype=torch.float64, device=input.device).reshape(-1, 1)
    space = torch.as_tensor(sigma_space, dtype=torch.float64, device=input.device)
    space = space.expand(2).reshape(1, 2) if space.dim() < 2 else space
    sigma = torch.cat([color.expand(len(input), 1), space.expand(len(input), 2)], 1)
    return joint_bilateral_filter_reference(input, guidance, sigma, taps, [], border, distance)


def reference_in_order(input, guidance, sigma_color=None, sigma_space=None, **kwargs):
    return reference(input, guidance, sigma_color=sigma_color, sigma_space=sigma_space, **kwargs)


def reference_of_one(input, kernel_size, sigma_color, sigma_space, **kwargs):
    return reference(input, None, kernel_size, sigma_color, sigma_space, **kwargs)


# ---- identities ------------------------------------------------------------------------------------------------------


def an_image_guides_itself():
    """As a guidance and as none: values, and the gradient, which is that of both parts."""
    for border in BORDERS:
        image, weight = numbers(2, 4, 6, 7).requires_grad_(), numbers(2, 4, 6, 7, seed=1)
        alone = bilateral_filter(image, (3, 5), 0.4, (1.1, 0.8), border)
        beside = joint_bilateral_filter(image, image, (3, 5), 0.4, (1.1, 0.8), border)
        assert torch.equal(alone, beside)
        ours, both = (torch.autograd.grad(output, image, weight)[0] for output in (alone, beside))
        torch.testing.assert_close(ours, both)


def one_colour_stays():
    for border in ("reflect", "replicate", "circular"):
        for dtype in (torch.float32, torch.float64):
            image = torch.full((1, 3, 9, 8), 0.3, dtype=dtype)
            assert torch.equal(bilateral_filter(image, 5, 0.1, 2.0, border), image)
            assert torch.equal(joint_bilateral_filter(image, torch.rand_like(image), 5, 0.1, 2.0, border), image)


def one_tap_is_the_image():
    image = numbers(2, 3, 7, 5)
    assert torch.equal(bilateral_filter(image, 1, 0.1, 1.0), image)


def a_flat_guidance_is_a_gaussian_blur():
    from handgrad.transforms import gaussian_blur

    image = numbers(2, 3, 9, 11)
    for guidance in (torch.ones_like(image), image.new_empty(2, 0, 9, 11)):
        found = joint_bilateral_filter(image, guidance, (3, 5), 0.1, (0.9, 1.4))
        torch.testing.assert_close(found, gaussian_blur(image, (5, 3), (1.4, 0.9)))


def turned_images_are_filtered_to_turned_ones():
    image = numbers(2, 3, 9, 11)
    for border in BORDERS:
        found = bilateral_filter(image, (3, 5), 0.2, (0.9, 1.4), border)
        turned = bilateral_filter(image.transpose(2, 3), (5, 3), 0.2, (1.4, 0.9), border).transpose(2, 3)
        torch.testing.assert_close(turned, found)
        mirrored = bilateral_filter(image.flip(2, 3), (3, 5), 0.2, (0.9, 1.4), border).flip(2, 3)
        torch.testing.assert_close(mirrored, found)


def an_image_beyond_int32():
    """The images of a batch far apart."""
    small = numbers(2, 1, 5, 37).bfloat16()
    memory = torch.empty(2**31 + 200, dtype=torch.bfloat16)
    far = memory.as_strided((2, 1, 5, 37), (2**31, 185, 37, 1)).copy_(small)
    assert torch.equal(bilateral_filter(far, 3, 0.3, 1.0), bilateral_filter(small, 3, 0.3, 1.0))


def gradients_of_sigma_are_sums_in_double():
    """Of stripes whose every pixel contributes the same."""
    side = 500
    image = (torch.arange(side) % 2).float().expand(1, 1, side, side)
    sigma = torch.tensor([0.8, 0.8, 0.8], dtype=torch.float64, requires_grad=True)
    output = joint_bilateral_filter(image, torch.zeros_like(image), (1, 3), sigma[0], sigma[1:], "circular")
    (output * (image * 2 - 1)).sum().backward()
    e = math.exp(-0.5 / 0.64)
    # Of a pixel: 1 / (1 + 2 e) or 2 e / (1 + 2 e); the former changes by -2 e / (1 + 2 e)^2 / sigma^3.
    slope = -2 * e / (1 + 2 * e) ** 2 / 0.8**3
    torch.testing.assert_close(sigma.grad[2].item(), side * side * slope, rtol=2e-7, atol=0)


# What windows reach beyond a tile is read again, of a gradient twice as far; for second derivatives once for the
# tangent of the values, and once for those of the gradients.
FACTORS = {"forward": 1.35, "backward": 1.55, "double_backward": 2.25}

# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 8, 9)


NUMBERS = {"sigma_color": 0.5, "sigma_space": 1.0}


def is_number_or_one(value):
    """In place of a pair, or of a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def is_sigma(value):
    """In place of those of each image."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.shape in ((), (1,), (2,), (1, 2))
    return isinstance(value, (int, float, list, tuple))


def filtered(**kwargs):
    return joint_bilateral_filter(**{"input": IMAGE, "guidance": IMAGE, "kernel_size": 3, "sigma_color": 0.1,
                                     "sigma_space": 1.0, **kwargs})  # fmt: skip


SPEC = OpSpec(
    name="joint_bilateral_filter",
    operator="handgrad::joint_bilateral_filter",
    function=joint_bilateral_filter,
    reference=reference,
    module=JointBilateralFilter,
    samples=[
        # No multiple of the batch is one of the other sizes, which would be taken for it.
        Sample(
            "numbers",
            (numbers(2, 5, 3, 3), numbers(2, 1, 3, 3, seed=1)),
            {
                "kernel_size": (1, 5),
                "sigma_color": 0.6,
                "sigma_space": (1.0, 1.3),
                "border_type": "replicate",
                "color_distance_type": "l2",
            },
        ),
    ],
    large=Sample(
        "large",
        (numbers(3, 3, 67, 91).float(), numbers(3, 1, 67, 91, seed=1).float()),
        {"kernel_size": (5, 3), "sigma_color": 0.7, "sigma_space": (1.2, 0.9)},
    ),
    empty=[Sample("channels", (numbers(2, 0, 4, 5), numbers(2, 1, 4, 5)), {"kernel_size": 3, **NUMBERS})],
    lenient={"sigma_color": is_number_or_one, "sigma_space": is_number_or_one},
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
            "input must have more columns than kernel_size // 2, 9, for a border that is reflect; got 8 x 9 pixels",
        ),
        Bad(
            "rows",
            lambda: filtered(kernel_size=(19, 3), border_type="circular"),
            RuntimeError,
            "input must have at least as many rows as kernel_size // 2, 9, for a border that is circular; got 8 x 9",
        ),
        Bad(
            "zero",
            lambda: filtered(sigma_color=0.0),
            ValueError,
            "sigma_color must be a finite number greater than 0; got 0.0",
        ),
        Bad("nan", lambda: filtered(sigma_space=(1.0, math.nan)), ValueError, "sigma_space must be .* got nan"),
        Bad("three", lambda: filtered(sigma_space=(1.0, 1.0, 1.0)), TypeError, "sigma_space must be .* or two of them"),
        Bad("pair", lambda: filtered(sigma_color=(1.0, 1.0)), TypeError, "sigma_color must be a finite number"),
        Bad(
            "kind",
            lambda: filtered(sigma_color=torch.tensor(1)),
            TypeError,
            "sigma_color must be a number or a tensor of floating-point ones; got int64",
        ),
        Bad(
            "sigma_rows",
            lambda: filtered(sigma_color=torch.ones(3)),
            RuntimeError,
            r"sigma_color must be a tensor of one number or of \(batch,\); got \(3,\) beside an input of \(2, 3",
        ),
        Bad(
            "sigma_shape",
            lambda: filtered(sigma_space=torch.ones(2, 3)),
            RuntimeError,
            r"sigma_space must be a tensor of two numbers or of \(batch, 2\); got \(2, 3\)",
        ),
        Bad(
            "border",
            lambda: filtered(border_type="mirror"),
            ValueError,
            "border_type must be 'reflect', 'replicate', 'constant' or 'circular'; got 'mirror'",
        ),
        Bad("distance", lambda: filtered(color_distance_type="l3"), ValueError, "color_distance_type must be 'l1' or"),
        Bad(
            "guidance_size",
            lambda: filtered(guidance=IMAGE[:, :, 1:]),
            RuntimeError,
            r"guidance must have shape \(batch, any, height, width\) of input.*; got \(2, 3, 7, 9\)",
        ),
        Bad(
            "guidance_kind",
            lambda: filtered(guidance=IMAGE.double()),
            TypeError,
            "guidance must be of float32, bfloat16 or float16 beside an input that is computed in float32; got float64",
        ),
        Bad("rank", lambda: filtered(input=IMAGE[0]), RuntimeError, "input must have 4 dimensions"),
        Bad("layer", lambda: BilateralFilter(2, 1.0, 1.0), ValueError, "kernel_size must be a whole number, odd"),
        Bad("layer_sigma", lambda: BilateralFilter(3, -1.0, 1.0), ValueError, "sigma_color must be .* got -1.0"),
    ],
    identities={
        "itself": an_image_guides_itself,
        "one_colour": one_colour_stays,
        "one_tap": one_tap_is_the_image,
        "flat": a_flat_guidance_is_a_gaussian_blur,
        "turned": turned_images_are_filtered_to_turned_ones,
    },
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors=FACTORS,
    onnx=(),
)

SIGMA_SPEC = OpSpec(
    name="joint_bilateral_filter",
    operator="handgrad::joint_bilateral_filter",
    function=joint_bilateral_filter,
    tensors=("input", "guidance", "sigma_color", "sigma_space"),
    reference=reference_in_order,
    module=None,
    samples=[
        Sample(
            "sigmas",
            (numbers(2, 1, 3, 5), numbers(2, 3, 3, 5, seed=1), numbers(2) + 0.5, numbers(2, 2) + 0.7),
            {"kernel_size": 3},
        ),
    ],
    large=Sample(
        "large_sigmas",
        (
            numbers(3, 1, 67, 91).float(),
            numbers(3, 3, 67, 91, seed=1).float(),
            numbers(3).float() + 0.5,
            numbers(3, 2).float() + 0.7,
        ),
        {"kernel_size": 3},
    ),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5), numbers(0, 1, 4, 5), numbers(0), numbers(0, 2)), {"kernel_size": 3}),
        Sample(
            "pixels", (numbers(2, 3, 0, 5), numbers(2, 1, 0, 5), numbers(2), numbers(2, 2)), {"kernel_size": (1, 3)}
        ),
    ],
    lenient={"sigma_color": is_sigma, "sigma_space": is_sigma},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors=FACTORS,
    sums_of_many=gradients_of_sigma_are_sums_in_double,
    # The table of all sigmas, three numbers an image, for each of both.
    saves=2 * 3 * 3 * 8,
)

OWN_SPEC = OpSpec(
    name="joint_bilateral_filter",
    operator="handgrad::joint_bilateral_filter",
    function=bilateral_filter,
    tensors=("input",),
    reference=reference_of_one,
    module=None,
    samples=[
        Sample(
            "own",
            (numbers(2, 3, 3, 5),),
            {"kernel_size": (5, 3), "sigma_color": 0.7, "sigma_space": (1.1, 0.9), "border_type": "circular"},
        ),
    ],
    large=Sample(
        "large_own", (numbers(3, 3, 67, 91).float(),), {"kernel_size": 5, "sigma_color": 0.8, "sigma_space": 1.3}
    ),
    empty=[],
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors=FACTORS,
    onnx=(),
)

test_matrix = matrix(SPEC)
test_matrix_of_sigmas = matrix(SIGMA_SPEC)
test_matrix_of_own = matrix(OWN_SPEC)


# ---- borders, sizes, channels ----------------------------------------------------------------------------------------


def gradients(call, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = call(*leaves)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape).cos()
    return output, torch.autograd.grad((output * weight).sum(), leaves)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("distance", _DISTANCES)
def test_borders_and_channels(border, distance):
    """Windows as wide as their border lets them be, images of one row, more channels than go together."""
    for shape, guides, taps in (
        ((1, 5, 4, 7), 7, (7, 5)), ((2, 1, 1, 9), 4, (1, 9)), ((1, 3, 9, 1), 3, (5, 1)), ((1, 2, 6, 6), 1, (11, 11)),
    ):  # fmt: skip
        tensors = (numbers(*shape), numbers(shape[0], guides, *shape[2:], seed=1), numbers(shape[0]) + 0.3,
                   numbers(shape[0], 2) + 0.5)  # fmt: skip

        def ours(*args, taps=taps):
            return joint_bilateral_filter(*args[:2], taps, *args[2:], border, distance)

        def plain(*args, taps=taps):
            return reference(*args[:2], taps, *args[2:], border, distance)

        torch.testing.assert_close(gradients(ours, *tensors), gradients(plain, *tensors))


def test_windows_beyond_the_image():
    """Where the border lets them be: zeros, or the last pixel."""
    tensors = (numbers(1, 2, 3, 4), numbers(1, 1, 3, 4, seed=1))
    for border in ("replicate", "constant"):
        found = gradients(lambda x, g: joint_bilateral_filter(x, g, (9, 13), 0.5, 3.0, border), *tensors)  # noqa: B023
        expected = gradients(lambda x, g: reference(x, g, (9, 13), 0.5, 3.0, border), *tensors)  # noqa: B023
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide_images_and_large_windows(dtype):
    """Strips of columns, and windows that a device has no shared memory for."""
    for shape, taps in (((1, 1, 5, 1300), (3, 9)), ((1, 2, 45, 47), (45, 43))):
        image = numbers(*shape).to(dtype)
        found = gradients(lambda x: bilateral_filter(x, taps, 0.5, 9.0), image)  # noqa: B023
        expected = gradients(lambda x: reference_of_one(x, taps, 0.5, 9.0), image.double())  # noqa: B023
        for one, other in ((found[0], expected[0]), (found[1][0], expected[1][0])):
            torch.testing.assert_close(one, other.to(dtype), rtol=2e-5, atol=2e-5 if dtype is torch.float32 else 1e-9)


def test_layouts_are_one_picture():
    image = numbers(2, 3, 12, 11).float()
    expected = bilateral_filter(image, 5, 0.4, 1.3)
    last = image.contiguous(memory_format=torch.channels_last)
    turned = image.transpose(2, 3).contiguous().transpose(2, 3)
    crop = image.new_zeros(2, 3, 15, 14)[:, :, 2:14, 1:12].copy_(image)
    for other in (last, turned, crop):
        found = bilateral_filter(other, 5, 0.4, 1.3)
        assert torch.equal(found, expected)
        kept = torch.channels_last if other is last else torch.contiguous_format
        assert found.is_contiguous(memory_format=kept)


# ---- sigma -----------------------------------------------------------------------------------------------------------


@pytest.mark.tiers("whole")
def test_sigmas_of_every_form():
    """Of one number, of each image, beside a number, of another type than the image's; MONAI#5772, where the gradient
    was that of another function."""
    image = numbers(2, 2, 4, 5)
    expected = bilateral_filter(image, 3, 0.8, (1.2, 0.9))
    for color in (0.8, torch.tensor(0.8), torch.tensor([0.8]), torch.full((2,), 0.8)):
        for space in ((1.2, 0.9), torch.tensor([1.2, 0.9]), torch.tensor([[1.2, 0.9]] * 2)):
            torch.testing.assert_close(bilateral_filter(image, 3, color, space), expected, rtol=1e-6, atol=1e-6)
    color, space = torch.tensor(0.8).double().requires_grad_(), torch.tensor([1.2, 0.9]).double().requires_grad_()
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: bilateral_filter(t[0], 3, *t[1:]), (image, color, space))
    assert torch.autograd.gradgradcheck(lambda *t: bilateral_filter(t[0], 3, *t[1:]), (image, color, space))
    layer = JointBilateralFilter(3, 0.5, 1.0, learnable=True)
    layer(image.detach().float(), image.detach().float()).square().sum().backward()
    assert layer.sigma_color.grad.shape == (1,)
    assert layer.sigma_space.grad.shape == (2,)
    assert "learnable=True" in repr(layer)
    fixed = JointBilateralFilter(3, torch.tensor(0.5), torch.ones(2))
    assert list(fixed.state_dict()) == ["sigma_color", "sigma_space"]
    assert not list(fixed.parameters())
    assert "learnable=False" in repr(fixed)
    assert "sigma_color=0.5" in repr(BilateralFilter(3, 0.5, 1.0))


def test_narrow_sigmas_leave_the_image():
    """Where the square of sigma underflows too; finite derivatives, which are 0 there."""
    for dtype in (torch.float32, torch.float64):
        image = numbers(1, 2, 6, 7).to(dtype)
        for value in (1e-4, 1e-20, 1e-30, 1e-200):
            assert torch.equal(bilateral_filter(image, 5, value, 1.0), image)
            assert torch.equal(bilateral_filter(image, 5, 1.0, value), image)
        for value in (0.0, 1e-30, 1e-200, -1e-9):
            sigma = torch.full((3,), value, dtype=torch.float64, requires_grad=True)
            leaf = image.clone().requires_grad_()
            found = bilateral_filter(leaf, 5, sigma[0], sigma[1:])
            assert torch.equal(found, image)
            grads = torch.autograd.grad(found.square().sum(), (leaf, sigma), create_graph=True)
            torch.testing.assert_close(grads[0], 2 * image)
            assert grads[1].eq(0).all()
            second = torch.autograd.grad(grads[0].sum() + grads[1].sum(), (leaf, sigma))
            assert second[0].eq(2).all()
            assert second[1].eq(0).all()
    torch.testing.assert_close(
        bilateral_filter(image, 3, torch.tensor(-0.7).double(), 1.0), bilateral_filter(image, 3, 0.7, 1.0)
    )


def test_wide_sigmas_are_a_mean():
    image = numbers(1, 2, 7, 8)
    mean = torch.nn.functional.avg_pool2d(image, 3, 1)
    for value in (1e9, 1e200, 1.7e308):
        torch.testing.assert_close(bilateral_filter(image, 3, value, value)[..., 1:-1, 1:-1], mean)


def test_non_finite_pixels_are_where_windows_see_them():
    for value in (math.nan, math.inf):
        image = numbers(1, 1, 9, 9)
        image[0, 0, 4, 4] = value
        found = bilateral_filter(image, 3, 0.5, 1.0)
        seen = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
        seen[0, 0, 3:6, 3:6] = True
        assert torch.equal(found.isnan(), seen)
        assert torch.equal(joint_bilateral_filter(image, torch.ones_like(image), 3, 0.5, 1.0).isfinite(), ~seen)
    sigma = torch.tensor([math.nan, 1.0])
    assert bilateral_filter(numbers(2, 1, 5, 5), 3, sigma, 1.0).isnan().flatten(1).all(1).tolist() == [True, False]


def test_equal_colours_have_the_slope_of_torchs_abs():
    """0: at a tie the distance has a kink, and its square none."""
    image = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    image[0, 0, 1, 1] = 1.0
    for distance in _DISTANCES:
        ours = gradients(lambda x: bilateral_filter(x, 3, 0.5, 1.0, "replicate", distance), image)  # noqa: B023
        plain = gradients(
            lambda x: reference_of_one(x, 3, 0.5, 1.0, border_type="replicate", color_distance_type=distance),  # noqa: B023
            image,
        )
        torch.testing.assert_close(ours, plain)
