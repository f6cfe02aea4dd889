"""DCNv4, a deformable convolution of groups without a softmax. Mathematics: docs/layers/dcnv4.md."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from handgrad._deformed_groups import (
    DeformedGroups,
    Window,
    check_fake,
    check_window,
    deformed_groups_onnx,
    deformed_groups_reference,
    fake_output,
    projection_,
    side_of,
    zero_,
)
from handgrad.arguments import as_computed, check_bool, check_pair, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "dcnv4"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def dcnv4(
    input: Tensor,
    offset_mask: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    group_channels: int,
    offset_scale: float = 1.0,
    remove_center: bool | int = False,
) -> Tensor:
    r"""A convolution without a weight whose groups of channels look where they are told, with masks that are any
    numbers (Xiong et al., `Efficient Deformable ConvNets <https://arxiv.org/abs/2401.06197>`_, CVPR 2024, without its
    projections).

    .. math:: y_g(p_0) = \sum_{k=1}^{K} m_{g k}\; x_g\left(c(p_0) + s\,(p_k + \Delta p_{g k})\right)

    for group :math:`g` and output position :math:`p_0`, whose window has its middle at :math:`c(p_0)`, and over the
    window's :math:`K` taps :math:`p_k`, counted from its middle; :math:`s` is ``offset_scale``. Between pixels
    :math:`x` is interpolated bilinearly, outside the image it is 0. What OpenGVLab's ``DCNv4Function`` computes, on all
    devices; beyond it: second derivatives, forward mode, vmap, float64 and bfloat16, any kernel, any number of channels
    and any batch, the same bits in every run.

    Args:
        input: (batch, height, width, channels); float32, float64, bfloat16 or float16, any strides.
        offset_mask: (batch, out_h, out_w, group * points * 3), or with channels behind these that fill them up to a
            multiple of 8 and are not read. For each group the offsets of its points, in pixels before they are scaled,
            each x, y, and then their masks. Points are the taps column by column, each from above. Of any
            floating-point type that the one which ``input`` is computed in can hold: float64 beside a float64
            ``input``, otherwise float32, bfloat16 or float16.
        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w: the window.
        group, group_channels: channels are groups of as many; each has offsets and masks of its own.
        offset_scale: what taps and offsets are multiplied by.
        remove_center: leave out the middle tap, so that there are ``kernel_h * kernel_w - 1`` points.

    Returns:
        (batch, out_h, out_w, channels) in the type of ``input``, with out_h = (height + 2 pad_h - dilation_h (kernel_h
        - 1) - 1) // stride_h + 1. Where an offset is NaN the output of its group is NaN.

    Raises:
        ValueError: a number out of range, or ``remove_center`` with an even kernel.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> image = torch.arange(9.0).view(1, 3, 3, 1)
        >>> twice = torch.tensor([0.5, 0.5, 2.0]).expand(1, 3, 3, 3)
        >>> dcnv4(image, twice, 1, 1, 1, 1, 0, 0, 1, 1, group=1, group_channels=1)[0, 0, :, 0]
        tensor([4.0000, 6.0000, 3.5000])
    """
    check_tensor(_OP, "input", input)
    check_tensor(_OP, "offset_mask", offset_mask)
    window = check_window(
        _OP,
        *(kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, group_channels, offset_scale, remove_center),
    )
    offset_mask = as_computed(_OP, "offset_mask", offset_mask, "an input", input)
    return _dcnv4(input, offset_mask, *window)


# ---- module ----------------------------------------------------------------------------------------------------------


class DCNv4(DeformedGroups):
    """Deformable convolution of groups with its projections: offsets and masks are a linear map of each pixel, or of a
    depthwise convolution, and masks are left as they are.

    The arguments, initial values and state dict of OpenGVLab's ``DCNv4``.

    Args:
        channels: of input and output, a multiple of ``group``.
        kernel_size, stride, pad, dilation: of the window, the same along both sides. A stride other than 1 needs
            ``dw_kernel_size``, since there is no pixel's offset for each output otherwise.
        group: groups of channels with offsets and masks of their own.
        offset_scale: what taps and offsets are multiplied by.
        dw_kernel_size: side of the depthwise convolution's kernel that offsets and masks are made after; None: none.
        center_feature_scale: mix each output with its own pixel, by a factor that is made of the output.
        remove_center: leave out the middle tap.
        output_bias: whether the projection of the output has a bias.
        without_pointwise: no projections of input and output.

    Shape:
        ``forward(input, shape=None)``: (batch, height * width, channels) with ``shape`` (height, width), None for a
        square, as OpenGVLab's; or (batch, height, width, channels) without. The output has as many dimensions.

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> DCNv4(channels=32, group=2)(torch.rand(2, 30, 32), shape=(5, 6)).shape
        torch.Size([2, 30, 32])
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        center_feature_scale: bool = False,
        remove_center: bool | int = False,
        output_bias: bool = True,
        without_pointwise: bool = False,
    ) -> None:
        super().__init__(
            *(channels, kernel_size, stride, pad, dilation, group, offset_scale, dw_kernel_size),
            *(center_feature_scale, remove_center),
        )
        name = type(self).__name__
        if self.stride > 1 and self.dw_kernel_size is None:
            raise ValueError(f"{name}: stride must be 1 where dw_kernel_size is None; got {stride}")
        self.without_pointwise = check_bool(name, "without_pointwise", without_pointwise)
        check_bool(name, "output_bias", output_bias)
        if self.dw_kernel_size is not None:
            self.offset_mask_dw = self.depthwise(self.dw_kernel_size)
        # Filled up to a multiple of 8.
        self.offset_mask = nn.Linear(self.channels, -(-3 * self.samples // 8) * 8)
        if not self.without_pointwise:
            self.value_proj = nn.Linear(self.channels, self.channels)
            self.output_proj = nn.Linear(self.channels, self.channels, bias=output_bias)
        self.add_center()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        zero_(self.offset_mask)
        if not self.without_pointwise:
            projection_(self.value_proj)
            projection_(self.output_proj)

    def forward(self, input: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        flat = input.dim() == 3
        if flat:
            input = input.unflatten(1, self._shape(input, shape))
        elif shape is not None:
            raise ValueError(f"{type(self).__name__}: shape must be None where input has one of its own; got {shape}")
        features = input
        if self.dw_kernel_size is not None:
            features = self.offset_mask_dw(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        projected = input if self.without_pointwise else self.value_proj(input)
        # Points between pixels need more digits than a half type has.
        offset_mask = self.offset_mask(features).to(computed_dtype(projected))
        output = dcnv4(projected, offset_mask, *self.arguments())
        output = self.with_center(output, output, projected)
        if not self.without_pointwise:
            output = self.output_proj(output)
        return output.flatten(1, 2) if flat else output

    def _shape(self, input: Tensor, shape: tuple[int, int] | None) -> tuple[int, int]:
        if shape is not None:
            return check_pair(type(self).__name__, "shape", shape, 1)
        side = side_of(type(self).__name__, input.shape[1])
        return side, side


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def _parts(offset_mask: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Offsets (batch, out_h, out_w, group, points, 2) and masks (batch, out_h, out_w, group, points)."""
    grouped = offset_mask[..., : window.group * window.points * 3].unflatten(-1, (window.group, 3 * window.points))
    offset, mask = grouped[..., : 2 * window.points], grouped[..., 2 * window.points :]
    return offset.unflatten(-1, (window.points, 2)), mask


def dcnv4_reference(input: Tensor, offset_mask: Tensor, *numbers: Any) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: the window's taps, moved by their offsets; at
    each the four pixels around it, gathered, and their weights."""
    window = Window(*numbers)
    return deformed_groups_reference(input, *_parts(offset_mask, window), window)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, offset_mask: Tensor, *numbers: Any) -> Tensor:
    window = Window(*numbers)
    output = fake_output(_OP, input, window)
    needed = 3 * window.group * window.points
    filled = needed if offset_mask.dim() == 4 and offset_mask.shape[3] == needed else -(-needed // 8) * 8
    check_fake(_OP, "offset_mask", offset_mask, (*output.shape[:3], filled), input)
    return output


# ---- onnx: a GridSample ----------------------------------------------------------------------------------------------


def _onnx(input: Tensor, offset_mask: Tensor, *numbers: Any) -> Any:
    window = Window(*numbers)
    return deformed_groups_onnx(input, *_parts(offset_mask, window), window)


# ---- registration ----------------------------------------------------------------------------------------------------


_dcnv4 = Derivatives(
    "handgrad::dcnv4",
    reference=dcnv4_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=lambda tensor: tensor.new_empty(tensor.shape),
    onnx=_onnx,
)
