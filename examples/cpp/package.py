"""``python examples/cpp/package.py model.pt2`` packages a model with a handgrad op for programs that do not have its
source: docs/cpp.md."""

import argparse

import torch
from torch import nn

from handgrad.layers import LocalResponseNorm


class Classifier(nn.Module):
    """A convolution, handgrad's normalisation across its channels, and a score for each of four labels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), LocalResponseNorm(5, alpha=1.0))
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.features(images).mean((2, 3)))
        return scores


def build() -> Classifier:
    """The model with the weights that are packaged: training is not what this example is about."""
    torch.manual_seed(0)
    return Classifier().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes a model with a handgrad op to an AOTInductor package.")
    parser.add_argument("package", help="the file to write; its name must end in .pt2")
    path = parser.parse_args().package
    if not path.endswith(".pt2"):
        parser.error(f"the file's name must end in .pt2, as torch wants it; got {path!r}")
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(build(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch._inductor.aoti_compile_and_package(program, package_path=path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
