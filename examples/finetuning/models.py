"""Networks: which there are, where their weights come from, what of them is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from handgrad import transfer
from shared.files import UserError
from shared.weights import fill_mobilenet, read_state

FAMILIES = (
    torchvision.models.AlexNet,
    torchvision.models.VGG,
    torchvision.models.ResNet,
    torchvision.models.SqueezeNet,
    torchvision.models.DenseNet,
    torchvision.models.Inception3,
    torchvision.models.MobileNetV2,
    torchvision.models.MobileNetV3,
    torchvision.models.EfficientNet,
)
_PREFIXES = (
    "alexnet",
    "vgg",
    "resn",
    "wide_resnet",
    "squeezenet",
    "densenet",
    "inception",
    "mobilenet",
    "efficientnet",
)

# Where to begin to train if the user does not say: roughly the last half of the network's depth, as the layers before
# see edges and textures that serve any photo, and are the most expensive to train.
_FREEZE_UNTIL = {
    "AlexNet": "features.6",
    "ResNet": "layer3",
    "SqueezeNet": "features.7",
    "DenseNet": "features.denseblock3",
    "Inception3": "Mixed_6a",
    "MobileNetV2": "features.7",
    "EfficientNet": "features.4",
}


def model_names() -> list[str]:
    return [
        name for name in torchvision.models.list_models(module=torchvision.models) if name.startswith(tuple(_PREFIXES))
    ]


class Network(nn.Module):
    """Pixels from 0 to 1 in, logits out: the normalisation is part of it, and so of the exported file."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, head: str, pretrained: bool) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.pretrained = pretrained
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # (N, 3, H, W) -> (N, classes)
        output = self.body((pixels - self.mean) / self.std)
        # Inception in training answers with its auxiliary head too.
        return output if isinstance(output, Tensor) else (output.logits, output.aux_logits)

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.body.get_submodule(self.head).parameters())

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """What the head sees, averaged over the image where it still has one: (N, 3, H, W) -> (N, width)."""
        seen: list[Tensor] = []
        hook = self.body.get_submodule(self.head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(pixels)
        finally:
            hook.remove()
        return seen[-1].flatten(2).mean(2) if seen[-1].ndim > 2 else seen[-1]


@dataclass
class Built:
    network: Network
    lines: list[str]  #: what was done, to be shown


def build(
    name: str,
    outputs: int,
    size: int,
    *,
    weights: str | None,
    freeze_until: str | None,
    cache: Path,
    seed: int,
) -> Built:
    """A network with `outputs` logits. Equal arguments give equal numbers."""
    source = weights or ("package" if name == "mobilenet_v2" else "torchvision")
    if source == "package" and name != "mobilenet_v2":
        raise UserError(f"--weights package holds mobilenet_v2 only, not {name}: use torchvision, none, or a file")
    torch.manual_seed(seed)
    lines = []
    # Inception draws its first weights one truncated normal at a time, which takes a minute; new_head draws what stays.
    settings = {"init_weights": source == "none"} if name == "inception_v3" else {}
    if source == "torchvision":
        try:
            body = torchvision.models.get_model(name, weights="DEFAULT")
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"torchvision's weights of {name} could not be downloaded ({error}): "
                "give --weights FILE with a state dict, or --weights none to train from the beginning"
            ) from error
    else:
        body = torchvision.models.get_model(name, weights=None, **settings)
    if source == "package":
        lines.append(f"weights: {fill_mobilenet(body, cache)}")
    elif source == "torchvision":
        lines.append("weights: ImageNet, torchvision's own")
    elif source == "none":
        lines.append("weights: random")
    else:
        report = transfer.copy_matching_weights(read_state(Path(source)), body)
        if not report.copied:
            raise UserError(f"no tensor in {source} fits {name}: it has {', '.join(report.unexpected[:3]) or 'none'}")
        lines.append(f"weights: {source}, {str(report).splitlines()[0]}")

    if isinstance(body, torchvision.models.Inception3) and size < 299:
        body.aux_logits, body.AuxLogits = (
            False,
            None,
        )  # its auxiliary head pools a map that is too small below 299 pixels
        lines.append("network: without Inception's auxiliary head, which needs 299 pixels")
    if isinstance(body, torchvision.models.SqueezeNet):
        body.classifier[2] = nn.Identity()  # the ReLU behind the last convolution; a sigmoid needs negative logits too
    head = transfer.new_head(body, outputs)
    until = freeze_until or _default_freeze(body, source != "none")
    if until != "none":
        try:
            lines.append("network: " + str(transfer.freeze(body, head.names[0] if until == "head" else until)))
        except ValueError as error:
            raise UserError(f"--freeze-until names no layer of {name}: {error}") from error
        for head_name in head.names:  # an auxiliary head sits among layers that may be frozen
            body.get_submodule(head_name).requires_grad_(True)
    network = Network(body, head.names[0], source != "none").to(memory_format=torch.channels_last)
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"--freeze-until {until} leaves nothing to train in {name}")
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, size, size))
    except RuntimeError as error:
        raise UserError(f"--size {size} is too small for {name}: {str(error).splitlines()[0]}") from error
    return Built(network, lines)


