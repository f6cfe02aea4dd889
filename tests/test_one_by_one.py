"""Files that were compiled as one (`UNITY`, as in CI) may live on each other's headers: each is compiled by itself."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handgrad.testing.tiers import chosen
from tools.environments import ROOT, TOOLS_PATH, run


@pytest.mark.skipif(chosen() == "usual", reason="three minutes of the compiler: asked with TIER=whole")
def test_every_file_includes_what_it_needs(tmp_path):
    options = [f"-DPython_EXECUTABLE={sys.executable}", f"-DHANDGRAD_LIBRARY_DIR={tmp_path / 'lib'}"]
    options += ["-DHANDGRAD_EMULATED=ON", "-DHANDGRAD_CPU_LEVELS=v3", "-DHANDGRAD_CUDA_ARCHS=none"]
    run("cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options, PATH=TOOLS_PATH)
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    assert len(commands) > 2 * len(list(ROOT.glob("csrc/*/*/*_cuda.cu")))

    def error_of(command: dict[str, str]) -> str:
        words = shlex.split(command["command"])
        done = subprocess.run([*words, "-fsyntax-only"], cwd=command["directory"], capture_output=True, text=True)
        return f"{Path(command['file']).name}:\n{done.stderr}" if done.returncode else ""

    with ThreadPoolExecutor(2) as pool:
        errors = [error for error in pool.map(error_of, commands) if error]
    assert not errors, "\n".join(errors)
