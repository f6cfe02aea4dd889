"""What a package's setup.py tells CMake (handgrad.sdk.building): all for a wheel, this machine for an example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from handgrad.sdk.loading import LOADED, folder_of
from tools.environments import ROOT

LEVEL = LOADED["handgrad"].processor_level
GPU = "{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else "none"

# In CMake's place: notes what it is told, and lays down libraries that were built before.
CMAKE = f"""#!{sys.executable}
import json, pathlib, shutil, sys
words = sys.argv[1:]
with open({{log!r}}, "a") as log:
    log.write(json.dumps(words) + "\\n")
if words[0] == "-S":
    build = pathlib.Path(words[3])
    (build / "told.json").write_text(json.dumps(words))
else:
    told = json.loads((pathlib.Path(words[1]) / "told.json").read_text())
    (folder,) = [word.partition("=")[2] for word in told if word.startswith("-DHANDGRAD_LIBRARY_DIR=")]
    names = ["libhandgrad.so"] if "--target=handgrad" in words else ["libhandgrad.so", "libhandgrad_cpu_{LEVEL}.so"]
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy({str(folder_of("handgrad"))!r} + "/" + name, folder)
    (pathlib.Path(words[1]) / "libraries").mkdir(exist_ok=True)
    (pathlib.Path(words[1]) / "libraries" / "handgrad.txt").write_text("\\n".join(names))
"""


@pytest.fixture
def checkout(tmp_path):
    """handgrad's sources, as far as its setup.py reads them, and CMake replaced."""
    if LEVEL == "generic":
        pytest.skip("this processor has no x86-64 level to choose")
    for path in ("python/handgrad/sdk", "cmake", "csrc/common", "csrc/emulator", "templates"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to(ROOT / path)
    for path in ("python/handgrad/__init__.py", "python/handgrad/_version.py", "setup.py", "pyproject.toml", "LICENSE"):
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    (tmp_path / "README.md").touch()
    cmake = tmp_path / "bin" / "cmake"
    cmake.parent.mkdir()
    cmake.write_text(CMAKE.format(log=str(tmp_path / "log")))
    cmake.chmod(0o755)
    return tmp_path


def built(checkout: Path, *command: str, **environment: str) -> list[list[str]]:
    """What CMake was told, call by call."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HANDGRAD_", "CMAKE_ARGS"))}
    path = os.pathsep.join([str(checkout / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "-q", *command],
        cwd=checkout,
        env={**clean, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (checkout / "log").read_text().splitlines()]


def test_an_editable_install_is_the_whole(checkout):
    configured, made = built(checkout, "build_ext", "--inplace", HANDGRAD_CUDA_ARCHS="90")
    assert configured[3] == str(checkout / "build/cmake")
    assert f"-DHANDGRAD_LIBRARY_DIR={checkout / 'python/handgrad/lib'}" in configured
    assert {"-DHANDGRAD_EMULATED=ON", "-UHANDGRAD_CPU_LEVELS", "-DHANDGRAD_CUDA_ARCHS=90"} <= set(configured)
    assert made == ["--build", str(checkout / "build/cmake")]


def test_native_among_the_levels_is_this_processors(checkout):
    first, schemas, configured, made = built(
        checkout, "build_ext", "--inplace", HANDGRAD_CPU_LEVELS="v2;native", HANDGRAD_CUDA_ARCHS="90"
    )
    folder = checkout / "build/cmake"
    assert first[3] == configured[3] == str(folder)
    assert schemas == ["--build", str(folder), "--target=handgrad"]
    assert made == ["--build", str(folder)]
    levels = ";".join(dict.fromkeys(["v2", LEVEL]))
    assert {f"-DHANDGRAD_CPU_LEVELS={levels}", "-DHANDGRAD_CUDA_ARCHS=90"} <= set(configured)
    # What is not said is not this machine's because of it.
    *_, configured, _ = built(checkout, "build_ext", "--build-lib", "build/lib", HANDGRAD_CPU_LEVELS="native,v2")
    levels = ";".join(dict.fromkeys([LEVEL, "v2"]))
    assert {f"-DHANDGRAD_CPU_LEVELS={levels}", "-UHANDGRAD_CUDA_ARCHS"} <= set(configured)


def test_a_wheel_is_for_all_unless_told_otherwise(checkout):
    """Whatever an earlier build in the same folder was told: CMake remembers it, unless it is told to forget."""
    configured, _ = built(checkout, "build_ext", "--build-lib", "build/lib")
    assert {"-DHANDGRAD_EMULATED=OFF", "-UHANDGRAD_CPU_LEVELS", "-UHANDGRAD_CUDA_ARCHS"} <= set(configured)
    assert (checkout / "build/lib/handgrad/include/common/abi/tensor.h").is_file()


def test_a_native_build_is_for_this_machine_and_in_nobodys_way(checkout):
    whole = checkout / "python/handgrad/lib/libhandgrad_emulated.so"
    whole.parent.mkdir()
    whole.touch()
    environment = {"HANDGRAD_BUILD": "native", "HANDGRAD_CUDA_ARCHS": "75;80;90"}
    first, schemas, configured, made = built(checkout, "build_ext", "--inplace", **environment)
    folder = checkout / "build/native"
    assert schemas == ["--build", str(folder), "--target=handgrad"]
    assert made == ["--build", str(folder)]
    assert first[3] == configured[3] == str(folder)
    assert f"-DHANDGRAD_LIBRARY_DIR={folder / 'lib'}" in configured
    wanted = {"-DHANDGRAD_EMULATED=OFF", f"-DHANDGRAD_CPU_LEVELS={LEVEL}", f"-DHANDGRAD_CUDA_ARCHS={GPU}"}
    assert wanted <= set(configured)
    assert {path.name for path in (folder / "lib").iterdir()} == {"libhandgrad.so", f"libhandgrad_cpu_{LEVEL}.so"}
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]


def test_native_and_whole_are_all_there_is(checkout):
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "build_ext", "--inplace"]
    environment = {**os.environ, "HANDGRAD_BUILD": "some"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("HANDGRAD_BUILD must be 'whole' (the default) or 'native'; got 'some'")
