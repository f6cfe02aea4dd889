"""Environments with handgrad from its wheel, as people have it: for tests and benchmarks of what is built on it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: PATH with the build tools of the environment of this process.
TOOLS_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def attempt(*command: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, which sees no setting of handgrad but those in ``environment``."""
    cleaned = {key: value for key, value in os.environ.items() if not key.startswith(("HANDGRAD_", "PYTHONPATH"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**cleaned, **environment}, capture_output=True, text=True
    )


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    """What the command prints, which must succeed; otherwise as :func:`attempt`."""
    done = attempt(*command, cwd=cwd, **environment)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
    return done.stdout


def fresh_environment(folder: Path) -> Path:
    """A virtual environment with the wheel of handgrad in it, and its Python.

    torch and the other dependencies come from the environment of this process, by a path file: they are five gigabytes.
    A path file does not follow path files, so an editable handgrad there is not seen.
    """
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    assert len(wheels) == 1, f"expected one wheel in dist/, found {wheels}: run make wheel"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--ignore-installed", wheels[0])
    where = run(python, "-W", "ignore", "-c", "import handgrad; print(handgrad.__file__)").strip()
    assert Path(where).is_relative_to(site), where
    return python
