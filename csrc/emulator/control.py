"""Schedules and counters of a library that carries the emulator. One file, no dependency: copy it where you like.

emulator = Emulator("libkernels.so")
emulator.set_schedule("random:7")
...                                     # run kernels
emulator.counters()["sum"]["barriers"]
"""

import ctypes
from os import PathLike, fspath

_VISIT = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64))


class Emulator:
    """The emulator inside the library at `path`; each library has its own."""

    def __init__(self, path: "str | PathLike[str]") -> None:
        library = ctypes.CDLL(fspath(path))
        try:
            library.handgrad_emulator_message.restype = ctypes.c_char_p
            library.handgrad_emulator_counter_names.restype = ctypes.c_char_p
        except AttributeError:
            raise ValueError(f"{fspath(path)} was built without the emulator's src/control.cpp") from None
        library.handgrad_emulator_set_schedule.argtypes = [ctypes.c_char_p]
        library.handgrad_emulator_drop_barrier.argtypes = [ctypes.c_char_p]
        library.handgrad_emulator_set_os_threads.argtypes = [ctypes.c_int]
        library.handgrad_emulator_set_capturing.argtypes = [ctypes.c_int]
        library.handgrad_emulator_set_capturing.restype = None
        library.handgrad_emulator_counters.argtypes = [_VISIT]
        library.handgrad_emulator_counters.restype = None
        library.handgrad_emulator_reset_counters.restype = None
        self._library = library

    def _check(self, failed: int) -> None:
        if failed:
            raise ValueError(self._library.handgrad_emulator_message().decode())

    def set_schedule(self, schedule: str) -> None:
        """The order of threads and blocks: "forward", "reverse" or "random:SEED"."""
        self._check(self._library.handgrad_emulator_set_schedule(schedule.encode()))

    def set_os_threads(self, count: int) -> None:
        """Over how many operating-system threads the blocks of a launch are spread; 0: one per processor."""
        self._check(self._library.handgrad_emulator_set_os_threads(count))

    def drop_barrier(self, place: str) -> None:
        """Every kernel passes the barrier at "file:line" as if it were not there, until another is dropped or "":
        for asking whether tests would notice."""
        self._check(self._library.handgrad_emulator_drop_barrier(place.encode()))

    def set_capturing(self, whether: bool) -> None:
        """Whether streams say that their work is being recorded, as for a CUDA graph."""
        self._library.handgrad_emulator_set_capturing(int(whether))

    def counters(self) -> dict[str, dict[str, int]]:
        """For each kernel launched since the last reset, by the name given to launch(): what it did."""
        names = self._library.handgrad_emulator_counter_names().decode().split()
        found: dict[str, dict[str, int]] = {}

        @_VISIT
        def visit(kernel, values):
            found[kernel.decode()] = dict(zip(names, values[: len(names)], strict=True))

        self._library.handgrad_emulator_counters(visit)
        return found

    def reset_counters(self) -> None:
        self._library.handgrad_emulator_reset_counters()
