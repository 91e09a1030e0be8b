"""Write a recipe's results: the model as ONNX and TorchScript, the test images, the training record, the learning
curve."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auditor.reference_models.common.export import export, sidecar
from auditor.reference_models.common.images import Part, Splits
from auditor.reference_models.common.settings import Settings, recorded
from auditor.reference_models.common.training import Say, Trained, evaluate, pixels


def finish(
    trained: Trained,
    splits: Splits,
    settings: Settings,
    *,
    stem: Path,
    say: Say,
    extra: Mapping[str, Any],
) -> Path:
    """Write ``stem``.onnx, .pt, sidecars, -test.npz, .training.json and -learning-curve.png; return the ONNX file.

    ``extra`` is added to the training record.
    """
    from auditor.statistics.intervals import wilson

    mean = tuple(round(float(value), 6) for value in trained.model.mean.flatten())
    std = tuple(round(float(value), 6) for value in trained.model.std.flatten())
    test = splits.test
    data = stem.with_name(f"{stem.name}-test.npz")
    write_images(data, test, splits.classes)
    right = evaluate(trained.model, test)[1]
    _, low, high = wilson(int(right.sum()), len(right))
    record = {
        "recipe": stem.name,
        "settings": recorded(settings),
        "data": dict(splits.notes),
        "device": trained.device,
        "seconds": round(trained.seconds, 1),
        "best_epoch": trained.best_epoch,
        "epochs": len(trained.history),
        "test_accuracy": {"value": float(right.mean()), "low": low, "high": high, "n": len(right)},
        **extra,
        "history": trained.history,
    }
    stem.with_name(f"{stem.name}.training.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    learning_curve(stem.with_name(f"{stem.name}-learning-curve.png"), trained.history, trained.best_epoch)
    described = sidecar(test.pixels.shape[1:], splits.classes, data.name, mean=mean, std=std)
    # written last: if the model exists, all other files exist
    example = (pixels(test, slice(0, 2)) - trained.model.mean) / trained.model.std
    path = export(trained.model.network, example.contiguous(), stem, described)
    say(
        f"{stem.name}: accuracy {right.mean():.3f} [{low:.3f}, {high:.3f}] on {len(right)} test images; best epoch"
        f" {trained.best_epoch} of {len(trained.history)}; {trained.seconds:.0f} s"
    )
    return path


def write_images(path: Path, part: Part, classes: tuple[str, ...]) -> None:
    """Write images, labels by name and groups in the auditor's format."""
    images = np.ascontiguousarray(part.pixels.transpose(0, 2, 3, 1))
    groups: dict[str, Any] = {f"groups_{name}": values for name, values in part.groups.items()}
    labels = np.array(classes)[part.labels]
    np.savez_compressed(path, images=images[..., 0] if images.shape[-1] == 1 else images, labels=labels, **groups)


def learning_curve(path: Path, history: list[dict[str, float]], best_epoch: int) -> None:
    """Draw accuracy and loss over the epochs as a PNG of 770 x 330 pixels."""
    from PIL import Image, ImageDraw, ImageFont

    # Pillow draws without anti-aliasing: three times the size, scaled down at the end
    fine, width, height = 3, 770, 330
    image = Image.new("RGB", (width * fine, height * fine), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12 * fine)
    epochs = [row["epoch"] for row in history]
    first, last = min(epochs), max(*epochs, min(epochs) + 1)

    def line(points: list[tuple[float, float]], colour: str, thick: float) -> None:
        draw.line([(x * fine, y * fine) for x, y in points], colour, round(thick * fine), joint="curve")

    def text(x: float, y: float, words: str, anchor: str, colour: str = "#333333") -> None:
        draw.text((x * fine, y * fine), words, colour, font, anchor)

    for left, name in ((45, "accuracy"), (435, "loss")):
        right, top, bottom = left + 320, 35, 280
        lines = [
            ("as trained on", "#767676", [row[name] for row in history]),
            ("validation", "#0b5cad", [row[f"validation_{name}"] for row in history]),
        ]
        largest = 1.02 if name == "accuracy" else 1.05 * max([*lines[0][2], *lines[1][2], 1e-6])

        def x(epoch: float, left: int = left, right: int = right) -> float:
            return left + (epoch - first) / (last - first) * (right - left)

        def y(value: float, largest: float = largest, top: int = top, bottom: int = bottom) -> float:
            return bottom - value / largest * (bottom - top)

        text(left, top - 8, name, "ls")
        text(right, bottom + 42, "epoch", "rs")
        line([(left, top), (left, bottom), (right, bottom)], "#333333", 0.8)
        for value in _ticks(0, largest):
            line([(left - 4, y(value)), (left, y(value))], "#333333", 0.8)
            text(left - 6, y(value), f"{value:g}", "rm")
        for epoch in _ticks(first, last, whole=True):
            line([(x(epoch), bottom), (x(epoch), bottom + 4)], "#333333", 0.8)
            text(x(epoch), bottom + 8, f"{epoch:g}", "mt")
        line([(x(best_epoch), top), (x(best_epoch), bottom)], "#b3261e", 0.8)
        for place, (label, colour, values) in enumerate(lines):
            line([(x(epoch), y(value)) for epoch, value in zip(epochs, values, strict=True)], colour, 1.5)
            if name == "accuracy":
                line([(right - 120, bottom - 40 + 20 * place), (right - 100, bottom - 40 + 20 * place)], colour, 1.5)
                text(right - 94, bottom - 40 + 20 * place, label, "lm")
            elif place:
                text(right, top - 8, f"kept: epoch {best_epoch}", "rs", "#b3261e")
    image.resize((width, height), Image.Resampling.LANCZOS).save(path)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Up to six round values within [low, high]: multiples of 1, 2 or 5 times a power of ten, or whole numbers."""
    rough = max((high - low) / 5, 1e-9)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(round(step), 1) if whole else step
    return [round(n * step, 10) for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def load_weights(
    network: torch.nn.Module,
    file: str,
    rename: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> None:
    """Load a state_dict from a file into a network; skip tensors of other shapes (the last layer for other classes).

    ``rename`` maps the tensors of the file to those of the network. Raises BadInput for a file that is not a state_dict
    of this architecture.
    """
    from auditor.errors import BadInput

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"--weights {file}: no such file; expected a state_dict, pretrained or none") from None
    except Exception as error:
        raise BadInput(f"--weights {file}: not a state_dict that loads safely: {type(error).__name__}") from None
    own, state = network.state_dict(), rename(state)
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < len(own) / 2:
        raise BadInput(
            f"--weights {file}: fits {len(fitting)} of the network's {len(own)} tensors; expected a state_dict of this"
            " architecture"
        )
    network.load_state_dict(fitting, strict=False)
