"""Trainer of all recipes: epochs of batches, the best checkpoint on the validation images, early stopping, and an exact
resume of interrupted trainings.

All randomness of an epoch depends only on (seed, epoch), so that an epoch can be repeated alone. On a GPU it runs in
bfloat16 where that is safe (autocast) and channels-last.
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
"""Map pixels (n, c, h, w) in [0, 1] and a CPU generator to augmented pixels."""
Adversary = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""Map the network (pixels to logits, in evaluation mode), pixels, labels and a generator to the pixels to train on."""

_SEEDS = 1_000_003
"""Epoch e of seed s uses generator s * _SEEDS + e: a prime, so that no two trainings share an epoch's draws."""


class InPixels(nn.Module):
    """A network with pixel input in [0, 1], the space of all perturbations, independent of its normalisation."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits (n, k) of pixels (n, c, h, w)."""
        logits: torch.Tensor = self.network((pixels - self.mean) / self.std)
        return logits


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Result of a training."""

    model: InPixels
    """Best checkpoint, in evaluation mode on the CPU."""
    history: list[dict[str, float]]
    """One row per epoch."""
    best_epoch: int
    seconds: float
    """Time of all epochs, including those before an interruption."""
    device: str


_FORECAST_AFTER = 10.0
"""Seconds of training after which its duration is forecast."""

_LONG = 600.0
"""Seconds from which on the forecast names the ways to shorten a training."""


class Forecast:
    """Says once, after ten seconds, how long the training will take."""

    def __init__(self, images: int, say: Say) -> None:
        """``images`` are those of all epochs that are left."""
        self._images = images
        self._say = say
        self._done = 0
        self._said = False
        self._begun = time.monotonic()

    def trained(self, images: int) -> None:
        """Count the images of a batch."""
        self._done += images
        seconds = time.monotonic() - self._begun
        if self._said or seconds < _FORECAST_AFTER:
            return
        self._said = True
        left = seconds / self._done * (self._images - self._done)
        advice = " (longer than ten minutes: --preset tiny or --set epochs=N shortens it)" if left > _LONG else ""
        self._say(f"{self._done / seconds:,.1f} images/s on this machine, at most {_clock(left)} to go{advice}")


def statistics(part: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of all pixels per channel, rounded to three digits (for the sidecar)."""
    scale = 255 if part.pixels.dtype == np.uint8 else 1
    # in float64 image by image: a single sum would need all pixels as floats at once
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
    """Train ``network`` on ``splits.learn`` and return the state with the best accuracy on ``splits.validation``.

    Of equal accuracies the first counts. ``stem``.checkpoint.pt is written after every epoch, and read when the same
    training starts again.
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
    forecast = Forecast(len(splits.learn) * (settings.epochs - len(history)), say)
    for epoch in range(len(history), settings.epochs):
        if _patience_is_over(history, settings):
            say(f"stopped: no better validation accuracy in {settings.patience} epochs")
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
                forecast=forecast,
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
    model: nn.Module, part: Part, *, device: str = "cpu", batch: int = 64
) -> tuple[float, np.ndarray[Any, Any]]:
    """Return the mean cross-entropy and the correctly classified images (n,), in evaluation mode and full precision."""
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
    """Return images in [0, 1], float32, channels-last in memory."""
    chosen = torch.from_numpy(part.pixels[rows]).to(device)
    floats = chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()
    return floats.to(memory_format=torch.channels_last)


def choose_device(device: str) -> str:
    """Return ``device``; for "auto" "cuda" if available, else "cpu"."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


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
    forecast: Forecast,
) -> tuple[float, float]:
    """Train one epoch; return mean loss and accuracy on the augmented images."""
    generator = torch.Generator().manual_seed(settings.seed * _SEEDS + epoch)
    order = torch.randperm(len(part), generator=generator).split(settings.batch)
    if len(order) > 1 and len(order[-1]) == 1:
        # batch normalisation cannot train on a single image
        order = order[:-1]
    losses, correct, count = 0.0, 0, 0
    cuda = device.startswith("cuda")
    model.train()
    for rows in _with_progress(order, f"epoch {epoch + 1}"):
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
        correct += int((logits.detach().argmax(1) == labels).sum())
        count += len(labels)
        forecast.trained(len(labels))
    if not math.isfinite(losses):
        raise FloatingPointError("the loss is not finite; lower learning_rate with --set learning_rate=...")
    return losses / count, correct / count


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
    """Return the learning rate of an epoch, counted from 0."""
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
    """Return a digest of everything that the weights depend on; a checkpoint with another digest is not resumed."""
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
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        matches = saved["identity"] == identity
    except Exception as error:
        # the unpickler raises arbitrary exceptions on damaged files
        say(f"{checkpoint}: not readable ({type(error).__name__}); training restarts")
        return fresh
    if not matches:
        say(f"{checkpoint}: belongs to other settings or images; training restarts")
        return fresh
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    say(f"resumes after epoch {len(saved['history'])}")
    return dict(saved)


def _store(path: Path, state: dict[str, Any]) -> None:
    """Write a file atomically."""
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    temporary.replace(path)


def _with_progress(batches: tuple[torch.Tensor, ...], title: str) -> Iterator[torch.Tensor]:
    """Yield the batches, with a progress bar on a terminal."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield from batches
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(batches, title, console=Console(stderr=True), transient=True)


def _clock(seconds: float) -> str:
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes} min {remainder} s" if minutes else f"{remainder} s"
