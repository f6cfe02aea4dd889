"""Deformable convolution. Mathematics, derivatives and numerics: docs/layers/deform_conv2d.md."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad.arguments import INT32_MAX, check_int, check_pair, check_tensor
from handgrad.derivatives import BATCHED, Call, Derivatives, Role, unfold_batch
from handgrad.tracing import traceable

_OP = "deform_conv2d"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    r"""Convolution whose kernel looks where it is told (Dai et al., `Deformable Convolutional Networks
    <https://arxiv.org/abs/1703.06211>`_, 2017); with ``mask``, version 2 (Zhu et al., `Deformable ConvNets v2
    <https://arxiv.org/abs/1811.11168>`_, 2018).

    .. math:: y(p) = b + \sum_k w_k\, m_k(p)\, x(p \cdot stride - padding + k \cdot dilation + \Delta_k(p))

    Between pixels :math:`x` is interpolated bilinearly, outside the image it is 0. Signature, values and first
    derivatives of :func:`torchvision.ops.deform_conv2d`; beyond it: second derivatives, forward mode, bfloat16 and
    float16 (computed in float32), channels_last, and never the matrix of all samples in memory.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        offset: (batch, 2 * offset_groups * kernel_h * kernel_w, out_h, out_w), in pixels: for each offset group and
            each tap its y, then its x. The number of offset groups follows from the shape.
        weight: (out_channels, channels / groups, kernel_h, kernel_w). The number of groups follows from the shape.
        bias: (out_channels,) or None.
        stride, padding, dilation: a whole number, or one for each of height and width.
        mask: (batch, offset_groups * kernel_h * kernel_w, out_h, out_w), what each sample is multiplied by, or None.

    Returns:
        (batch, out_channels, out_h, out_w), channels_last if ``input`` is. Under autocast the other tensors are taken
        in the type of ``input``. Where an offset is NaN the output is NaN.

    Raises:
        ValueError: ``stride``, ``padding`` or ``dilation`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> image, still = torch.arange(9.0).view(1, 1, 3, 3), torch.zeros(1, 2, 3, 3)
        >>> deform_conv2d(image, still + 0.5, torch.ones(1, 1, 1, 1))[0, 0, 0]
        tensor([2.0000, 3.0000, 1.7500])
    """
    check_tensor(_OP, "input", input)
    check_tensor(_OP, "offset", offset)
    check_tensor(_OP, "weight", weight)
    if bias is not None:
        check_tensor(_OP, "bias", bias)
    if mask is not None:
        check_tensor(_OP, "mask", mask)
    stride_h, stride_w = check_pair(_OP, "stride", stride, 1)
    padding_h, padding_w = check_pair(_OP, "padding", padding, 0)
    dilation_h, dilation_w = check_pair(_OP, "dilation", dilation, 1)
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(input.device.type):
        offset, weight = offset.to(input.dtype), weight.to(input.dtype)
        bias = None if bias is None else bias.to(input.dtype)
        mask = None if mask is None else mask.to(input.dtype)
    return _deform_conv2d(
        input, offset, weight, bias, mask, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w
    )


# ---- module ----------------------------------------------------------------------------------------------------------


class DeformConv2d(nn.Module):
    """:func:`deform_conv2d` with a weight of its own, in place of :class:`torchvision.ops.DeformConv2d`: the same
    arguments, the same initial values, the same state dict.

    Args:
        in_channels, out_channels: numbers of channels, multiples of ``groups``.
        kernel_size, stride, padding, dilation: a whole number, or one for each of height and width.
        groups: groups of channels that are convolved among themselves.
        bias: whether there is a bias.

    Shape:
        ``forward(input, offset, mask=None)`` as in :func:`deform_conv2d`.

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> conv = DeformConv2d(4, 8, kernel_size=3, padding=1)
        >>> conv(torch.rand(2, 4, 5, 5), offset=torch.zeros(2, 18, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.groups = check_int(name, "groups", groups, 1, INT32_MAX)
        self.in_channels = check_int(name, "in_channels", in_channels, 1, INT32_MAX)
        self.out_channels = check_int(name, "out_channels", out_channels, 1, INT32_MAX)
        for argument in ("in_channels", "out_channels"):
            channels = getattr(self, argument)
            if channels % self.groups:
                raise ValueError(f"{name}: {argument} must be a multiple of groups, {self.groups}; got {channels}")
        self.kernel_size = check_pair(name, "kernel_size", kernel_size, 1)
        self.stride = check_pair(name, "stride", stride, 1)
        self.padding = check_pair(name, "padding", padding, 0)
        self.dilation = check_pair(name, "dilation", dilation, 1)
        self.weight = nn.Parameter(torch.empty(self.out_channels, self.in_channels // self.groups, *self.kernel_size))
        if bias:
            self.bias = nn.Parameter(torch.empty(self.out_channels))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask=mask)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        return text if self.bias is not None else f"{text}, bias=False"


class DeformConv2dPack(DeformConv2d):
    """A :class:`DeformConv2d` that predicts its offsets and masks from its input, by a convolution that begins at zero:
    no offsets, and a mask of 1/2. Loads the state dict of mmcv's ``ModulatedDeformConv2dPack``.

    Args:
        deform_groups: groups of channels that have the same offsets.

    The other arguments are those of :class:`DeformConv2d`. ``conv_offset`` gives, in its first two thirds of channels,
    the offsets as :func:`deform_conv2d` takes them, and in the last third the mask before a sigmoid.

    Example:
        >>> DeformConv2dPack(4, 8, kernel_size=3, padding=1)(torch.rand(2, 4, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.deform_groups = check_int("DeformConv2dPack", "deform_groups", deform_groups, 1, INT32_MAX)
        if self.in_channels % self.deform_groups:
            raise ValueError(
                f"DeformConv2dPack: deform_groups must divide in_channels, {in_channels}; got {deform_groups}"
            )
        taps = self.kernel_size[0] * self.kernel_size[1]
        predicted = 3 * self.deform_groups * taps
        self.conv_offset = nn.Conv2d(
            self.in_channels, predicted, self.kernel_size, self.stride, self.padding, self.dilation
        )
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        predicted = self.conv_offset(input)
        offsets = 2 * predicted.shape[1] // 3
        return super().forward(input, predicted[:, :offsets], predicted[:, offsets:].sigmoid())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, deform_groups={self.deform_groups}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def deform_conv2d_reference(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    dilation_h: int,
    dilation_w: int,
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: each tap's sampling point, four pixels around
    it, their weights, and a product with the weight."""
    batch, channels, height, width = input.shape
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    taps = kernel_h * kernel_w
    groups, offset_groups = channels // group_channels, offset.shape[1] // (2 * taps)

    def points(kernel: int, dilation: int, out: int, stride: int, padding: int) -> Tensor:
        of_taps = torch.arange(kernel, device=input.device) * dilation
        of_outputs = torch.arange(out, device=input.device) * stride - padding
        return (of_taps[:, None] + of_outputs).to(input.dtype)

    moved = offset.reshape(batch, offset_groups, kernel_h, kernel_w, 2, out_h, out_w)
    y = points(kernel_h, dilation_h, out_h, stride_h, padding_h)[:, None, :, None] + moved[:, :, :, :, 0]
    x = points(kernel_w, dilation_w, out_w, stride_w, padding_w)[None, :, None, :] + moved[:, :, :, :, 1]
    is_nan = y.isnan() | x.isnan()
    inside = (y >= -1) & (y < height) & (x >= -1) & (x < width)
    # Nothing infinite goes on from here, where 0 times it would be NaN; NaN does.
    y, x = (torch.where(inside | is_nan, point, 0.0) for point in (y, x))
    row, column = y.detach().floor(), x.detach().floor()
    down, right = y - row, x - column

    flat = input.reshape(batch, offset_groups, channels // offset_groups, 1, height * width)
    samples: Any = 0
    for pixel_y, pixel_x, part in (
        (row, column, (1 - down) * (1 - right)),
        (row, column + 1, (1 - down) * right),
        (row + 1, column, down * (1 - right)),
        (row + 1, column + 1, down * right),
    ):
        valid = inside & (pixel_y >= 0) & (pixel_y < height) & (pixel_x >= 0) & (pixel_x < width)
        index = torch.where(valid, pixel_y * width + pixel_x, 0.0).long()
        index = index.reshape(batch, offset_groups, 1, 1, taps * out_h * out_w)
        pixels = flat.expand(-1, -1, -1, 1, -1).gather(4, index.expand(-1, -1, flat.shape[2], -1, -1))
        pixels = pixels.reshape(batch, offset_groups, flat.shape[2], taps, out_h * out_w)
        valid, part = (t.reshape(batch, offset_groups, 1, taps, out_h * out_w) for t in (valid, part))
        # Beyond the image's edge: zeros.
        part = torch.where(valid | is_nan.reshape(valid.shape), part, 0.0)
        samples = samples + part * torch.where(valid, pixels, 0.0)
    if mask is not None:
        samples = samples * mask.reshape(batch, offset_groups, 1, taps, out_h * out_w)
    columns = samples.reshape(batch, groups, group_channels * taps, out_h * out_w)
    output = weight.reshape(groups, out_channels // groups, group_channels * taps) @ columns
    output = output.reshape(batch, out_channels, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _out_size(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _fake(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *geometry: int
) -> Tensor:
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight), ("mask", mask)):
        if tensor is not None and tensor.dim() != 4:
            raise RuntimeError(f"{_OP}: {name} must have 4 dimensions; got {tuple(tensor.shape)}")
    for name, tensor in (("offset", offset), ("weight", weight), ("bias", bias), ("mask", mask)):
        if tensor is not None and (tensor.dtype != input.dtype or tensor.device != input.device):
            raise RuntimeError(
                f"{_OP}: {name} must have the dtype and the device of input, {input.dtype} on {input.device}; "
                f"got {tensor.dtype} on {tensor.device}"
            )
    out_h, out_w = (_out_size(input.shape[2 + k], weight.shape[2 + k], *geometry[k::2]) for k in (0, 1))
    for name, tensor in (("offset", offset), ("mask", mask)):
        if tensor is not None:
            wanted = (input.shape[0], tensor.shape[1], out_h, out_w)
            message = f"{_OP}: {name} must have shape {wanted}; got {tuple(tensor.shape)}"
            for size, due in zip(tensor.shape, wanted, strict=True):
                torch._check(size == due, functools.partial(str, message))
    return empty_image(input, (input.shape[0], weight.shape[0], out_h, out_w), input)


# ---- autograd, vmap: what is special ---------------------------------------------------------------------------------

# What vmap adds becomes groups of the convolution and of the offsets, so that each has a weight of its own.
_IMAGE = Role(
    lambda tensor, call: tensor.movedim(0, 1).flatten(1, 2),
    lambda tensor, size: tensor.unflatten(1, (size, tensor.shape[1] // max(1, size))).movedim(1, 0),
)
_WEIGHT = BATCHED


class _DeformConv2d(Derivatives):
    def batched(self, call: Call) -> list[Tensor]:
        if call.op is self.op and not call.batched & {"weight", "bias"}:
            # One weight for all: what vmap adds goes into the batch.
            images = {name: call.tensors[name] for name in ("input", "offset", "mask")}
            folded = {name: None if x is None else x.flatten(0, 1) for name, x in images.items()}
            shared = {name: None if x is None else x[0] for name, x in call.tensors.items() if name not in images}
            (output,) = self._run(self.op, {**folded, **shared}, call.others)
            return [unfold_batch(output, call.size)]
        return super().batched(call)


# ---- onnx: ONNX's own operator ---------------------------------------------------------------------------------------


def _onnx(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *geometry: int
) -> Any:
    from handgrad.onnx import operator

    if input.dtype is not torch.float32:
        return NotImplemented
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    padding_h, padding_w = geometry[2:4]
    attributes = {
        "dilations": [*geometry[4:]],
        "group": input.shape[1] // group_channels,
        "kernel_shape": [kernel_h, kernel_w],
        "offset_group": offset.shape[1] // (2 * kernel_h * kernel_w),
        "pads": [padding_h, padding_w, padding_h, padding_w],
        "strides": [*geometry[:2]],
    }
    shape = (input.shape[0], out_channels, *offset.shape[2:])
    inputs = [input, weight, offset, bias, mask]
    return operator("DeformConv", inputs, attributes, dtype=input.dtype, shape=shape, since=19)


# ---- registration ----------------------------------------------------------------------------------------------------


_deform_conv2d = _DeformConv2d(
    "handgrad::deform_conv2d",
    reference=deform_conv2d_reference,
    fake=_fake,
    roles={"input": _IMAGE, "offset": _IMAGE, "weight": _WEIGHT, "bias": _WEIGHT, "mask": _IMAGE, "output": _IMAGE},
    gradient_like=lambda tensor: empty_image(tensor, tensor.shape, tensor),
    onnx=_onnx,
    omitted={"bias": lambda weight, **_: weight.new_zeros(weight.shape[0])},
    extras={"deterministic": torch.are_deterministic_algorithms_enabled},
    splits=lambda **_: [{"input": 0, "offset": 0, "weight": None, "bias": None, "mask": 0, "output": 0}],
)
