"""Compare our attacks with those of ART, Foolbox and torchattacks at equal budgets, as AttackBench does.

    uv run python benchmarks/equal_budgets.py [FOLDER] [--images 64] [--steps 100]

On the reference model digits-cnn and, if FOLDER is given, on ``model.onnx`` with its sidecar and ``data.npz`` in it.
Every attack gets ``steps`` gradients of each image to find its smallest perturbation. Searches use them at once; others
bisect epsilon in five runs of a fifth of them, and may stop early. Distances are judged on one torch
module for all, which also counts the passes. Local optimality is 1 less the area between an attack's curve of robust
accuracy and the best one of all attacks together, over the area between the clean accuracy and the best curve; global
optimality is its mean over the networks (Cina et al. 2024, arXiv:2404.19460, section 3.2).
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from copies import Copy
from torch import nn

from auditor.plugin.suite import find_suite

RUNS = 5
"""Runs of the bisection."""

Search = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Within = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


class Counted(nn.Module):
    """A module that counts the images passed forward and backward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        self.forwards += len(x)
        if out.requires_grad:
            out.register_hook(self._backward)
        return out

    def _backward(self, gradient: torch.Tensor) -> None:
        self.backwards += len(gradient)


def distances(
    found: torch.Tensor, clean: torch.Tensor, labels: torch.Tensor, *, module: Counted, norm: str
) -> np.ndarray:
    """Return the distance of each misclassified image (n,), else infinity; points outside [0, 1] are clipped."""
    found = found.detach().float().clamp(0, 1)
    with torch.no_grad():
        wrong = module.inner(found).argmax(1) != labels
    delta = (found - clean).flatten(1).double()
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    return torch.where(wrong, size, torch.inf).numpy()


def bisected(
    attack: Within, largest: float, clean: torch.Tensor, labels: torch.Tensor, *, module: Counted, norm: str
) -> np.ndarray:
    """Run an attack within a budget at the epsilons of each image's own bisection."""
    low, high = np.zeros(len(clean)), np.full(len(clean), 2 * largest)
    best = np.full(len(clean), np.inf)
    for _ in range(RUNS):
        middle = (low + high) / 2
        for epsilon in np.unique(middle):
            rows = np.flatnonzero(middle == epsilon)
            points = attack(clean[rows], labels[rows], float(epsilon))
            found = distances(points, clean[rows], labels[rows], module=module, norm=norm)
            found[found > epsilon * (1 + 1e-5)] = np.inf
            best[rows] = np.minimum(best[rows], found)
        hit = best <= middle * (1 + 1e-5)
        high, low = np.where(hit, middle, high), np.where(hit, low, middle)
    return best


def area(distance: np.ndarray, limit: float) -> float:
    """Return the area under the curve of robust accuracy up to ``limit``."""
    return float(np.minimum(distance, limit).mean())


