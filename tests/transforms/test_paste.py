import math

import torch

from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.transforms.paste import paste, paste_reference
from transform_images import NO_DERIVATIVES, is_level_image, is_number_image, levels

FILL = -1
OWN = [0, 0, 99, 99, 0, 0, 0, 0]
BEFORE = [0, 0, 99, 99, 0, -1, 0, 0]
HOLE = [1, 2, 2, 2, FILL, 0, 0, 0]


def numbers(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def table(*rows):
    """Rectangles of each image."""
    return torch.tensor(rows, dtype=torch.int64)


def reference(image, opacity=None, second=None, third=None, fourth=None, *, rectangles, size=None, fill=0, group=None):
    """The public function's arguments, given to the reference."""
    height, width = image.shape[-2:] if size is None else (size, size) if isinstance(size, int) else size
    rows = torch.as_tensor(rectangles, dtype=torch.int64, device=image.device)
    rows = rows.expand(image.shape[0], -1, -1) if rows.dim() == 2 else rows
    shared = opacity if isinstance(opacity, list) else []
    weights = opacity if isinstance(opacity, torch.Tensor) else None
    fills = fill if isinstance(fill, list) else [fill]
    return paste_reference(image, second, third, fourth, weights, rows, [], shared, height, width, fills, group or 0)


# ---- identities ------------------------------------------------------------------------------------------------------


def the_own_image_is_the_image():
    for image in (numbers(2, 3, 7, 5), levels(2, 3, 7, 5), numbers(2, 3, 7, 5).half()):
        assert torch.equal(paste(image, rectangles=[OWN]), image)
        assert torch.equal(paste(image, rectangles=[BEFORE, OWN]), image)
        assert torch.equal(paste(image, [1.0], rectangles=[BEFORE, OWN]), image)
        assert torch.equal(paste(image, [0.0], rectangles=[OWN, BEFORE]), image)


def mixing_is_a_sum():
    image, weights = numbers(3, 2, 5, 4), numbers(3, 1)
    found = paste(image, weights, rectangles=[BEFORE, OWN])
    by = weights[:, :, None, None]
    torch.testing.assert_close(found, image.roll(1, 0) * (1 - by) + image * by)


def a_part_is_moved():
    image = levels(2, 3, 9, 8)
    found = paste(image, rectangles=[[2, 1, 4, 5, 0, 0, 3, 2]], size=(10, 7), fill=9)
    assert torch.equal(found[:, :, 2:6, 1:6], image[:, :, 3:7, 2:7])
    assert found.sum() == image[:, :, 3:7, 2:7].sum() + 9 * 2 * 3 * (70 - 20)


def an_image_beyond_int32():
    """Channels that are far apart, and a table whose numbers are far beyond."""
    far = torch.empty(2**31 + 999, dtype=torch.uint8).as_strided((1, 2, 7, 9), (0, 2**31, 90, 9))
    far.copy_(levels(1, 2, 7, 9, seed=3))
    rows = [OWN, [-(2**61), 3, 2**61 + 4, 2**61, 0, 0, 0, 0], [2, 1, 3, 2**61, 0, 2**61, 0, 1 - 2**60]]
    for opacity in (None, [0.4, 0.5]):
        assert torch.equal(paste(far, opacity, rectangles=rows), paste(far.contiguous(), opacity, rectangles=rows))
    assert torch.equal(paste(far, rectangles=rows), far)


def many_pixels_are_one_sum():
    """Of the gradient of an opacity: 300 x 300 equal differences."""
    image = torch.tensor([0.1, 0.0]).view(2, 1, 1, 1).expand(2, 1, 300, 300)
    weights = torch.full((2, 1), 0.5, requires_grad=True)
    paste(image, weights, rectangles=[[0, 0, 300, 300, 0, 1, 0, 0], [0, 0, 300, 300, 0, 0, 0, 0]]).sum().backward()
    torch.testing.assert_close(weights.grad[0, 0].item(), 90_000 * torch.tensor(0.1).item(), rtol=1e-6, atol=0)


# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 8, 9)


def is_list_or_none(value):
    return value is None or isinstance(value, list)


def anything(value):
    return True


BAD = [
    Bad("rank", lambda: paste(IMAGE[0], rectangles=[OWN]), RuntimeError, r"image must be \(batch, channels, height"),
    Bad("int16", lambda: paste(IMAGE.short(), rectangles=[OWN]), TypeError, "image must be uint8, .* got int16"),
    Bad(
        "rows",
        lambda: paste(IMAGE, rectangles=[[1, 2]]),
        TypeError,
        "rectangles must be a tensor, or 1 to 32 rows of 8",
    ),
    Bad("none", lambda: paste(IMAGE, rectangles=[]), TypeError, r"rectangles must be .* got \[\]"),
    Bad("many", lambda: paste(IMAGE, rectangles=[OWN] * 33), TypeError, "1 to 32 rows of 8 whole numbers"),
    Bad(
        "many_of_a_table",
        lambda: paste(IMAGE, rectangles=torch.tensor([OWN] * 33)),
        RuntimeError,
        "rectangles must be at most 32 an image; got 33",
    ),
    Bad("fraction", lambda: paste(IMAGE, rectangles=[[0.5] * 8]), TypeError, "rectangles must be whole numbers"),
    Bad(
        "kind",
        lambda: paste(IMAGE, rectangles=torch.zeros(2, 1, 8)),
        TypeError,
        "rectangles must be a tensor of integers, as int64; got one of float32",
    ),
    Bad(
        "batch",
        lambda: paste(IMAGE, rectangles=torch.zeros(3, 1, 8).long()),
        RuntimeError,
        r"rectangles must have shape \(images, R, 8\), here \(2, 1, 8\); got \(3, 1, 8\)",
    ),
    Bad("size", lambda: paste(IMAGE, rectangles=[OWN], size=0), ValueError, "size must be"),
    Bad(
        "group",
        lambda: paste(IMAGE, rectangles=[OWN], group=0),
        ValueError,
        "group must be a whole number, at least 1; got 0",
    ),
    Bad(
        "fills",
        lambda: paste(IMAGE, rectangles=[OWN], fill=[1, 2]),
        ValueError,
        "fill must be a number, or one a channel",
    ),
    Bad(
        "level",
        lambda: paste(levels(2, 3, 4, 4), rectangles=[OWN], fill=256),
        ValueError,
        "fill must be numbers from 0 to 255 beside a uint8 image; got 256",
    ),
    Bad("opacity", lambda: paste(IMAGE, [math.nan], rectangles=[OWN]), ValueError, "opacity must be finite numbers"),
    Bad(
        "opacities",
        lambda: paste(IMAGE, [0.5, 0.5], rectangles=[OWN]),
        RuntimeError,
        "opacity must have a number for each of the uppermost rectangles, of 1; got 2",
    ),
    Bad(
        "weights",
        lambda: paste(IMAGE, torch.zeros(3, 1), rectangles=[OWN]),
        RuntimeError,
        r"opacity must have shape \(images, K\), here \(2, 1\); got \(3, 1\)",
    ),
    Bad(
        "channels",
        lambda: paste(IMAGE, None, IMAGE[:, :2], rectangles=[OWN]),
        RuntimeError,
        "second must have the batch and the channels of image, 2 and 3; got",
    ),
    Bad(
        "dtypes",
        lambda: paste(IMAGE, None, None, IMAGE.double(), rectangles=[OWN]),
        RuntimeError,
        "third must have the dtype of image, float32; got float64",
    ),
]

SPEC = OpSpec(
    name="paste",
    operator="handgrad::paste",
    function=paste,
    tensors=("image", "opacity", "second", "third", "fourth"),
    reference=reference,
    module=None,
    samples=[
        # Groups, so that half of the batch is what it is in the whole.
        Sample("mixed", (numbers(2, 2, 3, 5), 0.1 + numbers(2, 1)), {"rectangles": [BEFORE, OWN], "group": 2}),
        Sample(
            "layers",
            (numbers(2, 2, 4, 5), 0.2 + numbers(2, 2), numbers(2, 2, 3, 6, seed=2)),
            {
                "rectangles": [OWN, [1, -1, 3, 4, 1, -1, 1, 2], [0, 1, 3, 9, 0, 1, 1, 0], [2, 2, 4, 2, FILL, 0, 0, 0]],
                "size": (5, 6),
                "fill": 0.7,
                "group": 2,
            },
        ),
        Sample("erased", (numbers(4, 2, 4, 5),), {"rectangles": [OWN, HOLE], "fill": 0.5, "group": 2}),
        Sample(
            "mosaic",
            (numbers(1, 2, 3, 4), 0.3 + numbers(1, 1), *(numbers(1, 2, 2 + k, 5 - k, seed=k) for k in range(3))),
            {
                "rectangles": [[0, 0, 3, 4, 0, 0, 1, 1], [0, 3, 3, 4, 1, 0, 0, 0], [2, 0, 2, 3, 2, 0, 0, 1],
                               [2, 3, 2, 3, 3, 0, 0, 0]],
                "size": (5, 7),
                "fill": 0.3,
                "group": 1,
            },
        ),
    ],
    large=Sample(
        "large",
        (torch.rand(6, 4, 61, 83, generator=reseeded(1)), torch.rand(6, 1, generator=reseeded(2))),
        {"rectangles": [BEFORE, [-3, 5, 90, 70, 0, 2, 1, 4], OWN], "size": (61, 83)},
    ),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5), numbers(0, 1)), {"rectangles": [BEFORE, OWN]}),
        Sample("channels", (numbers(2, 0, 4, 5), numbers(2, 1)), {"rectangles": [BEFORE, OWN]}),
        Sample("pixels", (numbers(2, 3, 0, 5), numbers(2, 1)), {"rectangles": [BEFORE, OWN], "size": (2, 3)}),
    ],
    optional=("opacity", "second", "third", "fourth"),
    lenient={"image": is_level_image, "opacity": is_list_or_none,
             "size": anything, "fill": is_list_or_none,
             "group": lambda value: value is None},
    bad=BAD,
    identities={"own": the_own_image_is_the_image, "sum": mixing_is_a_sum, "moved": a_part_is_moved},
    numel_beyond_int32=an_image_beyond_int32,
    sums_of_many=many_pixels_are_one_sum,
    shards=(((1, None, 1, 1, 1), 1),),
    # What is blended is read, though it is of the same image as what is below, which counts as one. The gradients of
    # sources read grad_output once for each rectangle, those of opacities both.
    floor_factors={"forward": 1.55, "backward": 2.75, "double_backward": 3.05},
    device_calls={"forward": (1, 1, 0), "backward": (4, 4, 0), "double_backward": (4, 4, 0)},
    # The opacities in double, of six images, for either derivative.
    saves=2 * 6 * 8,
)  # fmt: skip


