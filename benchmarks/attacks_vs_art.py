"""FGSM, PGD-50 and AutoAttack against stock ART with the same settings; iterative attacks against their passes alone.

    uv run python benchmarks/attacks_vs_art.py [--images 128] [--autoattack-images 48] [--resnet-images 16]
                                                  [--art-starts 1]

Trains digits-cnn, opens its ONNX file, and attacks the same images once by the audit's attacks (on the copy, judged on
the original) and once by ART on the copy as a ``PyTorchClassifier`` with ART's own defaults (batches of 32). FGSM is a
sweep over ten epsilons. AutoAttack: the standard version against ART's components with the paper's budgets (100
iterations, 5,000 queries, 1 start; ART's own default is 5), one after the other on what is left, as ART's class does.
Robust accuracy of both is printed, on the original. Then, on a ResNet-18 at 64x64 with random weights, the time of each
iterative attack over that of as many bare forward and backward passes of the same batches. Goals: FGSM and PGD at least
1.5 times as fast, AutoAttack 3 times, overhead at most 1.15.
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
from torch import nn

EPSILON = 32 / 255
"""Where digits-cnn loses about half of its images."""


class Copy(nn.Module):
    """The differentiable copy as the module that ART wants."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.logits = classifier.logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(x)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def report(name: str, ours: tuple[float, Any], art: tuple[float, Any], robust: Callable[[Any], int]) -> None:
    mine, theirs = (f"{spent:7.2f} s, robust {robust(found):4d}" for spent, found in (ours, art))
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

    from auditor import engine, registry
    from auditor.images import Batch
    from auditor.measuring import tune
    from auditor.plugins.attacks.autoattack import Autoattack
    from auditor.plugins.attacks.fgsm import Fgsm
    from auditor.plugins.attacks.pgd import Pgd
    from auditor.probe import Randomness
    from auditor.reference_models import recipe

    plugins = registry.load()
    with tempfile.TemporaryDirectory() as name:
        recipe("digits-cnn").train(Path(name), say=lambda _: None)
        request = engine.Request(model=Path(name) / "digits-cnn.onnx", samples=images + images // 10)
        classifier, source = engine.open_audit(plugins, request, plugins.suite("full"), "cpu")
        pixels, labels = source.pixels(source.ids), source.labels
    classifier.batch_size = tune(classifier, pixels)
    probabilities = classifier.predict(pixels)
    batch = Batch(ids=source.ids, pixels=pixels, labels=labels, probabilities=probabilities)
    batch = batch.take(np.flatnonzero(batch.predictions == labels)[:images])
    rng = Randomness(0, "benchmark")

    def robust_of(subject: Batch) -> Callable[[Any], int]:
        return lambda found: int((classifier.predict(found).argmax(axis=1) == subject.labels).sum())

    def stock() -> Any:
        return PyTorchClassifier(
            Copy(classifier).eval(), loss=nn.CrossEntropyLoss(), input_shape=classifier.shape,
            nb_classes=classifier.n_classes, clip_values=(0, 1),
        )  # fmt: skip

    def judged(subject: Batch, found: Any) -> Any:
        # an attack counts for nothing until the original was asked, by whomever it was made
        classifier.predict(found)
        return found

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

    some = batch.take(np.arange(min(few, len(batch))))
    ours = seconds(lambda: Autoattack(epsilon=EPSILON).perturbed(classifier, some, rng, level))

    def art_ensemble() -> Any:
        budget: dict[str, Any] = {"eps": EPSILON, "norm": np.inf}
        gradient: dict[str, Any] = {"eps_step": 2 * EPSILON, "max_iter": 100, "nb_random_init": starts}
        gradient |= {"verbose": False}
        found = some.pixels.copy()
        for part in (
            AutoProjectedGradientDescent(estimator, **budget, **gradient, loss_type="cross_entropy"),
            AutoProjectedGradientDescent(stock(), **budget, **gradient, loss_type="difference_logits_ratio"),
            DeepFool(estimator, max_iter=100, epsilon=1e-3, nb_grads=10, verbose=False),
            SquareAttack(estimator, **budget, max_iter=5000, p_init=0.8, nb_restarts=starts, verbose=False),
        ):
            left = np.flatnonzero(classifier.predict(found).argmax(axis=1) == some.labels)
            tried = part.generate(some.pixels[left], some.labels[left])
            near = np.abs(tried - some.pixels[left]).max(axis=(1, 2, 3)) <= EPSILON + 1e-6
            found[left[near]] = tried[near]
        return found

    report("AutoAttack", ours, seconds(art_ensemble), robust_of(some))
    print(f"             on {len(some)} of them; ours has FAB-T where ART has DeepFool, and nine targets")


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 of He et al. 2016, ten classes."""
    blocks = [Residual(64, 64, 1), Residual(64, 64, 1)]
    for width in (128, 256, 512):
        blocks += [Residual(width // 2, width, 2), Residual(width, width, 1)]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    ).eval()  # fmt: skip


def overhead(images: int) -> None:
    from auditor import attacks
    from auditor.classifier import Artefact, Classifier, Preprocessing
    from auditor.images import Batch
    from auditor.plugins.attacks.pgd import Pgd
    from auditor.probe import Randomness

    torch.manual_seed(0)
    net = resnet18()
    artefact = Artefact(
        format="torchscript", runtime="torch", input_shape=(None, 3, 64, 64), input_dtype="float32", copy=net,
        scores=lambda x: net(torch.from_numpy(x)).detach().numpy(),
    )  # fmt: skip
    classifier = Classifier(
        artefact, Preprocessing(shape=(3, 64, 64)), path="resnet18", sha256="0" * 64, n_classes=10, outputs="logits"
    )
    pixels = np.random.default_rng(0).uniform(0, 1, (images, 3, 64, 64)).astype(np.float32)
    probabilities = classifier.predict(pixels)
    labels = probabilities.argmax(axis=1)
    batch = Batch(ids=tuple(map(str, range(images))), pixels=pixels, labels=labels, probabilities=probabilities)
    clean, y = classifier.tensor(pixels), torch.from_numpy(labels)
    # so small that nothing breaks: every image stays for every step
    ball, wide = attacks.Ball("linf", 1e-7), attacks.Ball("l2", 1e-6)
    start = torch.zeros_like(clean)
    target = torch.from_numpy(np.argsort(probabilities, axis=1)[:, -2].copy())

    def loss(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return attacks.soft_margin(logits, y[rows])

    def asked(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return attacks.margin(classifier.logits(x), y[rows])

    def draw(row: int, purpose: str) -> np.random.Generator:
        return Randomness(0, "benchmark")(str(row), purpose)

    def pgd(norm: str, epsilon: float) -> Any:
        return Pgd(iterations=20).perturb(classifier, batch, Randomness(0, "x"), {"norm": norm, "epsilon": epsilon})

    runs: dict[str, Callable[[], Any]] = {
        "PGD L-inf": lambda: pgd("linf", 1e-7),
        "PGD L2": lambda: pgd("l2", 1e-6),
        "PGD L1": lambda: pgd("l1", 1e-5),
        "APGD": lambda: attacks.apgd(
            classifier.logits, clean, y, ball=ball, start=start, iterations=20, objective=loss
        ),
        "FAB": lambda: attacks.fab(classifier.logits, clean, y, target, ball=ball, iterations=20),
        "Square L-inf": lambda: attacks.square(asked, clean, ball, 40, draw),
        "Square L2": lambda: attacks.square(asked, clean, wide, 40, draw),
    }
    print(f"\nResNet-18, {images} images of 64x64: attack over its bare passes", flush=True)
    for name, attack in runs.items():
        attack()
        ratios = []
        for _ in range(3):
            forward, backward = classifier.calls.forward, classifier.calls.backward
            spent, _ = seconds(attack)
            passes = classifier.calls.forward - forward, classifier.calls.backward - backward
            ratios.append(spent / bare(classifier, clean, *(calls // images for calls in passes)))
        print(f"{name:12} median {sorted(ratios)[1]:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}", flush=True)


def bare(classifier: Any, x: torch.Tensor, forward: int, backward: int) -> float:
    """Seconds of as many passes of the batch, those with a gradient first."""
    start = time.perf_counter()
    for _ in range(backward):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(classifier.logits(leaf).logsumexp(1).sum(), leaf)
    with torch.no_grad():
        for _ in range(forward - backward):
            classifier.logits(x)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--autoattack-images", type=int, default=48)
    parser.add_argument("--resnet-images", type=int, default=16)
    parser.add_argument("--art-starts", type=int, default=1)
    arguments = parser.parse_args()
    against_art(arguments.images, arguments.autoattack_images, arguments.art_starts)
    overhead(arguments.resnet_images)


if __name__ == "__main__":
    main()
