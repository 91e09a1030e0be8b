"""eye-state-wrn: open or closed eyes by a wide residual network; the effect of added adversarial examples.

The documented system trained WRN-16-1 on 5,722 eyes of 50 people, added FGSM or noise copies of 25 to 100 % of the
training images, and attributed the better accuracy to adversarial examples. In this recipe no person is on both sides
of the split, only training images are copied, FGSM uses logits, and the missing control is included: the same number of
clean duplicates (``--set mode=duplicate-control``).

Any number of classes works; the documented data has four, of 50 people by name, and is not public.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from auditor.reference_models.common import images, perturbations
from auditor.reference_models.common.networks import WideResNet
from auditor.reference_models.common.recipe import build, seeded
from auditor.reference_models.common.settings import Options, settle
from auditor.reference_models.common.settings import Settings as Common
from auditor.reference_models.common.training import InPixels, choose_device, fit, pixels, statistics

TITLE = "Wide ResNet 16-k for eye states: clean, with FGSM, noise or duplicate copies, or adversarially trained"
NAME = "eye-state-wrn"
EXPECTED = "grey pictures of single eyes, a folder per class, or a manifest with the columns image, label and subject"

Mode = Literal["clean", "fgsm-augmented", "noise-augmented", "duplicate-control", "adversarial"]


@dataclass(frozen=True, kw_only=True)
class EyeSettings(Common):
    """Settings of all four eye-state recipes."""

    epochs: int = 50
    batch: int = 64
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "step"
    mode: Mode = "clean"
    share: float = 1.0
    """Number of copies that the augmented modes add, as a share of the training images. Documented: 0.25 to 1."""
    epsilon: float = 0.03
    """Size of the perturbation, in standard deviations of the pixels. Documented: 0.001, 0.003, 0.005, 0.01, 0.03."""
    epsilon_low: float = 0.001
    epsilon_high: float = 0.032
    """For "adversarial": range from which each image of the attacked half of a batch draws its epsilon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; expected more than 0, at most 1")
        if not 0 <= self.epsilon_low <= self.epsilon_high or self.epsilon <= 0:
            raise ValueError("expected epsilon > 0 and 0 <= epsilon_low <= epsilon_high")


@dataclass(frozen=True, kw_only=True)
class Settings(EyeSettings):
    """Settings of WRN-16-1, as documented."""

    blocks: int = 2
    """Blocks per group; depth = 6 blocks + 4."""
    width: int = 1
    """k of WRN-16-k; documented: 1, 2, 4, 8."""


TINY: dict[str, object] = {"size": 24, "epochs": 6, "schedule": "cosine"}
"""Two cores, one or two minutes."""

PRESETS: dict[str, dict[str, object]] = {"full": {}, "tiny": TINY}


def data(path: Path | None, settings: EyeSettings, name: str = NAME) -> images.Splits:
    """Read grey eyes; no person is on both sides of the split if a column or the file names identify people."""
    part, classes, unreadable = images.load(
        path, recipe=name, expected=EXPECTED, shape=(1, settings.size, settings.size)
    )
    named = any(person(i) for i in part.ids)
    return images.split(
        part,
        classes,
        validation_share=settings.validation_share,
        test_share=settings.test_share,
        seed=settings.seed,
        samples=settings.samples,
        unreadable=unreadable,
        subject=person if named else None,
    )


def person(image_id: str) -> str:
    """Return the person from a file name of Closed Eyes in the Wild.

    The name (``Ann_Example_0001_L.jpg``), or for closed eyes the picture's number
    (``closed_eye_0002.jpg_face_2_L.jpg``); empty if the name does not identify the person.
    """
    stem = image_id.rpartition("/")[2]
    match = re.match(r"(closed_eye_\d+)\.\w+_face_\d+_[LR]\.", stem) or re.match(r"(.+)_\d{4}_[LR]\.", stem)
    return match[1] if match else ""


