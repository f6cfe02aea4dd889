import math

import pytest
import torch

from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.transforms import adjust_tones, autocontrast, equalize, invert, posterize, solarize
from handgrad.transforms.adjust_tones import TONES, adjust_tones_reference
from transform_images import is_level_image, is_number_image, levels

NAMES = tuple(TONES)


def numbers(*shape, seed=0):
    return 0.05 + 0.9 * torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def reference(image, operations, numbers):
    """The public function's arguments, given to the reference."""
    images = image.unsqueeze(0) if image.dim() == 3 else image
    names = operations if isinstance(operations, list) else None
    rows = torch.as_tensor(numbers, dtype=torch.float64)
    output = adjust_tones_reference(
        images, rows.expand(images.shape[0], rows.shape[-1]), None if names is not None else operations,
        [TONES[name] for name in names or ()], [],
    )  # fmt: skip
    return output.squeeze(0) if image.dim() == 3 else output


# ---- identities ------------------------------------------------------------------------------------------------------


def one_step_after_the_other():
    """One table of a chain is what its steps make one after the other."""
    image = levels(2, 3, 20, 31, low=20, high=190)
    operations = ["equalize", "solarize", "autocontrast", "posterize", "equalize", "invert"]
    given = [0, 100, 0, 6, 0, 0]
    expected = image
    for operation, number in zip(operations, given, strict=True):
        expected = adjust_tones(expected, [operation], [number])
    assert torch.equal(adjust_tones(image, operations, given), expected)
    one, two = numbers(2, 2, 5, 7), numbers(2, 2, 5, 7)
    for operation, number in zip(operations, [0, 0.4, 0, 6, 0, 0], strict=True):
        two = adjust_tones(two, [operation], [number])
    torch.testing.assert_close(adjust_tones(one, operations, [0, 0.4, 0, 6, 0, 0]), two)


def what_changes_nothing():
    for image in (numbers(2, 3, 7, 5), levels(2, 3, 7, 5), levels(2, 1, 7, 5).expand(2, 4, 7, 5)):
        assert torch.equal(adjust_tones(image, [], []), image)
        torch.testing.assert_close(adjust_tones(image, ["invert", "invert"], [0, 0]), image)
        if image.dtype is torch.uint8:
            assert torch.equal(adjust_tones(image, ["posterize", "solarize"], [8, 255]), image.where(image < 255, 0))


def channels_are_by_themselves():
    for image in (numbers(1, 3, 7, 9), levels(1, 3, 7, 9, high=90)):
        whole = adjust_tones(image, ["autocontrast", "equalize"], [0, 0])
        for c in range(3):
            assert torch.equal(
                whole[:, c : c + 1], adjust_tones(image[:, c : c + 1], ["autocontrast", "equalize"], [0, 0])
            )


