"""``python -m handgrad info``: what is installed here, what was loaded, and, if nothing could be, why.

The report is a dictionary; ``--json`` prints it as it is. Its keys stay:

======================  ================================================================================================
``versions``            of handgrad, python, torch, and torchvision, onnx, onnxscript, onnxruntime (null: not installed)
``platform``            operating system, processor, C library
``torch_cuda``          the CUDA version that torch was built for; null for none
``libraries_folder``    where handgrad's libraries are looked for
``libraries``           name and path of each one loaded, in the order of loading
``cpu_level``           the instruction set of the CPU kernels in use: v2, v3, v4 of x86-64, or generic
``processor_level``     the best one that this processor can run
``cuda_architectures``  what the CUDA library in the folder was built for: sm_90 is machine code, compute_90 is PTX
``cuda_build``          the CUDA version of the compiler and runtime that it was built with; null if that is not known
``cuda_driver``         the newest CUDA version that this machine's driver has; null for no driver
``cuda_devices``        each GPU that torch finds, with its architecture
``without_cuda``        why the CUDA kernels are not in use and the reference runs on GPUs; empty if they are
``ops``                 names of the ops, sorted
``private_ops``         names of the ops behind them: derivatives and other parts
``error``               the reason why the libraries cannot be loaded; null if they are
======================  ================================================================================================
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from handgrad import _fat_binary, sdk

FOLDER = Path(os.environ.get("HANDGRAD_LIBRARY_DIR") or Path(__file__).resolve().parent / "lib")
_COMPANIONS = ("torchvision", "onnx", "onnxscript", "onnxruntime")


def add_command(commands: Any) -> None:
    """Adds ``info`` to the subcommands of ``python -m handgrad``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "info",
        help="show versions, loaded libraries and ops",
        description="Shows versions, which libraries were loaded and from where, and which ops there are. "
        "Exits with 1, and says why, if the libraries cannot be loaded.",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON; its keys stay")
    parser.add_argument("--cmake-dir", action="store_true", help="print only the folder for -Dhandgrad_DIR=")
    parser.add_argument("--include-dir", action="store_true", help="print only the folder of the C++ headers")
    parser.add_argument("--library-dir", action="store_true", help="print only the folder of the compiled libraries")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.cmake_dir or arguments.include_dir or arguments.library_dir:
        print(sdk.cmake_dir() if arguments.cmake_dir else sdk.include_dir() if arguments.include_dir else FOLDER)
        return 0
    report = gather()
    print(json.dumps(report, indent=2) if arguments.json else as_text(report))
    if report["error"]:
        print(report["error"], file=sys.stderr)
    return 1 if report["error"] else 0


def gather() -> dict[str, Any]:
    """The report; this module's docstring lists its keys."""
    report: dict[str, Any] = {
        "versions": {
            "handgrad": _version("handgrad"),
            "python": platform.python_version(),
            "torch": _version("torch"),
            **{name: _version(name) for name in _COMPANIONS},
        },
        "platform": platform.platform(),
        "torch_cuda": None,
        "libraries_folder": str(FOLDER),
        "libraries": {},
        "cpu_level": None,
        "processor_level": None,
        "cuda_architectures": cuda_architectures(FOLDER),
        "cuda_build": None,
        "cuda_driver": None,
        "cuda_devices": [],
        "without_cuda": "",
        "ops": [],
        "private_ops": [],
        "error": None,
    }
    try:
        import torch

        report["torch_cuda"] = torch.version.cuda
        loaded, names = _loaded()
    except ImportError as error:
        report["error"] = str(error)
        return report
    report["libraries"] = {name: str(path) for name, path in loaded.libraries.items()}
    report["cpu_level"] = loaded.cpu_level
    report["processor_level"] = loaded.processor_level
    report.update(_cuda(loaded))
    report["ops"] = sorted(name for name in names if not name.split("::")[1].startswith("_"))
    report["private_ops"] = sorted(name for name in names if name.split("::")[1].startswith("_"))
    return report


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    rows = [(name, value or "not installed") for name, value in report["versions"].items()]
    rows += [("torch's CUDA", report["torch_cuda"] or "none"), ("platform", report["platform"]), ("", "")]
    if report["error"]:
        rows += [("libraries", "not loaded"), ("from", report["libraries_folder"])]
    else:
        paths = report["libraries"].values()
        rows += [("" if index else "libraries", path) for index, path in enumerate(paths)]
        rows += [("CPU level", f"{report['cpu_level']} (this processor: {report['processor_level']})")]
    built = ", ".join(report["cuda_architectures"]) or "none"
    rows += [("CUDA built for", f"{built}, by CUDA {report['cuda_build']}" if report["cuda_build"] else built)]
    if not report["error"]:
        rows += [("CUDA driver", report["cuda_driver"] or "none")]
        rows += [("" if index else "GPUs", device) for index, device in enumerate(report["cuda_devices"])]
        used = f"not used: {report['without_cuda']}" if report["without_cuda"] else "used for tensors on a GPU"
        rows += [("CUDA kernels", used)]
        rows += [("ops", f"{len(report['ops'])}, and {len(report['private_ops'])} behind them")]
        rows += [("", name) for name in report["ops"]]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}".rstrip() for name, value in rows)


def cuda_architectures(folder: Path) -> list[str]:
    """What the CUDA libraries in ``folder`` were built for, read from the code inside them; empty for no library."""
    found = {
        (entry.architecture, entry.name)
        for path in folder.glob("*handgrad_cuda*")
        for entry in _fat_binary.entries(path.read_bytes())
    }
    return [name for _, name in sorted(found)]


def _cuda(loaded: Any) -> dict[str, Any]:
    import torch

    from handgrad.sdk import devices

    found = []
    if torch.cuda.is_available():
        # The GPUs are looked at when torch begins to use them.
        torch.cuda.init()
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            found.append(f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}")
    build, driver = loaded.cuda_build, devices.driver_version()
    return {
        "cuda_build": ".".join(map(str, build.version)) if build else None,
        "cuda_driver": ".".join(map(str, driver)) if driver else None,
        "cuda_devices": found,
        "without_cuda": loaded.without_cuda,
    }


def _loaded() -> tuple[Any, list[str]]:
    """What was loaded, and the names of the ops. Raises the ImportError that loading ends in."""
    from handgrad import _library
    from handgrad.registration import OPERATORS
    from handgrad.sdk import lazy

    lazy.load_all("handgrad")
    return _library.LOADED, [name for name in OPERATORS if name.startswith("handgrad::")]


def _version(package: str) -> str | None:
    if package == "handgrad":
        from handgrad._version import __version__

        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
