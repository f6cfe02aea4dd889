"""Convolutions without a weight whose groups of channels look where they are told: what their ops and modules share."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handgrad._sampled_groups import grid_samples, weighted_samples
from handgrad.arguments import FLOAT_MAX, INT32_MAX, check_bool, check_int, check_range

#: The longest side of a kernel.
MOST_TAPS = 1024


class Window(NamedTuple):
    """The numbers of a call, in the order of the schemas."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    group: int
    group_channels: int
    offset_scale: float
    remove_center: bool

    @property
    def points(self) -> int:
        """Of a group, at an output position."""
        return self.kernel_h * self.kernel_w - int(self.remove_center)

    def out_sizes(self, height: Any, width: Any) -> tuple[Any, Any]:
        reach_h, reach_w = self.dilation_h * (self.kernel_h - 1), self.dilation_w * (self.kernel_w - 1)
        out_h = (height + 2 * self.pad_h - reach_h - 1) // self.stride_h + 1
        return out_h, (width + 2 * self.pad_w - reach_w - 1) // self.stride_w + 1


def check_center(op: str, remove_center: Any, kernel_h: int, kernel_w: int) -> bool:
    """``remove_center`` as a bool; 0 and 1 are taken for one."""
    removed = bool(remove_center) if type(remove_center) is int and remove_center in (0, 1) else remove_center
    removed = check_bool(op, "remove_center", removed)
    if removed and (kernel_h % 2 == 0 or kernel_w % 2 == 0):
        raise ValueError(
            f"{op}: remove_center must be False where the kernel has an even side, and so no middle; got a kernel of "
            f"{kernel_h} x {kernel_w}"
        )
    return removed


