import math

import pytest
import torch

from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.transforms import adjust_sharpness
from handgrad.transforms.adjust_sharpness import adjust_sharpness_reference
from transform_images import NO_DERIVATIVES, is_level_image, is_number_image, levels
from transform_pipelines import native_levels


def numbers(*shape, seed=0):
    """Far enough from 0 and 1 for no blend with the samples' factors to reach them."""
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed)) * 0.3 + 0.35


def wide(*shape, seed=0):
    """Beyond both ends, where a blend is cut; none of the samples' is near an end."""
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed)) * 3 - 1


def reference(image, sharpness_factor):
    return adjust_sharpness_reference(image, None, float(sharpness_factor))


def reference_of_each(image, sharpness_factor):
    if not isinstance(sharpness_factor, torch.Tensor):
        return reference(image, sharpness_factor)
    return adjust_sharpness_reference(image, sharpness_factor.double().expand(image.shape[0]), 0.0)


# ---- identities ------------------------------------------------------------------------------------------------------


def a_factor_of_one_is_the_image():
    for image in (numbers(2, 3, 7, 5), levels(2, 3, 7, 5)):
        assert torch.equal(adjust_sharpness(image, 1), image)
    # Numbers beyond the range are cut even so, as torchvision does.
    assert torch.equal(adjust_sharpness(wide(2, 3, 7, 5), 1.0), wide(2, 3, 7, 5).clamp(0, 1))


