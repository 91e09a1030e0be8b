"""The trainer of all recipes: epochs of batches, the checkpoint that is best on the validation images, early stopping,
and a training that was killed goes on to the same weights.

All randomness of an epoch comes from (seed, epoch), so that an epoch can be trained again by itself. On a GPU it runs
in bfloat16 where that is safe (autocast) and channels-last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from auditor.reference_models.common.images import Part, Splits
from auditor.reference_models.common.settings import Settings, recorded

Say = Callable[[str], None]
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Pixels (n, c, h, w) in [0, 1] and random numbers to changed pixels; the generator is on the CPU."""
Adversary = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""The network from pixels to logits, in evaluation mode, pixels and labels to the pixels to train on."""

_SEEDS = 1_000_003
"""Epoch e of seed s draws from generator s * _SEEDS + e: a prime, so that no two trainings share an epoch's draws."""


class InPixels(nn.Module):
    """A network that takes pixels in [0, 1]: what every recipe perturbs, whatever its network is fed."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (n, k) of pixels (n, c, h, w)."""
        logits: torch.Tensor = self.network((pixels - self.mean) / self.std)
        return logits


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came out of a training."""

    model: InPixels
    """The best checkpoint, in evaluation mode on the CPU."""
    history: list[dict[str, float]]
    """A row per epoch."""
    best_epoch: int
    seconds: float
    """Of all its epochs, also those before it was cut short."""
    device: str


def statistics(part: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of all pixels, per channel, rounded to three digits (they go into the sidecar)."""
    scale = 255 if part.pixels.dtype == np.uint8 else 1
    # in float64 by image: one sum over all pixels would need them all as floats at once
    first = np.mean([picture.mean(axis=(1, 2), dtype=np.float64) for picture in part.pixels], axis=0) / scale
    square = np.mean([(picture.astype(np.float64) ** 2).mean(axis=(1, 2)) for picture in part.pixels], axis=0)
    deviation = np.sqrt(np.maximum(square / scale**2 - first**2, 1e-6))
    return tuple(round(float(m), 3) for m in first), tuple(max(round(float(s), 3), 1e-3) for s in deviation)


def fit(
    network: nn.Module,
    splits: Splits,
    settings: Settings,
    *,
    stem: Path,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: str = "cpu",
    fresh: bool = False,
    say: Say = print,
    augment: Augment | None = None,
    adversary: Adversary | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
) -> Trained:
    """Train ``network`` on ``splits.learn``; the state with the best accuracy on ``splits.validation``, the first of
    equals.

    ``stem``.checkpoint.pt is written after every epoch, and read when the same training begins again.
    """
    model = InPixels(network, mean, std).to(device).to(memory_format=torch.channels_last)
    optimiser = _optimiser(model, settings)
    checkpoint = stem.with_name(stem.name + ".checkpoint.pt")
    identity = _identity(splits, settings, model)
    if fresh:
        checkpoint.unlink(missing_ok=True)
    state = _resume(checkpoint, identity, model, optimiser, say)
    history: list[dict[str, float]] = state["history"]
    best: dict[str, torch.Tensor] = state["best"]
    for epoch in range(len(history), settings.epochs):
        if _patience_is_over(history, settings):
            say(f"no better validation accuracy in {settings.patience} epochs: stopped")
            break
        rate = _rate(settings, epoch)
        for group in optimiser.param_groups:
            group["lr"] = rate
        began = time.monotonic()
        with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
            # dropout draws from the global generator
            torch.manual_seed(settings.seed * _SEEDS + epoch)
            loss, accuracy = _epoch(
                model,
                splits.learn,
                settings,
                optimiser,
                epoch,
                device=device,
                augment=augment,
                adversary=adversary,
                after_step=after_step,
            )
        validation_loss, right = evaluate(model, splits.validation, device=device, batch=4 * settings.batch)
        seconds = time.monotonic() - began
        row = {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "loss": loss,
            "accuracy": accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": float(right.mean()),
            "seconds": seconds,
        }
        if not history or row["validation_accuracy"] > max(old["validation_accuracy"] for old in history):
            best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        history.append(row)
        _store(
            checkpoint,
            {
                "identity": identity,
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "best": best,
                "history": history,
            },
        )
        left = seconds * (settings.epochs - epoch - 1)
        say(
            f"epoch {epoch + 1}/{settings.epochs}  loss {loss:.3f}  accuracy {accuracy:.3f}"
            f"  validation {row['validation_accuracy']:.3f}  {len(splits.learn) / seconds:,.0f} images/s"
            + (f"  {_clock(left)} left" if left else "")
        )
    model.load_state_dict(best)
    accuracies = [row["validation_accuracy"] for row in history]
    return Trained(
        model=model.eval().cpu(),
        history=history,
        best_epoch=accuracies.index(max(accuracies)) + 1,
        seconds=sum(row["seconds"] for row in history),
        device=device,
    )


