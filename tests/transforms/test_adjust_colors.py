import math

import pytest
import torch

from handgrad._colours import OPERATIONS
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.transforms import (
    adjust_brightness,
    adjust_colors,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    rgb_to_grayscale,
)
from handgrad.transforms.adjust_colors import adjust_colors_reference
from transform_images import NO_DERIVATIVES, is_level_image, is_number_image, levels

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NAMES = tuple(OPERATIONS)


def numbers(*shape, seed=0):
    """Away from 0 and 1, so that a step or two cut nothing unless they are meant to."""
    return 0.2 + 0.5 * torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def table(*rows):
    return torch.tensor(rows)


def reference(image, operations, factors, *, dtype=None, mean=None, std=None, scaling="product"):
    """The public function's arguments, given to the reference."""
    images = image.unsqueeze(0) if image.dim() == 3 else image
    names = operations if isinstance(operations, list) else None
    given = torch.as_tensor(factors, dtype=torch.float64)
    result = dtype or (torch.float32 if mean and image.dtype is torch.uint8 else image.dtype)
    output = adjust_colors_reference(
        images, given.expand(images.shape[0], given.shape[-1]), None if names is not None else operations,
        [OPERATIONS[name] for name in names or ()], [], result, mean or [], std or [], 0, scaling == "quotient",
    )  # fmt: skip
    return output.squeeze(0) if image.dim() == 3 else output


# ---- identities ------------------------------------------------------------------------------------------------------


def factors_that_change_nothing():
    for image in (numbers(2, 3, 7, 5), levels(2, 3, 7, 5), levels(2, 1, 7, 5)):
        found = adjust_colors(image, ["brightness", "contrast", "saturation", "hue"], [1.0, 1.0, 1.0, 0.0])
        tolerance = {} if image.dtype is torch.float64 else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(found, image, **tolerance)
        assert torch.equal(adjust_colors(image, [], []), image)


def six_sixths_of_a_turn_come_back():
    image = numbers(1, 3, 6, 7)
    turned = adjust_colors(image, ["hue"] * 6, [1 / 6] * 6)
    torch.testing.assert_close(turned, image)
    torch.testing.assert_close(adjust_colors(image, ["hue"], [1 / 3]), image[:, [2, 0, 1]])


def a_gray_is_gray():
    image = numbers(2, 3, 6, 7)
    gray = adjust_colors(image, ["grayscale"], [1.0])
    assert torch.equal(gray[:, 0], gray[:, 2])
    torch.testing.assert_close(gray, adjust_colors(image, ["saturation"], [0.0]))
    for factor in (-0.5, 0.1, 0.3):
        assert torch.equal(adjust_colors(gray, ["hue"], [factor]), gray)


def one_step_after_the_other():
    """Levels are whole between the steps, whoever calls."""
    image = levels(2, 3, 8, 9)
    operations, factors = ["hue", "contrast", "brightness", "saturation"], [0.2, 1.4, 0.7, 1.9]
    expected = image
    for operation, factor in zip(operations, factors, strict=True):
        expected = adjust_colors(expected, [operation], [factor])
    assert torch.equal(adjust_colors(image, operations, factors), expected)