def attacks_of(classifier: Any, module: Counted, norm: str, steps: int, largest: float) -> dict[str, tuple[str, Any]]:
    """Return the attacks by name: "search" or "within", and the function."""
    import eagerpy
    import torchattacks
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier
    from foolbox import PyTorchModel
    from foolbox.attacks import L2PGD, DDNAttack, L2FMNAttack, LInfFMNAttack, LinfPGD

    from auditor.data.dataset import Batch
    from auditor.plugins.attacks.minimum_norm import FastMinimumNorm
    from auditor.plugins.attacks.pgd import Pgd
    from auditor.probes.base import Randomness

    few = steps // RUNS
    infinite = norm == "linf"
    fool = PyTorchModel(module, bounds=(0, 1), device="cpu")
    estimator = PyTorchClassifier(
        module,
        loss=nn.CrossEntropyLoss(),
        input_shape=classifier.shape,
        nb_classes=classifier.n_classes,
        clip_values=(0, 1),
        device_type="cpu",
    )

    def batch_of(x: torch.Tensor, y: torch.Tensor) -> Batch:
        pixels = x.numpy()
        return Batch(
            ids=tuple(map(str, range(len(x)))),
            pixels=pixels,
            labels=y.numpy(),
            probabilities=classifier.predict(pixels),
        )

    def ours(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        search = FastMinimumNorm(iterations=steps).search
        return torch.from_numpy(search(classifier, batch_of(x, y), Randomness(0, "attacks.minimum-norm"), norm))

    def our_pgd(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
        at = {"norm": norm, "epsilon": epsilon}
        probe = Pgd(iterations=few)
        return torch.from_numpy(probe.perturbed(classifier, batch_of(x, y), Randomness(0, "attacks.pgd"), at))

    def foolbox(attack: Any, epsilon: float | None = None) -> Search:
        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = attack.run(fool, *eagerpy.astensors(x, y), epsilon=epsilon).raw
            return found

        return run

    def foolbox_search(attack: Any) -> Search:
        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = attack(fool, x, y, epsilons=None)[0]
            return found

        return run

    def art(kind: Any, **settings: Any) -> Within:
        def run(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
            attack = kind(
                estimator,
                norm=np.inf if infinite else 2,
                eps=epsilon,
                max_iter=few,
                batch_size=len(x),
                verbose=False,
                **{name: epsilon * value if name == "eps_step" else value for name, value in settings.items()},
            )
            return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

        return run

    def torch_attack(make: Callable[[float], Any]) -> Within:
        return lambda x, y, epsilon: make(epsilon)(x, y)

    usual = 2.5 / few
    pgd = LinfPGD if infinite else L2PGD
    fmn = LInfFMNAttack if infinite else L2FMNAttack
    name = "Linf" if infinite else "L2"

    def their_pgd(epsilon: float) -> Any:
        if infinite:
            return torchattacks.PGD(module, eps=epsilon, alpha=usual * epsilon, steps=few)
        return torchattacks.PGDL2(module, eps=epsilon, alpha=usual * epsilon, steps=few)

    def their_apgd(epsilon: float) -> Any:
        return torchattacks.APGD(module, norm=name, eps=epsilon, steps=few, n_restarts=1, loss="ce")

    found: dict[str, tuple[str, Any]] = {
        "ours: minimum-norm": ("search", ours),
        "ours: PGD": ("within", our_pgd),
        "Foolbox: FMN": ("search", foolbox_search(fmn(steps=steps))),
        "Foolbox: PGD": ("within", lambda x, y, e: foolbox(pgd(steps=few, rel_stepsize=usual), e)(x, y)),
        "ART: PGD": ("within", art(ProjectedGradientDescent, eps_step=usual, num_random_init=1)),
        "ART: Auto-PGD": ("within", art(AutoProjectedGradientDescent, eps_step=2.0, nb_random_init=1)),
        "torchattacks: PGD": ("within", torch_attack(their_pgd)),
        "torchattacks: APGD": ("within", torch_attack(their_apgd)),
    }
    if not infinite:
        found["Foolbox: DDN"] = ("search", foolbox_search(DDNAttack(steps=steps)))
        found["torchattacks: CW"] = ("search", torchattacks.CW(module, c=1, steps=steps, lr=0.01))
    return found


def measure(model: Path, data: Path | None, images: int, steps: int) -> dict[tuple[str, str], float]:
    """Print a table for one network; return the local optimality by norm and attack."""
    from auditor.plugin import registry
    from auditor.run import opening, request

    plugins = registry.load()
    asked = request.Request(model=model, data=data, samples=images)
    classifier, opened = opening.open_audit(plugins, asked, find_suite("full", plugins), "cpu")
    pixels = opened.pixels(opened.ids)
    kept = np.flatnonzero(classifier.predict(pixels).argmax(axis=1) == opened.labels)
    clean, labels = torch.from_numpy(pixels[kept]), torch.from_numpy(opened.labels[kept])
    results: dict[tuple[str, str], float] = {}
    for norm, largest in (("linf", 0.25), ("l2", 4.0)):
        module = Counted(Copy(classifier)).eval()
        found, costs = {}, {}
        for name, (kind, attack) in attacks_of(classifier, module, norm, steps, largest).items():
            np.random.seed(0)
            torch.manual_seed(0)
            classifier.calls.forward = classifier.calls.backward = module.forwards = module.backwards = 0
            start = time.process_time()
            if kind == "search":
                found[name] = distances(attack(clean, labels), clean, labels, module=module, norm=norm)
            else:
                found[name] = bisected(attack, largest, clean, labels, module=module, norm=norm)
            seconds = time.process_time() - start
            passes = (classifier.calls.forward + module.forwards, classifier.calls.backward + module.backwards)
            costs[name] = (*(count / len(clean) for count in passes), seconds)
        best = np.min(list(found.values()), axis=0)
        limit = float(best[np.isfinite(best)].max())
        network = model.stem if data is None else model.parent.name
        print(f"\n{network}, {norm}, {len(clean)} images, curve up to {limit:.3g}")
        print(f"{'attack':22} optimality  median  failed  forward  backward  seconds")
        for name, distance in sorted(found.items(), key=lambda item: area(item[1], limit)):
            local = 1 - (area(distance, limit) - area(best, limit)) / (limit - area(best, limit))
            results[norm, name] = local
            forward, backward, seconds = costs[name]
            print(
                f"{name:22} {100 * local:8.1f} %  {np.median(distance):6.3g}  {int(np.isinf(distance).sum()):6}"
                f"  {forward:7.0f}  {backward:8.0f}  {seconds:7.1f}",
                flush=True,
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder with model.onnx and data.npz")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    from auditor.reference_models import recipe

    with tempfile.TemporaryDirectory() as name:
        recipe("digits-cnn").train(Path(name), say=lambda _: None)
        results = [measure(Path(name) / "digits-cnn.onnx", None, arguments.images, arguments.steps)]
    if arguments.folder:
        folder = arguments.folder
        results.append(measure(folder / "model.onnx", folder / "data.npz", arguments.images, arguments.steps))
    print("\nGlobal optimality: mean over the networks")
    for norm, attack in sorted(results[0], key=lambda key: (key[0], -np.mean([r[key] for r in results]))):
        print(f"{norm:5} {attack:22} {100 * np.mean([r[norm, attack] for r in results]):6.1f} %")


if __name__ == "__main__":
    main()