@torch.no_grad()
def evaluate(
    model: nn.Module, part: Part, *, device: str = "cpu", batch: int = 256
) -> tuple[float, np.ndarray[Any, Any]]:
    """Mean cross-entropy, and which images (n,) the model gets right, in evaluation mode and full precision."""
    was = model.training
    model.eval()
    losses, right = [], []
    for rows in np.array_split(np.arange(len(part)), math.ceil(len(part) / batch)):
        logits = model(pixels(part, rows, device))
        labels = torch.from_numpy(part.labels[rows]).to(device)
        losses.append(nn.functional.cross_entropy(logits, labels, reduction="none").cpu().numpy())
        right.append((logits.argmax(1) == labels).cpu().numpy())
    model.train(was)
    return float(np.concatenate(losses).mean()), np.concatenate(right)


def pixels(part: Part, rows: Any, device: str = "cpu") -> torch.Tensor:
    """Images in [0, 1], float32, channels-last in memory."""
    chosen = torch.from_numpy(part.pixels[rows]).to(device)
    floats = chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()
    return floats.to(memory_format=torch.channels_last)


def choose_device(wanted: str) -> str:
    """ "cuda" where "auto" finds one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _epoch(
    model: InPixels,
    part: Part,
    settings: Settings,
    optimiser: torch.optim.Optimizer,
    epoch: int,
    *,
    device: str,
    augment: Augment | None,
    adversary: Adversary | None,
    after_step: Callable[[nn.Module], None] | None,
) -> tuple[float, float]:
    """Mean loss and accuracy on the images as they were trained on."""
    generator = torch.Generator().manual_seed(settings.seed * _SEEDS + epoch)
    order = torch.randperm(len(part), generator=generator).split(settings.batch)
    if len(order) > 1 and len(order[-1]) == 1:
        # batch normalisation cannot learn from one image
        order = order[:-1]
    losses, hits, seen = 0.0, 0, 0
    cuda = device.startswith("cuda")
    model.train()
    for rows in _shown(order, f"epoch {epoch + 1}"):
        labels = torch.from_numpy(part.labels[rows.numpy()]).to(device)
        images = pixels(part, rows.numpy(), device)
        if augment is not None:
            images = augment(images, generator)
        if adversary is not None:
            model.eval()
            images = adversary(model, images, labels, generator)
            model.train()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16) if cuda else contextlib.nullcontext():
            logits = model(images)
            loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimiser.step()
        if after_step is not None:
            after_step(model.network)
        losses += float(loss.detach()) * len(labels)
        hits += int((logits.detach().argmax(1) == labels).sum())
        seen += len(labels)
    if not math.isfinite(losses):
        raise FloatingPointError("the loss is no number any more; lower learning_rate with --set learning_rate=...")
    return losses / seen, hits / seen


def _optimiser(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimiser == "adam":
        return torch.optim.Adam(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        weights,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )


def _rate(settings: Settings, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0."""
    if settings.schedule == "cosine":
        return settings.learning_rate * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
    if settings.schedule == "step":
        return float(settings.learning_rate * settings.step_factor ** (epoch // settings.step_epochs))
    return settings.learning_rate


def _patience_is_over(history: list[dict[str, float]], settings: Settings) -> bool:
    if not settings.patience or not history:
        return False
    accuracies = [row["validation_accuracy"] for row in history]
    return len(history) - 1 - accuracies.index(max(accuracies)) >= settings.patience


def _identity(splits: Splits, settings: Settings, model: nn.Module) -> str:
    """Digest of all that the weights depend on; a checkpoint of another training is not gone on with."""
    shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    parts = [
        [part.ids, part.labels.tolist(), hashlib.sha256(np.ascontiguousarray(part.pixels).data).hexdigest()]
        for part in (splits.learn, splits.validation)
    ]
    first = [hashlib.sha256(value.cpu().numpy().tobytes()).hexdigest() for value in model.state_dict().values()]
    return hashlib.sha256(json.dumps([recorded(settings), shapes, parts, first]).encode()).hexdigest()


def _resume(
    checkpoint: Path, identity: str, model: nn.Module, optimiser: torch.optim.Optimizer, say: Say
) -> dict[str, Any]:
    fresh: dict[str, Any] = {"history": [], "best": {}}
    if not checkpoint.is_file():
        return fresh
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
        matches = found["identity"] == identity
    except Exception as error:
        # whatever a damaged file trips the unpickler over
        say(f"{checkpoint}: not readable ({type(error).__name__}), so the training begins anew")
        return fresh
    if not matches:
        say(f"{checkpoint}: belongs to other settings or images, so the training begins anew")
        return fresh
    model.load_state_dict(found["model"])
    optimiser.load_state_dict(found["optimiser"])
    say(f"goes on after epoch {len(found['history'])}")
    return dict(found)


def _store(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all."""
    aside = path.with_name(path.name + ".part")
    torch.save(state, aside)
    aside.replace(path)


def _shown(batches: tuple[torch.Tensor, ...], title: str) -> Iterator[torch.Tensor]:
    """The batches, with a progress bar where somebody sees it."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield from batches
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(batches, title, console=Console(stderr=True), transient=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