def model(settings: Settings, classes: int) -> nn.Module:
    """Create a WRN-16-k for grey images."""
    return WideResNet(blocks=settings.blocks, width=settings.width, classes=classes, channels=1)


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    options = options or Options()
    settings = settle(Settings, PRESETS, options)
    return train_in_mode(
        NAME, partial(model, settings), data(path, settings), settings, out=out, options=options, say=say
    )


def train_in_mode(
    name: str,
    network: Callable[[int], nn.Module],
    splits: images.Splits,
    settings: EyeSettings,
    *,
    out: Path,
    options: Options,
    say: Callable[[str], None],
    after_step: Callable[[nn.Module], None] | None = None,
    describe: Callable[[nn.Module], Mapping[str, Any]] | None = None,
) -> Path:
    """Train an eye-state network in the mode of its settings, and return the ONNX file."""
    mean, std = statistics(splits.learn)
    # whole-pixel shifts and mirroring: rotation would blur the perturbation of an attack
    augment = partial(perturbations.crop_and_flip, pad=round(settings.size * 5 / 32))

    def shifted(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return augment(batch, generator=generator)

    if settings.mode in ("fgsm-augmented", "noise-augmented", "duplicate-control"):
        first = None
        if settings.mode == "fgsm-augmented":
            say(f"{name}: training a clean model first, to generate FGSM examples of the training images")
            with seeded(settings.seed):
                fresh = network(len(splits.classes))
            out.mkdir(parents=True, exist_ok=True)
            first = fit(
                fresh,
                splits,
                settings,
                stem=out / f"{name}-first",
                mean=mean,
                std=std,
                device=choose_device(options.device),
                fresh=options.fresh,
                say=say,
                augment=shifted,
                after_step=after_step,
            ).model
        splits = splits._replace(learn=with_copies(splits.learn, settings, std, first))
        splits = splits._replace(notes={**splits.notes, "learn_with_copies": len(splits.learn)})
    return build(
        name,
        network,
        splits,
        settings,
        out=out,
        options=options,
        say=say,
        normalisation=(mean, std),
        augment=shifted,
        adversary=partial(half_attacked, settings) if settings.mode == "adversarial" else None,
        after_step=after_step,
        describe=describe,
    )


def with_copies(
    learn: images.Part, settings: EyeSettings, std: tuple[float, ...], first: InPixels | None
) -> images.Part:
    """Return the training images and copies of a share of them: FGSM on ``first``, uniform noise, or unchanged."""
    generator = torch.Generator().manual_seed(settings.seed)
    rows = torch.randperm(len(learn), generator=generator)[: round(settings.share * len(learn))].sort().values.numpy()
    copies = learn.take(rows)
    clean = pixels(learn, slice(None)).numpy()
    epsilon = settings.epsilon * torch.tensor(std).view(1, -1, 1, 1)
    changed = []
    for piece in torch.arange(len(copies)).split(256):
        part = copies.take(piece.numpy())
        x = pixels(part, slice(None))
        if first is not None:
            x = perturbations.fgsm(first, x, torch.from_numpy(part.labels), epsilon)
        elif settings.mode == "noise-augmented":
            x = perturbations.uniform(x, epsilon, generator)
        changed.append(x.numpy())
    return images.Part(
        ids=(*learn.ids, *(f"{i} ({settings.mode})" for i in copies.ids)),
        # as floats: most of the perturbation is below one of 255 grey levels
        pixels=np.concatenate([clean, *changed]),
        labels=np.concatenate([learn.labels, copies.labels]),
    )


def half_attacked(
    settings: EyeSettings, model: nn.Module, batch: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Replace the second half of the batch by FGSM examples on the current model, each with its own epsilon."""
    half = len(batch) // 2
    assert isinstance(model, InPixels)
    low, high = settings.epsilon_low, settings.epsilon_high
    drawn = low + (high - low) * torch.rand(len(batch) - half, 1, 1, 1, generator=generator)
    attacked = perturbations.fgsm(model, batch[half:], labels[half:], drawn.to(batch.device) * model.std)
    return torch.cat([batch[:half], attacked])
