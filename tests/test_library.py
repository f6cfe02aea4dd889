"""Finding and loading the compiled libraries, and what is said when that fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from handgrad import sdk
from handgrad.sdk import devices, loading
from handgrad.sdk.loading import folder_of


def test_says_which_torch_it_needs(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"needs torch 2\.10 or newer, and found torch 2\.9\.1\+cpu in .*pip install"):
        loading._load("handgrad", folder_of("handgrad"))


def test_says_what_is_missing(tmp_path):
    with pytest.raises(ImportError, match=r"libhandgrad\.so is not in .* was not built\. .*pip install -e \."):
        loading._load("handgrad", tmp_path)


def test_says_what_does_not_load(tmp_path):
    (tmp_path / "libhandgrad.so").write_text("not a library")
    with pytest.raises(ImportError, match=r"does not load into torch 2.* Update torch, or build handgrad from source"):
        loading._load("handgrad", tmp_path)


@pytest.mark.parametrize(
    ("built", "processor", "asked", "chosen"),
    [
        ("2 3 4", 4, "", "v4"),
        ("2 3 4", 3, "", "v3"),
        ("2 3", 4, "", "v3"),
        ("2 3 4", 4, "v2", "v2"),
        ("", 0, "", "generic"),
    ],
)
@pytest.mark.parametrize("package", ["handgrad", "my_cpu_ops"])
def test_chooses_the_best_level(monkeypatch, tmp_path, package, built, processor, asked, chosen):
    for level in built.split():
        (tmp_path / f"lib{package}_cpu_v{level}.so").touch()
    monkeypatch.setenv("HANDGRAD_CPU_LEVEL", asked)
    assert loading._choose_cpu_level(package, tmp_path, processor) == chosen


@pytest.mark.parametrize(
    ("processor", "asked", "sentence"),
    [
        (3, "v4", "HANDGRAD_CPU_LEVEL is v4, but this processor can run v3 at most"),
        (4, "avx2", "HANDGRAD_CPU_LEVEL must be one of v2, v3, v4 for handgrad; got 'avx2'"),
        (1, "", "need an x86-64-v2 processor, and this one is v1"),
    ],
)
def test_refuses_a_level_that_cannot_run(monkeypatch, tmp_path, processor, asked, sentence):
    for level in "234":
        (tmp_path / f"libhandgrad_cpu_v{level}.so").touch()
    monkeypatch.setenv("HANDGRAD_CPU_LEVEL", asked)
    with pytest.raises(ImportError, match=sentence):
        loading._choose_cpu_level("handgrad", tmp_path, processor)


@pytest.mark.parametrize(
    ("asked", "package", "emulated"),
    [
        ("", "handgrad", False),
        ("emulated", "handgrad", True),
        ("emulated", "my_ops", True),
        ("emulated:my_ops", "handgrad", False),
        ("emulated:other,my_ops", "my_ops", True),
    ],
)
def test_the_backend_of_a_package(monkeypatch, asked, package, emulated):
    monkeypatch.setenv("HANDGRAD_BACKEND", asked)
    assert loading._is_emulated(package) == emulated


@pytest.mark.parametrize("asked", ["cuda", "emulate:my_ops", ":my_ops"])
def test_refuses_another_backend(monkeypatch, asked):
    monkeypatch.setenv("HANDGRAD_BACKEND", asked)
    with pytest.raises(ImportError, match=f"HANDGRAD_BACKEND must be empty, 'emulated' or .*; got '{asked}'"):
        loading._is_emulated("my_ops")


def test_a_library_for_development_is_not_in_a_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("HANDGRAD_BACKEND", "emulated")
    (tmp_path / "libhandgrad.so").symlink_to(folder_of("handgrad") / "libhandgrad.so")
    with pytest.raises(ImportError, match=r"libhandgrad_emulated\.so is not in .*pip install -e.*emulated:my_ops"):
        loading._load("handgrad", tmp_path)


def test_another_packages_libraries(monkeypatch, tmp_path):
    """The names follow the package's, the level is this processor's, and each package has a folder of its own."""
    package = tmp_path / "kit_test_ops"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert folder_of("kit_test_ops") == package / "lib"
    with pytest.raises(ImportError, match=r"kit_test_ops's library libkit_test_ops\.so is not in "):
        sdk.load("kit_test_ops")
    with pytest.raises(ImportError, match="'no_such_package' must be the name of a package that can be imported"):
        sdk.load("no_such_package")
    monkeypatch.setenv("KIT_TEST_OPS_LIBRARY_DIR", str(tmp_path / "elsewhere"))
    assert folder_of("kit_test_ops") == tmp_path / "elsewhere"


def test_the_sdk_is_where_it_says():
    assert (sdk.include_dir() / "common" / "abi" / "tensor.h").is_file()
    assert (sdk.include_dir() / "emulator" / "include" / "cuda_runtime.h").is_file()
    assert (sdk.cmake_dir() / "handgradConfig.cmake").is_file()
    assert (sdk.templates_dir() / "operator").is_dir()
    libraries = Path(sdk.__file__).parents[1] / "lib"
    folders = {"--cmake-dir": sdk.cmake_dir(), "--include-dir": sdk.include_dir(), "--library-dir": libraries}
    for name, folder in folders.items():
        command = [sys.executable, "-W", "ignore", "-m", "handgrad", "info", name]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(folder)


def test_the_environment_chooses():
    built = sorted(path.stem[-2:] for path in folder_of("handgrad").glob("libhandgrad_cpu_v*.so"))
    for level in built:
        if int(level[1:]) > int(loading.LOADED["handgrad"].processor_level[1:]):
            continue
        report = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "handgrad", "info", "--json"],
            env={**os.environ, "HANDGRAD_CPU_LEVEL": level},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"_cpu_{level}" in report.stdout
        json.loads(report.stdout)


CUDA_LIBRARY = folder_of("handgrad") / f"libhandgrad_cuda{loading._SUFFIX}"


def info(**environment: str) -> dict:
    """What a fresh process has loaded; it may not say a word beside it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "handgrad", "info", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def test_cuda_kernels_are_loaded_without_a_gpu_and_without_a_word():
    wanted = CUDA_LIBRARY.exists() and bool(torch.version.cuda)
    hidden = info(CUDA_VISIBLE_DEVICES="")
    assert ("libhandgrad_cuda" in hidden["libraries"]) == wanted
    assert "libhandgrad_cuda" not in info(HANDGRAD_CUDA="off")["libraries"]


