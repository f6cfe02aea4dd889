"""Pillow's pictures: their memory, read where it lies; and the order in which Pillow resizes their axes."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

#: Channels of the modes whose pixels are bytes that Pillow resamples one by one. (It multiplies by alpha first, and
#: takes the nearest of a palette. LAB has other bytes in memory than outside.) In memory a pixel is one byte or four.
CHANNELS = {"L": 1, "RGB": 3, "YCbCr": 3, "HSV": 3, "CMYK": 4}


class _Array(ctypes.Structure):
    """The Arrow C data interface's description of an array."""


_Array._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]


@functools.cache
def _capsule_pointer() -> Any:
    function = ctypes.pythonapi.PyCapsule_GetPointer
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return function


def pixels(image: Any) -> tuple[Tensor, Any]:
    """A picture of one of the modes above as (channels, height, width) levels, to be read while what comes with them is
    kept: the picture's own memory, or a copy where it is not in one piece or Pillow is older than 11.3."""
    width, height = image.size
    channels = CHANNELS[image.mode]
    step = 1 if channels == 1 else 4
    image.load()
    try:
        kept = image.__arrow_c_array__()
    except (AttributeError, ValueError, MemoryError):
        from torchvision.transforms.v2.functional import pil_to_tensor

        return pil_to_tensor(image), None
    array = ctypes.cast(_capsule_pointer()(kept[1], b"arrow_array"), ctypes.POINTER(_Array)).contents
    values = array.children[0].contents if array.n_children == 1 else array
    if values.length * values.n_buffers != 2 * height * width * step or array.offset or values.offset:
        raise RuntimeError(f"fuse: Pillow describes {image.size} pixels of mode {image.mode} in an unknown way")
    memory = (ctypes.c_ubyte * (height * width * step)).from_address(values.buffers[1])
    levels = torch.frombuffer(memory, dtype=torch.uint8).view(height, width, step)
    return levels[:, :, :channels].permute(2, 0, 1), (image, kept)


def picture(levels: Tensor, like: Any) -> Any:
    """(channels, height, width) levels as a picture of the mode of another."""
    from PIL import Image

    height, width = levels.shape[1:]
    data = levels.permute(1, 2, 0).contiguous().numpy()
    made = Image.frombuffer(like.mode, (width, height), data, "raw", like.mode, 0, 1)
    made.info = like.info.copy()
    return made


@functools.cache
def _orders() -> bool | None:
    """Whether the installed Pillow resizes columns first where they shrink much more; None if neither that nor rows
    first, always, explains its pictures."""
    from PIL import Image

    agree = {True: True, False: True}
    pattern = bytes((73 * k * k + 31 * k) % 256 for k in range(40 * 40))
    for height, width, new_height, new_width in (
        (40, 20, 9, 18), (40, 30, 10, 16), (40, 40, 20, 29), (40, 40, 20, 31), (24, 40, 8, 31), (24, 40, 8, 33),
        (30, 30, 40, 40), (40, 40, 10, 10), (40, 20, 12, 26),
    ):  # fmt: skip
        image = Image.frombytes("L", (width, height), pattern[: width * height])
        result = image.resize((new_width, new_height), 2).tobytes()
        by_rows = image.resize((new_width, height), 2).resize((new_width, new_height), 2).tobytes()
        by_columns = image.resize((width, new_height), 2).resize((new_width, new_height), 2).tobytes()
        for rule in agree:
            columns = rule and _shrinks_more(height, width, new_height, new_width)
            agree[rule] = agree[rule] and result == (by_columns if columns else by_rows)
    return next((rule for rule, agrees in agree.items() if agrees), None)


def _shrinks_more(height: int, width: int, new_height: int, new_width: int) -> bool:
    return new_height < height and 2 * (width - new_width) < height - new_height


def order_is_known() -> bool:
    return _orders() is not None


def columns_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether Pillow resizes columns before rows: each of the two rounds to levels, so that the order shows."""
    return width != new_width and bool(_orders()) and _shrinks_more(height, width, new_height, new_width)
