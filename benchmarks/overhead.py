"""Compare the time of every iterative attack with that of its model passes, on a ResNet-18 at 64x64.

    uv run python benchmarks/overhead.py [--images 16] [--rounds 3] [--only NAME]

The network has random weights. It is so confident of one class that no attack succeeds and every image is used to the
end; for HopSkipJump, which must start from a misclassified image, it is undecided between two. During an attack every
pass is logged: number of images, number of gradients, copy or deployed model. Then exactly these passes are repeated
alone. Times are the process's CPU seconds on one torch thread, so that other work on the machine has little effect.
Each round gives one ratio of the two times. Goal: at most 1.15.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

SHAPE = (3, 64, 64)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """Create the ResNet-18 of He et al. 2016, ten classes."""
    blocks = [Residual(64, 64, 1), Residual(64, 64, 1)]
    for width in (128, 256, 512):
        blocks += [Residual(width // 2, width, 2), Residual(width, width, 1)]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 10),
    ).eval()


class Passes:
    """Log of the passes of a classifier and its variants, such as one with shuffled weights, in order."""

    def __init__(self, classifier: Any) -> None:
        self.kind = type(classifier)
        self.log: list[dict[str, Any]] = []

    def __enter__(self) -> list[dict[str, Any]]:
        self.log = []
        self.before = logits, predict = self.kind.logits, self.kind.predict

        def logged_logits(classifier: Any, images: torch.Tensor) -> torch.Tensor:
            entry = {"n": len(images), "gradients": 0, "deployed": False}
            self.log.append(entry)
            result: torch.Tensor = logits(classifier, images)
            if result.requires_grad:
                result.register_hook(lambda _: entry.update(gradients=entry["gradients"] + 1))
            return result

        def logged_predict(classifier: Any, images: Any) -> Any:
            self.log.append({"n": len(images), "gradients": 0, "deployed": True})
            return predict(classifier, images)

        self.kind.logits, self.kind.predict = logged_logits, logged_predict
        return self.log

    def __exit__(self, *_: object) -> None:
        self.kind.logits, self.kind.predict = self.before


def alone(classifier: Any, log: list[dict[str, Any]], pixels: torch.Tensor) -> float:
    """Return the seconds of these passes."""
    pool = pixels.repeat(-(-max(entry["n"] for entry in log) // len(pixels)), 1, 1, 1)
    plain = pool.numpy()
    start = time.process_time()
    for entry in log:
        if entry["deployed"]:
            classifier.predict(plain[: entry["n"]])
            continue
        with torch.set_grad_enabled(entry["gradients"] > 0):
            leaf = pool[: entry["n"]].clone().requires_grad_(entry["gradients"] > 0)
            score = classifier.logits(leaf)[:, 0].sum()
        for number in range(entry["gradients"]):
            torch.autograd.grad(score, leaf, retain_graph=number + 1 < entry["gradients"])
    return time.process_time() - start


def attacks_on(classifier: Any, batch: Any) -> dict[str, Callable[[], Any]]:
    """Return every iterative attack, with so few steps that it takes seconds."""
    from auditor.plugins.attacks.autoattack import Autoattack
    from auditor.plugins.attacks.carlini_wagner import CarliniWagner
    from auditor.plugins.attacks.deepfool import DeepFool
    from auditor.plugins.attacks.hopskipjump import HopSkipJump
    from auditor.plugins.attacks.minimum_norm import FastMinimumNorm
    from auditor.plugins.attacks.pgd import Pgd
    from auditor.plugins.attacks.simba import Simba
    from auditor.plugins.attacks.square import Square
    from auditor.probes.base import Randomness

    rng = Randomness(0, "benchmark")

    def within(probe: Any, norm: str) -> Callable[[], Any]:
        epsilon = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}[norm]
        return lambda: probe.perturb(classifier, batch, rng, {"norm": norm, "epsilon": epsilon})

    def nearest(probe: Any, norm: str) -> Callable[[], Any]:
        return lambda: probe.search(classifier, batch, rng, norm)

    runs = {f"PGD {norm}": within(Pgd(iterations=10), norm) for norm in ("linf", "l2", "l1")}
    runs |= {
        f"AutoAttack {norm}": within(Autoattack(norm=norm, iterations=4, targets=1, queries=20), norm)
        for norm in ("linf", "l2", "l1")
    }
    runs |= {f"Square {norm}": within(Square(queries=30), norm) for norm in ("linf", "l2")}
    runs |= {f"FMN {norm}": nearest(FastMinimumNorm(iterations=10), norm) for norm in ("linf", "l2", "l1")}
    runs["DeepFool l2"] = nearest(DeepFool(iterations=3), "l2")
    runs["Carlini-Wagner"] = nearest(CarliniWagner(iterations=6, search_steps=2), "l2")
    runs["HopSkipJump l2"] = nearest(HopSkipJump(iterations=1, evaluations=10, starts=4), "l2")
    runs["SimBA"] = nearest(Simba(iterations=15), "l2")
    return runs


def subject(pixels: np.ndarray[Any, Any], *, sure: bool) -> tuple[Any, Any]:
    """Return a classifier that is confident of class 0, or undecided between 0 and 1; and images with its labels."""
    from auditor.data.dataset import Batch
    from auditor.model.artefact import Artefact
    from auditor.model.deployed import DeployedModel
    from auditor.model.preprocessing import Preprocessing

    torch.manual_seed(0)
    net = resnet18().requires_grad_(requires_grad=False)
    last: Any = net[-1]
    with torch.no_grad():
        z = net(torch.from_numpy(pixels))
        last.bias[2:] -= 1000
        last.bias[1] += -1000 if sure else float((z[:, 0] - z[:, 1]).median())

    def scores(x: np.ndarray[Any, Any]) -> Any:
        with torch.no_grad():
            return net(torch.from_numpy(x)).numpy()

    artefact = Artefact(
        format="onnx", runtime="torch", input_shape=(None, *SHAPE), input_dtype="float32", copy=net, scores=scores
    )
    classifier = DeployedModel(
        artefact, Preprocessing(shape=SHAPE), path="resnet18", sha256="0" * 64, n_classes=10, outputs="logits"
    )
    probabilities = classifier.predict(pixels)
    return classifier, Batch(
        ids=tuple(map(str, range(len(pixels)))),
        pixels=pixels,
        labels=probabilities.argmax(axis=1),
        probabilities=probabilities,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    pixels = np.random.default_rng(0).uniform(0, 1, (arguments.images, *SHAPE)).astype(np.float32)
    sure, torn = subject(pixels, sure=True), subject(pixels, sure=False)
    print(f"ResNet-18, {len(pixels)} images of 64x64, {torch.get_num_threads()} threads: attack over its passes alone")
    for name in attacks_on(*sure):
        if arguments.only not in name:
            continue
        classifier, batch = torn if name.startswith("HopSkipJump") else sure
        attack = attacks_on(classifier, batch)[name]
        with Passes(classifier) as log:
            attack()
        ratios = []
        for _ in range(arguments.rounds):
            start = time.process_time()
            attack()
            spent = time.process_time() - start
            ratios.append(spent / alone(classifier, log, classifier.tensor(pixels)))
        passes = sum(entry["n"] * (1 + entry["gradients"]) for entry in log)
        median = sorted(ratios)[len(ratios) // 2]
        print(
            f"{name:22} median {median:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}, {passes} image passes",
            flush=True,
        )


if __name__ == "__main__":
    main()