def reference_of_levels(image, second=None, *, opacity=None, **others):
    return reference(image, opacity, second, **others)


LEVELS_SPEC = OpSpec(
    name="paste",
    operator="handgrad::paste",
    function=paste,
    tensors=("image", "second"),
    reference=reference_of_levels,
    module=None,
    samples=[
        Sample("mixed", (levels(2, 2, 9, 8),), {"rectangles": [BEFORE, OWN], "opacity": [0.37], "group": 2}),
        Sample("erased", (levels(2, 2, 9, 8),), {"rectangles": [OWN, HOLE], "fill": 200, "group": 1}),
        Sample(
            "layers",
            (levels(2, 2, 9, 8), levels(2, 2, 5, 6, seed=1)),
            {
                "rectangles": [OWN, [1, -1, 3, 4, 1, -1, 1, 2], [0, 1, 3, 9, 0, 1, 1, 0], HOLE],
                "opacity": [0.25, 0.8],
                "size": (11, 10),
                "fill": 99,
                "group": 2,
            },
        ),
    ],
    large=Sample("large", (levels(6, 3, 61, 83),), {"rectangles": [OWN, [10, 20, 30, 40, 0, -1, 10, 20]]}),
    empty=[Sample("batch", (levels(0, 3, 4, 5),), {"rectangles": [OWN]})],
    dtypes=(torch.uint8,),
    private_ops=(),
    derivatives=False,
    optional=("second",),
    lenient={"image": is_number_image, "opacity": anything, "size": anything,
             "fill": is_list_or_none,
             "group": lambda value: value is None},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    shards=(((1, 1), 1),),
    not_applicable={3: NO_DERIVATIVES, 8: "levels stay levels", 15: NO_DERIVATIVES},
)  # fmt: skip

test_matrix = matrix(SPEC)
test_matrix_of_levels = matrix(LEVELS_SPEC)


def test_all_kernels_paste_the_same_bits():
    """Of the CPU, of each of its levels, and of the emulator."""
    image, second = levels(3, 3, 9, 8), levels(3, 3, 5, 6, seed=1)
    rows = [[0, 0, 9, 8, 0, -1, 0, 0], [2, 1, 4, 5, 1, 1, 1, 0], [1, 3, 8, 4, 0, 1, 0, 1]]
    by = {"opacity": [0.37, 0.81], "rectangles": rows, "fill": 7}
    last = torch.channels_last
    found, numbers = paste(image, second=second, **by), paste(image.float(), second=second.float(), **by)
    again = paste(image.contiguous(memory_format=last), second=second.contiguous(memory_format=last), **by)
    assert torch.equal(found, again)
    assert torch.equal(found, numbers.round().byte())
    assert [found.long().sum().item(), numbers.view(torch.int32).long().sum().item()] == [79445, 724751018430]
