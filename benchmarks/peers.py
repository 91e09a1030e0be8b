"""Compare the auditor with what a user would write instead: ART, Foolbox, torchattacks, captum, shap and lime.

    uv run --with opencv-python-headless python benchmarks/peers.py [--images 16] [--steps 10] [--explained 1]

The network is EfficientNet-Lite0 of the recipe photographs at 128 pixels, the images are test crops. Accuracy after
FGSM and PGD of 2/255: the auditor attacks the differentiable copy and classifies in ONNX Runtime; the others attack a
torch module of the same network, with their defaults except epsilon and the steps (of 2.5 epsilon / steps), and
classify with it. Maps of the first images: Integrated Gradients with 32 steps, SHAP Partition with 500 evaluations,
LIME with 1,000; shap and lime query ONNX Runtime as the auditor does, in batches of 10. Each tool is first run once on
one image, because libraries compile or load at the first call; that time is not counted. Passes are of images, per
image.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from copies import Copy
from equal_budgets import Counted
from explanations import our_lime, our_shap, plain_lime, plain_shap
from torch import nn

from auditor.plugin.suite import find_suite

EPSILON = 2 / 255

Job = Callable[[Any], Any]
"""A function of a batch: the images that an attack found, or maps."""


class Peer(NamedTuple):
    """One way to get a figure; the first of each figure is the auditor's."""

    figure: str
    tool: str
    run: Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="steps of PGD")
    parser.add_argument("--explained", type=int, default=1, help="images with a map")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        classifier, batch = subject(Path(folder), arguments.images)
    module = Counted(Copy(classifier)).eval()
    right = (batch.probabilities.argmax(1) == batch.labels).mean()
    print(f"{len(batch)} images, {100 * right:.1f} % classified correctly; {arguments.explained} explained")
    print(f"{'figure':22} {'tool':22} accuracy  seconds  ratio  forward  backward")
    attacked = attacks(classifier, module, arguments.steps)
    report([Peer(p.figure, p.tool, accurate(p, classifier, module)) for p in attacked], batch, classifier, module)
    report(maps(classifier, module), batch.take(range(arguments.explained)), classifier, module)


def report(peers: list[Peer], batch: Any, classifier: Any, module: Counted) -> None:
    """Print one line per peer; ratios are of wall time to the auditor's for the same figure."""
    first: dict[str, float] = {}
    for peer in peers:
        peer.run(batch.take([0]))
        counts = classifier.calls
        counts.forward = counts.backward = module.forwards = module.backwards = 0
        np.random.seed(0)
        torch.manual_seed(0)
        start = time.perf_counter()
        value = peer.run(batch)
        seconds = time.perf_counter() - start
        reference = first.setdefault(peer.figure, seconds)
        forward, backward = counts.forward + module.forwards, counts.backward + module.backwards
        accuracy = f"{100 * value:6.1f} %" if isinstance(value, float) else " " * 8
        print(
            f"{peer.figure:22} {peer.tool:22} {accuracy}  {seconds:7.2f}  {seconds / reference:5.2f}"
            f"  {forward / len(batch):7.1f}  {backward / len(batch):8.1f}",
            flush=True,
        )


def accurate(peer: Peer, classifier: Any, module: Counted) -> Job:
    """Return the function that attacks a batch and measures the accuracy."""

    def run(batch: Any) -> float:
        found = peer.run(batch)
        if peer.tool == "auditor":
            return float((classifier.predict(found).argmax(1) == batch.labels).mean())
        with torch.no_grad():
            answers = module(torch.as_tensor(found)).argmax(1).numpy()
        return float((answers == batch.labels).mean())

    return run


