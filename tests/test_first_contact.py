"""tools/first_contact.sh, dry: every step runs through on a machine without a GPU, and leaves its results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handgrad.sdk.loading import folder_of

SCRIPT = Path(__file__).resolve().parent.parent / "tools/first_contact.sh"
# What a step leaves; and what it looks for that only a machine with a GPU has.
LEFT = {
    "1": ["info.log", "values.log"],
    "2": ["matrix.log"],
    "3": ["compiled.log", "beyond_int32.log"],
    "4": ["compute-sanitizer.missing"],
    "5": ["times.log"],
    "6": ["ncu.missing"],
    "graphs": ["off.log", "graphs.log"],
}


def run(*arguments, **environment):
    tools = [folder for folder in os.environ["PATH"].split(":") if "cuda" not in folder]
    environment = {**os.environ, "PYTHON": sys.executable, "PATH": ":".join(tools), **environment}
    return subprocess.run([str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True, text=True)


@pytest.mark.skipif(
    not list(folder_of("handgrad").glob("libhandgrad_emulated*")), reason="no emulated library was built"
)
@pytest.mark.parametrize("step", LEFT)
def test_a_step_runs_dry(step, tmp_path):
    done = run(step, tmp_path / "results", DRY_RUN="1")
    assert done.returncode == 0, done.stdout + done.stderr
    left = {path.name: path.read_text() for path in (tmp_path / "results").iterdir()}
    assert set(LEFT[step]) <= set(left)
    logs = {name: text for name, text in left.items() if name.endswith(".log")}
    assert all("exit status" in text for text in logs.values())
    if step in "125":
        assert all("exit status 0" in text for text in logs.values())


def test_without_a_gpu_it_says_so(tmp_path):
    if __import__("torch").cuda.is_available():
        pytest.skip("here is a GPU")
    done = run("5", tmp_path)
    assert done.returncode == 1
    assert "a GPU is needed" in done.stderr


def test_a_step_that_there_is_not(tmp_path):
    done = run("8", tmp_path)
    assert done.returncode == 2
    assert "STEP must be 1 to 7, or its name; got '8'" in done.stderr
    assert "memcheck" in done.stderr
