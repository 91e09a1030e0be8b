"""Compare one minimum-norm search with ART's PGD sweep for the same curve, and Carlini-Wagner with ART's.

    uv run python benchmarks/minimum_norm.py [--images 100] [--iterations 50]

On the reference model digits-cnn. Accuracy at ten L-inf epsilons: by one search of FMN (including the bisection on the
deployed model), and by ART's PGD at each epsilon with as many steps, also judged on the deployed model; prints the
ratio of their times and the ten accuracies. Then the median L2 distance and the time of Carlini-Wagner, of both, with
the same steps, rate and number of constants. Times are the process's CPU seconds on one torch thread, so that other
work on the machine has little effect. Goals: the curve at least 5 times as fast, no accuracy a point above ART's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from copies import Copy
from torch import nn

from auditor.plugin.suite import find_suite

EPSILONS = [n / 255 for n in (1, 2, 4, 8, 12, 16, 24, 32, 40, 48)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    from art.attacks.evasion import CarliniL2Method, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    from auditor.data.dataset import Batch
    from auditor.plugin import registry
    from auditor.plugins.attacks.carlini_wagner import CarliniWagner
    from auditor.plugins.attacks.minimum_norm import FastMinimumNorm
    from auditor.probes.base import Randomness
    from auditor.reference_models import recipe
    from auditor.run import opening, request

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe("digits-cnn").train(folder, say=lambda _: None)
        plugins = registry.load()
        request = request.Request(model=folder / "digits-cnn.onnx", samples=arguments.images)
        classifier, images = opening.open_audit(plugins, request, find_suite("full", plugins), "cpu")
        pixels = images.pixels(images.ids)
        batch = Batch(
            ids=images.ids, pixels=pixels, labels=images.labels, probabilities=classifier.predict(pixels), groups={}
        )
        batch = batch.take(np.flatnonzero(batch.predictions == batch.labels))
        estimator = PyTorchClassifier(
            Copy(classifier).eval(),
            loss=nn.CrossEntropyLoss(),
            input_shape=classifier.shape,
            nb_classes=classifier.n_classes,
            clip_values=(0, 1),
            device_type="cpu",
        )

        def ours(probe: Any, norm: str) -> tuple[float, np.ndarray]:
            start = time.process_time()
            points, probabilities, _ = probe.nearest(classifier, batch, Randomness(0, probe.meta.id), norm)
            seconds = time.process_time() - start
            return seconds, sizes(points, probabilities, norm)

        def sizes(points: np.ndarray, probabilities: np.ndarray, norm: str) -> np.ndarray:
            delta = (points - batch.pixels).reshape(len(batch), -1).astype(np.float64)
            size = np.linalg.norm(delta, ord=np.inf if norm == "linf" else 2, axis=1)
            return np.where(probabilities.argmax(axis=1) != batch.labels, size, np.inf)

        # the first search also allocates
        ours(FastMinimumNorm(iterations=2), "linf")
        seconds, distance = ours(FastMinimumNorm(iterations=arguments.iterations), "linf")
        start = time.process_time()
        lost, theirs = np.zeros(len(batch), dtype=bool), []
        for epsilon in EPSILONS:
            attack = ProjectedGradientDescent(
                estimator,
                norm=np.inf,
                eps=epsilon,
                eps_step=2.5 * epsilon / arguments.iterations,
                max_iter=arguments.iterations,
                batch_size=len(batch),
                verbose=False,
            )
            points = attack.generate(batch.pixels, batch.labels)
            lost |= classifier.predict(points).argmax(axis=1) != batch.labels
            theirs.append(1 - lost.mean())
        art = time.process_time() - start
        robust = [(distance > epsilon).mean() for epsilon in EPSILONS]
        print("epsilon * 255:", *(f"{255 * epsilon:6.0f}" for epsilon in EPSILONS))
        print("one FMN      :", *(f"{100 * value:6.1f}" for value in robust), "%")
        print("ART's PGD    :", *(f"{100 * value:6.1f}" for value in theirs), "%")
        above = max(a - b for a, b in zip(robust, theirs, strict=True))
        print(
            f"curve: FMN {seconds:.2f} s, ART {art:.2f} s, ratio {art / seconds:.1f};"
            f" at most {100 * above:.1f} points above ART"
        )

        settings = {"iterations": arguments.iterations, "search_steps": 5, "first_constant": 1.0, "rate": 0.1}
        seconds, distance = ours(CarliniWagner(**settings), "l2")
        start = time.process_time()
        attack = CarliniL2Method(
            estimator,
            learning_rate=0.1,
            binary_search_steps=5,
            max_iter=arguments.iterations,
            initial_const=1.0,
            batch_size=len(batch),
            verbose=False,
        )
        points = attack.generate(batch.pixels, batch.labels)
        art = time.process_time() - start
        size = np.median(sizes(points, classifier.predict(points), "l2"))
        print(
            f"Carlini-Wagner: median {np.median(distance):.3f} in {seconds:.2f} s, ART {size:.3f} in {art:.2f} s,"
            f" ratio {art / seconds:.1f}"
        )


if __name__ == "__main__":
    main()