def attacks(classifier: Any, module: Counted, steps: int) -> list[Peer]:
    """Return FGSM and PGD of every library."""
    import foolbox
    import torchattacks
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    from auditor.plugins.attacks.fgsm import Fgsm
    from auditor.plugins.attacks.pgd import Pgd
    from auditor.probes.base import Randomness

    size = 2.5 * EPSILON / steps
    level = {"norm": "linf", "epsilon": EPSILON}
    loss = nn.CrossEntropyLoss()
    estimator = PyTorchClassifier(
        module,
        loss=loss,
        input_shape=classifier.shape,
        nb_classes=classifier.n_classes,
        clip_values=(0, 1),
        device_type="cpu",
    )
    fool = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")

    def ours(probe: Any) -> Job:
        return lambda batch: probe.perturbed(classifier, batch, Randomness(0, probe.meta.id), level)

    def art(attack: Any) -> Job:
        return lambda batch: attack.generate(batch.pixels, batch.labels)

    def tensors(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(batch.pixels), torch.from_numpy(batch.labels)

    def by_foolbox(attack: Any) -> Job:
        return lambda batch: attack(fool, *tensors(batch), epsilons=EPSILON)[1]

    def by_torchattacks(attack: Any) -> Job:
        return lambda batch: attack(*tensors(batch))

    pgd = ProjectedGradientDescent(
        estimator, eps=EPSILON, eps_step=size, max_iter=steps, num_random_init=1, verbose=False
    )
    linf_pgd = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=size)
    return [
        Peer("FGSM", "auditor", ours(Fgsm())),
        Peer("FGSM", "ART", art(FastGradientMethod(estimator, eps=EPSILON))),
        Peer("FGSM", "Foolbox", by_foolbox(foolbox.attacks.LinfFastGradientAttack())),
        Peer("FGSM", "torchattacks", by_torchattacks(torchattacks.FGSM(module, eps=EPSILON))),
        Peer("PGD", "auditor", ours(Pgd(iterations=steps))),
        Peer("PGD", "ART", art(pgd)),
        Peer("PGD", "Foolbox", by_foolbox(linf_pgd)),
        Peer("PGD", "torchattacks", by_torchattacks(torchattacks.PGD(module, eps=EPSILON, alpha=size, steps=steps))),
    ]


def maps(classifier: Any, module: Counted) -> list[Peer]:
    """Return three explanations, each by the auditor and by the plain use of its library."""
    from captum.attr import IntegratedGradients as Captum

    from auditor.plugins.explanations.integrated_gradients import IntegratedGradients
    from auditor.probes.base import Randomness

    def ours(batch: Any) -> Any:
        return IntegratedGradients(iterations=32).attribute(classifier, batch, Randomness(0, "benchmark"))

    def plain(batch: Any) -> Any:
        pixels, targets = torch.from_numpy(batch.pixels), torch.from_numpy(batch.predictions)
        return Captum(module).attribute(pixels, target=targets, n_steps=32)

    return [
        Peer("Integrated Gradients", "auditor", ours),
        Peer("Integrated Gradients", "captum", plain),
        Peer("SHAP", "auditor", lambda batch: our_shap(classifier, batch)),
        Peer("SHAP", "shap", lambda batch: plain_shap(classifier, batch)),
        Peer("LIME", "auditor", lambda batch: our_lime(classifier, batch)),
        Peer("LIME", "lime", lambda batch: plain_lime(classifier, batch)),
    ]


def subject(folder: Path, count: int) -> tuple[Any, Any]:
    """Return the opened network and the first test images, in a random order, in memory."""
    from auditor.plugin import registry
    from auditor.reference_models import recipe
    from auditor.run.measuring import Measurer, tune
    from auditor.run.opening import open_audit
    from auditor.run.request import Request

    model = recipe("photographs").train(folder, say=lambda _: None)
    plugins = registry.load()
    request = Request(model=model, samples=count)
    classifier, images = open_audit(plugins, request, find_suite("full", plugins), "cpu")
    classifier.batch_size = tune(classifier, images.pixels(images.ids))
    return classifier, Measurer(classifier, images, 0).batch(images.ids)


if __name__ == "__main__":
    main()
