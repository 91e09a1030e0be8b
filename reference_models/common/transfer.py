"""Adapt a pretrained network to the images of a recipe: ``auditor train RECIPE --backbone NAME``.

The outputs of the frozen layers are computed once (``features``). The last layer becomes a logistic regression on them;
then, if the settings say so, the last blocks are fine-tuned from there, which distorts the pretrained features less
than a random last layer does (Kumar et al. 2022, arXiv:2202.10054). Augmented copies of the training images are drawn
once, not anew in every epoch.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import nn

from auditor.errors import BadInput
from auditor.reference_models.common import efficientnet, last_layer
from auditor.reference_models.common.features import cached
from auditor.reference_models.common.finish import finish
from auditor.reference_models.common.images import Part, Splits
from auditor.reference_models.common.recipe import announce
from auditor.reference_models.common.settings import Options
from auditor.reference_models.common.settings import Settings as Common
from auditor.reference_models.common.training import (
    Augment,
    InPixels,
    Say,
    Trained,
    choose_device,
    evaluate,
    fit,
    pixels,
)
from auditor.toml import nearest


class Network(Protocol):
    """A pretrained network with a new last layer."""

    fc: nn.Linear

    def halves(self, blocks: int) -> tuple[nn.Module, nn.Module]:
        """Return the frozen layers and the others: the last layer, and ``blocks`` blocks in front of it.

        The frozen ones return (n, c, h, w).
        """


class Backbone(NamedTuple):
    """A network that can be adapted."""

    create: Callable[[int, str], Network]
    """Create the network from the number of classes and the weights: "pretrained" or a file."""
    require: Callable[[], object]
    """Raise BadInput, with the command that installs them, if the published weights are not installed."""
    blocks: int
    """Number of blocks."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


BACKBONES: Mapping[str, Backbone] = {
    "efficientnet-lite0": Backbone(
        efficientnet.pretrained, efficientnet.weights_file, efficientnet.BLOCKS, efficientnet.MEAN, efficientnet.STD
    )
}


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """Settings of every adapted network; ``epochs`` and what follows it are those of the fine-tuning."""

    size: int = 224
    epochs: int = 8
    batch: int = 64
    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    views: int = 1
    """Augmented copies of each training image, in addition to the image itself."""
    regularisation: float = 1.0
    """Penalty of the logistic regression; see ``last_layer.fit``."""
    blocks: int = 0
    """Number of last blocks that are fine-tuned; 0 fine-tunes nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("views", "blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
        if self.regularisation <= 0:
            raise ValueError(f"regularisation is {self.regularisation}; expected more than 0")


def check(name: str, weights: str) -> None:
    """Raise BadInput for an unknown backbone, for no weights, or for published ones that are not installed."""
    if name not in BACKBONES:
        raise BadInput(
            f"--backbone {name}: no such network{nearest(name, BACKBONES)}; expected one of {', '.join(BACKBONES)}"
        )
    if weights == "none":
        raise BadInput(f"--weights none: --backbone {name} adapts a pretrained network; omit one of the two options")
    if weights == "pretrained":
        BACKBONES[name].require()


def adapt(
    name: str, splits: Splits, settings: Settings, *, out: Path, options: Options, say: Say, augment: Augment
) -> Path:
    """Adapt ``options.backbone``, write all results to ``out`` as ``name``, and return the ONNX file.

    The features are kept in ``out``/features.
    """
    assert options.backbone is not None
    backbone = BACKBONES[options.backbone]
    if settings.blocks > backbone.blocks:
        raise BadInput(f"--set blocks={settings.blocks}: {options.backbone} has {backbone.blocks} blocks")
    out.mkdir(parents=True, exist_ok=True)
    announce(name, splits, options, say)
    began = time.monotonic()
    device = choose_device(options.device)
    network = backbone.create(len(splits.classes), options.weights)
    frozen, trained = network.halves(settings.blocks)

    def featured(part: Part) -> Part:
        return cached(InPixels(frozen, backbone.mean, backbone.std), part, out / "features", say, device=device)

    learn = featured(with_views(splits.learn, augment, settings.views, settings.seed))
    inner = splits._replace(learn=learn, validation=featured(splits.validation))
    fitted = _fit_last_layer(network, trained, inner, settings, say=say)
    fitted = dataclasses.replace(fitted, seconds=time.monotonic() - began)
    if settings.blocks:
        tuned = fit(
            trained,
            inner,
            settings,
            stem=out / name,
            mean=(0.0,),
            std=(1.0,),
            device=device,
            fresh=options.fresh,
            say=say,
        )
        fitted = dataclasses.replace(tuned, seconds=tuned.seconds + fitted.seconds)
    whole = InPixels(cast(nn.Module, network), backbone.mean, backbone.std).eval()
    details = {"preset": options.preset, "weights": options.weights, "backbone": options.backbone}
    return finish(dataclasses.replace(fitted, model=whole), splits, settings, stem=out / name, say=say, extra=details)


def with_views(part: Part, augment: Augment, views: int, seed: int) -> Part:
    """Return the images followed by ``views`` augmented copies of each, in 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    copies = [part.pixels]
    for _ in range(views):
        for rows in np.array_split(np.arange(len(part)), -(-len(part) // 64)):
            moved = augment(pixels(part, rows), generator)
            copies.append((moved * 255).round().to(torch.uint8).contiguous().numpy())
    again = part.take(np.tile(np.arange(len(part)), views + 1))
    return dataclasses.replace(again, pixels=np.concatenate(copies))


def _fit_last_layer(network: Network, trained: nn.Module, inner: Splits, settings: Settings, *, say: Say) -> Trained:
    """Make the last layer a logistic regression on what the layers in front of it return."""
    model = InPixels(trained, (0.0,), (1.0,)).eval()
    inputs: list[Any] = []
    hook = network.fc.register_forward_pre_hook(lambda _, given: inputs.append(given[0].numpy()))
    evaluate(model, inner.learn)
    hook.remove()
    last_layer.fit(network.fc, np.concatenate(inputs), inner.learn.labels, regularisation=settings.regularisation)
    row: dict[str, float] = {"epoch": 1}
    for prefix, part in (("", inner.learn), ("validation_", inner.validation)):
        loss, right = evaluate(model, part)
        row |= {f"{prefix}loss": loss, f"{prefix}accuracy": float(right.mean())}
    say(f"new last layer: accuracy {row['accuracy']:.3f}  validation {row['validation_accuracy']:.3f}")
    return Trained(model=model, history=[row], best_epoch=1, seconds=0.0, device="cpu")