def an_image_beyond_int32():
    """Pages of memory that are read, and a result of three channels of them, would be too much: one row, expanded."""
    row = levels(1, 1, 1, 37)
    image = row.expand(1, 1, 2**31 // 37 + 3, 37)[:, :, -5:]
    assert torch.equal(adjust_colors(image, ["brightness"], [0.5])[:, :, :1], adjust_colors(row, ["brightness"], [0.5]))
    wide = torch.empty(2**31 + 40, dtype=torch.uint8)
    far = wide.as_strided((2, 1, 1, 37), (2**31, 37, 37, 1)).copy_(row.expand(2, -1, -1, -1))
    assert torch.equal(adjust_colors(far, ["contrast"], [0.5])[1:], adjust_colors(row, ["contrast"], [0.5]))


def a_bright_gray_has_its_mean():
    """65,536 times 255 is what float still holds; every other sum is of whole numbers too."""
    image = torch.full((1, 3, 300, 300), 201, dtype=torch.uint8)
    gray = int(adjust_colors(image[:, :, :1, :1], ["grayscale"], [1.0])[0, 0, 0, 0])
    assert adjust_colors(image, ["contrast"], [0.0]).eq(gray).all()
    ones = torch.full((1, 1, 700, 700), 0.1, dtype=torch.float32)
    torch.testing.assert_close(adjust_colors(ones, ["contrast"], [0.0]), ones, rtol=0, atol=0)


# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 8, 9)


LENIENT = {"dtype": lambda value: value is None, "factors": lambda value: True}
# What is found out of each image, and the sums of its blocks.
FOUND = 64 * 1024

SPEC = OpSpec(
    name="adjust_colors",
    operator="handgrad::adjust_colors",
    function=adjust_colors,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample(
            "jitter",
            (numbers(2, 3, 3, 5),),
            {
                "operations": ["saturation", "hue", "contrast", "brightness"],
                "factors": [1.2, 0.1, 0.8, 1.1],
                "mean": [0.4, 0.5, 0.6],
                "std": [0.25, 0.3, 0.2],
            },
        ),
        Sample("cut", (numbers(2, 3, 3, 5),), {"operations": ["brightness"], "factors": [1.9]}),
        Sample(
            "twice",
            (numbers(2, 3, 2, 4),),
            {"operations": ["contrast", "hue", "contrast"], "factors": [1.3, -0.4, 0.7]},
        ),
        Sample("gray", (numbers(2, 3, 3, 5),), {"operations": ["hue", "grayscale"], "factors": [0.3, 1.0]}),
        Sample(
            "one_channel",
            (numbers(2, 1, 4, 3),),
            {"operations": ["contrast", "hue", "saturation", "brightness"], "factors": [0.7, 0.2, 1.4, 1.2]},
        ),
    ],
    large=Sample(
        "large",
        (numbers(3, 3, 131, 157).float(),),
        # Half types have few colours: no turn of theirs is to end between two sixths of the circle.
        {"operations": ["saturation", "hue", "contrast"], "factors": [1.2, 0.1037, 0.8], "mean": [0.5], "std": [0.25]},
    ),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5),), {"operations": ["contrast"], "factors": [0.5]}),
        Sample("pixels", (numbers(2, 3, 0, 5),), {"operations": ["contrast", "hue"], "factors": [0.5, 0.1]}),
    ],
    lenient={**LENIENT, "image": is_level_image},
    device_scratch=FOUND,
    # A contrast reads the image once more, and has sums; of its gradient two passes more.
    floor_factors={"forward": 2.2, "backward": 4.0, "double_backward": 4.0},
    bad=[
        Bad(
            "name",
            lambda: adjust_colors(IMAGE, ["gamma"], [1.0]),
            ValueError,
            "operations must be of 'brightness', .* got 'gamma'",
        ),
        Bad("names", lambda: adjust_colors(IMAGE, "hue", [0.1]), TypeError, "operations must be a list of names"),
        Bad(
            "many",
            lambda: adjust_colors(IMAGE, ["hue"] * 9, [0.1] * 9),
            ValueError,
            "operations must be at most 8; got 9",
        ),
        Bad(
            "factors",
            lambda: adjust_colors(IMAGE, ["hue"], []),
            ValueError,
            "factors must be one for each operation, 1; got 0",
        ),
        Bad(
            "hue",
            lambda: adjust_colors(IMAGE, ["hue"], [0.6]),
            ValueError,
            "factors must be a number from -0.5 to 0.5; got 0.6",
        ),
        Bad(
            "negative",
            lambda: adjust_colors(IMAGE, ["contrast"], [-0.1]),
            ValueError,
            "factors must be a finite number, at least 0; got -0.1",
        ),
        Bad(
            "factor_of_brightness",
            lambda: adjust_brightness(IMAGE, -1.0),
            ValueError,
            "brightness_factor must be a finite number, at least 0; got -1.0",
        ),
        Bad(
            "factor_of_hue",
            lambda: adjust_hue(IMAGE, math.nan),
            ValueError,
            "hue_factor must be a number from -0.5 to 0.5; got nan",
        ),
        Bad(
            "factors_of_images",
            lambda: adjust_hue(IMAGE, torch.zeros(3)),
            RuntimeError,
            r"hue_factor must be .* one for each image of a batch; got \(3,\)",
        ),
        Bad(
            "channels",
            lambda: adjust_colors(IMAGE[:, :2], [], []),
            RuntimeError,
            "image must have 1 or 3 channels; got 2",
        ),
        Bad(
            "channels_of_one",
            lambda: adjust_saturation(IMAGE[:, :2], 0.5),
            TypeError,
            r"image must be .* of 1 or 3 channels; got \(2, 2, 8, 9\)",
        ),
        Bad(
            "output_channels",
            lambda: rgb_to_grayscale(IMAGE, 2),
            ValueError,
            "num_output_channels must be 1 or 3; got 2",
        ),
        Bad(
            "kind",
            lambda: adjust_colors(IMAGE, torch.ones(2, 1), [0.5]),
            TypeError,
            "operations must be names, or a tensor of integers, as int64; got one of float32",
        ),
        Bad(
            "table",
            lambda: adjust_colors(IMAGE, torch.ones(2, dtype=torch.int64), [0.5]),
            RuntimeError,
            r"operations must be \(batch, steps\); got \(2,\)",
        ),
        Bad(
            "rows",
            lambda: adjust_colors(IMAGE, torch.ones(3, 1, dtype=torch.int64), [0.5]),
            RuntimeError,
            r"operations must have shape \(images, steps\), here \(2, 1\); got \(3, 1\)",
        ),
        Bad(
            "factor_rows",
            lambda: adjust_colors(IMAGE, ["hue"], torch.ones(3, 1)),
            RuntimeError,
            r"factors must have shape \(images, steps\), here \(2, 1\); got \(3, 1\)",
        ),
        Bad(
            "factor_kind",
            lambda: adjust_colors(IMAGE, ["hue"], torch.ones(1, dtype=torch.int64)),
            TypeError,
            r"factors must be numbers, or .* got \(1,\) of int64",
        ),
        Bad(
            "dtype",
            lambda: adjust_colors(IMAGE, [], [], dtype=torch.float64),
            TypeError,
            "dtype must be the image's, or .* got torch.float64",
        ),
        Bad("rank", lambda: adjust_colors(IMAGE[0, 0], [], []), RuntimeError, r"image must have 3 or 4 dimensions"),
        Bad("int16", lambda: adjust_colors(IMAGE.short(), [], []), TypeError, "image must be uint8, .* got int16"),
    ],
    identities={
        "nothing": factors_that_change_nothing,
        "turns": six_sixths_of_a_turn_come_back,
        "gray": a_gray_is_gray,
    },
    numel_beyond_int32=an_image_beyond_int32,
    sums_of_many=a_bright_gray_has_its_mean,
    # The sums of a contrast's gray and what is made of them; of derivatives, those of its gradient too.
    device_calls={"forward": (3, 3, 0), "backward": (5, 3, 0), "double_backward": (5, 3, 0)},
)