def an_image_beyond_int32():
    row = levels(1, 1, 1, 37)
    image = row.expand(1, 1, 2**31 // 37 + 3, 37)[:, :, -5:]
    assert torch.equal(adjust_tones(image, ["solarize"], [99])[:, :, :1], adjust_tones(row, ["solarize"], [99]))
    wide = torch.empty(2**31 + 40, dtype=torch.uint8)
    far = wide.as_strided((2, 1, 1, 37), (2**31, 37, 37, 1)).copy_(row.expand(2, -1, -1, -1))
    assert torch.equal(adjust_tones(far, ["autocontrast"], [0])[1:], adjust_tones(row, ["autocontrast"], [0]))


# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 8, 9)


LENIENT = {"numbers": lambda value: True}
# What is found out of each channel at each step, and the sums of its warps.
FOUND = 256 * 1024

SPEC = OpSpec(
    name="adjust_tones",
    operator="handgrad::adjust_tones",
    function=adjust_tones,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample("stretched", (numbers(2, 3, 3, 5),), {"operations": ["autocontrast"], "numbers": [0.0]}),
        Sample(
            "chain",
            (numbers(2, 2, 4, 3, seed=3),),
            {"operations": ["solarize", "autocontrast", "invert"], "numbers": [0.62, 0.0, 0.0]},
        ),
        Sample(
            "twice",
            (numbers(2, 1, 3, 4, seed=5),),
            {"operations": ["autocontrast", "solarize", "autocontrast"], "numbers": [0.0, 0.57, 0.0]},
        ),
        Sample("flat", (numbers(2, 3, 3, 5),), {"operations": ["invert", "posterize"], "numbers": [0.0, 3.0]}),
        Sample("spread", (numbers(1, 1, 15, 18),), {"operations": ["equalize", "invert"], "numbers": [0.0, 0.0]}),
    ],
    large=Sample(
        "large",
        (numbers(3, 3, 131, 157).float(),),
        {"operations": ["solarize", "autocontrast"], "numbers": [0.50123, 0.0]},
    ),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5),), {"operations": ["autocontrast"], "numbers": [0.0]}),
        Sample("pixels", (numbers(2, 3, 0, 5),), {"operations": ["equalize", "invert"], "numbers": [0.0, 0.0]}),
    ],
    lenient={**LENIENT, "image": is_level_image},
    device_scratch=FOUND,
    # The ends take a pass over the image more; derivatives one for who is an end, and one for gradients of ends.
    floor_factors={"forward": 1.6, "backward": 2.6, "double_backward": 2.4},
    device_calls={"forward": (2, 2, 0), "backward": (6, 4, 0), "double_backward": (6, 4, 0)},
    bad=[
        Bad(
            "name",
            lambda: adjust_tones(IMAGE, ["gamma"], [1.0]),
            ValueError,
            "operations must be of 'posterize', .* got 'gamma'",
        ),
        Bad("names", lambda: adjust_tones(IMAGE, "invert", [0]), TypeError, "operations must be a list of names"),
        Bad(
            "many",
            lambda: adjust_tones(IMAGE, ["invert"] * 9, [0] * 9),
            ValueError,
            "operations must be at most 8; got 9",
        ),
        Bad(
            "numbers",
            lambda: adjust_tones(IMAGE, ["invert"], []),
            ValueError,
            "numbers must be one for each operation, 1; got 0",
        ),
        Bad("bits", lambda: posterize(IMAGE, 9), ValueError, "bits must be an integer from 0 to 8; got 9"),
        Bad("half_a_bit", lambda: posterize(IMAGE, 2.5), TypeError, "bits must be an integer from 0 to 8; got 2.5"),
        Bad(
            "bits_of_a_chain",
            lambda: adjust_tones(IMAGE, ["posterize"], [2.5]),
            ValueError,
            "numbers must be for posterize an integer from 0 to 8; got 2.5",
        ),
        Bad(
            "threshold",
            lambda: solarize(IMAGE, 128),
            ValueError,
            "threshold must be a finite number, at most 1 for torch.float32; got 128",
        ),
        Bad(
            "threshold_of_levels",
            lambda: solarize(levels(3, 4, 4), 256),
            ValueError,
            "threshold must be a finite number, at most 255 for torch.uint8; got 256",
        ),
        Bad("rank", lambda: invert(torch.rand(3, 4)), TypeError, r"image must be \(\.\.\., channels, .* got \(3, 4\)"),
        Bad(
            "kind",
            lambda: adjust_tones(IMAGE, torch.ones(2, 1), [0.5]),
            TypeError,
            "operations must be names, or a tensor of integers, as int64; got one of float32",
        ),
        Bad(
            "table",
            lambda: adjust_tones(IMAGE, torch.ones(2, dtype=torch.int64), [0.5]),
            RuntimeError,
            r"operations must be \(batch, steps\); got \(2,\)",
        ),
        Bad(
            "rows",
            lambda: adjust_tones(IMAGE, torch.ones(3, 1, dtype=torch.int64), [0.5]),
            RuntimeError,
            r"operations must have shape \(images, steps\), here \(2, 1\); got \(3, 1\)",
        ),
        Bad(
            "rows_of_numbers",
            lambda: adjust_tones(IMAGE, ["solarize"], torch.rand(3, 1)),
            RuntimeError,
            r"numbers must have shape \(images, steps\), here \(2, 1\); got \(3, 1\)",
        ),
    ],
    identities={
        "one_step_after_the_other": one_step_after_the_other,
        "what_changes_nothing": what_changes_nothing,
        "channels_are_by_themselves": channels_are_by_themselves,
    },
    numel_beyond_int32=an_image_beyond_int32,
)

