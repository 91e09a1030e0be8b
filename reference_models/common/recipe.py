"""The way from settings, images and a network to the exported model, the same for every recipe."""

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
"""Mean and deviation that torchvision's weights were trained with."""


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
    """Train ``network(classes)`` and write everything into ``out`` as ``name``; the ONNX file.

    ``normalisation`` is mean and deviation per channel; those of the learning images where None. ``extra``, and what
    ``describe`` says of the trained network, go into the record of the training.
    """
    out.mkdir(parents=True, exist_ok=True)
    say(
        f"{name}, preset {options.preset}: {splits.notes['learn']} to learn from, {splits.notes['validation']} to"
        f" choose the checkpoint, {splits.notes['test']} to test; split: {splits.notes['split']}; kept together:"
        f" {splits.notes['kept_together']}; left out: {splits.notes['duplicates']} duplicates,"
        f" {splits.notes['unreadable']} unreadable"
    )
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


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The first weights are drawn from ``seed``; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