LEVELS_SPEC = OpSpec(
    name="adjust_colors",
    operator="handgrad::adjust_colors",
    function=adjust_colors,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample(
            "levels",
            (levels(2, 3, 9, 8),),
            {"operations": ["brightness", "hue", "contrast", "saturation"], "factors": [1.3, 0.27, 0.6, 1.7]},
        ),
        Sample(
            "normalised_levels",
            (levels(2, 3, 7, 8),),
            {"operations": ["saturation", "grayscale"], "factors": [0.3, 1.0], "mean": MEAN, "std": STD},
        ),
        Sample(
            "gray_levels",
            (levels(2, 1, 7, 8),),
            {"operations": ["contrast", "hue"], "factors": [1.6, 0.2], "dtype": torch.float32, "scaling": "quotient"},
        ),
    ],
    large=Sample(
        "large",
        (levels(3, 3, 131, 157),),
        {"operations": ["hue", "contrast", "saturation"], "factors": [-0.3, 1.4, 0.6], "mean": MEAN, "std": STD},
    ),
    empty=[Sample("batch", (levels(0, 3, 4, 5),), {"operations": ["contrast"], "factors": [0.5]})],
    dtypes=(torch.uint8,),
    # With a hue 10 of 432 levels are another by 1 in onnxruntime: docs/transforms/adjust_colors.md.
    onnx=["normalised_levels", "gray_levels"],
    # Of what is normalised: autocast has nothing to do with levels.
    autocast=torch.float32,
    private_ops=(),
    derivatives=False,
    lenient={**LENIENT, "image": is_number_image},
    device_scratch=FOUND,
    bad=[],
    identities={"steps": one_step_after_the_other},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors={"forward": 2.0},
    device_calls={"forward": (3, 3, 0)},
    not_applicable={3: NO_DERIVATIVES, 15: NO_DERIVATIVES},
)


def batched_reference(image, factors, operations, **others):
    return reference(image, operations, factors, **others)