NO_DERIVATIVES = "levels are whole numbers"
LEVELS_SPEC = OpSpec(
    name="adjust_tones",
    operator="handgrad::adjust_tones",
    function=adjust_tones,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample(
            "computed",
            (levels(2, 3, 7, 8),),
            {"operations": ["posterize", "invert"], "numbers": [5, 0]},
        ),
        Sample("turned", (levels(2, 3, 7, 8),), {"operations": ["solarize", "posterize"], "numbers": [120.5, 5]}),
        Sample("stretched", (levels(2, 4, 9, 8, low=31, high=203),), {"operations": ["autocontrast"], "numbers": [0]}),
        Sample(
            "looked_up",
            (levels(2, 3, 20, 19, low=31, high=203),),
            {"operations": ["solarize", "equalize", "autocontrast"], "numbers": [150, 0, 0]},
        ),
    ],
    large=Sample(
        "large",
        (levels(3, 3, 131, 157, low=9, high=240),),
        {"operations": ["solarize", "equalize"], "numbers": [100, 0]},
    ),
    empty=[Sample("batch", (levels(0, 3, 4, 5),), {"operations": ["equalize"], "numbers": [0]})],
    dtypes=(torch.uint8,),
    private_ops=(),
    derivatives=False,
    lenient={**LENIENT, "image": is_number_image},
    device_scratch=FOUND,
    bad=[],
    identities={"steps": one_step_after_the_other},
    # A histogram takes a pass more, and a table is looked up for each level.
    floor_factors={"forward": 2.1},
    device_calls={"forward": (1, 1, 0)},
    numel_beyond_int32=an_image_beyond_int32,
    not_applicable={3: NO_DERIVATIVES, 15: NO_DERIVATIVES},
)


def table(*rows):
    return torch.tensor(rows)


# (Their numbers are no tensors that derivatives are asked of: they have none.)
BATCHED_SPEC = OpSpec(
    name="adjust_tones",
    operator="handgrad::adjust_tones",
    function=adjust_tones,
    tensors=("image", "operations"),
    reference=reference,
    module=None,
    samples=[
        Sample("rows", (numbers(3, 2, 4, 3), table([4, 2], [2, 4], [3, 0])), {"numbers": [0.6, 0.55]}),
        Sample("flat", (numbers(2, 3, 9, 4, seed=2), table([5, 2], [4, 3])), {"numbers": [0.6, 0.55]}),
    ],
    large=Sample(
        "large", (numbers(3, 3, 131, 157).float(), table([4, 2], [3, 4], [2, 3])), {"numbers": [0.50123, 0.60123]}
    ),
    empty=[Sample("batch", (numbers(0, 3, 4, 5), torch.zeros(0, 2, dtype=torch.int64)), {"numbers": [0.0, 0.0]})],
    lenient={**LENIENT, "image": is_level_image, "operations": lambda value: isinstance(value, list)},
    device_scratch=FOUND,
    bad=[],
    identities={},
    # Either step may be one that must know of its channel first.
    floor_factors={"forward": 1.5, "backward": 2.1, "double_backward": 2.0},
    device_calls={"forward": (5, 4, 0), "backward": (11, 4, 0), "double_backward": (11, 4, 0)},
    numel_beyond_int32=an_image_beyond_int32,
)

test_matrix = matrix(SPEC)
test_matrix_of_levels = matrix(LEVELS_SPEC)
test_matrix_of_batches = matrix(BATCHED_SPEC)


# ---- torchvision's pictures ------------------------------------------------------------------------------------------


