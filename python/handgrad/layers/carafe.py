"""A reassembly of features by predicted kernels: CARAFE. Mathematics: docs/layers/carafe.md."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad.arguments import INT32_MAX, check_int, check_tensor
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "carafe"
# So that the number of taps cannot overflow.
_MOST_TAPS = 1023

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    r"""Enlarges feature maps by kernels that another map holds, one for each pixel of the output (Wang et al.,
    `CARAFE: Content-Aware ReAssembly of FEatures <https://arxiv.org/abs/1905.02188>`_, ICCV 2019, equation 4).

    .. math:: y_c(Y, X) = \sum_{i, j} m_{g, i, j}(Y, X)\;
        x_c(\lfloor Y / s \rfloor + i - r,\; \lfloor X / s \rfloor + j - r)

    over the taps of a window of ``kernel_size`` rows and columns, :math:`r` = kernel_size // 2, with the weights of the
    channel's group :math:`g`; what is beyond the edges counts nothing. Signature and values of mmcv's ``carafe``;
    beyond it: a CPU kernel, second derivatives and forward mode, bfloat16 and float16 (computed in float32), any
    strides, channels_last, ONNX, the same bits in every run.

    Args:
        features: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        masks: (batch, group_size * kernel_size^2, height * scale_factor, width * scale_factor), of one dtype with
            ``features``: the weights, by group, then by row and column of the window. :class:`CARAFEPack` predicts them
            so that those of a window have the sum 1; here they may be any numbers.
        kernel_size: rows and columns of the window, odd, at most 1023.
        group_size: how many groups the channels are divided into, each with weights of its own; a divisor of channels.
        scale_factor: by how much the output is larger; 1 filters.

    Returns:
        (batch, channels, height * scale_factor, width * scale_factor), in the memory format of ``features``. Under
        autocast ``masks`` is taken in the type of ``features``.

    Raises:
        ValueError: a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> features = torch.tensor([[[[1.0, 3.0]]]])
        >>> weights = torch.tensor([0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0])  # the pixel above, the pixel itself
        >>> carafe(features, weights.view(1, 9, 1, 1).expand(1, 9, 2, 4), 3, 1, 2)
        tensor([[[[0.5000, 0.5000, 1.5000, 1.5000],
                  [0.5000, 0.5000, 1.5000, 1.5000]]]])
    """
    check_tensor(_OP, "features", features)
    check_tensor(_OP, "masks", masks)
    numbers = _checked(_OP, kernel_size, group_size, scale_factor)
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(features.device.type):
        masks = masks.to(features.dtype)
    return _carafe(features, masks, *numbers)


def _checked(op: str, kernel_size: Any, group_size: Any, scale_factor: Any) -> tuple[int, int, int]:
    kernel = _checked_kernel(op, "kernel_size", kernel_size)
    group = check_int(op, "group_size", group_size, 1, INT32_MAX)
    return kernel, group, check_int(op, "scale_factor", scale_factor, 1, INT32_MAX)


def _checked_kernel(op: str, name: str, size: Any) -> int:
    checked = check_int(op, name, size, 1, _MOST_TAPS)
    if checked % 2 == 0:
        raise ValueError(f"{op}: {name} must be odd; got {size!r}")
    return checked


# ---- module ----------------------------------------------------------------------------------------------------------


class CARAFE(nn.Module):
    """:func:`carafe` as a module, in place of mmcv's.

    Args:
        kernel_size, group_size, scale_factor: see :func:`carafe`; checked here, so that a mistake shows at
            construction.

    Shape:
        ``forward(features, masks)`` as in :func:`carafe`.

    Example:
        >>> CARAFE(5, 1, 2)(torch.ones(1, 16, 8, 8), torch.ones(1, 25, 16, 16)).shape
        torch.Size([1, 16, 16, 16])
    """

    def __init__(self, kernel_size: int, group_size: int, scale_factor: int) -> None:
        super().__init__()
        self.kernel_size, self.group_size, self.scale_factor = _checked(
            type(self).__name__, kernel_size, group_size, scale_factor
        )

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        return carafe(features, masks, self.kernel_size, self.group_size, self.scale_factor)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, group_size={self.group_size}, scale_factor={self.scale_factor}"


class CARAFEPack(nn.Module):
    """Upsampling that predicts its kernels: a 1 x 1 convolution that compresses the channels, one that makes the
    kernels of all outputs of a pixel, a softmax over each kernel, and :func:`carafe` (equations 2 to 4).

    Parameters are named as in mmcv's ``CARAFEPack``, so that its ``state_dict`` loads, and begin as they do there.

    Args:
        channels: of the features.
        scale_factor: by how much the output is larger.
        up_kernel: rows and columns of the predicted kernels, odd.
        up_group: groups of channels, each with kernels of its own.
        encoder_kernel, encoder_dilation: of the convolution that makes the kernels; ``encoder_kernel`` is odd.
        compressed_channels: of the map that it sees.

    Shape:
        ``forward(x)``: (batch, channels, height, width) to (batch, channels, height * scale_factor,
        width * scale_factor).

    Example:
        >>> CARAFEPack(16, 2)(torch.ones(1, 16, 8, 8)).shape
        torch.Size([1, 16, 16, 16])
    """

    def __init__(
        self,
        channels: int,
        scale_factor: int,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.channels = check_int(name, "channels", channels, 1, INT32_MAX)
        self.scale_factor = check_int(name, "scale_factor", scale_factor, 1, INT32_MAX)
        self.up_kernel = _checked_kernel(name, "up_kernel", up_kernel)
        self.up_group = check_int(name, "up_group", up_group, 1, INT32_MAX)
        self.encoder_kernel = _checked_kernel(name, "encoder_kernel", encoder_kernel)
        self.encoder_dilation = check_int(name, "encoder_dilation", encoder_dilation, 1, INT32_MAX)
        self.compressed_channels = check_int(name, "compressed_channels", compressed_channels, 1, INT32_MAX)
        if self.channels % self.up_group:
            raise ValueError(f"{name}: up_group must divide channels, {self.channels}; got {up_group!r}")
        weights = self.up_group * (self.up_kernel * self.scale_factor) ** 2
        padding = self.encoder_kernel // 2 * self.encoder_dilation
        self.channel_compressor = nn.Conv2d(self.channels, self.compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            self.compressed_channels,
            weights,
            self.encoder_kernel,
            padding=padding,
            dilation=self.encoder_dilation,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kernels begin as nearly equal weights: an average of the window."""
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for convolution in (self.channel_compressor, self.content_encoder):
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        masks = F.pixel_shuffle(self.content_encoder(self.channel_compressor(x)), self.scale_factor)
        kernels = masks.unflatten(1, (self.up_group, self.up_kernel**2))
        masks = kernels.softmax(2, dtype=masks.dtype).flatten(1, 2)
        return carafe(x, masks, self.up_kernel, self.up_group, self.scale_factor)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, scale_factor={self.scale_factor}, up_kernel={self.up_kernel}, up_group={self.up_group}"
        )


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def carafe_reference(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: for each tap the features moved by it, times
    its weights, which a pixel has for all of its outputs."""
    batch, channels, height, width = features.shape
    radius, scale = kernel_size // 2, scale_factor
    padded = F.pad(features, [radius] * 4)
    # Where a tap reads a pixel and not what is beyond the edges, which counts nothing, whatever its weight.
    inside = F.pad(features.new_ones(1, 1, height, width), [radius] * 4) > 0
    # (batch, group, tap, 1, height, row of outputs, width, column of outputs)
    weights = masks.reshape(batch, group_size, kernel_size**2, 1, height, scale, width, scale)
    output = features.new_zeros(())
    for tap in range(kernel_size**2):
        rows = slice(tap // kernel_size, tap // kernel_size + height)
        columns = slice(tap % kernel_size, tap % kernel_size + width)
        pixels = padded[:, :, rows, columns].reshape(batch, group_size, channels // group_size, height, 1, width, 1)
        counts = inside[:, :, rows, columns].reshape(1, 1, 1, height, 1, width, 1)
        output = output + pixels * torch.where(counts, weights[:, :, tap], 0.0)
    return output.reshape(batch, channels, height * scale, width * scale)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    for name, tensor in (("features", features), ("masks", masks)):
        if tensor.dim() != 4:
            raise RuntimeError(
                f"{_OP}: {name} must have 4 dimensions (batch, channels, height, width); got {tuple(tensor.shape)}"
            )
    if masks.dtype != features.dtype or masks.device != features.device:
        raise RuntimeError(
            f"{_OP}: masks must have the dtype and device of features, {features.dtype} on {features.device}; got "
            f"{masks.dtype} on {masks.device}"
        )
    batch, channels, height, width = features.shape
    torch._check(
        channels % group_size == 0,
        lambda: f"{_OP}: group_size must divide the channels of features, {channels}; got {group_size}",
    )
    wanted = (batch, group_size * kernel_size**2, height * scale_factor, width * scale_factor)
    message = (
        f"{_OP}: masks must have shape (batch, group_size * kernel_size^2, height * scale_factor, width * "
        f"scale_factor), here {wanted}; got {tuple(masks.shape)}"
    )
    for size, due in zip(masks.shape, wanted, strict=True):
        torch._check(size == due, lambda: message)
    return empty_image(features, (batch, channels, *wanted[2:]), features)


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_carafe = Derivatives(
    "handgrad::carafe",
    reference=carafe_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
