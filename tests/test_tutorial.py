"""docs/write-your-own.md: every command in it, in its order, by somebody who has handgrad from a wheel."""

import os
import re

from tools.environments import ROOT, TOOLS_PATH, fresh_environment, run

PAGE = ROOT / "docs/write-your-own.md"


def test_every_command_of_the_tutorial(tmp_path):
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert [kind for kind, _ in blocks].count("sh fails") == 1
    python = fresh_environment(tmp_path / "venv")
    lines = ["set -euo pipefail"]
    for kind, block in blocks:
        if kind == "sh fails":
            lines += [f"if {block.strip()} > failed.txt; then exit 1; fi"]
        elif kind == "sh":
            lines += [block]
    (tmp_path / "tutorial.sh").write_text("\n".join(lines))
    path = os.pathsep.join([str(python.parent), TOOLS_PATH])
    settings = {"PATH": path, "HANDGRAD_CPU_LEVELS": "v3", "HANDGRAD_CUDA_ARCHS": "none", "PYTHONWARNINGS": "ignore"}
    printed = run("bash", tmp_path / "tutorial.sh", cwd=tmp_path, **settings)
    assert "onnxruntime differs by" in printed
    assert "my_ops-0.1.0-py3-none-" in printed
    # The page shows what the failing test says.
    said = (tmp_path / "my-ops/failed.txt").read_text()
    (shown,) = (block for kind, block in blocks if not kind)
    for line in shown.splitlines():
        if line.strip() != "...":
            assert re.search(r"\s+".join(map(re.escape, line.split())), said), f"{line}\nis not in\n{said}"