BATCHED_SPEC = OpSpec(
    name="adjust_colors",
    operator="handgrad::adjust_colors",
    function=adjust_colors,
    tensors=("image", "factors", "operations"),
    reference=batched_reference,
    module=None,
    samples=[
        Sample(
            "factors",
            (
                numbers(2, 3, 3, 5),
                torch.tensor([[1.2, 0.1, 0.8], [0.3, 1.1, 0.9]], dtype=torch.float64),
                table([3, 4, 2], [4, 2, 1]),
            ),
            {"mean": [0.4], "std": [0.25]},
        ),
        Sample(
            "fewer",
            (
                numbers(2, 3, 3, 4, seed=2),
                torch.tensor([[1.3, 0.2], [0.4, 9.0]], dtype=torch.float64),
                table([2, 5], [4, 0]),
            ),
        ),
    ],
    large=Sample(
        "large",
        (
            numbers(3, 3, 131, 157).float(),
            torch.tensor([[1.2, 0.1037], [0.3139, 1.1], [0.7, 1.3]]),
            table([3, 4], [4, 2], [2, 1]),
        ),
    ),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5), torch.zeros(0, 2).double(), torch.zeros(0, 2, dtype=torch.int64))),
    ],
    lenient={**LENIENT, "image": is_level_image},
    device_scratch=FOUND,
    floor_factors={"forward": 4.0, "backward": 8.0, "double_backward": 8.0},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    sums_of_many=a_bright_gray_has_its_mean,
    device_calls={"forward": (7, 3, 0), "backward": (13, 4, 0), "double_backward": (13, 5, 0)},
    # Factors of other types than float64, in float64: the three times two of the large sample, for either derivative.
    saves=96,
)

test_matrix = matrix(SPEC)
test_matrix_of_levels = matrix(LEVELS_SPEC)
test_matrix_of_batches = matrix(BATCHED_SPEC)


# ---- torchvision's pictures ------------------------------------------------------------------------------------------


def fuses():
    """Whether torch adds a product to a sum in one rounding, as it does with AVX2 and beyond."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def torchvisions(functional, image, operations, factors):
    for operation, factor in zip(operations, factors, strict=True):
        if operation == "grayscale":
            image = functional.rgb_to_grayscale(image, image.shape[-3])
        else:
            image = getattr(functional, f"adjust_{operation}")(image, factor)
    return image


def random_chains(count, seed, most=8):
    generator = reseeded(seed)

    def below(limit):
        return int(torch.randint(0, limit, (), generator=generator))

    for _ in range(count):
        operations = [NAMES[below(5)] for _ in range(1 + below(most))]
        drawn = torch.rand(len(operations), generator=generator).tolist()
        factors = [x - 0.5 if name == "hue" else 2.2 * x for name, x in zip(operations, drawn, strict=True)]
        shape = (1 + below(60), 1 + below(60), 3 if below(4) else 1)
        image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        if below(3) == 0:
            image = image // 64 * 85  # ties of channels, grays, both ends
        image = image.permute(2, 0, 1)
        yield image if below(2) else image.contiguous(), operations, factors


def test_levels_are_torchvisions_to_the_bit(functional):
    """No level of any chain differs (kornia#691, DALI#4257: accuracy is lost where they do)."""
    if not fuses():
        pytest.skip("here torch rounds a product before it adds it")
    for image, operations, factors in random_chains(300, 1):
        expected = torchvisions(functional, image, operations, factors)
        found = adjust_colors(image, operations, factors)
        where = f"{tuple(image.shape)}, strides {image.stride()}, {operations} by {factors}"
        assert torch.equal(found, expected), where
        if image.shape[0] == 3:
            normalised = functional.normalize(functional.to_dtype(expected, torch.float32, scale=True), MEAN, STD)
            assert torch.equal(adjust_colors(image, operations, factors, mean=MEAN, std=STD), normalised), where


@pytest.mark.tiers("whole")
def test_every_colour_is_torchvisions(functional):
    """Gray, hue and saturation of all that 6 bits of each channel can say, and of the grays and edges of 8."""
    if not fuses():
        pytest.skip("here torch rounds a product before it adds it")
    some = torch.cat([torch.arange(0, 256, 5), torch.tensor([1, 127, 128, 254])]).to(torch.uint8)
    image = torch.cartesian_prod(some, some, some).T.reshape(3, len(some) ** 2, len(some)).contiguous()
    for operation, factors in (
        ("hue", (-0.5, -1 / 3, -1 / 6, -0.1, 0.0, 0.05, 1 / 6, 1 / 3, 0.5)),
        ("saturation", (0.0, 0.5, 1.0, 1.7)),
        ("grayscale", (1.0,)),
        ("brightness", (0.0, 0.999999, 1.0, 1.1, 3.0, 1e30)),
    ):
        for factor in factors:
            expected = torchvisions(functional, image, [operation], [factor])
            assert torch.equal(adjust_colors(image, [operation], [factor]), expected), f"{operation} by {factor}"


def test_numbers_are_torchvisions(functional):
    for image, operations, factors in random_chains(80, 2, most=5):
        for dtype in (torch.float32, torch.float64):
            picture = image.to(dtype) / 255
            expected = torchvisions(functional, picture, operations, factors)
            # Its hue is computed in float32, whatever the image is; each step may round the other way.
            tolerance = {"rtol": 0, "atol": 6e-6}
            torch.testing.assert_close(adjust_colors(picture, operations, factors), expected, **tolerance)


def test_functions_are_torchvisions(functional):
    if not fuses():
        pytest.skip("here torch rounds a product before it adds it")
    for image in (levels(3, 20, 17), levels(1, 20, 17), levels(2, 3, 9, 8), levels(2, 2, 3, 7, 6)):
        for ours, factor in (
            (adjust_brightness, 1.3),
            (adjust_contrast, 0.4),
            (adjust_saturation, 1.8),
            (adjust_hue, -0.21),
            (rgb_to_grayscale, 1),
            (rgb_to_grayscale, 3),
        ):
            expected = getattr(functional, ours.__name__)(image, factor)
            assert torch.equal(ours(image, factor), expected), f"{ours.__name__} of {tuple(image.shape)}"


@pytest.mark.tiers("whole")
def test_gradients_are_torchvisions(functional):
    """Of all but hue, which torchvision computes in float32; hue's are asked of the reference by the matrix."""
    image = numbers(1, 3, 21, 19)
    operations, factors = ["brightness", "contrast", "saturation"], [1.3, 1.4, 0.6]
    grads = []
    for call in (torchvisions, lambda _, *arguments: adjust_colors(*arguments)):
        leaf = image.clone().requires_grad_()
        call(functional, leaf, operations, factors).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0])