def check_scale(op: str, offset_scale: Any) -> float:
    check_range(op, "offset_scale", offset_scale, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    return float(offset_scale)


def check_window(op: str, *numbers: Any) -> Window:
    """The numbers that a user typed, in their order."""
    window = Window(*numbers)
    checked: dict[str, Any] = {}
    for name in Window._fields[:10]:
        most = MOST_TAPS if name.startswith("kernel") else INT32_MAX
        checked[name] = check_int(op, name, getattr(window, name), 0 if name.startswith("pad") else 1, most)
    checked["offset_scale"] = check_scale(op, window.offset_scale)
    checked["remove_center"] = check_center(op, window.remove_center, checked["kernel_h"], checked["kernel_w"])
    return Window(**checked)


# ---- reference -------------------------------------------------------------------------------------------------------


def _taps(kernel: int, dilation: int, model: Tensor) -> Tensor:
    """Along one side, how far the taps are from the middle."""
    return torch.arange(kernel, device=model.device) * dilation - dilation * (kernel - 1) // 2


def _middles(out: Any, kernel: int, stride: int, pad: int, dilation: int, model: Tensor) -> Tensor:
    """Along one side, where the middles of the windows are."""
    return torch.arange(out, device=model.device) * stride - pad + dilation * (kernel - 1) // 2


def deformed_points(offset: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Rows and columns of the points, each (batch, out_h, out_w, group, points), from their offsets, (batch, out_h,
    out_w, group, points, 2), each x, y."""
    taps_y = _taps(window.kernel_h, window.dilation_h, offset)
    taps_x = _taps(window.kernel_w, window.dilation_w, offset)
    # Column by column, each from above.
    taps_y = taps_y[None, :].expand(window.kernel_w, -1).reshape(-1)
    taps_x = taps_x[:, None].expand(-1, window.kernel_h).reshape(-1)
    if window.remove_center:
        middle = window.points // 2
        taps_y = torch.cat([taps_y[:middle], taps_y[middle + 1 :]])
        taps_x = torch.cat([taps_x[:middle], taps_x[middle + 1 :]])
    out_h, out_w = offset.shape[1], offset.shape[2]
    y = _middles(out_h, window.kernel_h, window.stride_h, window.pad_h, window.dilation_h, offset)
    x = _middles(out_w, window.kernel_w, window.stride_w, window.pad_w, window.dilation_w, offset)
    moved_y = (taps_y.to(offset.dtype) + offset[..., 1]) * window.offset_scale
    moved_x = (taps_x.to(offset.dtype) + offset[..., 0]) * window.offset_scale
    return y.to(offset.dtype)[:, None, None, None] + moved_y, x.to(offset.dtype)[:, None, None] + moved_x


def _by_groups(tensor: Tensor) -> Tensor:
    """(batch, group, out_h * out_w, points) of (batch, out_h, out_w, group, points)."""
    return tensor.flatten(1, 2).transpose(1, 2)


def deformed_groups_reference(input: Tensor, offset: Tensor, mask: Tensor, window: Window) -> Tensor:
    """(batch, out_h, out_w, channels), of ``offset`` (batch, out_h, out_w, group, points, 2) and ``mask`` without the
    2."""
    height, width = input.shape[1], input.shape[2]
    y, x = deformed_points(offset, window)
    pixels = input.to(offset.dtype).unflatten(-1, (window.group, window.group_channels)).flatten(1, 2).transpose(1, 2)
    output = weighted_samples(pixels, _by_groups(y), _by_groups(x), _by_groups(mask), height, width)
    output = output.transpose(1, 2).flatten(2)
    return output.unflatten(1, (offset.shape[1], offset.shape[2])).to(input.dtype)


def fake_output(op: str, input: Tensor, window: Window) -> Tensor:
    """The result, without memory."""
    if input.dim() != 4:
        raise RuntimeError(f"{op}: input must have 4 dimensions; got {tuple(input.shape)}")
    batch, height, width, channels = input.shape
    wanted = window.group * window.group_channels
    torch._check(
        channels == wanted,
        lambda: f"{op}: input must have group * group_channels channels, {wanted}; got {tuple(input.shape)}",
    )
    return input.new_empty((batch, *window.out_sizes(height, width), channels))


def check_fake(op: str, name: str, tensor: Tensor, shape: tuple[Any, ...], input: Tensor) -> None:
    """That a tensor without memory has a shape, and is where the input is."""
    message = f"{op}: {name} must have shape {shape}; got {tuple(tensor.shape)}"
    torch._check(tensor.dim() == len(shape), lambda: message)
    for size, due in zip(tensor.shape, shape, strict=True):
        torch._check(size == due, lambda: message)
    if tensor.device != input.device:
        raise RuntimeError(f"{op}: {name} must be on the device of input, {input.device}; got {tensor.device}")


# ---- onnx ------------------------------------------------------------------------------------------------------------


def deformed_groups_onnx(input: Tensor, offset: Tensor, mask: Tensor, window: Window) -> Any:
    """A ``GridSample`` for each group, as images of a batch; arguments as of the reference."""
    if input.dtype is not torch.float32:
        return NotImplemented
    height, width = input.shape[1], input.shape[2]
    out_h, out_w = offset.shape[1], offset.shape[2]
    y, x = deformed_points(offset, window)
    # (batch * group, out_h * out_w, points, 2), -1 and 1 at the outer edges
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grid = grid.reshape(-1, out_h * out_w, window.group, window.points, 2).transpose(1, 2)
    grid = grid.reshape(-1, out_h * out_w, window.points, 2)
    images = input.permute(0, 3, 1, 2).reshape(-1, window.group_channels, height, width)
    factors = mask.reshape(-1, out_h * out_w, window.group, window.points).transpose(1, 2)
    factors = factors.reshape(-1, 1, out_h * out_w, window.points)
    output = (grid_samples(images, grid) * factors).sum(-1)
    output = output.reshape(-1, window.group * window.group_channels, out_h, out_w)
    return output.permute(0, 2, 3, 1)


# ---- modules ---------------------------------------------------------------------------------------------------------


class DeformedGroups(nn.Module):
    """What the modules have in common: their numbers, and by how much an output is its own middle."""

    center_feature_scale_proj_weight: nn.Parameter
    center_feature_scale_proj_bias: nn.Parameter

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int,
        pad: int,
        dilation: int,
        group: int,
        offset_scale: float,
        dw_kernel_size: int | None,
        center_feature_scale: bool,
        remove_center: bool | int,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.channels = check_int(name, "channels", channels, 1, INT32_MAX)
        self.kernel_size = check_int(name, "kernel_size", kernel_size, 1, MOST_TAPS)
        self.stride = check_int(name, "stride", stride, 1, INT32_MAX)
        self.pad = check_int(name, "pad", pad, 0, INT32_MAX)
        self.dilation = check_int(name, "dilation", dilation, 1, INT32_MAX)
        self.group = check_int(name, "group", group, 1, INT32_MAX)
        if self.channels % self.group:
            raise ValueError(f"{name}: channels must be a multiple of group, {group}; got {channels}")
        self.group_channels = self.channels // self.group
        self.offset_scale = check_scale(name, offset_scale)
        self.dw_kernel_size = dw_kernel_size
        if dw_kernel_size is not None:
            self.dw_kernel_size = check_int(name, "dw_kernel_size", dw_kernel_size, 1, INT32_MAX)
        self.center_feature_scale = check_bool(name, "center_feature_scale", center_feature_scale)
        if self.center_feature_scale and self.stride > 1:
            raise ValueError(
                f"{name}: center_feature_scale must be False where stride is not 1, since an output then has no pixel "
                f"of its own; got a stride of {stride}"
            )
        self.remove_center = check_center(name, remove_center, self.kernel_size, self.kernel_size)

    @property
    def samples(self) -> int:
        """At an output position, of all groups."""
        return self.group * (self.kernel_size**2 - int(self.remove_center))

    def depthwise(self, kernel_size: int) -> nn.Conv2d:
        """A convolution of each channel by itself, which leaves as many rows and columns as the op has outputs."""
        return nn.Conv2d(
            self.channels, self.channels, kernel_size, self.stride, (kernel_size - 1) // 2, groups=self.channels
        )

    def add_center(self) -> None:
        """The parameters of ``center_feature_scale``, which begin at zero."""
        if self.center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(self.group, self.channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(self.group))

    def arguments(self) -> tuple[Any, ...]:
        """The numbers of the op's call."""
        sides = (self.kernel_size, self.stride, self.pad, self.dilation)
        numbers = [number for number in sides for _ in range(2)]
        return (*numbers, self.group, self.group_channels, self.offset_scale, self.remove_center)

    def with_center(self, output: Tensor, features: Tensor, projected: Tensor) -> Tensor:
        """Each group of ``output`` mixed with the pixel ``projected`` that is in its middle, as ``features`` say."""
        if not self.center_feature_scale:
            return output
        scale = nn.functional.linear(
            features, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
        ).sigmoid()
        scale = scale[..., None].expand(*scale.shape, self.group_channels).flatten(-2)
        return output * (1 - scale) + projected * scale

    def extra_repr(self) -> str:
        text = f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, pad={self.pad}"
        text += f", dilation={self.dilation}, group={self.group}, offset_scale={self.offset_scale:g}"
        if self.center_feature_scale:
            text += ", center_feature_scale=True"
        return f"{text}, remove_center=True" if self.remove_center else text


def zero_(linear: nn.Linear) -> None:
    """No offsets, and masks that are all the same."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def projection_(linear: nn.Linear) -> None:
    """The initial values of a projection of channels."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def side_of(name: str, positions: int) -> int:
    """Of a square with so many pixels."""
    side = math.isqrt(positions)
    if side * side != positions:
        raise ValueError(
            f"{name}: shape must be height and width where input is (batch, pixels, channels) and no square; got None "
            f"and {positions} pixels"
        )
    return side
