"""What the tests of convolutions whose groups of channels look where they are told have in common."""

import torch
import torch.nn.functional as F

from handgrad.testing import reseeded

#: The arguments of a call, in their order.
NAMES = ("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "group")
NAMES += ("group_channels", "offset_scale", "remove_center")


def window(kernel=3, stride=1, pad=1, dilation=1, group=1, group_channels=1, offset_scale=1.0, remove_center=False):
    """The arguments of a call; the first four for both sides, or one for each, height first."""
    sides = [side if isinstance(side, tuple) else (side, side) for side in (kernel, stride, pad, dilation)]
    numbers = [number for side in sides for number in side]
    return dict(zip(NAMES, [*numbers, group, group_channels, offset_scale, remove_center], strict=True))


def points_of(kernel_h, kernel_w, remove_center, **_):
    return kernel_h * kernel_w - int(remove_center)


def out_sizes(height, width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, **_):
    return (
        (height + 2 * pad_h - dilation_h * (kernel_h - 1) - 1) // stride_h + 1,
        (width + 2 * pad_w - dilation_w * (kernel_w - 1) - 1) // stride_w + 1,
    )


def taps(numbers):
    """(points, 2): how far each tap is from the middle of the window, x before y, in the order of points."""
    across = [
        i * numbers["dilation_w"] - numbers["dilation_w"] * (numbers["kernel_w"] - 1) // 2
        for i in range(numbers["kernel_w"])
    ]
    down = [
        j * numbers["dilation_h"] - numbers["dilation_h"] * (numbers["kernel_h"] - 1) // 2
        for j in range(numbers["kernel_h"])
    ]
    found = [(x, y) for x in across for y in down]
    if numbers["remove_center"]:
        del found[len(found) // 2]
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 2)


def middles(height, width, numbers):
    """(out_h, out_w, 2): where the middles of the windows are, x before y."""
    out_h, out_w = out_sizes(height, width, **numbers)
    half_h = numbers["dilation_h"] * (numbers["kernel_h"] - 1) // 2
    half_w = numbers["dilation_w"] * (numbers["kernel_w"] - 1) // 2
    y = torch.arange(out_h) * numbers["stride_h"] - numbers["pad_h"] + half_h
    x = torch.arange(out_w) * numbers["stride_w"] - numbers["pad_w"] + half_w
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], -1).double()


def tensors(batch, height, width, numbers, dtype=torch.float64, seed=0):
    """Input, offset and mask; no point is nearer to a kink than 0.05 pixels, and some are outside."""
    generator = reseeded(seed)
    group, points, scale = numbers["group"], points_of(**numbers), numbers["offset_scale"]
    out_h, out_w = out_sizes(height, width, **numbers)
    still = middles(height, width, numbers)[None, :, :, None, None] + scale * taps(numbers)
    random = torch.rand(batch, out_h, out_w, group, points, 2, dtype=torch.float64, generator=generator)
    wanted = still + 4 * random - 2
    wanted = wanted.floor() + 0.05 + 0.9 * (wanted - wanted.floor())
    mask = torch.rand(batch, out_h, out_w, group * points, dtype=torch.float64, generator=generator) + 0.1
    channels = group * numbers["group_channels"]
    made = (
        torch.randn(batch, height, width, channels, dtype=torch.float64, generator=generator),
        ((wanted - still) / scale).flatten(3),
        mask,
    )
    return tuple(tensor.to(dtype) for tensor in made)


def packed(offset, mask, numbers, fill=True):
    """The offsets and then the masks of each group, filled up to a multiple of 8 channels."""
    group = numbers["group"]
    both = torch.cat([offset.unflatten(-1, (group, -1)), mask.unflatten(-1, (group, -1))], -1).flatten(-2)
    return F.pad(both, (0, -both.shape[-1] % 8)) if fill else both


def by_grid_sample(input, offset, mask, **numbers):
    """The points as a grid for each group, which is an image of its own: the idea of OpenGVLab's
    ``dcnv3_core_pytorch``, but for what that one pads (its rows by pad_w)."""
    batch, height, width, _ = input.shape
    group, points = numbers["group"], points_of(**numbers)
    out_h, out_w = out_sizes(height, width, **numbers)
    still = middles(height, width, numbers)[:, :, None, None] + numbers["offset_scale"] * taps(numbers)
    moved = still.to(offset) + numbers["offset_scale"] * offset.view(batch, out_h, out_w, group, points, 2)
    grid = (2 * moved + 1) / torch.tensor([width, height]).to(offset) - 1
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(batch * group, out_h * out_w, points, 2)
    images = input.permute(0, 3, 1, 2).reshape(batch * group, -1, height, width)
    samples = F.grid_sample(images, grid, align_corners=False)
    factors = mask.view(batch, out_h * out_w, group, points).transpose(1, 2).reshape(batch * group, 1, -1, points)
    output = (samples * factors).sum(-1).view(batch, -1, out_h, out_w)
    return output.permute(0, 2, 3, 1)