# ---- kinks, ties, numbers that are none ------------------------------------------------------------------------------


def gradient(image, operations, factors):
    leaf = image.clone().requires_grad_()
    adjust_colors(leaf, operations, factors).sum((0, 2, 3)).dot(torch.tensor([1.0, 2.0, 4.0]).double()).backward()
    return leaf.grad.flatten().tolist()


def test_the_gradient_of_a_gray_is_its_own():
    """Where hue has none: the turned colours around a gray lie on a cone."""
    gray = torch.full((1, 3, 1, 1), 0.4, dtype=torch.float64)
    for factor in (0.0, 0.2, -0.5):
        assert gradient(gray, ["hue"], [factor]) == [1, 2, 4]
        assert gradient(gray * 0, ["hue"], [factor]) == [1, 2, 4]


def test_the_first_of_two_largest_channels_counts():
    tie = torch.tensor([0.6, 0.6, 0.2]).double().view(1, 3, 1, 1)
    assert gradient(tie, ["hue"], [0.0]) == pytest.approx([1, 2, 4])
    # A third of a turn: what was red is green, what was green is blue, what was blue is red.
    assert gradient(tie, ["hue"], [1 / 3]) == pytest.approx([2, 4, 1])
    assert gradient(tie.flip(1), ["hue"], [1 / 3]) == pytest.approx([2, 4, 1])


def test_the_ends_of_the_range_have_a_slope():
    """As clamp has in torch; beyond them it is 0."""
    image = torch.tensor([0.0, 0.5, 0.6]).double().view(1, 3, 1, 1)
    assert gradient(image, ["brightness"], [2.0]) == [2, 4, 0]


def test_nan_stays_in_its_pixel_but_for_a_mean():
    image = numbers(1, 3, 5, 5)
    image[0, 1, 2, 2] = math.nan
    found = adjust_colors(image, ["brightness", "saturation", "hue"], [0.9, 0.8, 0.3])
    assert found.isnan().any(1).sum() == 1
    assert found[0, :, 2, 2].isnan().all()
    assert adjust_colors(image, ["contrast"], [0.8]).isnan().all()


