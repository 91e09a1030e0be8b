"""Compare CLEVER by the probe with CLEVER by ART, untargeted over ten classes: same settings, same result, time ratio.

    uv run python benchmarks/clever.py [--images 4] [--batches 50] [--samples 100] [--rounds 3] [--large]
    uv run python benchmarks/clever.py --settings [--images 4]
    uv run python benchmarks/clever.py --reference [--images 24]

A small CNN with random weights on random 1x16x16 images (``--large``: 3x32x32). ART draws all batches from one pool of
points, as the probe does with ``pooled``; these two are compared. Each round runs both in sequence, and gives one
ratio. The last line is the probe's default, new points for every batch, which needs five times as many gradients at
(50, 100). Seconds are wall time, with torch's default number of threads for both; batch size and memory settings are
those of an audit, for ART as well. Set ``OMP_NUM_THREADS=1`` for one thread. Goal: ten times as fast as ART.

``--settings``: from (5, 5) to (500, 1024), new and pooled points: the median score, and the spread of three seeds.
``--reference``: the default compared with a reference in double precision and with its own points; goal within 3 %.
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
SMALL, LARGE = (1, 16, 16), (3, 32, 32)


def network(shape: tuple[int, int, int]) -> nn.Sequential:
    """Two convolutions and a linear layer, ten classes, logits."""
    torch.manual_seed(0)
    channels, side, _ = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * side * side, 10),
    ).eval()


SETTINGS = ((5, 5), (10, 32), (50, 100), (200, 256), (500, 1024))


def settings(ours: Any, batch: Any) -> None:
    """Print scores by setting: more new points are more informative, more points from one pool are not."""
    from auditor.plugins.metrics.clever import Clever
    from auditor.probes.base import Randomness

    print(f"CLEVER of the likeliest other class, L2, {len(batch)} images, three seeds (one at the largest setting)")
    print("batches x samples   points   median score   spread        law fits   seconds for an image")
    for batches, samples in SETTINGS:
        seeds = 3 if batches * samples < 100_000 else 1
        for points, pooled in (("fresh", False), ("pooled", True)):
            probe = Clever(
                norms=("l2",), batches=batches, batch_samples=samples, radius_l2=RADIUS, targets=1, pooled=pooled
            )
            began = time.perf_counter()
            results = [probe.measure(ours, batch, Randomness(seed, "metrics.clever")) for seed in range(seeds)]
            spent = (time.perf_counter() - began) / seeds / len(batch)
            scores = np.stack([columns["clever_runner_up"] for columns in results])
            spread = (
                f"{100 * np.median(np.ptp(scores, axis=0) / scores.mean(axis=0)):9.1f} %" if seeds > 1 else " " * 11
            )
            fits = 100 * np.mean([np.mean(columns["ks"] > 0.05) for columns in results])
            fit_text = f"{fits:6.0f} %" if not pooled else " " * 8
            score = f"{batches:5d} x {samples:<5d}       {points:7} {np.median(scores):12.4f}"
            print(f"{score}   {spread}   {fit_text}   {spent:10.2f}", flush=True)


def reference(ours: Any, batch: Any, module: nn.Module) -> None:
    """Compare the default setting with double precision and other points."""
    from auditor.algorithms.extreme_values import fit_end
    from auditor.plugins.metrics.clever import Clever
    from auditor.probes.base import Randomness

    double = copy.deepcopy(module).double()
    probe = Clever(norms=("l2",), radius_l2=RADIUS, targets=9)
    scores = probe.measure(ours, batch, Randomness(0, "metrics.clever"))["clever"]
    theirs = []
    for pixels, label in zip(batch.pixels.astype(np.float64), batch.labels.tolist(), strict=True):
        rng = np.random.default_rng(7)
        with torch.no_grad():
            clean = double(torch.from_numpy(pixels[None]))[0].numpy()
        largest: dict[int, list[float]] = {k: [] for k in range(10) if k != label}
        for _ in range(probe.batches):
            direction = rng.normal(size=(probe.batch_samples, pixels.size))
            size = rng.uniform(size=(probe.batch_samples, 1)) ** (1 / pixels.size)
            offset = RADIUS * size * direction / np.linalg.norm(direction, axis=1, keepdims=True)
            x = torch.from_numpy((pixels + offset.reshape(-1, *pixels.shape)).clip(0, 1)).requires_grad_()
            logits = double(x)
            for k, values in largest.items():
                (slope,) = torch.autograd.grad((logits[:, label] - logits[:, k]).sum(), x, retain_graph=True)
                values.append(float(slope.flatten(1).norm(dim=1).max()))
        others = list(largest)
        ends = fit_end(np.array([largest[k] for k in others])).end
        theirs.append(min((clean[label] - clean[others]) / ends))
    ratio = scores / np.minimum(theirs, RADIUS)
    low, high = np.quantile(ratio, [0.05, 0.95])
    print(
        f"CLEVER ({probe.batches}, {probe.batch_samples}) over its reference in double precision, {len(batch)} images:"
        f" median {np.median(ratio):.4f}, mean {ratio.mean():.4f}, 90 % of the images from {low:.3f} to {high:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--settings", action="store_true")
    parser.add_argument("--reference", action="store_true")
    arguments = parser.parse_args()

    from art.estimators.classification import PyTorchClassifier
    from art.metrics import clever_u

    from auditor.data.dataset import Batch
    from auditor.model.artefact import Artefact
    from auditor.model.deployed import DeployedModel
    from auditor.model.device import keep_memory
    from auditor.model.preprocessing import Preprocessing
    from auditor.plugins.metrics.clever import Clever
    from auditor.probes.base import Randomness
    from auditor.run.measuring import tune

    keep_memory()
    shape = LARGE if arguments.large else SMALL
    module = network(shape)
    # ART uses the network in torch's layout; the classifier chooses its own
    plain = copy.deepcopy(module).requires_grad_(requires_grad=False)

    def scores(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x)).numpy())

    artefact = Artefact(
        format="onnx",
        runtime="torch",
        input_shape=(None, *shape),
        input_dtype="float32",
        scores=scores,
        copy=module.requires_grad_(requires_grad=False),
    )
    ours = DeployedModel(
        artefact, Preprocessing(shape=shape), path="m", sha256="0" * 64, n_classes=10, outputs="logits"
    )
    ours.batch_size = tune(ours, np.random.default_rng(1).uniform(0, 1, (512, *shape)).astype(np.float32))
    theirs = PyTorchClassifier(plain, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1))
    pixels = np.random.default_rng(0).uniform(0, 1, (arguments.images, *shape)).astype(np.float32)
    probabilities = ours.predict(pixels)
    batch = Batch(
        ids=tuple(map(str, range(len(pixels)))),
        pixels=pixels,
        labels=probabilities.argmax(axis=1),
        probabilities=probabilities,
    )
    if arguments.settings:
        settings(ours, batch)
        return
    if arguments.reference:
        reference(ours, batch, plain)
        return
    how: dict[str, Any] = {
        "norms": ("l2",),
        "batches": arguments.batches,
        "batch_samples": arguments.samples,
        "radius_l2": RADIUS,
        "targets": 9,
    }
    pooled, fresh = Clever(**how, pooled=True), Clever(**how)
    np.random.seed(0)
    seconds: dict[str, list[float]] = {"ART": [], "pooled": [], "fresh": []}
    results: dict[str, list[float]] = {"ART": [], "pooled": [], "fresh": []}
    for number in range(arguments.rounds):
        began = time.perf_counter()
        with np.errstate(all="ignore"):
            results["ART"] += [
                clever_u(theirs, image, arguments.batches, arguments.samples, RADIUS, 2, verbose=False)
                for image in pixels
            ]
        seconds["ART"].append(time.perf_counter() - began)
        for name, probe in (("pooled", pooled), ("fresh", fresh)):
            began = time.perf_counter()
            results[name] += list(probe.measure(ours, batch, Randomness(number, "metrics.clever"))["clever"])
            seconds[name].append(time.perf_counter() - began)
    setting = f"({arguments.batches}, {arguments.samples})"
    print(
        f"CLEVER {setting}, 10 classes, L2, {arguments.images} images, {arguments.rounds} rounds,"
        f" {torch.get_num_threads()} threads, our batch {ours.batch_size}"
    )
    for name, times in seconds.items():
        ratios = [theirs / own for theirs, own in zip(seconds["ART"], times, strict=True)]
        scores_text = np.median(np.reshape(results[name], (-1, len(pixels))), axis=0).round(4).tolist()
        print(
            f"{name:7} {statistics.median(times):7.2f} s  ART takes {statistics.median(ratios):5.1f} times as long"
            f" ({min(ratios):.1f} to {max(ratios):.1f})  median score of each image {scores_text}"
        )


if __name__ == "__main__":
    main()
