"""Compare robust accuracy with three other libraries, on the same images and with the same settings.

    uv run python benchmarks/agreement.py [--images 200] [--autoattack-images 100]

Trains digits-cnn and uses images that it classifies correctly. PGD with 20 steps of 2.5 epsilon / 20 from one random
start, in L-inf and L2, by this project, ART, Foolbox and torchattacks. AutoAttack, the standard version (100
iterations, 9 targets, 5,000 queries), by this project and by torchattacks, which has the published code's four
components in order. Every image is judged by the deployed model. Goals: PGD within one point if few images are at the
edge, and never weaker by more than a point; AutoAttack within one point.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from copies import Copy
from torch import nn

from auditor.plugin.suite import find_suite

LEVELS = [("linf", 8 / 255), ("linf", 16 / 255), ("linf", 32 / 255), ("l2", 0.5), ("l2", 1.0)]
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--autoattack-images", type=int, default=100)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    import eagerpy
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier
    from foolbox import PyTorchModel
    from foolbox.attacks import L2PGD, LinfPGD

    from auditor.data.dataset import Batch
    from auditor.plugin import registry
    from auditor.plugins.attacks.autoattack import Autoattack
    from auditor.plugins.attacks.pgd import Pgd
    from auditor.probes.base import Randomness
    from auditor.reference_models import recipe
    from auditor.run import opening, request

    with tempfile.TemporaryDirectory() as name:
        recipe("digits-cnn").train(Path(name), say=lambda _: None)
        plugins = registry.load()
        request = request.Request(model=Path(name) / "digits-cnn.onnx", samples=arguments.images * 11 // 10)
        classifier, source = opening.open_audit(plugins, request, find_suite("full", plugins), "cpu")
        pixels, labels = source.pixels(source.ids), source.labels
    classifier.batch_size = 256
    batch = Batch(ids=source.ids, pixels=pixels, labels=labels, probabilities=classifier.predict(pixels))
    batch = batch.take(np.flatnonzero(batch.predictions == labels)[: arguments.images])
    rng, module = Randomness(0, "benchmark"), Copy(classifier).eval()
    estimator = PyTorchClassifier(
        module,
        loss=nn.CrossEntropyLoss(),
        input_shape=classifier.shape,
        nb_classes=classifier.n_classes,
        clip_values=(0, 1),
        device_type="cpu",
    )
    foolbox = PyTorchModel(module, bounds=(0, 1), device="cpu")
    torch.manual_seed(0)
    np.random.seed(0)

    def robust(images: Any, norm: str, epsilon: float, subject: Batch) -> float:
        points = np.asarray(images, dtype=np.float32)
        delta = (points - subject.pixels).reshape(len(subject), -1).astype(np.float64)
        far = np.linalg.norm(delta, ord=np.inf if norm == "linf" else 2, axis=1) > epsilon * (1 + 1e-4)
        points[far] = subject.pixels[far]
        return 100 * float((classifier.predict(points).argmax(axis=1) == subject.labels).mean())

    print(f"digits-cnn, {len(batch)} images of 8x8; robust accuracy in %, on the deployed file")
    print("attack       norm  epsilon     ours     ART Foolbox torchattacks")
    x, y = torch.from_numpy(batch.pixels), torch.from_numpy(batch.labels)
    for norm, epsilon in LEVELS:
        step = 2.5 * epsilon / STEPS
        ours = Pgd(iterations=STEPS).perturbed(classifier, batch, rng, {"norm": norm, "epsilon": epsilon})
        art = ProjectedGradientDescent(
            estimator,
            norm=np.inf if norm == "linf" else 2,
            eps=epsilon,
            eps_step=step,
            max_iter=STEPS,
            num_random_init=1,
            batch_size=256,
            verbose=False,
        ).generate(batch.pixels, batch.labels)
        attack = (LinfPGD if norm == "linf" else L2PGD)(steps=STEPS, abs_stepsize=step)
        fool = attack.run(foolbox, *eagerpy.astensors(x, y), epsilon=epsilon).raw
        other: Any = torchattacks.PGD(module, eps=epsilon, alpha=step, steps=STEPS)
        if norm == "l2":
            other = torchattacks.PGDL2(module, eps=epsilon, alpha=step, steps=STEPS)
        theirs = other(x, y)
        values = [robust(np.array(points), norm, epsilon, batch) for points in (ours, art, fool, theirs)]
        print(f"PGD-{STEPS}       {norm:5} {epsilon:7.4f}", *(f"{value:8.1f}" for value in values), flush=True)

    subset = batch.take(np.arange(min(arguments.autoattack_images, len(batch))))
    x, y = torch.from_numpy(subset.pixels), torch.from_numpy(subset.labels)
    for norm, epsilon in (("linf", 32 / 255), ("l2", 1.0)):
        level = {"norm": norm, "epsilon": epsilon}
        ours = Autoattack(norm=norm, epsilon=epsilon).perturbed(classifier, subset, rng, level)
        norm_name = "Linf" if norm == "linf" else "L2"
        theirs = torchattacks.AutoAttack(module, norm=norm_name, eps=epsilon, version="standard", n_classes=10, seed=0)(
            x, y
        )
        theirs = theirs.detach()
        values = [robust(np.array(points), norm, epsilon, subset) for points in (ours, theirs)]
        print(
            f"AutoAttack   {norm:5} {epsilon:7.4f} {values[0]:8.1f}                 {values[1]:8.1f}"
            f"   (n = {len(subset)})",
            flush=True,
        )


if __name__ == "__main__":
    main()
