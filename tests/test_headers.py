"""tools/headers.py compiles what the build has compiled, against another torch's headers."""

import json
from pathlib import Path

import pytest
import torch

from tools import headers


@pytest.fixture
def build(tmp_path):
    """A build of one op against a torch that is not there any more."""
    entries = []
    for library, ending, text in (
        ("my_ops", ".cpp", ""),
        ("my_ops_cpu_v2", "_cpu.cpp", "#include <torch/csrc/stable/version.h>\n"),
        ("my_ops_cpu_v3", "_cpu.cpp", "#error not twice\n"),
        ("my_ops_emulated", "_cuda.cpp", "#error not the emulator's\n"),
    ):
        source = tmp_path / library / f"an_op{ending}"
        source.parent.mkdir()
        source.write_text(text)
        output = f"/build/CMakeFiles/{library}.dir/an_op{ending}.o"
        command = f"c++ -isystem /gone/include -O3 -o {output} -c {source}"
        entries.append({"directory": str(tmp_path), "command": command, "file": str(source), "output": output})
    (tmp_path / "compile_commands.json").write_text(json.dumps(entries))
    return tmp_path


def test_each_source_is_read_once_with_other_headers(build, capsys):
    assert headers.main(build) == 0
    assert f"2 of 2 files compile against the headers of torch {torch.__version__}" in capsys.readouterr().out


def test_what_does_not_compile_is_shown(build, capsys):
    (build / "my_ops_cpu_v2" / "an_op_cpu.cpp").write_text("#include <torch/no_such_header.h>\n")
    assert headers.main(build) == 1
    printed = capsys.readouterr()
    assert "1 of 2 files compile" in printed.out
    assert "an_op_cpu.cpp does not compile:" in printed.err
    assert "no_such_header.h" in printed.err


def test_of_cuda_the_least_is_compiled(tmp_path):
    entries = []
    for name, size in (("large", 9), ("small", 3)):
        (tmp_path / f"{name}_cuda.cu").write_text("x" * size)
        output = f"b/CMakeFiles/my_ops_cuda.dir/{name}_cuda.cu.o"
        command = f"nvcc -isystem=/gone -O3 -o {output} -c x"
        entries.append({"command": command, "file": str(tmp_path / f"{name}_cuda.cu"), "output": output})
    (tmp_path / "compile_commands.json").write_text(json.dumps(entries))
    (entry,) = headers.chosen(tmp_path)
    assert Path(entry["file"]).name == "small_cuda.cu"
    words = headers.against(entry, Path("/torch/include"), Path("/dev/null"))
    assert words == ["nvcc", "-isystem=/torch/include", "-o", "/dev/null", "-c", "x", "-O0"]