def _default_freeze(body: nn.Module, pretrained: bool) -> str:
    if not pretrained:
        return "none"
    if isinstance(body, torchvision.models.VGG):
        convolutions = [i for i, layer in enumerate(body.features) if isinstance(layer, nn.Conv2d)]
        return f"features.{convolutions[len(convolutions) // 2]}"
    if isinstance(body, torchvision.models.MobileNetV3):
        return f"features.{len(body.features) // 2}"
    return next(_FREEZE_UNTIL[kind.__name__] for kind in FAMILIES if isinstance(body, kind))


@dataclass
class Shard:
    """Which rows of the whole batch this process has."""

    start: int = 0
    stop: int = 0
    total: int = 0


class _RowNoise(nn.Module):
    """Random zeros drawn for the whole batch in every process, of which each uses its own rows.

    So that two processes with half a batch each drop what one process with the whole batch drops.
    """

    def __init__(self, p: float, shard: Shard, whole_rows: bool) -> None:
        super().__init__()
        self.p = p
        self.shard = shard
        self.whole_rows = whole_rows

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        shape = [1] * (x.ndim - 1) if self.whole_rows else list(x.shape[1:])
        keep = torch.empty([self.shard.total, *shape], device=x.device).bernoulli_(1 - self.p)
        if self.p < 1:
            keep /= 1 - self.p
        return x * keep[self.shard.start : self.shard.stop].to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def share_noise(network: nn.Module, shard: Shard) -> None:
    """Replace dropout and stochastic depth by forms that do not depend on the number of processes."""
    transfer.replace_layers(network, nn.Dropout, functools.partial(_same_noise, shard=shard, whole_rows=False))
    transfer.replace_layers(
        network, torchvision.ops.StochasticDepth, functools.partial(_same_noise, shard=shard, whole_rows=True)
    )


def _same_noise(old: nn.Module, shard: Shard, whole_rows: bool) -> nn.Module:
    return _RowNoise(float(old.p), shard, whole_rows)  # type: ignore[arg-type]


def set_batchnorm(network: Network, mode: str, processes: int, device: torch.device) -> tuple[Network, str]:
    """Apply --batchnorm; returns the network, which 'sync' makes anew, and the mode that 'auto' stands for."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if mode == "auto":
        mode = "frozen" if network.pretrained or not layers else "batch"
    if mode == "batch" and processes > 1 and layers:
        raise UserError(
            "batch normalisation over each process's own part of the batch would make the result depend on the number "
            "of processes: use --batchnorm frozen, or sync on GPUs, or one process"
        )
    if mode == "sync":
        if device.type == "cpu":
            raise UserError("--batchnorm sync needs GPUs, as torch.nn.SyncBatchNorm has no CPU version: use frozen")
        converted: Callable[[nn.Module], Network] = nn.SyncBatchNorm.convert_sync_batchnorm
        network = converted(network)
    return network, mode


def train_mode(network: nn.Module, batchnorm: str) -> None:
    """model.train(), except that frozen statistics stay; the scales and shifts of those layers still learn."""
    network.train()
    if batchnorm == "frozen":
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
