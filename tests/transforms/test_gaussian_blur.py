import math

import pytest
import torch

from handgrad.layers import GaussianBlur2d
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.transforms import gaussian_blur
from handgrad.transforms.gaussian_blur import gaussian_blur_reference
from transform_images import NO_DERIVATIVES, is_level_image, is_number_image, levels


def numbers(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def reference(image, kernel_size, sigma=None):
    taps = [kernel_size] * 2 if isinstance(kernel_size, int) else list(kernel_size)
    if isinstance(sigma, torch.Tensor):
        return gaussian_blur_reference(image, sigma.double(), taps, [0.0, 0.0])
    shared = [size * 0.15 + 0.35 for size in taps] if sigma is None else sigma
    return gaussian_blur_reference(
        image, None, taps, list(shared) if isinstance(shared, (list, tuple)) else [sigma] * 2
    )


def reference_of_each(image, sigma, kernel_size):
    return reference(image, kernel_size, sigma)


# ---- identities ------------------------------------------------------------------------------------------------------


def one_tap_is_the_image():
    for image in (numbers(2, 3, 7, 5), levels(2, 3, 7, 5), numbers(1, 2, 1, 1)):
        assert torch.equal(gaussian_blur(image, 1, 3.0), image)


def one_colour_stays():
    """Weights add up to one."""
    for taps, sigma in ((3, 0.5), ((9, 5), (1.7, 30.0)), ((1, 11), None)):
        image = torch.full((1, 2, 13, 12), 0.3, dtype=torch.float64)
        torch.testing.assert_close(gaussian_blur(image, taps, sigma), image)
        for level in (0, 1, 127, 254, 255):
            assert gaussian_blur(torch.full((1, 3, 13, 12), level, dtype=torch.uint8), taps, sigma).eq(level).all()


def one_axis_after_the_other():
    image = numbers(2, 3, 12, 17)
    both = gaussian_blur(image, (7, 5), (1.3, 0.8))
    torch.testing.assert_close(gaussian_blur(gaussian_blur(image, (7, 1), 1.3), (1, 5), 0.8), both)
    turned = gaussian_blur(image.transpose(-1, -2), (5, 7), (0.8, 1.3)).transpose(-1, -2)
    torch.testing.assert_close(turned, both)


def a_mirrored_image_is_blurred_to_a_mirror():
    for image in (numbers(1, 2, 9, 8), levels(1, 2, 9, 8)):
        for dims in ((2,), (3,), (2, 3)):
            assert torch.equal(
                gaussian_blur(image.flip(dims), (5, 7), 1.1), gaussian_blur(image, (5, 7), 1.1).flip(dims)
            )


def the_gradient_is_the_transposed_matrix():
    """Of every size that a border may have, down to the smallest."""
    for height, width, taps in ((3, 4, (7, 5)), (2, 2, 3), (7, 9, (5, 9)), (12, 3, (5, 3))):
        image, other = numbers(1, 1, height, width), numbers(1, 1, height, width, seed=1)
        leaf = image.clone().requires_grad_()
        (grad,) = torch.autograd.grad((gaussian_blur(leaf, taps, 1.2) * other).sum(), leaf)
        torch.testing.assert_close((grad * image).sum(), (gaussian_blur(image, taps, 1.2) * other).sum())


def an_image_beyond_int32():
    """The slices of a batch far apart, and one row that all images share."""
    small = levels(2, 1, 5, 37)
    memory = torch.empty(2**31 + 200, dtype=torch.uint8)
    far = memory.as_strided((2, 1, 5, 37), (2**31, 185, 37, 1)).copy_(small)
    assert torch.equal(gaussian_blur(far, 3, 1.0), gaussian_blur(small, 3, 1.0))
    row = levels(1, 1, 1, 37)
    image = row.expand(1, 1, 2**31 // 37 + 3, 37)[:, :, -5:]
    assert torch.equal(gaussian_blur(image, (3, 1), 1.0), gaussian_blur(row, (3, 1), 1.0).expand(1, 1, 5, 37))


def the_gradient_of_sigma_is_a_sum_in_double():
    """Of stripes whose every pixel contributes the same."""
    side = 700
    image = (torch.arange(side) % 2).float().expand(1, 1, side, side)
    sigma = torch.tensor([[0.8, 0.8]], dtype=torch.float64, requires_grad=True)
    (gaussian_blur(image, (3, 1), sigma) * (image * 2 - 1)).sum().backward()
    e = math.exp(-0.5 / 0.64)
    # Of a pixel: w_0 or 2 w_1, which adds up to 1; w_0 changes by -2 e / (1 + 2 e)^2 / sigma^3.
    slope = -2 * e / (1 + 2 * e) ** 2 / 0.8**3
    torch.testing.assert_close(sigma.grad[0, 0].item(), side * side * slope, rtol=2e-7, atol=0)


# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 8, 9)


# A sigma of None is made of the size; one in a list is torchvision's.
LENIENT = {"sigma": lambda value: value is None or (isinstance(value, (list, tuple)) and len(value) == 1)}


def is_sigma_of_all(value):
    """In place of a tensor of those of each image."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.shape in ((), (1,), (2,))
    return value is None or isinstance(value, (int, float, list, tuple))


SPEC = OpSpec(
    name="gaussian_blur",
    operator="handgrad::gaussian_blur",
    function=gaussian_blur,
    tensors=("image",),
    reference=reference,
    module=GaussianBlur2d,
    samples=[
        # No multiple of the batch is one of the other sizes, which would be taken for it.
        Sample("blur", (numbers(2, 2, 3, 5),), {"kernel_size": (5, 3), "sigma": (1.1, 0.7)}),
        Sample("mirrors", (numbers(2, 1, 2, 3),), {"kernel_size": (5, 3), "sigma": 2.0}),
        Sample("column", (numbers(2, 3, 5, 1),), {"kernel_size": (1, 7), "sigma": 1.4}),
    ],
    large=Sample("large", (numbers(3, 3, 131, 157).float(),), {"kernel_size": (9, 7), "sigma": (1.9, 1.2)}),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5),), {"kernel_size": 3}),
        Sample("pixels", (numbers(2, 3, 0, 5),), {"kernel_size": (3, 1)}),
    ],
    lenient={**LENIENT, "image": is_level_image},
    bad=[
        Bad(
            "even",
            lambda: gaussian_blur(IMAGE, 4),
            ValueError,
            "kernel_size must be an odd number, at least 1, or two of them; got 4",
        ),
        Bad("no_taps", lambda: gaussian_blur(IMAGE, (3, 0)), ValueError, r"kernel_size must be an odd .* got \(3, 0\)"),
        Bad(
            "three_sizes", lambda: gaussian_blur(IMAGE, (3, 3, 3)), TypeError, r"kernel_size must be .* got \(3, 3, 3\)"
        ),
        Bad(
            "wide",
            lambda: gaussian_blur(IMAGE, (19, 3)),
            RuntimeError,
            "image must have more columns than kernel_size // 2, 9, since its border is a mirror; got 8 x 9 pixels",
        ),
        Bad(
            "high",
            lambda: gaussian_blur(IMAGE, (3, 17)),
            RuntimeError,
            "image must have more rows than kernel_size // 2, 8,",
        ),
        # vision#6683
        Bad(
            "one_pixel",
            lambda: gaussian_blur(levels(1, 1, 1), 3),
            RuntimeError,
            "image must have more columns than kernel_size // 2, 1, .* got 1 x 1 pixels",
        ),
        Bad(
            "zero",
            lambda: gaussian_blur(IMAGE, 3, 0.0),
            ValueError,
            "sigma must be a finite number greater than 0, or two of them; got 0.0",
        ),
        Bad("negative", lambda: gaussian_blur(IMAGE, 3, (1, -1)), ValueError, "sigma must be .* got -1"),
        Bad("nan", lambda: gaussian_blur(IMAGE, 3, math.nan), ValueError, "sigma must be a finite .* got nan"),
        Bad("infinite", lambda: gaussian_blur(IMAGE, 3, math.inf), ValueError, "sigma must be a finite .* got inf"),
        Bad(
            "three_sigmas",
            lambda: gaussian_blur(IMAGE, 3, (1.0, 1.0, 1.0)),
            TypeError,
            r"sigma must be a number, or two of them; got \(1.0, 1.0, 1.0\)",
        ),
        Bad("word", lambda: gaussian_blur(IMAGE, 3, "1.0"), TypeError, "sigma must be a finite number .* got '1.0'"),
        Bad(
            "sigma_kind",
            lambda: gaussian_blur(IMAGE, 3, torch.ones(2, dtype=torch.int64)),
            TypeError,
            "sigma must be a number, two of them, or a tensor of floating-point ones; got int64",
        ),
        Bad(
            "sigma_rows",
            lambda: gaussian_blur(IMAGE, 3, torch.ones(3, 2)),
            RuntimeError,
            r"sigma must have shape \(images, 2\), here \(2, 2\); got \(3, 2\)",
        ),
        Bad(
            "sigma_of_one_image",
            lambda: gaussian_blur(IMAGE[0], 3, torch.ones(1, 2)),
            RuntimeError,
            r"sigma must be a tensor of one number, of two, or \(batch, 2\) beside a batch of images; got \(1, 2\)",
        ),
        Bad(
            "rank",
            lambda: gaussian_blur(IMAGE[0, 0], 3),
            RuntimeError,
            r"image must be \(..., channels, height, width\); got \(8, 9\)",
        ),
        Bad("int16", lambda: gaussian_blur(IMAGE.short(), 3), TypeError, "image must be uint8, .* got int16"),
        Bad("layer", lambda: GaussianBlur2d(2), ValueError, "kernel_size must be an odd number"),
    ],
    identities={
        "one_tap": one_tap_is_the_image,
        "one_colour": one_colour_stays,
        "axes": one_axis_after_the_other,
        "mirror": a_mirrored_image_is_blurred_to_a_mirror,
        "transposed": the_gradient_is_the_transposed_matrix,
    },
    numel_beyond_int32=an_image_beyond_int32,
    sums_of_many=the_gradient_of_sigma_is_a_sum_in_double,
    # What windows reach beyond a tile is read again.
    # The blur is linear: its derivatives read a gradient and write one, and not the image.
    floor=lambda sample: dict.fromkeys(
        ("backward", "double_backward"), 2 * sample.tensors[0].numel() * sample.tensors[0].element_size()
    ),
    floor_factors={"forward": 1.3, "backward": 1.3, "double_backward": 1.3},
    # The filters, then the image.
    device_calls={"forward": (2, 2, 0), "backward": (2, 2, 0), "double_backward": (2, 2, 0)},
)

SIGMA_SPEC = OpSpec(
    name="gaussian_blur",
    operator="handgrad::gaussian_blur",
    function=gaussian_blur,
    tensors=("image", "sigma"),
    reference=reference_of_each,
    module=None,
    samples=[
        Sample("each", (numbers(2, 2, 3, 5), numbers(2, 2) + 0.5), {"kernel_size": (5, 3)}),
        Sample("mirrored", (numbers(2, 1, 2, 3), numbers(2, 2) + 0.5), {"kernel_size": (5, 3)}),
    ],
    large=Sample("large", (numbers(3, 3, 131, 157).float(), numbers(3, 2) + 0.5), {"kernel_size": (9, 7)}),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5), numbers(0, 2)), {"kernel_size": 3}),
        Sample("pixels", (numbers(2, 3, 0, 5), numbers(2, 2)), {"kernel_size": (3, 1)}),
    ],
    optional=("sigma",),
    lenient={"sigma": is_sigma_of_all, "image": is_level_image},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors={"forward": 1.3, "backward": 1.3, "double_backward": 1.3},
)

LEVELS_SPEC = OpSpec(
    name="gaussian_blur",
    operator="handgrad::gaussian_blur",
    function=gaussian_blur,
    tensors=("image",),
    reference=reference,
    module=GaussianBlur2d,
    samples=[
        Sample("levels", (levels(2, 3, 9, 8),), {"kernel_size": (7, 5), "sigma": (1.4, 0.9)}),
        Sample("mirrored_levels", (levels(2, 1, 4, 5),), {"kernel_size": (9, 7), "sigma": 3.0}),
    ],
    large=Sample("large", (levels(3, 3, 131, 157),), {"kernel_size": (9, 7), "sigma": (1.9, 1.2)}),
    empty=[Sample("batch", (levels(0, 3, 4, 5),), {"kernel_size": 3})],
    dtypes=(torch.uint8,),
    private_ops=(),
    derivatives=False,
    lenient={**LENIENT, "image": is_number_image},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors={"forward": 1.6},
    device_calls={"forward": (2, 2, 0)},
    not_applicable={3: NO_DERIVATIVES, 15: NO_DERIVATIVES},
)

test_matrix = matrix(SPEC)
test_matrix_of_sigmas = matrix(SIGMA_SPEC)
test_matrix_of_levels = matrix(LEVELS_SPEC)


# ---- torchvision's pictures ------------------------------------------------------------------------------------------


def random_calls(count, most, seed=0):
    generator = reseeded(seed)

    def below(limit):
        return int(torch.randint(0, limit, (), generator=generator))

    for _ in range(count):
        channels, height, width = (1, 3, 4)[below(3)], 1 + below(most), 1 + below(most)
        image = torch.randint(0, 256, (2, height, width, channels), dtype=torch.uint8, generator=generator)
        image = image.permute(0, 3, 1, 2)
        taps = [2 * below(min(width, 12)) + 1, 2 * below(min(height, 12)) + 1]
        sigma = [0.1 + 5 * float(torch.rand((), generator=generator)) for _ in range(2)]
        yield image if below(2) else image.contiguous(), taps, sigma


def test_levels_are_torchvisions(functional):
    """But for numbers so near to the middle between two levels that the order of a sum decides."""
    different = total = 0
    for image, taps, sigma in random_calls(60, 70):
        expected, found = functional.gaussian_blur(image, taps, sigma), gaussian_blur(image, taps, sigma)
        distance = (found.int() - expected.int()).abs()
        assert distance.max() <= 1
        different, total = different + int(distance.sum()), total + image.numel()
    assert different <= 1e-4 * total


def test_numbers_are_torchvisions(functional):
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
        for image, taps, sigma in random_calls(15, 40, seed=1):
            picture = image.to(dtype) / 255
            found, expected = gaussian_blur(picture, taps, sigma), functional.gaussian_blur(picture, taps, sigma)
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    image = numbers(3, 20, 17)
    for taps, sigma in ((5, None), ([5, 3], [2]), ((3, 7), 1), ([1, 3], (1, 2.0))):  # vision#7885: whole numbers
        torch.testing.assert_close(gaussian_blur(image, taps, sigma), functional.gaussian_blur(image, taps, sigma))


def test_gradients_are_torchvisions(functional):
    for taps, sigma in (((9, 5), (1.7, 0.9)), (3, None), ((1, 25), 6.0)):
        image, weight = numbers(2, 3, 21, 19), numbers(2, 3, 21, 19, seed=1)
        grads = []
        for call in (functional.gaussian_blur, gaussian_blur):
            leaf = image.clone().requires_grad_()
            (call(leaf, taps, sigma) * weight).sum().backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(grads[1], grads[0])


# ---- layouts, shapes, sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
def test_memory_formats(kind):
    """Rows of pixels, as decoders leave them, planes, crops: one picture, and the same bits of it."""
    four = levels(2, 12, 11, 4)
    four = four if kind is torch.uint8 else (four / 255).to(kind)
    packed = four[..., :3].contiguous().permute(0, 3, 1, 2)
    planes = packed.contiguous()
    sparse = planes.new_zeros(2, 3, 12, 22)[..., ::2].copy_(planes)
    crop = planes.new_zeros(2, 3, 15, 14)[:, :, 2:14, 1:12].copy_(planes)
    turned = planes.transpose(2, 3).contiguous().transpose(2, 3)
    expected = gaussian_blur(planes, (7, 5), 1.3)
    for image in (packed, planes, sparse, crop, turned, four[..., :3].permute(0, 3, 1, 2)):
        found = gaussian_blur(image, (7, 5), 1.3)
        assert torch.equal(found, expected)
        kept = torch.channels_last if image is packed else torch.contiguous_format
        assert found.is_contiguous(memory_format=kept)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64], ids=str)
def test_large_kernels_and_wide_images(kind):
    """Strips of columns, windows that a device has no shared memory for, and mirrors that no strip holds; vision#7413,
    where 3 x 3 million taps were asked for memory."""
    for shape, taps in (((1, 1, 60, 2300), (301, 3)), ((1, 2, 230, 210), (401, 399)), ((1, 5, 3, 900), (5, 5))):
        image = levels(*shape) if kind is torch.uint8 else numbers(*shape).to(kind)
        found, expected = gaussian_blur(image, taps, 40.0), reference(image, taps, 40.0)
        if kind is torch.uint8:
            assert torch.equal(found, expected)
        else:
            torch.testing.assert_close(found, expected)
            last = image.contiguous(memory_format=torch.channels_last)
            assert torch.equal(gaussian_blur(last, taps, 40.0), found)


@pytest.mark.tiers("whole")
def test_leading_dimensions():
    image = levels(2, 2, 3, 7, 6)
    found = gaussian_blur(image, 3, 1.0)
    assert found.shape == image.shape
    assert torch.equal(found[1, 1], gaussian_blur(image[1, 1], 3, 1.0))
    packed = levels(7, 6, 3).permute(2, 0, 1)
    assert gaussian_blur(packed, 3, 1.0).stride() == packed.stride()


# ---- sigma -----------------------------------------------------------------------------------------------------------


def test_a_sigma_for_each_image():
    sigma = torch.tensor([[0.4, 1.0], [2.0, 0.7], [1.1, 1.1]])
    for batch in (levels(3, 2, 12, 11), numbers(3, 2, 12, 11), numbers(3, 2, 12, 11).float()):
        found = gaussian_blur(batch, (7, 5), sigma)
        for index in range(3):
            assert torch.equal(found[index], gaussian_blur(batch[index], (7, 5), sigma[index].tolist()))


@pytest.mark.tiers("whole")
def test_a_sigma_that_is_a_tensor():
    """Of one number, of two, of another type than the image's; levels have no gradient."""
    image = numbers(2, 2, 5, 6)
    for given in (torch.tensor(0.8), torch.tensor([0.8]), torch.tensor([0.8, 0.8]), torch.full((2, 2), 0.8)):
        sigma = given.double().requires_grad_()
        torch.testing.assert_close(gaussian_blur(image, (5, 3), sigma), gaussian_blur(image, (5, 3), 0.8))
        assert torch.autograd.gradcheck(lambda s: gaussian_blur(image, (5, 3), s), sigma)
        assert torch.autograd.gradgradcheck(lambda s: gaussian_blur(image, (5, 3), s), sigma)
        assert gaussian_blur(image.float(), 3, given.bfloat16().requires_grad_()).requires_grad
        assert not gaussian_blur(levels(2, 2, 5, 6), 3, sigma).requires_grad


def test_narrow_sigmas_leave_the_image(capfd):
    """kornia#4589: an impulse, where exponentials underflow; finite derivatives, which are 0 there."""
    image = numbers(1, 2, 6, 7)
    for value in (1e-3, 1e-6, 1e-160, 5e-324):
        assert torch.equal(gaussian_blur(image, 5, value), image)
    for value in (0.0, 1e-3, 1e-200, -1e-9):
        sigma = torch.full((1, 2), value, dtype=torch.float64, requires_grad=True)
        found = gaussian_blur(image, 5, sigma)
        assert torch.equal(found, image)
        (grad,) = torch.autograd.grad(found.square().sum(), sigma, create_graph=True)
        assert grad.eq(0).all()
        assert torch.autograd.grad(grad.sum(), sigma)[0].eq(0).all()
    torch.testing.assert_close(gaussian_blur(image, 5, torch.tensor(-0.7).double()), gaussian_blur(image, 5, 0.7))
    # Wide ones are a mean of the window.
    mean = torch.nn.functional.avg_pool2d(image, 3, 1)
    for value in (1e9, 1e200, 1.7e308):
        torch.testing.assert_close(gaussian_blur(image, 3, value)[..., 1:-1, 1:-1], mean)


def test_numbers_that_are_none():
    """NaN is where a window sees it; of a sigma that is NaN everywhere, and 0 for levels."""
    for value in (math.nan, math.inf):
        image = numbers(1, 1, 9, 9)
        image[0, 0, 4, 4] = value
        found = gaussian_blur(image, (3, 5), 1.0)
        assert found.isfinite().sum() == 81 - 15
        assert not found[0, 0, 2:7, 3:6].isfinite().any()
    sigma = torch.tensor(math.nan)
    assert gaussian_blur(numbers(1, 1, 5, 5), 3, sigma).isnan().all()
    assert gaussian_blur(levels(1, 5, 5), 3, sigma).eq(0).all()


@pytest.mark.tiers("whole")
def test_the_layer():
    image = torch.rand(2, 3, 8, 9)
    layer = GaussianBlur2d((5, 3), (1.0, 0.5))
    assert torch.equal(layer(image), gaussian_blur(image, (5, 3), (1.0, 0.5)))
    assert repr(layer) == "GaussianBlur2d(kernel_size=(5, 3), sigma=(1.0, 0.5), learnable=False)"
    assert not list(layer.parameters())
    learnt = GaussianBlur2d(7, learnable=True)
    assert repr(learnt) == "GaussianBlur2d(kernel_size=(7, 7), learnable=True)"
    target = gaussian_blur(image, 7, (1.6, 0.8))
    optimiser = torch.optim.Adam(learnt.parameters(), 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (learnt(image) - target).square().sum().backward()
        optimiser.step()
    torch.testing.assert_close(learnt.sigma.detach(), torch.tensor([1.6, 0.8]), rtol=0, atol=0.02)


@pytest.mark.tiers("whole")
def test_the_op_checks_what_kernels_rely_on():
    for sizes, sigmas, message in (
        ([4, 3], [1.0, 1.0], "kernel_size must be odd, at least 1 and less than 2\\^20; got 4"),
        ([3], [1.0, 1.0], "kernel_size must be two numbers; got 1"),
        ([3, 3], [], "sigma must be two numbers; got 0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.handgrad.gaussian_blur(IMAGE, None, sizes, sigmas)
    with pytest.raises(RuntimeError, match="sigma must be float64; got float32"):
        torch.ops.handgrad.gaussian_blur(IMAGE, torch.ones(2, 2), [3, 3], [])
