"""``python -m handgrad``: what its commands print, and that info still speaks when the libraries cannot be loaded."""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import handgrad
from handgrad import _info, _library
from handgrad.__main__ import main
from handgrad.registration import OPERATORS
from handgrad.sdk import lazy

PACKAGE = Path(handgrad.__file__).parent
KEYS = [
    "versions",
    "platform",
    "torch_cuda",
    "libraries_folder",
    "libraries",
    "cpu_level",
    "processor_level",
    "cuda_architectures",
    "cuda_build",
    "cuda_driver",
    "cuda_devices",
    "without_cuda",
    "ops",
    "private_ops",
    "error",
]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "handgrad", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_without_a_command_it_prints_the_help(capsys):
    assert main([]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("usage: python -m handgrad")
    assert "info" in printed.out
    assert not printed.err


def test_an_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        main(["inof"])
    assert end.value.code == 2
    assert "'inof'" in capsys.readouterr().err


def test_its_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"handgrad {handgrad.__version__}\n"


def test_info_as_json_says_what_is_loaded_here():
    result = run("info", "--json")
    assert result.returncode == 0
    assert not result.stderr
    report = json.loads(result.stdout)
    assert list(report) == KEYS
    assert report["versions"]["handgrad"] == handgrad.__version__
    assert report["versions"]["python"] == platform.python_version()
    assert torch.__version__.startswith(report["versions"]["torch"])
    assert set(report["versions"]) >= {"torchvision", "onnxruntime"}
    assert report["torch_cuda"] == torch.version.cuda
    assert report["libraries"] == {name: str(path) for name, path in _library.LOADED.libraries.items()}
    assert "libhandgrad" in report["libraries"]
    assert all(Path(path).is_file() for path in report["libraries"].values())
    assert report["cpu_level"] == _library.LOADED.cpu_level
    assert report["processor_level"] == _library.LOADED.processor_level
    assert {"handgrad::local_response_norm", "handgrad::sigmoid_focal_loss"} <= set(report["ops"])
    assert report["ops"] == sorted(report["ops"])
    assert "handgrad::_local_response_norm_backward" in report["private_ops"]
    lazy.load_all("handgrad")
    assert {*report["ops"], *report["private_ops"]} == {name for name in OPERATORS if name.startswith("handgrad::")}
    assert report["error"] is None


def test_info_as_text_says_the_same(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    report = _info.gather()
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line]
    assert ["handgrad", handgrad.__version__] in lines
    assert ["torch", report["versions"]["torch"]] in lines
    for path in report["libraries"].values():
        assert path in text
    assert f"{report['cpu_level']} (this processor: {report['processor_level']})" in text
    for name in report["ops"]:
        assert name in text
    assert f"{len(report['ops'])}, and {len(report['private_ops'])} behind them" in text
    # aligned: every value begins in the same column
    starts = {line.index(path) for line in text.splitlines() for path in report["libraries"].values() if path in line}
    assert starts == {text.splitlines()[0].index(handgrad.__version__)}


def test_packages_that_are_not_installed_are_said_to_be_so(monkeypatch, capsys):
    def version(package: str) -> str:
        raise _info.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(_info.importlib.metadata, "version", version)
    assert _info.gather()["versions"]["torchvision"] is None
    assert main(["info"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("torchvision")]
    assert line.split(maxsplit=1) == ["torchvision", "not installed"]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_info_explains_libraries_that_do_not_load(monkeypatch, capsys, form):
    def loaded() -> tuple[object, list[str]]:
        raise ImportError("handgrad's library libhandgrad.so is not there: it was not built.")

    monkeypatch.setattr(_info, "_loaded", loaded)
    assert main(["info", *form]) == 1
    printed = capsys.readouterr()
    assert printed.err == "handgrad's library libhandgrad.so is not there: it was not built.\n"
    if form:
        report = json.loads(printed.out)
        assert list(report) == KEYS
        assert report["error"] == printed.err.strip()
        assert report["libraries"] == {}
        assert report["ops"] == []
        assert report["versions"]["torch"]
    else:
        assert "not loaded" in printed.out
        assert str(PACKAGE / "lib") in printed.out


def test_info_of_a_package_without_libraries_says_why_and_fails(tmp_path):
    copy = tmp_path / "handgrad"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("lib", "__pycache__"))
    result = run("info", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert f"is not in {copy / 'lib'}: it was not built" in last
    assert "pip install" in last


def fat_binary(*entries: tuple[int, int, int]) -> bytes:
    """A fat binary as nvcc 13.0 writes them, with code of no meaning, of (kind, architecture, flags)."""
    body = b""
    for kind, architecture, flags in entries:
        code = b"\x7fELF" * 8
        body += struct.pack("<HHIQ", kind, 0x101, 64, len(code)) + bytes(12) + struct.pack("<I", architecture)
        body += bytes(8) + struct.pack("<Q", 0x11 | flags) + bytes(16) + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_cuda_architectures_are_read_from_the_library(tmp_path):
    assert _info.cuda_architectures(tmp_path) == []
    assert _info.cuda_architectures(tmp_path / "absent") == []
    first = fat_binary((2, 80, 0), (2, 90, 1 << 20), (2, 100, 1 << 21), (1, 120, 0))
    # two source files give two fat binaries; the magic number alone, at the end of the file or before it, is none
    magic = struct.pack("<I", 0xBA55ED50)
    second = fat_binary((2, 80, 0), (2, 89, 0))
    data = b"\x7fELF" + magic + b"\xff" * 20 + first + bytes(24) + second + magic + bytes(11)
    (tmp_path / "libhandgrad_cuda.so").write_bytes(data)
    (tmp_path / "libhandgrad.so").write_bytes(fat_binary((2, 75, 0)))
    assert _info.cuda_architectures(tmp_path) == ["sm_80", "sm_89", "sm_90a", "sm_100f", "compute_120"]


def test_cuda_architectures_are_shown(monkeypatch, tmp_path, capsys):
    (tmp_path / "libhandgrad_cuda.so").write_bytes(fat_binary((2, 90, 0), (1, 90, 0)))
    monkeypatch.setattr(_info, "FOLDER", tmp_path)
    assert main(["info"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("CUDA built for")]
    # And by which nvcc, where the libraries say so.
    assert line.split(maxsplit=3)[3].partition(", by CUDA ")[0] == "compute_90, sm_90"