def torchvisions(functional, image, operations, given):
    for operation, number in zip(operations, given, strict=True):
        own = {"posterize": [int(number)], "solarize": [number]}.get(operation, [])
        image = getattr(functional, operation)(image, *own)
    return image


def random_chains(count, seed, most=6):
    generator = reseeded(seed)

    def below(limit):
        return int(torch.randint(0, limit, (), generator=generator))

    for _ in range(count):
        operations = [NAMES[below(5)] for _ in range(1 + below(most))]
        given = [below(9) if name == "posterize" else below(2560) / 10 - 0.6 for name in operations]
        given = [min(number, 255) for number in given]
        low = below(250)
        shape = (1 + below(70), 1 + below(70), 3 if below(4) else 1)
        image = torch.randint(low, low + 1 + below(256 - low), shape, dtype=torch.uint8, generator=generator)
        image = image.permute(2, 0, 1)
        image = image if below(2) else image.contiguous()
        yield image if below(3) else image[..., ::2], operations, given


def test_levels_are_torchvisions_to_the_bit(functional):
    for image, operations, given in random_chains(300, 1):
        expected = torchvisions(functional, image, operations, given)
        where = f"{tuple(image.shape)}, strides {image.stride()}, {operations} of {given}"
        assert torch.equal(adjust_tones(image, operations, given), expected), where


@pytest.mark.tiers("whole", "levels")
def test_every_stretch_is_torchvisions(functional):
    """All ends that a channel can have, and all levels between them: whole results decide how torch rounds."""
    for low in range(0, 255, 3):
        rows = [torch.arange(256).clamp(low, high) for high in range(low + 1, 256, 2)]
        image = torch.stack(rows).to(torch.uint8).view(-1, 1, 1, 256)
        assert torch.equal(autocontrast(image), functional.autocontrast(image)), low


@pytest.mark.tiers("whole")
def test_every_number_is_torchvisions(functional):
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    for bits in range(9):
        assert torch.equal(posterize(image, bits), functional.posterize(image, bits))
    # Of torch's own the threshold becomes float32 first.
    for threshold in (*(k / 2 - 1.0 for k in range(1, 513)), 127.00000001, -3.5, 1e-30):
        assert torch.equal(solarize(image, threshold), functional.solarize(image, threshold)), threshold
    # A negative whole number torch takes for another level, 251 here.
    assert torch.equal(solarize(image, -5), invert(image))


def test_pillows_pictures(functional):
    image_of = pytest.importorskip("PIL.Image")
    ops = pytest.importorskip("PIL.ImageOps")
    photo = levels(61, 47, 3, low=40, high=170)
    picture = image_of.fromarray(photo.numpy())
    pairs = (
        (ops.equalize(picture), ["equalize"], [0]),
        (ops.posterize(picture, 3), ["posterize"], [3]),
        (ops.solarize(picture, 90), ["solarize"], [90]),
        (ops.invert(picture), ["invert"], [0]),
    )
    for expected, operations, given in pairs:
        expected = functional.pil_to_tensor(expected)
        assert torch.equal(adjust_tones(photo.permute(2, 0, 1), operations, given), expected), operations


def test_numbers_are_torchvisions(functional):
    for image, operations, given in random_chains(100, 2, most=3):
        given = [n if name == "posterize" else n / 255 for name, n in zip(operations, given, strict=True)]
        for dtype in (torch.float32, torch.float64):
            picture = image.to(dtype) / 255
            expected = torchvisions(functional, picture, operations, given)
            where = f"{tuple(image.shape)}, {operations} of {given}"
            assert torch.equal(adjust_tones(picture, operations, given), expected), where


@pytest.mark.tiers("whole")
def test_gradients_are_torchs():
    """Of the reference, with ends of several pixels. (torchvision's autocontrast works in place, and its backward
    raises an error.)"""
    image = numbers(1, 3, 21, 19)
    image[0, 0, 3, :5] = image[0, 0].min()
    image[0, 1, 3:7, 2] = image[0, 1].max()
    operations, given = ["solarize", "autocontrast", "invert"], [0.7, 0, 0]
    grads = []
    for call in (reference, adjust_tones):
        leaf = image.clone().requires_grad_()
        call(leaf, operations, given).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0])


