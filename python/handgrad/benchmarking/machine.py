"""What a run must say of the machine that it ran on."""

from __future__ import annotations

import importlib.util
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from handgrad.sdk.loading import LOADED


def last_level_cache() -> int:
    """Bytes; 0 where the system does not say."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]])
    return max(sizes)


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_facts(ours: str = "handgrad") -> dict[str, Any]:
    facts: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": cpu_model(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "last-level cache, MiB": last_level_cache() / 2**20,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if hasattr(os, "getloadavg"):
        # Above 0 before a run, something else was at work.
        facts["load average at the start"] = round(os.getloadavg()[0], 2)
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    for package in dict.fromkeys((ours, "handgrad", "torchvision", "kornia")):
        if importlib.util.find_spec(package) is not None:
            facts[package] = getattr(__import__(package), "__version__", "unknown")
    loaded = LOADED[ours]
    facts[f"{ours}'s CPU level"] = f"{loaded.cpu_level}, of a processor with {loaded.processor_level}"
    return facts