def test_a_cpu_build_of_torch_never_tries_the_cuda_kernels(monkeypatch, tmp_path):
    for path in folder_of("handgrad").iterdir():
        (tmp_path / path.name).symlink_to(path)
    # Loading this one would end in the sentence about a library that does not load.
    cuda = tmp_path / CUDA_LIBRARY.name
    cuda.unlink(missing_ok=True)
    cuda.write_text("not a library")
    monkeypatch.delenv("HANDGRAD_CUDA", raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "libhandgrad_cuda" not in loading._load("handgrad", tmp_path).libraries
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.warns(
        RuntimeWarning, match=r"cannot be used, .* libhandgrad_cuda\.so does not load|.*HANDGRAD_CUDA=off"
    ):
        loading._load("handgrad", tmp_path)


# ---- CUDA kernels that cannot run here -------------------------------------------------------------------------------

BUILD = devices.Build((13, 0), (75, 80, 90), (80,))


def without_kernels(monkeypatch, tmp_path, cuda: bytes) -> loading.Loaded:
    """What is loaded of handgrad where a CUDA library of these contents is; with a warning, and all else as it is."""
    for path in folder_of("handgrad").iterdir():
        if path.name != CUDA_LIBRARY.name:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / CUDA_LIBRARY.name).write_bytes(cuda)
    monkeypatch.delenv("HANDGRAD_CUDA", raising=False)
    with pytest.warns(RuntimeWarning, match="run the reference in plain PyTorch") as said:
        loaded = loading._load("handgrad", tmp_path)
    assert len(said) == 1
    assert loaded.without_cuda in str(said[0].message) + "."
    assert "libhandgrad_cuda" not in loaded.libraries
    assert {"libhandgrad", f"libhandgrad_cpu_{loaded.cpu_level}"} <= set(loaded.libraries)
    return loaded


