"""What tools/release.py refuses, on wheels made up for it."""

import re
import zipfile

import pytest

from test_main import fat_binary
from tools import release

ALL = [(2, architecture, 0) for architecture in release.supported()]


SCHEMAS = b"\x7fELF\0" + b"12.9.86 75-real 80-real 80-virtual\0"


def wheel(folder, code, name="handgrad-1.0-py3-none-manylinux_2_34_x86_64.whl", also=()):
    with zipfile.ZipFile(folder / name, "w") as archive:
        for library in ("handgrad/lib/libhandgrad.so", *also):
            archive.writestr(library, SCHEMAS)
        if code is not None:
            archive.writestr("handgrad/lib/libhandgrad_cuda.so", fat_binary(*code))


def test_there_are_architectures():
    assert len(ALL) >= 5


def test_a_whole_wheel_is_released(tmp_path, capsys):
    wheel(tmp_path, [*ALL, (1, 80, 0)])
    assert release.main(tmp_path) == 0
    said = capsys.readouterr().out
    assert "MB, for 75, 80" in said
    assert "run under drivers of CUDA 12 and newer" in said


@pytest.mark.parametrize(
    ("code", "also", "message"),
    [
        ([(2, 90, 0), (1, 90, 0)], (), r"must hold machine code for 75, .*; it lacks sm_75, sm_80"),
        (
            [*ALL[:-1], (1, 80, 0)],
            (),
            f"it lacks sm_{release.supported()[-1]}. Build it with HANDGRAD_CUDA_ARCHS unset",
        ),
        (None, (), "it lacks sm_75"),
        (ALL, (), "it must hold PTX, for devices to come; it holds none"),
        ([*ALL, (1, 80, 0)], ("handgrad/lib/libhandgrad_emulated.so",), "it must not hold the emulated kernels"),
    ],
)
def test_a_part_is_refused(tmp_path, capsys, code, also, message):
    wheel(tmp_path, code, also=also)
    assert release.main(tmp_path) == 1
    assert re.search(message, capsys.readouterr().err)


def test_the_platform_the_size_and_the_number_are_looked_at(tmp_path, capsys, monkeypatch):
    wheel(tmp_path, [*ALL, (1, 80, 0)], "handgrad-1.0-py3-none-linux_x86_64.whl")
    assert release.main(tmp_path) == 1
    assert "its platform must be manylinux; it is linux" in capsys.readouterr().err
    monkeypatch.setattr(release, "LARGEST", 100)
    assert release.main(tmp_path) == 1
    assert "it must have 0 MB at most; it has 0.0" in capsys.readouterr().err
    wheel(tmp_path, None)
    assert release.main(tmp_path) == 1
    assert "must hold one wheel; it holds 2: run make wheel" in capsys.readouterr().err