def test_functions_are_torchvisions(functional):
    for image in (levels(3, 20, 17), levels(1, 20, 17), levels(2, 3, 9, 8), levels(2, 2, 3, 7, 6)):
        for ours, *given in ((posterize, 3), (solarize, 99.5), (invert,), (autocontrast,), (equalize,)):
            expected = getattr(functional, ours.__name__)(image, *given)
            assert torch.equal(ours(image, *given), expected), f"{ours.__name__} of {tuple(image.shape)}"


# ---- kinks, ties, numbers that are none ------------------------------------------------------------------------------


def gradient(image, operations, given):
    leaf = image.clone().requires_grad_()
    weights = torch.arange(1.0, leaf.numel() + 1, dtype=leaf.dtype)
    adjust_tones(leaf, operations, given).flatten().dot(weights).backward()
    return leaf.grad.flatten().tolist()


def row(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_ends_share_their_gradient():
    """As torch's amin and amax have it."""
    # With a range of 0.5 the gradients of the middle are 3 / 0.5 and, of both ends, what leaves their sum 0.
    found = gradient(row(0.25, 0.75, 0.5, 0.25), ["autocontrast"], [0])
    assert sum(found) == pytest.approx(0)
    # Pixels are worth 1, 2, 3, 4 and become 0, 1, 0.5, 0; to the least: -(1 + 0 + 1.5 + 4) / 0.5, half of it each.
    assert found == pytest.approx([2 - 6.5, 4 - (2 + 1.5) / 0.5, 6, 8 - 6.5])


def test_an_even_channel_stays_and_has_its_own_gradient():
    assert adjust_tones(row(0.4, 0.4), ["autocontrast"], [0]).flatten().tolist() == [0.4, 0.4]
    assert gradient(row(0.4, 0.4), ["autocontrast"], [0]) == [1, 2]
    assert gradient(row(1.5, 1.5), ["autocontrast"], [0]) == [0, 0]  # cut to 1
    assert torch.equal(autocontrast(torch.full((3, 4, 4), 9, dtype=torch.uint8)), torch.full((3, 4, 4), 9).byte())


def test_what_is_whole_has_no_gradient():
    """Whatever else is in the chain, and whatever comes back."""
    for operations in (["posterize"], ["equalize"], ["autocontrast", "posterize"], ["equalize", "autocontrast"]):
        assert gradient(numbers(1, 1, 2, 5), operations, [3] * len(operations)) == [0] * 10
    leaf = numbers(1, 1, 2, 2).requires_grad_()
    assert adjust_tones(leaf, ["posterize"], [2]).backward(torch.full((1, 1, 2, 2), math.inf).double()) is None
    assert leaf.grad.flatten().tolist() == [0] * 4


def test_the_threshold_is_inverted():
    assert adjust_tones(row(0.5, 0.25), ["solarize"], [0.25]).flatten().tolist() == [0.5, 0.75]
    assert gradient(row(0.5, 0.25, 0.125), ["solarize"], [0.25]) == [-1, -2, 3]


def test_nan_stays_in_its_pixel_but_for_ends():
    image = numbers(1, 2, 5, 5)
    image[0, 1, 2, 2] = math.nan
    for operations in (["posterize"], ["solarize"], ["invert"], ["equalize"], ["equalize", "invert", "equalize"]):
        found = adjust_tones(image, operations, [1] * len(operations))
        assert found.isnan().sum() == 1, operations
        assert found[0, 1, 2, 2].isnan()
    found = adjust_tones(image, ["autocontrast"], [0]).isnan()
    assert found[:, 1].all()
    assert not found[:, 0].any()


def test_numbers_beyond_the_range():
    """equalize takes them for its ends; autocontrast stretches what is there."""
    image = row(-3.0, 0.0, 1.0, 7.0)
    assert equalize(image[0]).flatten().tolist() == [0, 0, 1, 1]
    assert autocontrast(image[0]).flatten().tolist() == pytest.approx([0, 0.3, 0.4, 1])
    assert posterize(image[0], 1).flatten().tolist() == [0, 0, 0.5, 0.5]
    infinite = autocontrast(row(0.0, 0.5, math.inf)[0]).flatten()
    assert infinite[:2].tolist() == [0, 0]
    assert infinite[2].isnan()


# ---- types, layouts, batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_computed_in_float32(dtype):
    image = numbers(2, 3, 20, 17).to(dtype)
    for operations in (["autocontrast"], ["equalize", "solarize"], ["posterize", "invert"]):
        found = adjust_tones(image, operations, [0.5 if name != "posterize" else 3 for name in operations])
        wide = adjust_tones(image.float(), operations, [0.5 if name != "posterize" else 3 for name in operations])
        assert torch.equal(found, wide.to(dtype)), operations


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_memory_formats(kind, channels):
    """Rows of pixels, as decoders leave them, with a byte more, and planes; more pixels than a vector has, or a run."""
    wide = levels(2, 41, 111, channels + 1, low=9, high=200)
    wide = wide if kind is torch.uint8 else wide / 255
    packed = wide[..., :channels].contiguous().permute(0, 3, 1, 2)
    planes = packed.contiguous()
    sparse = planes.new_zeros(2, channels, 41, 222)[..., ::2].copy_(planes)
    turned = planes.transpose(2, 3).contiguous().transpose(2, 3)
    for operations in (["solarize", "posterize"], ["autocontrast"], ["equalize", "invert"]):
        given = [4 if name == "posterize" else 0.5 if kind is torch.float32 else 127 for name in operations]
        expected = adjust_tones(planes, operations, given)
        for image in (packed, planes, sparse, turned, wide[..., :channels].permute(0, 3, 1, 2)):
            found = adjust_tones(image, operations, given)
            assert torch.equal(found, expected)
            last = image is packed and channels > 1
            assert found.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def test_a_batch_is_its_images():
    images = levels(6, 3, 30, 25, low=11, high=180)
    chains = [["solarize", "equalize"], ["autocontrast"], [], ["posterize", "invert"], ["equalize"], ["invert"]]
    operations = torch.zeros(6, 2, dtype=torch.int64)
    given = torch.tensor([[90.0, 0], [0, 0], [7, 8], [3, 0], [0, 0], [0, 0]])
    for index, chain in enumerate(chains):
        operations[index, : len(chain)] = torch.tensor([TONES[name] for name in chain], dtype=torch.int64)
    for kind in (torch.uint8, torch.float32):
        batch = images if kind is torch.uint8 else images / 255
        scaled = given.clone()
        if kind is torch.float32:
            scaled[0] /= 255
        whole = adjust_tones(batch, operations, scaled)
        for index, chain in enumerate(chains):
            alone = adjust_tones(batch[index], chain, scaled[index, : len(chain)].tolist())
            assert torch.equal(whole[index], alone), f"{kind}, {chain}"


def test_numbers_that_are_tensors_have_no_gradient():
    image = numbers(2, 3, 6, 5)
    given = torch.tensor([[0.3], [0.7]], requires_grad=True)
    found = adjust_tones(image, ["solarize"], given)
    assert not found.requires_grad
    for index, threshold in enumerate((0.3, 0.7)):
        assert torch.equal(found[index], solarize(image[index], threshold))
    assert torch.equal(
        adjust_tones(levels(2, 1, 4, 4), ["posterize"], torch.tensor([3])), posterize(levels(2, 1, 4, 4), 3)
    )


@pytest.mark.tiers("whole")
def test_operations_that_are_none_are_refused_by_the_op():
    with pytest.raises(RuntimeError, match=r"operations must be 0 \(nothing\), .* got 9"):
        torch.ops.handgrad.adjust_tones(IMAGE, None, None, [9], [1.0])
    # In a table, which may be on a device, it is nothing.
    assert torch.equal(torch.ops.handgrad.adjust_tones(IMAGE, None, torch.tensor([[9], [-3]]), [], [1.0]), IMAGE)
