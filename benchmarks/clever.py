"""CLEVER by the probe against CLEVER by ART, untargeted over ten classes: same settings, same result, time ratio.

    uv run python benchmarks/clever.py [--images 4] [--batches 50] [--samples 100] [--rounds 3]

A small CNN with random weights on random 1x16x16 images. ART draws its batches again and again from one pool of points;
the probe does the same with ``pooled``, and that is what is compared. In every round both run one after the other; the
ratio is taken round by round. The last line is the probe's default, fresh points for every batch, which are five times
as many gradients at (50, 100). Goal: ten times as fast as ART.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import nn

RADIUS = 1.0
SHAPE = (1, 16, 16)


def network() -> nn.Sequential:
    """Two convolutions and a linear layer, ten classes, logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10),
    ).eval()  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    from art.estimators.classification import PyTorchClassifier
    from art.metrics import clever_u

    from auditor.classifier import Artefact, Classifier, Preprocessing
    from auditor.images import Batch
    from auditor.plugins.metrics.clever import Clever
    from auditor.probe import Randomness

    module = network()
    # ART has the network as torch makes it; the classifier lays its copy out as it likes
    plain = copy.deepcopy(module).requires_grad_(requires_grad=False)

    def scores(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x)).numpy())

    artefact = Artefact(format="onnx", runtime="torch", input_shape=(None, *SHAPE), input_dtype="float32",
                        scores=scores, copy=module.requires_grad_(requires_grad=False))  # fmt: skip
    ours = Classifier(artefact, Preprocessing(shape=SHAPE), path="m", sha256="0" * 64, n_classes=10, outputs="logits")
    ours.batch_size = 512
    theirs = PyTorchClassifier(plain, nn.CrossEntropyLoss(), SHAPE, 10, clip_values=(0, 1))
    pixels = np.random.default_rng(0).uniform(0, 1, (arguments.images, *SHAPE)).astype(np.float32)
    probabilities = ours.predict(pixels)
    batch = Batch(ids=tuple(map(str, range(len(pixels)))), pixels=pixels, labels=probabilities.argmax(axis=1),
                  probabilities=probabilities)  # fmt: skip
    settings: dict[str, Any] = {"norms": ("l2",), "batches": arguments.batches, "batch_samples": arguments.samples,
                                "radius_l2": RADIUS, "targets": 9}  # fmt: skip
    pooled, fresh = Clever(**settings, pooled=True), Clever(**settings)
    np.random.seed(0)
    seconds: dict[str, list[float]] = {"ART": [], "pooled": [], "fresh": []}
    found: dict[str, list[float]] = {"ART": [], "pooled": [], "fresh": []}
    for number in range(arguments.rounds):
        began = time.perf_counter()
        with np.errstate(all="ignore"):
            found["ART"] += [
                clever_u(theirs, image, arguments.batches, arguments.samples, RADIUS, 2, verbose=False)
                for image in pixels
            ]
        seconds["ART"].append(time.perf_counter() - began)
        for name, probe in (("pooled", pooled), ("fresh", fresh)):
            began = time.perf_counter()
            found[name] += list(probe.measure(ours, batch, Randomness(number, "metrics.clever"))["clever"])
            seconds[name].append(time.perf_counter() - began)
    settings_said = f"({arguments.batches}, {arguments.samples})"
    print(f"CLEVER {settings_said}, 10 classes, L2, {arguments.images} images, {arguments.rounds} rounds")
    for name, times in seconds.items():
        ratios = [theirs / own for theirs, own in zip(seconds["ART"], times, strict=True)]
        print(f"{name:7} median score {np.median(found[name]):.4f}  {statistics.median(times):7.2f} s"
              f"  ART takes {statistics.median(ratios):5.1f} times as long")  # fmt: skip


if __name__ == "__main__":
    main()