def one_colour_stays():
    for level in (0, 1, 127, 254, 255):
        image = torch.full((1, 2, 9, 8), level, dtype=torch.uint8)
        assert all(torch.equal(adjust_sharpness(image, factor), image) for factor in (0.0, 0.7, 2.0, 1e6))
    image = torch.full((1, 2, 9, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(adjust_sharpness(image, 17.5), image)


def the_border_stays():
    for image in (numbers(2, 3, 7, 6), levels(2, 3, 7, 6)):
        found = adjust_sharpness(image, 3.0)
        assert not torch.equal(found, image)
        found[:, :, 1:-1, 1:-1] = image[:, :, 1:-1, 1:-1]
        assert torch.equal(found, image)


def small_images_stay():
    """Not even cut, as in torchvision; and their gradient is the output's."""
    for shape in ((1, 3, 2, 9), (2, 1, 9, 2), (1, 1, 1, 1), (1, 3, 1, 5), (3, 2, 2, 2)):
        for image in (wide(*shape), levels(*shape)):
            assert torch.equal(adjust_sharpness(image, 5.0), image)
            assert torch.equal(reference(image, 5.0), image)
        leaf, factor = wide(*shape).requires_grad_(), torch.tensor(5.0, requires_grad=True)
        grad, of_factor = torch.autograd.grad(
            (adjust_sharpness(leaf, factor) * image).sum(), (leaf, factor), create_graph=True
        )
        assert torch.equal(grad, image.double())
        assert of_factor == 0
        assert torch.autograd.grad(of_factor, leaf)[0].eq(0).all()


def a_mirrored_image_becomes_a_mirror():
    for image in (numbers(1, 2, 9, 8).float(), levels(1, 2, 9, 8)):
        for dims in ((2,), (3,), (2, 3)):
            assert torch.equal(adjust_sharpness(image.flip(dims), 1.7), adjust_sharpness(image, 1.7).flip(dims))


def the_gradient_is_the_transposed_matrix():
    for height, width in ((3, 3), (3, 4), (7, 9), (4, 35), (67, 3)):
        image, other = numbers(1, 1, height, width), numbers(1, 1, height, width, seed=1)
        leaf = image.clone().requires_grad_()
        (grad,) = torch.autograd.grad((adjust_sharpness(leaf, 0.3) * other).sum(), leaf)
        torch.testing.assert_close((grad * image).sum(), (adjust_sharpness(image, 0.3) * other).sum())


def an_image_beyond_int32():
    """The slices of a batch far apart, and one row that all images share."""
    small = levels(2, 1, 5, 37)
    memory = torch.empty(2**31 + 200, dtype=torch.uint8)
    far = memory.as_strided((2, 1, 5, 37), (2**31, 185, 37, 1)).copy_(small)
    assert torch.equal(adjust_sharpness(far, 2.0), adjust_sharpness(small, 2.0))
    row = levels(1, 1, 1, 37)
    image = row.expand(1, 1, 2**31 // 37 + 3, 37)[:, :, -5:]
    assert torch.equal(adjust_sharpness(image, 2.0), adjust_sharpness(row.expand(1, 1, 5, 37).contiguous(), 2.0))


def the_gradient_of_the_factor_is_a_sum_in_double():
    """Of stripes whose every pixel contributes the same: x is 0.25 or 0.75, the mean around it 7 / 13 of the way."""
    side = 700
    image = ((torch.arange(side) % 2).float() * 0.5 + 0.25).expand(1, 1, side, side)
    factor = torch.ones((), requires_grad=True)
    (adjust_sharpness(image, factor) * (image * 4 - 2)).sum().backward()
    torch.testing.assert_close(factor.grad.item(), (side - 2) ** 2 * 0.5 * 6 / 13, rtol=1e-6, atol=0)


# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 5, 4)
FACTOR = "sharpness_factor must be "


def is_factor_of_all(value):
    """In place of a tensor of those of each image."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.shape in ((), (1,))
    return isinstance(value, (int, float))


SPEC = OpSpec(
    name="adjust_sharpness",
    operator="handgrad::adjust_sharpness",
    function=adjust_sharpness,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample("sharper", (numbers(2, 2, 3, 5),), {"sharpness_factor": 1.6}),
        Sample("cut", (wide(2, 3, 5, 4),), {"sharpness_factor": 0.4}),
    ],
    large=Sample("large", (numbers(3, 3, 67, 131).float(),), {"sharpness_factor": 1.9}),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5),), {"sharpness_factor": 2.0}),
        Sample("pixels", (numbers(2, 3, 0, 5),), {"sharpness_factor": 2.0}),
    ],
    any_rank=True,
    lenient={"image": is_level_image},
    bad=[
        # vision#8911, where such a factor is taken, and blurs.
        Bad("negative", lambda: adjust_sharpness(IMAGE, -0.1), ValueError, FACTOR + "a finite number, at least 0; got"),
        Bad("nan", lambda: adjust_sharpness(IMAGE, math.nan), ValueError, FACTOR + "a finite number, .* got nan"),
        Bad("infinite", lambda: adjust_sharpness(IMAGE, math.inf), ValueError, FACTOR + "a finite number, .* got inf"),
        Bad("word", lambda: adjust_sharpness(IMAGE, "2"), TypeError, FACTOR + "a finite number, at least 0; got '2'"),
        Bad(
            "factor_kind",
            lambda: adjust_sharpness(IMAGE, torch.ones(2, dtype=torch.int64)),
            TypeError,
            FACTOR + "a number, or a tensor of floating-point ones; got int64",
        ),
        Bad(
            "factor_rows",
            lambda: adjust_sharpness(IMAGE, torch.ones(3)),
            RuntimeError,
            FACTOR + r"a tensor of one number, or of one for each image of a batch; got \(3,\) beside \(2, 3, 5, 4\)",
        ),
        Bad(
            "factors_of_one_image",
            lambda: adjust_sharpness(IMAGE[0], torch.ones(2)),
            RuntimeError,
            FACTOR + r"a tensor of one number, or of one for each image of a batch; got \(2,\) beside one image",
        ),
        Bad(
            "rank",
            lambda: adjust_sharpness(IMAGE[0, 0], 2.0),
            RuntimeError,
            r"image must be \(..., channels, height, width\); got \(5, 4\)",
        ),
        Bad("int16", lambda: adjust_sharpness(IMAGE.short(), 2.0), TypeError, "image must be uint8, .* got int16"),
    ],
    identities={
        "one": a_factor_of_one_is_the_image,
        "one_colour": one_colour_stays,
        "border": the_border_stays,
        "small": small_images_stay,
        "mirror": a_mirrored_image_becomes_a_mirror,
        "transposed": the_gradient_is_the_transposed_matrix,
    },
    numel_beyond_int32=an_image_beyond_int32,
    sums_of_many=the_gradient_of_the_factor_is_a_sum_in_double,
    # Along a direction of the image the image has no gradient, and that of grad_output takes it for where it is cut.
    floor=lambda sample: {"double_backward": 3 * sample.tensors[0].numel() * sample.tensors[0].element_size()},
    # What is around a tile is read again.
    floor_factors={"forward": 1.2, "backward": 1.2, "double_backward": 1.2},
    device_calls={"forward": (1, 1, 0), "backward": (1, 1, 0), "double_backward": (1, 1, 0)},
)

FACTORS_SPEC = OpSpec(
    name="adjust_sharpness",
    operator="handgrad::adjust_sharpness",
    function=adjust_sharpness,
    tensors=("image", "sharpness_factor"),
    reference=reference_of_each,
    module=None,
    samples=[
        # No multiple of the batch is one of the other sizes, which would be taken for it.
        Sample("cut_each", (wide(2, 1, 5, 3), torch.tensor([0.3, 1.75], dtype=torch.float64))),
    ],
    large=Sample("large", (numbers(3, 3, 67, 131).float(), torch.tensor([0.0, 0.7, 1.9], dtype=torch.float64))),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5), numbers(0))),
        Sample("pixels", (numbers(2, 3, 0, 5), numbers(2))),
    ],
    lenient={"sharpness_factor": is_factor_of_all, "image": is_level_image},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    sums_of_many=the_gradient_of_the_factor_is_a_sum_in_double,
    floor_factors={"forward": 1.2, "backward": 1.2, "double_backward": 1.2},
)

LEVELS_SPEC = OpSpec(
    name="adjust_sharpness",
    operator="handgrad::adjust_sharpness",
    function=adjust_sharpness,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample("levels", (levels(2, 3, 9, 8),), {"sharpness_factor": 1.9}),
    ],
    large=Sample("large", (levels(3, 3, 131, 157),), {"sharpness_factor": 2.7}),
    empty=[Sample("batch", (levels(0, 3, 4, 5),), {"sharpness_factor": 2.0})],
    dtypes=(torch.uint8,),
    private_ops=(),
    derivatives=False,
    any_rank=True,
    lenient={"image": is_number_image},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors={"forward": 1.2},
    device_calls={"forward": (1, 1, 0)},
    not_applicable={3: NO_DERIVATIVES, 15: NO_DERIVATIVES},
)

test_matrix = matrix(SPEC)
test_matrix_of_factors = matrix(FACTORS_SPEC)
test_matrix_of_levels = matrix(LEVELS_SPEC)


# ---- torchvision's pictures ------------------------------------------------------------------------------------------

#: Of which many products with a difference of levels are near a whole number, or are lost beside a level.
FACTORS = [0, 1, 2, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.9, 2.5, 3.3, 10, 100.7, 1e-3, 1 + 6e-8, 1 - 6e-8, 1e6, 1e30]


def photographs(count, most=70, seed=0):
    """Noise, steps and slopes, of random sizes, in planes and with packed pixels; and a factor."""
    generator = reseeded(seed)

    def below(limit):
        return int(torch.randint(0, limit, (), generator=generator))

    for index in range(count):
        channels, height, width = (1, 3)[below(2)], 1 + below(most), 1 + below(most)
        image = torch.randint(0, 256, (2, height, width, channels), dtype=torch.uint8, generator=generator)
        if below(3) == 0:
            image = image // 51 * 51
        elif below(3) == 0:
            slope = torch.arange(width)[:, None] * 3 + torch.arange(height)[:, None, None] * 2
            image = ((slope + image // 32) % 256).to(torch.uint8)
        image = image.permute(0, 3, 1, 2)
        factor = FACTORS[index] if index < len(FACTORS) else 3 * float(torch.rand((), generator=generator))
        yield image if below(2) else image.contiguous(), factor


@native_levels
def test_levels_are_torchvisions(functional):
    for image, factor in photographs(100):
        expected = functional.adjust_sharpness(image, float(factor))
        assert torch.equal(adjust_sharpness(image, factor), expected), (image.shape, factor)


@native_levels
def test_a_factor_for_each_image(functional):
    factors = torch.tensor([0.4, 1.0, 1.9, 7.3, 0.0], dtype=torch.float64)
    for channels in (1, 2, 3, 4, 9):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            batch = levels(5, channels, 12, 19).contiguous(memory_format=memory_format)
            found = adjust_sharpness(batch, factors)
            assert found.is_contiguous(memory_format=memory_format)
            for index, factor in enumerate(factors.tolist()):
                assert torch.equal(found[index], adjust_sharpness(batch[index], factor))
                if channels == 3:
                    assert torch.equal(found[index], functional.adjust_sharpness(batch[index], factor))


def test_numbers_are_torchvisions(functional):
    for dtype, tolerance in ((torch.float32, 4e-6), (torch.float64, 1e-14)):
        for image, factor in photographs(30, 40, seed=1):
            if factor < 20:
                picture = image.to(dtype) / 255
                found, expected = adjust_sharpness(picture, factor), functional.adjust_sharpness(picture, float(factor))
                torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def by_convolution(image, factor):
    """torchvision's, which works in place, with steps that autograd goes through."""
    channels = image.shape[1]
    kernel = torch.ones(3, 3, dtype=image.dtype) / 13
    kernel[1, 1] = 5 / 13
    mean = torch.nn.functional.conv2d(image, kernel.expand(channels, 1, 3, 3), groups=channels)
    less = torch.nn.functional.pad(mean - image[:, :, 1:-1, 1:-1], [1, 1, 1, 1])
    return (image + (1 - factor) * less).clamp(0, 1)


def test_gradients_are_those_of_a_convolution(functional):
    image, weight = wide(2, 3, 21, 19), numbers(2, 3, 21, 19, seed=1)
    for factor in (0.0, 0.6, 1.0, 2.4):
        grads = []
        for call in (by_convolution, adjust_sharpness):
            leaf = image.clone().requires_grad_()
            (call(leaf, factor) * weight).sum().backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(grads[1], grads[0])
        torch.testing.assert_close(adjust_sharpness(image, factor), functional.adjust_sharpness(image, factor))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        functional.adjust_sharpness(image.requires_grad_(), 2.4).sum().backward()


# ---- layouts, shapes, factors ----------------------------------------------------------------------------------------


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
    expected = adjust_sharpness(planes, 1.7)
    for image in (packed, planes, sparse, crop, turned, four[..., :3].permute(0, 3, 1, 2)):
        found = adjust_sharpness(image, 1.7)
        assert torch.equal(found, expected)
        kept = torch.channels_last if image is packed else torch.contiguous_format
        assert found.is_contiguous(memory_format=kept)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
def test_long_rows(kind):
    """Of more pixels than are summed at once, and than a tile has."""
    for shape in ((1, 3, 4, 1500), (1, 1, 3, 4200), (1, 2, 100, 3)):
        image = levels(*shape) if kind is torch.uint8 else numbers(*shape).float()
        found = adjust_sharpness(image, 1.9)
        torch.testing.assert_close(found, reference(image, 1.9))
        last = image.contiguous(memory_format=torch.channels_last)
        assert torch.equal(adjust_sharpness(last, 1.9), found)


@pytest.mark.tiers("whole")
def test_what_was_reported():
    """Three channels of one (kornia#781), a factor that is a whole number (vision#3127), and one that is left where it
    was drawn (kornia#3830)."""
    for channels in (1, 2, 3):
        assert adjust_sharpness(levels(1, channels, 5, 5), 2.0).shape == (1, channels, 5, 5)
    image = levels(3, 20, 20)
    assert torch.equal(adjust_sharpness(image, 2), adjust_sharpness(image, 2.0))
    with pytest.raises(RuntimeError, match="sharpness_factor must be on the device of image, cpu; got meta"):
        adjust_sharpness(image, torch.ones((), device="meta"))


@pytest.mark.tiers("whole")
def test_leading_dimensions():
    image = levels(2, 2, 3, 7, 6)
    found = adjust_sharpness(image, 1.5)
    assert found.shape == image.shape
    assert torch.equal(found[1, 1], adjust_sharpness(image[1, 1], 1.5))
    packed = levels(7, 6, 3).permute(2, 0, 1)
    assert adjust_sharpness(packed, 1.5).stride() == packed.stride()


@pytest.mark.tiers("whole")
def test_a_factor_that_is_a_tensor():
    """Of one number, of another type than the image's; levels have no gradient."""
    image = numbers(2, 2, 5, 6)
    for given in (torch.tensor(1.5), torch.tensor([1.5]), torch.full((2,), 1.5)):
        factor = given.double().requires_grad_()
        torch.testing.assert_close(adjust_sharpness(image, factor), adjust_sharpness(image, 1.5))
        assert torch.autograd.gradcheck(lambda f: adjust_sharpness(image, f), factor)
        assert torch.autograd.gradgradcheck(lambda f: adjust_sharpness(image, f), factor)
        assert adjust_sharpness(image.float(), given.bfloat16().requires_grad_()).requires_grad
        assert not adjust_sharpness(levels(2, 2, 5, 6), factor).requires_grad


def test_the_ends_have_the_slope_of_the_inside():
    """As torch's clamp: a blend that is 0 or 1 to the bit passes a gradient, one beyond it none."""
    image = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    image[0, 0, 1, 1] = 1.0
    for middle, slope in ((1.0, 1.0), (1.0 + 1e-15, 0.0), (0.0, 1.0), (-1e-15, 0.0), (0.5, 1.0)):
        leaf = image.clone()
        leaf[0, 0, 1, 1] = middle
        (grad,) = torch.autograd.grad(adjust_sharpness(leaf.requires_grad_(), 1.0).sum(), leaf)
        assert grad[0, 0, 1, 1] == slope
        assert grad[0, 0, 0, 0] == 1


def test_numbers_that_are_none():
    """NaN is in the pixels that see it, and in no other; it has no slope. Of a factor that is NaN it is everywhere but
    at the border, and levels are 0."""
    for value in (math.nan, math.inf):
        image = numbers(1, 1, 9, 9)
        image[0, 0, 4, 4] = value
        found = adjust_sharpness(image.requires_grad_(), 0.5)
        around = torch.zeros(9, 9, dtype=torch.bool)
        around[3:6, 3:6] = True
        assert torch.equal(found[0, 0].isnan() | (found[0, 0] == 1), around)
        (grad,) = torch.autograd.grad(found.sum(), image)
        assert grad.isfinite().all()
        assert grad[0, 0, 4, 4] == 0
    factor = torch.tensor(math.nan)
    found = adjust_sharpness(numbers(1, 1, 5, 5), factor)
    assert found[0, 0, 1:-1, 1:-1].isnan().all()
    assert found.isnan().sum() == 9
    image = levels(1, 5, 5)
    found = adjust_sharpness(image, factor)
    assert found[0, 1:-1, 1:-1].eq(0).all()
    assert torch.equal(found[0, 0], image[0, 0])


@pytest.mark.tiers("whole")
def test_the_op_checks_what_kernels_rely_on():
    with pytest.raises(RuntimeError, match="factor must be float64; got float32"):
        torch.ops.handgrad.adjust_sharpness(IMAGE, torch.ones(2), 0.0)
    with pytest.raises(RuntimeError, match=r"factor must have shape \(images,\), here \(2,\); got \(3,\)"):
        torch.ops.handgrad.adjust_sharpness(IMAGE, torch.ones(3).double(), 0.0)
    with pytest.raises(RuntimeError, match="grad_grad_factor must be None without factor"):
        torch.ops.handgrad._adjust_sharpness_double_backward(
            None, torch.ones(2).double(), IMAGE, IMAGE, None, 1.5, [True, True, True]
        )
