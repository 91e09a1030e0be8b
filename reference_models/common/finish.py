"""Write a recipe's results: the model as ONNX and TorchScript, the test images, the training record, the learning
curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auditor.reference_models.common.export import export
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
    channels, height, width = test.pixels.shape[1:]
    sidecar: dict[str, dict[str, Any]] = {
        "input": {"size": [height, width], "channels": channels, "range": [0, 1], "mean": mean, "std": std},
        "output": {"classes": splits.classes, "kind": "logits"},
        "data": {"path": data.name},
    }
    # written last: if the model exists, all other files exist
    example = (pixels(test, slice(0, 2)) - trained.model.mean) / trained.model.std
    path = export(trained.model.network, example.contiguous(), stem, sidecar)
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
    """Plot accuracy and loss over the epochs."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name in ((left, "accuracy"), (right, "loss")):
        axes.plot(epochs, [row[name] for row in history], color="#767676", label="training")
        axes.plot(epochs, [row[f"validation_{name}"] for row in history], color="#0b5cad", label="validation")
        axes.axvline(best_epoch, color="#b3261e", linewidth=0.8, linestyle=":")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylim(0, 1.02)
    left.legend(frameon=False, fontsize="small", loc="lower right")
    right.set_title(f"best: epoch {best_epoch}", fontsize="small", loc="right", color="#b3261e")
    figure.savefig(path, dpi=110)


def load_weights(network: torch.nn.Module, file: str) -> None:
    """Load a state_dict from a file into a network; skip tensors of other shapes (the last layer for other classes).

    Raises BadInput for a file that is not a state_dict of this architecture.
    """
    from auditor.errors import BadInput

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"--weights {file}: no such file; expected a state_dict, pretrained or none") from None
    except Exception as error:
        raise BadInput(f"--weights {file}: not a state_dict that loads safely: {type(error).__name__}") from None
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < len(own) / 2:
        raise BadInput(
            f"--weights {file}: fits {len(fitting)} of the network's {len(own)} tensors; expected a state_dict of this"
            " architecture"
        )
    network.load_state_dict(fitting, strict=False)
