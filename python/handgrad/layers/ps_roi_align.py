"""Position-sensitive RoIAlign. Mathematics, derivatives and numerics: docs/layers/ps_roi_align.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad._rois import (
    ROLES,
    SPLITS,
    PooledRois,
    as_constants,
    check_channels,
    check_rois,
    checked_grid,
    checked_size_and_scale,
    gradient_like,
    pooled_by_position,
    sampled_bins,
)
from handgrad.arguments import check_tensor
from handgrad.tracing import traceable

_OP = "ps_roi_align"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def ps_roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
) -> Tensor:
    r"""Averages of an image over the bins of boxes, sampled between pixels, in which every bin has channels of its own
    (`Light-Head R-CNN <https://arxiv.org/abs/1711.07264>`_, Li et al., 2017, with the sampling of `Mask R-CNN
    <https://arxiv.org/abs/1703.06870>`_, He et al., 2017).

    Signature, values and gradient of :func:`torchvision.ops.ps_roi_align`; beyond it: second derivatives, forward mode,
    bfloat16 and float16, channels_last, and a backward pass that is deterministic and keeps nothing but the inputs.

    Args:
        input: (batch, channels, height, width), of which channel :math:`(c P + p) Q + q` is that of bin :math:`(p, q)`
            of channel :math:`c` of the output; float32, float64, bfloat16 or float16, any strides.
        boxes: (boxes, 5), each the number of an image, x1, y1, x2, y2; or for each image a tensor of (its boxes, 4).
            Of any floating-point type that the one which ``input`` is computed in can hold, or int64 or int32. They are
            constants, as they are to torchvision.
        output_size: height :math:`P` and width :math:`Q` of the output, in bins; one number is both. Their product
            divides the channels.
        spatial_scale: what coordinates are multiplied by to become pixels of ``input``, whose centres are at a half.
        sampling_ratio: how many points are sampled in each bin along either axis. 0 or less: as many as the bin is
            pixels long, rounded up, which differs from box to box; 65,536 at most.

    Returns:
        (boxes, channels / bins, height, width) of ``output_size``, in the type of ``input``, channels_last if ``input``
        is. 0 for a bin without sampling points in the image; NaN for a box with a coordinate that is NaN or infinite.

    Raises:
        ValueError: ``output_size``, ``spatial_scale`` or ``sampling_ratio`` out of range, or a list of boxes of another
            length than the batch.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together, or a box of an image that is not
            there. (On a CUDA device, which would have to be waited for, such a box gives NaN instead.)

    Example:
        >>> image = torch.arange(32.0).view(1, 2, 4, 4)
        >>> ps_roi_align(image, [torch.tensor([[0, 0, 2, 4]])], output_size=(2, 1), sampling_ratio=2).flatten()
        tensor([ 2.5000, 26.5000])
    """
    check_tensor(_OP, "input", input)
    boxes = as_constants(_OP, input, boxes)
    pooled = checked_size_and_scale(_OP, output_size, spatial_scale)
    return _ps_roi_align(input, boxes, *pooled, spatial_scale, checked_grid(_OP, sampling_ratio))


# ---- module ----------------------------------------------------------------------------------------------------------


class PSRoIAlign(nn.Module):
    """:func:`ps_roi_align` as a module, in place of :class:`torchvision.ops.PSRoIAlign`.

    Args:
        output_size, spatial_scale, sampling_ratio: see :func:`ps_roi_align`; checked here, so that a mistake shows at
            construction.

    Shape:
        ``forward(input, boxes)``: (batch, channels, height, width) and (boxes, 5), or a list of (boxes, 4), to (boxes,
        channels / bins, height, width) of ``output_size``.

    Example:
        >>> pool = PSRoIAlign(7, spatial_scale=1 / 16)
        >>> pool(torch.rand(2, 2 * 49, 20, 30), [torch.rand(3, 4) * 300, torch.rand(1, 4) * 300]).shape
        torch.Size([4, 2, 7, 7])
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float = 1.0, sampling_ratio: int = -1
    ) -> None:
        super().__init__()
        checked_size_and_scale(_OP, output_size, spatial_scale)
        checked_grid(_OP, sampling_ratio)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, boxes: Tensor | list[Tensor]) -> Tensor:
        return ps_roi_align(input, boxes, self.output_size, self.spatial_scale, self.sampling_ratio)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, sampling_ratio={self.sampling_ratio}"
        )


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def ps_roi_align_reference(
    input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: the sampling points along each axis, the
    weights that they give to rows and to columns, and the sums of products."""
    sizes = (spatial_scale, sampling_ratio, True)
    rows = sampled_bins(boxes[:, 2], boxes[:, 4], pooled_h, input.shape[2], *sizes)
    columns = sampled_bins(boxes[:, 1], boxes[:, 3], pooled_w, input.shape[3], *sizes)
    return pooled_by_position(input, boxes[:, 0], rows, columns)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, *_: Any) -> Tensor:
    check_rois(_OP, input, boxes)
    check_channels(_OP, input, pooled_h, pooled_w)
    return empty_image(input, (boxes.shape[0], input.shape[1] // (pooled_h * pooled_w), pooled_h, pooled_w), input)


# ---- registration ----------------------------------------------------------------------------------------------------


# Boxes are split, and each device has all images. (Channels that lie beside each other are bins of one.)
_ps_roi_align = PooledRois(
    "handgrad::ps_roi_align",
    reference=ps_roi_align_reference,
    fake=_fake,
    roles=ROLES,
    gradient_like=gradient_like,
    splits=lambda **_: SPLITS[:1],
)