def test_a_library_that_does_not_load_costs_its_kernels_alone(monkeypatch, tmp_path):
    """A vendor's torch without a function that the library calls ends in the same error of the system's loader."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    loaded = without_kernels(monkeypatch, tmp_path, b"not a library")
    assert "does not load into torch" in loaded.without_cuda


def test_an_older_driver_runs_the_reference(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(devices, "build_of", lambda schema: BUILD)
    monkeypatch.setattr(devices, "driver_version", lambda: (12, 8))
    loaded = without_kernels(monkeypatch, tmp_path, b"never opened")
    assert re.search(
        r"built with CUDA 13.0, and this machine's driver is one of CUDA 12.8: update", loaded.without_cuda
    )


@pytest.mark.parametrize(
    ("torch_cuda", "driver", "old"),
    [
        ("12.8", (12, 8), True),
        ("12.8", (13, 0), False),
        ("12.8", None, False),  # no driver, no GPU
        ("13.0", (12, 8), False),  # torch itself finds no GPU there
        ("13.2", (13, 1), False),
    ],
)
def test_which_drivers_are_too_old(monkeypatch, torch_cuda, driver, old):
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(devices, "driver_version", lambda: driver)
    assert bool(devices.too_old(BUILD)) == old
    assert not devices.too_old(None)


@pytest.mark.parametrize(("answer", "version"), [(12040, (12, 4)), (13000, (13, 0)), (0, None)])
def test_the_driver_is_asked_without_a_context(monkeypatch, answer, version):
    class Driver:
        def __init__(self, name):
            assert "cuda" in name

        def cuDriverGetVersion(self, pointer):  # noqa: N802  the driver's own name
            pointer._obj.value = answer
            return 0

    monkeypatch.setattr(devices.ctypes, "CDLL", Driver)
    assert devices.driver_version() == version


@pytest.mark.parametrize(
    ("capability", "served"), [(70, False), (75, True), (80, True), (86, True), (90, True), (100, True), (121, True)]
)
def test_which_gpus_have_code(capability, served):
    assert BUILD.serves(capability) == served
    assert devices.Build((13, 0), (90,), ()).serves(capability) == (capability == 90)


def test_the_libraries_say_what_they_were_built_with():
    class Schema:
        @staticmethod
        def handgrad_cuda_build():
            return b"12.9.86 75-real 90a-real 80-virtual"

    assert devices.build_of(Schema) == devices.Build((12, 9), (75, 90), (80,))
    Schema.handgrad_cuda_build = staticmethod(lambda: b"")
    assert devices.build_of(Schema) is None
    # A library that an earlier version has built says nothing.
    assert devices.build_of(object()) is None


@pytest.mark.skipif(not CUDA_LIBRARY.exists() or not torch.version.cuda, reason="there are no CUDA kernels")
def test_a_gpu_without_code_runs_the_reference():
    """When torch begins to use CUDA: ops that are registered by then, and those that come later."""
    program = """
import re, warnings, torch
import handgrad.losses, handgrad.registration
from handgrad.sdk import devices, loading
registered = lambda op: re.search("(?m)^CUDA: (.*)", torch._C._dispatch_dump(f"handgrad::{op}"))[1]
loss = handgrad.losses.sigmoid_focal_loss
assert "library.py" not in registered("sigmoid_focal_loss"), registered("sigmoid_focal_loss")
loading.LOADED["handgrad"].cuda_build = devices.Build((13, 0), (90,), ())
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_capability = lambda index: (8, 6)
torch.cuda.get_device_name = lambda index: "an older one"
ours = [call for call, _ in torch.cuda._queued_calls if "loading" in call.__code__.co_filename]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for call in ours:
        call()
    handgrad.boxes.nms
print(len(ours), len(said), *(warning.message for warning in said))
for op in ("sigmoid_focal_loss", "_sigmoid_focal_loss_backward", "nms"):
    print(registered(op))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *kernels = done.stdout.splitlines()
    assert first.startswith("1 1 handgrad's CUDA kernels cannot be used"), done.stdout
    assert "cuda:0 (an older one) is sm_86, and they were built for sm_90: build from source" in first
    assert len(kernels) == 3
    assert all("library.py" in kernel for kernel in kernels), kernels


def test_the_switch_for_cuda_kernels_is_on_or_off(monkeypatch):
    monkeypatch.setenv("HANDGRAD_CUDA", "0")
    with pytest.raises(ImportError, match=r"HANDGRAD_CUDA must be 'on' \(the default\) or 'off'; got '0'"):
        loading._load("handgrad", folder_of("handgrad"))


def test_import_is_light():
    """Nothing that costs time is imported: no compiler, no DTensor, no ONNX, no test library."""
    script = """
import sys, torch
before = set(sys.modules)
import handgrad
new = set(sys.modules) - before
print(*{name.split(".")[0] for name in new}, *(new & {"torch._dynamo", "torch.distributed.tensor"}))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"handgrad", "torch"} | set(sys.stdlib_module_names), done.stdout


def test_the_first_call_may_be_a_compiled_one_with_dtensor_loaded():
    """Sharding rules wait for DTensor to be imported; their registration is nothing for Dynamo to trace."""
    program = (
        "import torch, torch.distributed.tensor, handgrad; "
        "loss = torch.compile(handgrad.losses.sigmoid_focal_loss, fullgraph=True, backend='eager'); "
        "print(loss(torch.zeros(3), torch.ones(3)).shape)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([3])" in done.stdout
