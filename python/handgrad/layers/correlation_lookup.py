"""A lookup of correlations around points. Mathematics: docs/layers/correlation_lookup.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad.arguments import as_computed, check_int, check_tensor, dtype_name
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "correlation_lookup"
_LARGEST_RADIUS = 15
_MOST_LEVELS = 32

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def correlation_lookup(
    fmap1: Tensor, fmap2: Tensor | Sequence[Tensor], coords: Tensor, radius: int = 4, num_levels: int = 4
) -> Tensor:
    r"""How alike each pixel's features are to those around a point of another map, at several scales: RAFT's lookup
    without the volume of all pairs (Teed, Deng, `RAFT <https://arxiv.org/abs/2003.12039>`_, 2020, section 3.2).

    .. math:: y_{l a b}(r) = \frac{1}{\sqrt{C}} \Big\langle f_1(r),\;
        f_2^l\big(2^{-l} p(r) + (a - \rho,\, b - \rho)\big) \Big\rangle, \qquad 0 \le a, b \le 2\rho

    with the radius :math:`\rho`, the point :math:`p(r)` and bilinear interpolation of :math:`f_2^l`, the second map
    averaged over squares of :math:`2^l` pixels; outside are zeros. Values and order of torchvision's ``CorrBlock``;
    beyond it: memory in proportion to the maps, not to their product; gradients with respect to ``coords``; second
    derivatives and forward mode; the same bits in every run.

    Args:
        fmap1: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        fmap2: (batch, channels, height2, width2) of the same dtype, of which ``num_levels`` levels are made; or the
            levels, a sequence of such maps. Fastest in channels_last.
        coords: (batch, 2, height, width), each x, y in pixels of the first level. Of any floating-point type that the
            one which ``fmap1`` is computed in can hold.
        radius: of the window, at most 15.
        num_levels: how many levels; not looked at where ``fmap2`` is a sequence.

    Returns:
        (batch, levels * (2 * radius + 1)**2, height, width): for each level the horizontal offsets, and for each of
        them the vertical ones. Where a point is NaN the output is NaN.

    Raises:
        ValueError: a number out of range, or more levels than the map has halves.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> correlation_lookup(torch.ones(1, 1, 1, 1), image, torch.ones(1, 2, 1, 1), radius=1, num_levels=1).flatten()
        tensor([0., 3., 6., 1., 4., 7., 2., 5., 8.])
    """
    check_tensor(_OP, "fmap1", fmap1)
    check_tensor(_OP, "coords", coords)
    radius = check_int(_OP, "radius", radius, 0, _LARGEST_RADIUS)
    levels = _levels(fmap2, num_levels)
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(fmap1.device.type):
        levels = [level.to(fmap1.dtype) for level in levels]
    coords = as_computed(_OP, "coords", coords, "a fmap1", fmap1)
    # Halves are exact.
    looked = [
        _correlation_lookup(fmap1, level, coords * 0.5**index if index else coords, radius)
        for index, level in enumerate(levels)
    ]
    return looked[0] if len(looked) == 1 else torch.cat(looked, 1)


def _levels(fmap2: Any, num_levels: Any) -> list[Tensor]:
    if isinstance(fmap2, (list, tuple)):
        if not 1 <= len(fmap2) <= _MOST_LEVELS:
            raise ValueError(f"{_OP}: fmap2 must have from 1 to {_MOST_LEVELS} levels; got {len(fmap2)}")
        for level in fmap2:
            check_tensor(_OP, "fmap2", level)
        return list(fmap2)
    check_tensor(_OP, "fmap2", fmap2)
    if fmap2.dim() != 4 or not fmap2.is_floating_point():
        raise RuntimeError(
            f"{_OP}: fmap2 must have 4 dimensions and be float32, float64, bfloat16 or float16; got "
            f"{tuple(fmap2.shape)} of {dtype_name(fmap2.dtype)}"
        )
    levels = [fmap2]
    for _ in range(check_int(_OP, "num_levels", num_levels, 1, _MOST_LEVELS) - 1):
        # (What TorchScript's tracer records of a size is no number to be compared.)
        if not torch.jit.is_tracing() and fmap2.dim() == 4 and min(levels[-1].shape[2:]) < 2:
            raise ValueError(
                f"{_OP}: num_levels must be so few that a map of {fmap2.shape[2]} x {fmap2.shape[3]} can be halved "
                f"often enough; got {num_levels}"
            )
        levels.append(F.avg_pool2d(levels[-1], 2, 2))
    return levels


# ---- module ----------------------------------------------------------------------------------------------------------


class CorrBlock(nn.Module):
    """:func:`correlation_lookup` in place of torchvision's ``CorrBlock``: the levels are made once, and looked at as
    often as RAFT updates its flow.

    Args:
        num_levels, radius: see :func:`correlation_lookup`; checked here, so that a mistake shows at construction.

    Shape:
        ``build_pyramid(fmap1, fmap2)``, then ``index_pyramid(centroids_coords)`` as often as wanted: (batch,
        out_channels, height, width).

    Example:
        >>> block = CorrBlock(num_levels=2, radius=3)
        >>> block.build_pyramid(torch.rand(1, 16, 8, 8), torch.rand(1, 16, 8, 8))
        >>> block.index_pyramid(torch.rand(1, 2, 8, 8)).shape
        torch.Size([1, 98, 8, 8])
    """

    def __init__(self, *, num_levels: int = 4, radius: int = 4) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_levels = check_int(name, "num_levels", num_levels, 1, _MOST_LEVELS)
        self.radius = check_int(name, "radius", radius, 0, _LARGEST_RADIUS)
        self.out_channels = self.num_levels * (2 * self.radius + 1) ** 2
        self.fmap1: Tensor | None = None
        self.levels: list[Tensor] = []

    def build_pyramid(self, fmap1: Tensor, fmap2: Tensor) -> None:
        """Keeps the first map, and the levels of the second with channels innermost, as they are looked at."""
        check_tensor(type(self).__name__, "fmap1", fmap1)
        check_tensor(type(self).__name__, "fmap2", fmap2)
        if fmap2.dim() == 4:
            fmap2 = fmap2.contiguous(memory_format=torch.channels_last)
        self.fmap1, self.levels = fmap1, _levels(fmap2, self.num_levels)

    def index_pyramid(self, centroids_coords: Tensor) -> Tensor:
        """What :func:`correlation_lookup` finds around the points."""
        if self.fmap1 is None:
            raise RuntimeError(f"{type(self).__name__}: build_pyramid must be called before index_pyramid")
        return correlation_lookup(self.fmap1, self.levels, centroids_coords, self.radius)

    def extra_repr(self) -> str:
        return f"num_levels={self.num_levels}, radius={self.radius}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def correlation_lookup_reference(fmap1: Tensor, fmap2: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: around each point the pixels of a window,
    gathered, their products with the pixel's features, and of each four neighbours a blend."""
    batch, channels, height, width = fmap1.shape
    side, (map_height, map_width) = 2 * radius + 2, fmap2.shape[2:]
    x, y = coords[:, 0], coords[:, 1]
    is_nan = x.isnan() | y.isnan()
    reach = radius + 1
    sees = (x >= -reach) & (x < map_width + reach) & (y >= -reach) & (y < map_height + reach)
    # Nothing infinite goes on from here, where 0 times it would be NaN; NaN does.
    x, y = (torch.where(sees | is_nan, point, 0.0) for point in (x, y))
    whole_x, whole_y = x.detach().floor(), y.detach().floor()
    right, down = (x - whole_x)[:, None, None], (y - whole_y)[:, None, None]
    offsets = torch.arange(side, device=coords.device) - radius
    # (batch, columns, rows, height, width)
    columns = torch.where(sees, whole_x, 0.0).long()[:, None, None] + offsets[:, None, None, None]
    rows = torch.where(sees, whole_y, 0.0).long()[:, None, None] + offsets[:, None, None]
    valid = sees[:, None, None] & (columns >= 0) & (columns < map_width) & (rows >= 0) & (rows < map_height)
    index = torch.where(valid, rows * map_width + columns, 0).reshape(batch, 1, side * side * height * width)
    flat = F.pad(fmap2.reshape(batch, channels, map_height * map_width), [0, 1])  # a pixel at least
    pixels = flat.to(coords.dtype).gather(2, index.expand(-1, channels, -1))
    pixels = pixels.reshape(batch, channels, side, side, height, width)
    # Beyond the edges: zeros.
    pixels = torch.where(valid[:, None], pixels, 0.0)
    products = (fmap1.to(coords.dtype)[:, :, None, None] * pixels).sum(1) / max(1, channels) ** 0.5
    left, up = 1 - right, 1 - down
    above = left * products[:, :-1, :-1] + right * products[:, 1:, :-1]
    below = left * products[:, :-1, 1:] + right * products[:, 1:, 1:]
    return (up * above + down * below).flatten(1, 2).to(fmap1.dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(fmap1: Tensor, fmap2: Tensor, coords: Tensor, radius: int) -> Tensor:
    for name, tensor in (("fmap1", fmap1), ("fmap2", fmap2), ("coords", coords)):
        if tensor.dim() != 4:
            raise RuntimeError(f"{_OP}: {name} must have 4 dimensions; got {tuple(tensor.shape)}")
        if tensor.device != fmap1.device:
            raise RuntimeError(f"{_OP}: {name} must be on the device of fmap1, {fmap1.device}; got {tensor.device}")
    if fmap2.dtype != fmap1.dtype:
        raise RuntimeError(f"{_OP}: fmap2 must have the dtype of fmap1, {fmap1.dtype}; got {fmap2.dtype}")
    batch, channels, height, width = fmap1.shape
    for name, tensor, shape in (
        ("fmap2", fmap2, (batch, channels, *fmap2.shape[2:])),
        ("coords", coords, (batch, 2, height, width)),
    ):
        message = f"{_OP}: {name} must have shape {shape}; got {tuple(tensor.shape)}"
        for size, due in zip(tensor.shape, shape, strict=True):
            torch._check(size == due, lambda message=message: message)  # type: ignore[misc]
    return fmap1.new_empty((batch, (2 * radius + 1) ** 2, height, width))


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_correlation_lookup = Derivatives(
    "handgrad::correlation_lookup",
    reference=correlation_lookup_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
