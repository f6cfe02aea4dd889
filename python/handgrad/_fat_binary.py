"""Reads the code that nvcc puts into a library or an object file: machine code and PTX, by architecture.

nvcc writes "fat binaries": a header of 16 bytes, then entries, each with a header that says whether it is machine code
or PTX, for which architecture, and how long it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = struct.pack("<I", 0xBA55ED50)
_KINDS = {1: "compute", 2: "sm"}
_ENTRY_HEADER = 48


@dataclass(frozen=True)
class Entry:
    """One piece of code."""

    architecture: int
    name: str  #: as nvcc says it: sm_90 is machine code, compute_90 is PTX
    size: int  #: bytes in the file: compressed, where nvcc has compressed it


def entries(data: bytes) -> Iterator[Entry]:
    """The pieces of code in the contents of a file, in their order."""
    start = data.find(_MAGIC)
    while 0 <= start <= len(data) - 16:
        version, header, size = struct.unpack_from("<HHQ", data, start + 4)
        first, end = start + header, start + header + size
        if version == 1 and header >= 16 and end <= len(data):  # and not these four bytes by chance
            yield from _entries_between(data, first, end)
        start = data.find(_MAGIC, start + 4)


def _entries_between(data: bytes, position: int, end: int) -> Iterator[Entry]:
    while position + _ENTRY_HEADER <= end:
        kind, _, header, size = struct.unpack_from("<HHIQ", data, position)
        architecture = struct.unpack_from("<I", data, position + 28)[0]
        flags = struct.unpack_from("<Q", data, position + 40)[0]
        suffix = "a" if flags & 1 << 20 else "f" if flags & 1 << 21 else ""
        if kind in _KINDS:
            yield Entry(architecture, f"{_KINDS[kind]}_{architecture}{suffix}", header + size)
        position += max(header + size, 1)
