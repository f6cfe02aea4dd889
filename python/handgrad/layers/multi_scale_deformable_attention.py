"""Multi-scale deformable attention. Mathematics: docs/layers/multi_scale_deformable_attention.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._levels import as_pairs, as_starts
from handgrad._sampled_groups import grid_samples, weighted_samples
from handgrad.arguments import INT32_MAX, as_computed, check_bool, check_int, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "multi_scale_deformable_attention"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    level_start_index: Tensor | Sequence[int] | None = None,
) -> Tensor:
    r"""What a query attends to: a few points of several feature maps, weighted (Zhu et al., `Deformable DETR
    <https://arxiv.org/abs/2010.04159>`_, 2020, equation 3, without its two projections).

    .. math:: y_{q m} = \sum_{l, k} A_{m l q k}\; v_{m l}\left(\phi_l(p_{m l q k})\right)

    for query :math:`q` and head :math:`m`, over levels :math:`l` and points :math:`k`. A location :math:`(x, y)` is
    between 0 and 1 from edge to edge of a level; between pixels the values are interpolated bilinearly, outside they
    are 0, as :func:`torch.nn.functional.grid_sample` has them with ``align_corners=False``. Any batch, any number of
    queries; second derivatives, forward mode, vmap; the same bits in every run, on every device.

    Args:
        value: (batch, positions, heads, channels), the pixels of all levels, one level after the other, each row by
            row; float32, float64, bfloat16 or float16, any strides.
        spatial_shapes: height and width of each level: pairs of numbers, or a tensor of (levels, 2). For a tensor on a
            device the host waits, and ``torch.compile`` breaks the graph: give it pairs.
        sampling_locations: (batch, queries, heads, levels, points, 2), each x, y. Of any floating-point type that the
            one which ``value`` is computed in can hold: float64 beside a float64 ``value``, otherwise float32, bfloat16
            or float16, which is too coarse for a feature map of more than a few dozen pixels.
        attention_weights: (batch, queries, heads, levels, points), of the same types.
        level_start_index: where each level begins among the positions, increasing; None: one follows the other, and
            nothing follows the last.

    Returns:
        (batch, queries, heads * channels) in the type of ``value``. Where a location is NaN the output is NaN.

    Raises:
        ValueError: numbers out of range, or not as many as there are levels.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> value, center = torch.arange(4.0).view(1, 4, 1, 1), torch.full((1, 1, 1, 1, 1, 2), 0.5)
        >>> multi_scale_deformable_attention(value, [(2, 2)], center, torch.ones(1, 1, 1, 1, 1))
        tensor([[[1.5000]]])
    """
    check_tensor(_OP, "value", value)
    check_tensor(_OP, "sampling_locations", sampling_locations)
    check_tensor(_OP, "attention_weights", attention_weights)
    shapes = as_pairs(_OP, spatial_shapes)
    starts = as_starts(_OP, value, shapes, level_start_index)
    sampling_locations = as_computed(_OP, "sampling_locations", sampling_locations, "a value", value)
    attention_weights = as_computed(_OP, "attention_weights", attention_weights, "a value", value)
    flat = [size for shape in shapes for size in shape]
    return _multi_scale_deformable_attention(value, sampling_locations, attention_weights, flat, starts)


# ---- module ----------------------------------------------------------------------------------------------------------


class MultiScaleDeformableAttention(nn.Module):
    """Deformable attention with its four projections (Deformable DETR, equation 3): queries say by how much their
    points are off the reference points, and how much each counts.

    Loads the state dicts of Deformable DETR's ``MSDeformAttn``, of mmcv's ``MultiScaleDeformableAttention`` and of
    Hugging Face's ``DeformableDetrMultiscaleDeformableAttention``, which are one, and has the same initial values.

    Args:
        embed_dims: channels of queries, values and outputs, a multiple of ``num_heads``.
        num_heads, num_levels, num_points: heads, feature maps, and points that a head looks at in each.
        batch_first: (batch, queries, channels), as with Deformable DETR and Hugging Face. False, mmcv's default, is
            (queries, batch, channels) for ``query``, ``value`` and the output.

    Shape:
        ``forward(query, reference_points, value, spatial_shapes, level_start_index=None, padding_mask=None)``, in the
        order of Deformable DETR's. ``reference_points`` is (batch, queries, num_levels, 2): x, y in [0, 1], which
        offsets are added to in pixels of each level; or 4: centre, width and height of a box, and offsets in halves of
        it. ``padding_mask`` (batch, positions): True where ``value`` is padding, which counts as zeros. (Hugging Face's
        ``attention_mask`` is its opposite.) The others as in :func:`multi_scale_deformable_attention`.

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> attention = MultiScaleDeformableAttention(32, num_heads=4, num_levels=2)
        >>> query, points, value = torch.rand(1, 5, 32), torch.rand(1, 5, 2, 2), torch.rand(1, 20, 32)
        >>> attention(query, points, value, [(4, 4), (2, 2)]).shape
        torch.Size([1, 5, 32])
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        *,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.embed_dims = check_int(name, "embed_dims", embed_dims, 1, INT32_MAX)
        self.num_heads = check_int(name, "num_heads", num_heads, 1, INT32_MAX)
        self.num_levels = check_int(name, "num_levels", num_levels, 1, INT32_MAX)
        self.num_points = check_int(name, "num_points", num_points, 1, INT32_MAX)
        self.batch_first = check_bool(name, "batch_first", batch_first)
        if self.embed_dims % self.num_heads:
            raise ValueError(f"{name}: embed_dims must be a multiple of num_heads, {num_heads}; got {embed_dims}")
        samples = self.num_heads * self.num_levels * self.num_points
        self.sampling_offsets = nn.Linear(self.embed_dims, 2 * samples)
        self.attention_weights = nn.Linear(self.embed_dims, samples)
        self.value_proj = nn.Linear(self.embed_dims, self.embed_dims)
        self.output_proj = nn.Linear(self.embed_dims, self.embed_dims)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in as many directions, their points at 1, 2, … pixels, all with the same weight."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * distances[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        for zeros in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zeros)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Tensor | Sequence[tuple[int, int]],
        level_start_index: Tensor | Sequence[int] | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        shapes = as_pairs(type(self).__name__, spatial_shapes)
        if len(shapes) != self.num_levels:
            raise ValueError(
                f"{type(self).__name__}: spatial_shapes must have num_levels, {self.num_levels}, of them; got "
                f"{len(shapes)}"
            )
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        value = self.value_proj(value)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, -1))
        # Points between pixels need more digits than a half type has.
        computed = computed_dtype(value)
        offsets = self.sampling_offsets(query).to(computed)
        offsets = offsets.unflatten(-1, (self.num_heads, self.num_levels, self.num_points, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1, dtype=computed)
        weights = weights.unflatten(-1, (self.num_levels, self.num_points))
        locations = self._locations(reference_points.to(computed), offsets, shapes)
        output = multi_scale_deformable_attention(value, shapes, locations, weights, level_start_index)
        output = self.output_proj(output)
        return output if self.batch_first else output.transpose(0, 1)

    def _locations(self, reference_points: Tensor, offsets: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        """(batch, queries, heads, levels, points, 2)"""
        points = reference_points[:, :, None, :, None, :]
        if reference_points.shape[-1] == 4:
            return points[..., :2] + offsets * (points[..., 2:] * (0.5 / self.num_points))
        if reference_points.shape[-1] != 2:
            raise RuntimeError(
                f"{type(self).__name__}: reference_points must have shape (batch, queries, levels, 2 or 4); got "
                f"{tuple(reference_points.shape)}"
            )
        sizes = offsets.new_tensor([[width, height] for height, width in shapes])
        return points + offsets / sizes[:, None]

    def extra_repr(self) -> str:
        text = f"{self.embed_dims}, num_heads={self.num_heads}, num_levels={self.num_levels}"
        text += f", num_points={self.num_points}"
        return text if self.batch_first else f"{text}, batch_first=False"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def multi_scale_deformable_attention_reference(
    value: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    spatial_shapes: Sequence[int],
    level_start_index: Sequence[int],
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: level by level each point, the four pixels
    around it, gathered, and their weights. (:func:`torch.nn.functional.grid_sample` has no second derivative.)"""
    batch, _, heads, channels = value.shape
    rows = value.to(sampling_locations.dtype).transpose(1, 2)  # (batch, heads, positions, channels)
    output = rows.new_zeros(batch, heads, sampling_locations.shape[1], channels)
    sizes = zip(spatial_shapes[::2], spatial_shapes[1::2], level_start_index, strict=True)
    for level, (height, width, start) in enumerate(sizes):
        # (batch, heads, queries, points)
        locations = sampling_locations[:, :, :, level].transpose(1, 2)
        x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5
        weights = attention_weights[:, :, :, level].transpose(1, 2)
        output = output + weighted_samples(rows, y, x, weights, height, width, start)
    return output.transpose(1, 2).flatten(2).to(value.dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(
    value: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    spatial_shapes: Sequence[int],
    level_start_index: Sequence[int],
) -> Tensor:
    for name, tensor, rank in (("value", value, 4), ("sampling_locations", sampling_locations, 6)):
        if tensor.dim() != rank:
            raise RuntimeError(f"{_OP}: {name} must have {rank} dimensions; got {tuple(tensor.shape)}")
    batch, _, heads, channels = value.shape
    wanted = (batch, sampling_locations.shape[1], heads, len(level_start_index), sampling_locations.shape[4])
    for name, tensor, shape in (
        ("sampling_locations", sampling_locations, (*wanted, 2)),
        ("attention_weights", attention_weights, wanted),
    ):
        message = f"{_OP}: {name} must have shape {shape}; got {tuple(tensor.shape)}"
        torch._check(tensor.dim() == len(shape), lambda message=message: message)  # type: ignore[misc]
        for size, due in zip(tensor.shape, shape, strict=True):
            torch._check(size == due, lambda message=message: message)  # type: ignore[misc]
        if tensor.device != value.device:
            raise RuntimeError(f"{_OP}: {name} must be on the device of value, {value.device}; got {tensor.device}")
    return value.new_empty((batch, wanted[1], heads * channels))


# ---- onnx: a GridSample for each level -------------------------------------------------------------------------------


def _onnx(
    value: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    spatial_shapes: Sequence[int],
    level_start_index: Sequence[int],
) -> Any:
    if value.dtype is not torch.float32:
        return NotImplemented
    heads, channels = value.shape[2:]
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    samples = []
    sizes = zip(spatial_shapes[::2], spatial_shapes[1::2], level_start_index, strict=True)
    for level, (height, width, start) in enumerate(sizes):
        # (batch * heads, channels, height, width) and (batch * heads, queries, points, 2)
        image = value[:, start : start + height * width].permute(0, 2, 3, 1)
        image = image.reshape(-1, channels, height, width)
        grid = sampling_locations[:, :, :, level].transpose(1, 2).reshape(-1, queries, points, 2)
        samples.append(grid_samples(image, 2 * grid - 1))
    weights = attention_weights.transpose(1, 2).reshape(-1, 1, queries, len(samples) * points)
    output = (torch.cat(samples, -1) * weights).sum(-1)  # (batch * heads, channels, queries)
    return output.reshape(-1, heads * channels, queries).transpose(1, 2)


# ---- registration ----------------------------------------------------------------------------------------------------


# Either the batch is split, or the queries, and each device has all of the value.
_SPLITS: list[dict[str, int | None]] = [
    {"value": 0, "sampling_locations": 0, "attention_weights": 0, "output": 0},
    {"value": None, "sampling_locations": 1, "attention_weights": 1, "output": 1},
]

_multi_scale_deformable_attention = Derivatives(
    "handgrad::multi_scale_deformable_attention",
    reference=multi_scale_deformable_attention_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=lambda tensor: tensor.new_empty(tensor.shape),
    onnx=_onnx,
    splits=lambda **_: _SPLITS,
)