def test_factors_that_are_tensors():
    """Of one image and of a batch, with gradients; of levels there is none."""
    image = numbers(2, 3, 6, 5)
    for ours, given in ((adjust_brightness, 1.2), (adjust_contrast, 0.8), (adjust_saturation, 1.3), (adjust_hue, 0.1)):
        factor = torch.tensor(given, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(ours(image, factor), ours(image, given))
        assert torch.autograd.gradcheck(lambda x, f=ours: f(image, x), factor)
        each = torch.tensor([given, given / 2], dtype=torch.float64)
        torch.testing.assert_close(ours(image, each)[1], ours(image[1], given / 2))
    wanted = torch.ones(1, requires_grad=True)
    assert not adjust_brightness(levels(3, 4, 4), wanted).requires_grad
    # What a user may have left of a training step in float32.
    assert adjust_hue(image.float(), torch.tensor(0.1, requires_grad=True)).requires_grad


# ---- types, layouts, batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_levels_become_numbers_of_any_type(dtype):
    image = levels(2, 3, 20, 17)
    operations, factors = ["hue", "contrast"], [0.3, 1.2]
    picture = adjust_colors(image, operations, factors)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    scaled = picture.to(wide) * (1 / 255)
    found = adjust_colors(image, operations, factors, dtype=dtype)
    assert found.dtype == dtype
    assert torch.equal(found, scaled.to(dtype))
    found = adjust_colors(image, operations, factors, dtype=dtype, mean=MEAN, std=[0.2], scaling="quotient")
    mean = torch.tensor(MEAN, dtype=wide)[:, None, None]
    assert torch.equal(found, ((picture.to(wide) / 255 - mean) / torch.tensor(0.2, dtype=wide)).to(dtype))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float16], ids=str)
def test_memory_formats(kind):
    """Rows of pixels, as decoders leave them, four bytes a pixel, and planes; in and out, one picture."""
    four = levels(2, 12, 11, 4)
    four = four if kind is torch.uint8 else (four / 255).to(kind)
    packed = four[..., :3].contiguous().permute(0, 3, 1, 2)
    planes = packed.contiguous()
    sparse = planes.new_zeros(2, 3, 12, 22)[..., ::2].copy_(planes)
    crop = planes.new_zeros(2, 3, 15, 14)[:, :, 2:14, 1:12].copy_(planes)
    operations, factors = ["saturation", "contrast", "hue"], [1.4, 0.7, 0.2]
    finish = {"mean": MEAN, "std": STD, "dtype": torch.float32 if kind is torch.uint8 else kind}
    expected = adjust_colors(planes, operations, factors, **finish)
    turned = planes.transpose(2, 3).contiguous().transpose(2, 3)
    for image in (packed, planes, sparse, crop, turned, four[..., :3].permute(0, 3, 1, 2)):
        for memory_format in (torch.preserve_format, torch.contiguous_format, torch.channels_last):
            found = adjust_colors(image, operations, factors, **finish, memory_format=memory_format)
            assert torch.equal(found, expected)
            kept = torch.channels_last if image is packed else torch.contiguous_format
            wanted = kept if memory_format is torch.preserve_format else memory_format
            assert found.is_contiguous(memory_format=wanted)


def test_a_batch_is_its_images():
    images = levels(5, 3, 30, 25)
    chains = [["hue", "contrast"], ["contrast", "brightness"], ["grayscale", "hue"], ["saturation", "hue"], []]
    operations = torch.zeros(5, 2, dtype=torch.int64)
    factors = torch.tensor([[0.3, 1.2], [0.4, 1.6], [1.0, -0.2], [1.9, 0.1], [7.0, 8.0]], dtype=torch.float64)
    for index, chain in enumerate(chains):
        operations[index, : len(chain)] = torch.tensor([OPERATIONS[name] for name in chain])
    for kind in (torch.uint8, torch.float32):
        batch = images if kind is torch.uint8 else images / 255
        whole = adjust_colors(batch, operations, factors)
        for index, chain in enumerate(chains):
            alone = adjust_colors(batch[index], chain, factors[index, : len(chain)].tolist())
            assert torch.equal(whole[index], alone), f"{kind}, {chain}"


@pytest.mark.tiers("whole")
def test_operations_that_are_none_are_refused_by_the_op():
    arguments = [[9], [1.0], torch.float32, [], [], 0, False]
    with pytest.raises(RuntimeError, match=r"operations must be 0 \(nothing\), .* got 9"):
        torch.ops.handgrad.adjust_colors(IMAGE, None, None, *arguments)
    # In a table, which may be on a device, it is nothing.
    table = torch.tensor([[9], [-3]])
    assert torch.equal(torch.ops.handgrad.adjust_colors(IMAGE, None, table, *[[], *arguments[1:]]), IMAGE)
