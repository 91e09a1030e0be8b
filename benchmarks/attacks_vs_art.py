"""Compare FGSM, PGD-50 and AutoAttack with stock ART at the same settings.

    uv run python benchmarks/attacks_vs_art.py [--images 128] [--autoattack-images 48] [--art-starts 1]

Trains digits-cnn, opens its ONNX file, and attacks the same images with the audit's attacks (on the copy, judged on the
deployed model) and with ART on the copy as a ``PyTorchClassifier`` with ART's defaults (batches of 32). FGSM is a sweep
over ten epsilons. AutoAttack: the standard version compared with ART's components with the paper's budgets (100
iterations, 5,000 queries, 1 start; ART's default is 5), in sequence on the remaining images, as in ART's class. Prints
the robust accuracy of both on the deployed model. Times are the process's CPU seconds on one torch thread, so that
other work on the machine has little effect. Goals: FGSM and PGD at least 1.5 times as fast, AutoAttack 3 times.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from copies import Copy
from torch import nn

from auditor.plugin.suite import find_suite

EPSILON = 32 / 255
"""Epsilon at which digits-cnn loses about half of its images."""


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def report(name: str, ours: tuple[float, Any], art: tuple[float, Any], robust: Callable[[Any], int]) -> None:
    mine, theirs = (f"{spent:7.2f} s, robust {robust(points):4d}" for spent, points in (ours, art))
    print(f"{name:12} ours {mine};  ART {theirs};  ART / ours {art[0] / ours[0]:.2f}", flush=True)


def against_art(images: int, few: int, starts: int) -> None:
    from art.attacks.evasion import (
        AutoProjectedGradientDescent,
        DeepFool,
        FastGradientMethod,
        ProjectedGradientDescent,
        SquareAttack,
    )
    from art.estimators.classification import PyTorchClassifier

    from auditor.data.dataset import Batch
    from auditor.plugin import registry
    from auditor.plugins.attacks.autoattack import Autoattack
    from auditor.plugins.attacks.fgsm import Fgsm
    from auditor.plugins.attacks.pgd import Pgd
    from auditor.probes.base import Randomness
    from auditor.reference_models import recipe
    from auditor.run import opening, request
    from auditor.run.measuring import tune

    plugins = registry.load()
    with tempfile.TemporaryDirectory() as name:
        recipe("digits-cnn").train(Path(name), say=lambda _: None)
        request = request.Request(model=Path(name) / "digits-cnn.onnx", samples=images + images // 10)
        classifier, source = opening.open_audit(plugins, request, find_suite("full", plugins), "cpu")
        pixels, labels = source.pixels(source.ids), source.labels
    classifier.batch_size = tune(classifier, pixels)
    probabilities = classifier.predict(pixels)
    batch = Batch(ids=source.ids, pixels=pixels, labels=labels, probabilities=probabilities)
    batch = batch.take(np.flatnonzero(batch.predictions == labels)[:images])
    rng = Randomness(0, "benchmark")

    def robust_of(subject: Batch) -> Callable[[Any], int]:
        return lambda points: int((classifier.predict(points).argmax(axis=1) == subject.labels).sum())

    def stock() -> Any:
        return PyTorchClassifier(
            Copy(classifier).eval(),
            loss=nn.CrossEntropyLoss(),
            input_shape=classifier.shape,
            nb_classes=classifier.n_classes,
            clip_values=(0, 1),
        )

    def judged(subject: Batch, points: Any) -> Any:
        # verify each attack on the deployed model, as the audit does
        classifier.predict(points)
        return points

    estimator = stock()
    print(f"digits-cnn, {len(batch)} images of 8x8, epsilon 32/255, {torch.get_num_threads()} threads", flush=True)

    epsilons = [EPSILON * k / 10 for k in range(1, 11)]

    def our_sweep() -> Any:
        probe = Fgsm(epsilons=epsilons, l2_epsilons=())
        return [judged(batch, probe.perturbed(classifier, batch, rng, level)) for level in probe.levels()][-1]

    def art_sweep() -> Any:
        return [
            judged(batch, FastGradientMethod(estimator, eps=e).generate(batch.pixels, batch.labels)) for e in epsilons
        ][-1]

    our_sweep(), art_sweep()
    rounds = [(seconds(our_sweep), seconds(art_sweep)) for _ in range(5)]
    rounds.sort(key=lambda pair: pair[1][0] / pair[0][0])
    report("FGSM x 10", *rounds[2], robust_of(batch))

    level = {"norm": "linf", "epsilon": EPSILON}
    step = 2.5 * EPSILON / 50
    ours = seconds(lambda: judged(batch, Pgd(iterations=50).perturbed(classifier, batch, rng, level)))
    pgd = ProjectedGradientDescent(estimator, eps=EPSILON, eps_step=step, max_iter=50, num_random_init=1, verbose=False)
    art = seconds(lambda: judged(batch, pgd.generate(batch.pixels, batch.labels)))
    report("PGD-50", ours, art, robust_of(batch))

    subset = batch.take(np.arange(min(few, len(batch))))
    ours = seconds(lambda: Autoattack(epsilon=EPSILON).perturbed(classifier, subset, rng, level))

    def art_ensemble() -> Any:
        budget: dict[str, Any] = {"eps": EPSILON, "norm": np.inf}
        gradient: dict[str, Any] = {"eps_step": 2 * EPSILON, "max_iter": 100, "nb_random_init": starts}
        gradient |= {"verbose": False}
        points = subset.pixels.copy()
        for part in (
            AutoProjectedGradientDescent(estimator, **budget, **gradient, loss_type="cross_entropy"),
            AutoProjectedGradientDescent(stock(), **budget, **gradient, loss_type="difference_logits_ratio"),
            DeepFool(estimator, max_iter=100, epsilon=1e-3, nb_grads=10, verbose=False),
            SquareAttack(estimator, **budget, max_iter=5000, p_init=0.8, nb_restarts=starts, verbose=False),
        ):
            left = np.flatnonzero(classifier.predict(points).argmax(axis=1) == subset.labels)
            attempt = part.generate(subset.pixels[left], subset.labels[left])
            near = np.abs(attempt - subset.pixels[left]).max(axis=(1, 2, 3)) <= EPSILON + 1e-6
            points[left[near]] = attempt[near]
        return points

    report("AutoAttack", ours, seconds(art_ensemble), robust_of(subset))
    print(f"             on {len(subset)} of them; ours has FAB-T where ART has DeepFool, and nine targets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--autoattack-images", type=int, default=48)
    parser.add_argument("--art-starts", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    against_art(arguments.images, arguments.autoattack_images, arguments.art_starts)


if __name__ == "__main__":
    main()
