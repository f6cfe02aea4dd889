"""DCNv3, InternImage's deformable convolution. Mathematics: docs/layers/dcnv3.md."""

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
    zero_,
)
from handgrad.arguments import as_computed, check_choice, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "dcnv3"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
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
    r"""A convolution without a weight whose groups of channels look where they are told (Wang et al., `InternImage
    <https://arxiv.org/abs/2211.05778>`_, CVPR 2023, equation 2, without its projections).

    .. math:: y_g(p_0) = \sum_{k=1}^{K} m_{g k}\; x_g\left(c(p_0) + s\,(p_k + \Delta p_{g k})\right)

    for group :math:`g` and output position :math:`p_0`, whose window has its middle at :math:`c(p_0)`, and over the
    window's :math:`K` taps :math:`p_k`, counted from its middle; :math:`s` is ``offset_scale``. Between pixels
    :math:`x` is interpolated bilinearly, outside the image it is 0. What OpenGVLab's ``DCNv3Function`` computes on CUDA
    devices, on all; beyond it: second derivatives, forward mode, vmap, any number of channels and any batch, the same
    bits in every run.

    Args:
        input: (batch, height, width, channels); float32, float64, bfloat16 or float16, any strides.
        offset: (batch, out_h, out_w, group * points * 2), in pixels before they are scaled: for each group and point
            its x, then its y. Points are the taps column by column, each from above. Of any floating-point type that
            the one which ``input`` is computed in can hold, as ``mask``: float64 beside a float64 ``input``, otherwise
            float32, bfloat16 or float16.
        mask: (batch, out_h, out_w, group * points), what each sample is multiplied by.
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
        >>> half, ones = torch.full((1, 3, 3, 2), 0.5), torch.ones(1, 3, 3, 1)
        >>> dcnv3(image, half, ones, 1, 1, 1, 1, 0, 0, 1, 1, group=1, group_channels=1)[0, 0, :, 0]
        tensor([2.0000, 3.0000, 1.7500])
    """
    check_tensor(_OP, "input", input)
    check_tensor(_OP, "offset", offset)
    check_tensor(_OP, "mask", mask)
    window = check_window(
        _OP,
        *(kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, group_channels, offset_scale, remove_center),
    )
    offset = as_computed(_OP, "offset", offset, "an input", input)
    mask = as_computed(_OP, "mask", mask, "an input", input)
    return _dcnv3(input, offset, mask, *window)


# ---- module ----------------------------------------------------------------------------------------------------------


class _ToChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


_ACTIVATIONS = {"ReLU": nn.ReLU, "SiLU": nn.SiLU, "GELU": nn.GELU}


class DCNv3(DeformedGroups):
    """InternImage's deformable convolution with its projections: offsets and masks are made from a depthwise
    convolution of the input, and masks are a softmax over a group's points.

    The arguments, initial values and state dict of OpenGVLab's ``DCNv3`` and ``DCNv3_pytorch``.

    Args:
        channels: of input and output, a multiple of ``group``.
        kernel_size, stride, pad, dilation: of the window, the same along both sides.
        dw_kernel_size: side of the depthwise convolution's kernel; None: ``kernel_size``. Its stride is ``stride``.
        group: groups of channels with offsets and masks of their own.
        offset_scale: what taps and offsets are multiplied by.
        act_layer: ``"ReLU"``, ``"SiLU"`` or ``"GELU"``.
        norm_layer: ``"LN"`` or ``"BN"``.
        center_feature_scale: mix each output with its own pixel, by a factor that is made of the same features.
        remove_center: leave out the middle tap.

    Shape:
        (batch, height, width, channels) to (batch, out_h, out_w, channels).

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> DCNv3(channels=32, kernel_size=3, group=4)(torch.rand(2, 5, 6, 32)).shape
        torch.Size([2, 5, 6, 32])
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        act_layer: str = "GELU",
        norm_layer: str = "LN",
        center_feature_scale: bool = False,
        remove_center: bool | int = False,
    ) -> None:
        super().__init__(
            *(channels, kernel_size, stride, pad, dilation, group, offset_scale, dw_kernel_size),
            *(center_feature_scale, remove_center),
        )
        name = type(self).__name__
        self.dw_kernel_size = self.dw_kernel_size or self.kernel_size
        activation = _ACTIVATIONS[check_choice(name, "act_layer", act_layer, _ACTIVATIONS)]
        norm: list[nn.Module]
        if check_choice(name, "norm_layer", norm_layer, ("LN", "BN")) == "LN":
            norm = [_ToChannelsLast(), nn.LayerNorm(self.channels, eps=1e-6)]
        else:
            norm = [nn.BatchNorm2d(self.channels), _ToChannelsLast()]
        self.dw_conv = nn.Sequential(self.depthwise(self.dw_kernel_size), nn.Sequential(*norm), activation())
        self.offset = nn.Linear(self.channels, 2 * self.samples)
        self.mask = nn.Linear(self.channels, self.samples)
        self.input_proj = nn.Linear(self.channels, self.channels)
        self.output_proj = nn.Linear(self.channels, self.channels)
        self.add_center()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        zero_(self.offset)
        zero_(self.mask)
        projection_(self.input_proj)
        projection_(self.output_proj)

    def forward(self, input: Tensor) -> Tensor:
        projected = self.input_proj(input)
        features = self.dw_conv(input.permute(0, 3, 1, 2))
        # Points between pixels need more digits than a half type has.
        computed = computed_dtype(projected)
        mask = self.mask(features).unflatten(-1, (self.group, -1)).softmax(-1, dtype=computed).flatten(-2)
        output = dcnv3(projected, self.offset(features).to(computed), mask, *self.arguments())
        return self.output_proj(self.with_center(output, features, projected))


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def dcnv3_reference(input: Tensor, offset: Tensor, mask: Tensor, *numbers: Any) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: the window's taps, moved by their offsets; at
    each the four pixels around it, gathered, and their weights."""
    window = Window(*numbers)
    grouped = offset.unflatten(-1, (window.group, window.points, 2))
    return deformed_groups_reference(input, grouped, mask.unflatten(-1, (window.group, window.points)), window)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, offset: Tensor, mask: Tensor, *numbers: Any) -> Tensor:
    window = Window(*numbers)
    output = fake_output(_OP, input, window)
    outer, samples = tuple(output.shape[:3]), window.group * window.points
    check_fake(_OP, "offset", offset, (*outer, 2 * samples), input)
    check_fake(_OP, "mask", mask, (*outer, samples), input)
    return output


# ---- onnx: a GridSample ----------------------------------------------------------------------------------------------


def _onnx(input: Tensor, offset: Tensor, mask: Tensor, *numbers: Any) -> Any:
    window = Window(*numbers)
    grouped = offset.unflatten(-1, (window.group, window.points, 2))
    return deformed_groups_onnx(input, grouped, mask, window)


# ---- registration ----------------------------------------------------------------------------------------------------


_dcnv3 = Derivatives(
    "handgrad::dcnv3",
    reference=dcnv3_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=lambda tensor: tensor.new_empty(tensor.shape),
    onnx=_onnx,
)
