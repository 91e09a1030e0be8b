"""Train and export a recipe from its settings, images and network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auditor.reference_models.common.finish import finish
from auditor.reference_models.common.images import Splits
from auditor.reference_models.common.settings import Options, Settings
from auditor.reference_models.common.training import Adversary, Augment, Say, choose_device, fit, statistics

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of torchvision's pretrained weights."""


def build(
    name: str,
    network: Callable[[int], nn.Module],
    splits: Splits,
    settings: Settings,
    *,
    out: Path,
    options: Options,
    say: Say,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    augment: Augment | None = None,
    adversary: Adversary | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
    extra: Mapping[str, Any] | None = None,
    describe: Callable[[nn.Module], Mapping[str, Any]] | None = None,
) -> Path:
    """Train ``network(classes)``, write all results to ``out`` as ``name``, and return the ONNX file.

    ``normalisation`` is mean and deviation per channel; None uses those of the training images. ``extra``, and the
    result of ``describe`` on the trained network, go into the training record.
    """
    out.mkdir(parents=True, exist_ok=True)
    announce(name, splits, options, say)
    with seeded(settings.seed):
        fresh = network(len(splits.classes))
    mean, std = normalisation or statistics(splits.learn)
    stem = out / name
    trained = fit(
        fresh,
        splits,
        settings,
        stem=stem,
        mean=mean,
        std=std,
        device=choose_device(options.device),
        fresh=options.fresh,
        say=say,
        augment=augment,
        adversary=adversary,
        after_step=after_step,
    )
    details = {"preset": options.preset, "weights": options.weights, **(extra or {})}
    if describe is not None:
        details |= describe(trained.model.network)
    return finish(trained, splits, settings, stem=stem, say=say, extra=details)


def announce(name: str, splits: Splits, options: Options, say: Say) -> None:
    """Say how many images each part of the split has, and which images were removed."""
    say(
        f"{name}, preset {options.preset}: {splits.notes['learn']} training, {splits.notes['validation']} validation"
        f" and {splits.notes['test']} test images; split: {splits.notes['split']}; kept together:"
        f" {splits.notes['kept_together']}; removed: {splits.notes['duplicates']} duplicates,"
        f" {splits.notes['unreadable']} unreadable"
    )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the initial weights from ``seed``; restore the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
