"""Compare certificates and attacks with the known answers of properties from VNN-COMP.

    uv run python benchmarks/vnncomp.py FOLDER [--only mnistfc_256x2] [--seconds 55] [--attacks]

FOLDER has one folder per network with ``model.onnx``, its sidecar and ``data.npz``, and a ``gold.csv`` with the columns
folder, image_id, eps and gold ("robust", "not_robust", "claimed", "open"). Each property is one image and an
L-infinity epsilon. Certificates come from ``metrics.certified`` on one core with a time limit of branch and bound,
attacks from PGD and the minimum-norm search at their default settings, judged by the deployed model; ``--attacks``
measures only these, and their passes. A certificate for a property with a known
counterexample, or a misclassified image within the epsilon of a proven one, is a defect.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from auditor.data.dataset import Batch
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.attacks.minimum_norm import FastMinimumNorm
from auditor.plugins.attacks.pgd import Pgd
from auditor.plugins.metrics.certified import Certified
from auditor.probes.base import Randomness
from auditor.run import opening, request

METHODS = ("open", "linear", "slopes", "branches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="name of one network")
    parser.add_argument("--seconds", type=float, default=55.0, help="time limit of branch and bound per image")
    parser.add_argument("-v", "--verbose", action="store_true", help="one line per property")
    parser.add_argument("--attacks", action="store_true", help="measure no certificates")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with (arguments.folder / "gold.csv").open() as file:
        properties = list(csv.DictReader(file))
    print(
        "network              epsilon  certified  of proven  false  attacked (PGD, FMN)  of not robust  false breaks"
        "  s per image"
    )
    for folder in dict.fromkeys(row["folder"] for row in properties):
        if arguments.only in (None, folder):
            rows = [row for row in properties if row["folder"] == folder]
            seconds = None if arguments.attacks else arguments.seconds
            measure(arguments.folder / folder, rows, seconds, verbose=arguments.verbose)


def measure(folder: Path, rows: list[dict[str, str]], seconds: float | None, *, verbose: bool) -> None:
    """Print one line per epsilon (to two digits; all in one line for networks with an epsilon per image)."""
    plugins = registry.load()
    opened = request.Request(model=folder / "model.onnx", data=folder / "data.npz")
    classifier, images = opening.open_audit(plugins, opened, find_suite("full", plugins), "cpu")
    sizes = {f"{float(row['eps']):.2f}" for row in rows}
    shared = len(sizes) * 5 < len(rows) and len(sizes) > 1
    counts: dict[str, Counter[str]] = {}
    durations: dict[str, list[float]] = {}
    for row in rows:
        key = f"{float(row['eps']):.2f}" if shared else "own" if len(sizes) > 1 else f"{float(row['eps']):.4f}"
        pixels, labels = images.pixels([row["image_id"]]), np.array([int(row["label"])])
        batch = Batch(ids=(row["image_id"],), pixels=pixels, labels=labels, probabilities=classifier.predict(pixels))
        certified, duration, method = False, 0.0, "open"
        if seconds is not None:
            certified, duration, method = certify(classifier, batch, float(row["eps"]), seconds)
        count = counts.setdefault(key, Counter())
        hits = {}
        for name, attack in (("PGD", pgd), ("FMN", minimum_norm)):
            before = classifier.calls.forward, classifier.calls.backward
            hits[name] = attack(classifier, batch, float(row["eps"]))
            count[f"{name} {row['gold']}"] += hits[name]
            count[f"{name} forward"] += classifier.calls.forward - before[0]
            count[f"{name} backward"] += classifier.calls.backward - before[1]
        broken = any(hits.values())
        count[f"certified {row['gold']}"] += certified
        count[f"broken {row['gold']}"] += broken
        count[row["gold"]] += 1
        count["contradictions"] += certified and broken
        count[f"by {method}"] += 1
        durations.setdefault(key, []).append(duration)
        if verbose:
            print(
                f"  {row['image_id']} {row['eps']} {row['gold']:10} {method:8} {broken=!s:5} {duration:.1f} s",
                flush=True,
            )
    for key, count in sorted(counts.items()):
        claimed = count["not_robust"] + count["claimed"]
        attacked, by_pgd, by_fmn = (
            count[f"{name} not_robust"] + count[f"{name} claimed"] for name in ("broken", "PGD", "FMN")
        )
        n = sum(count[gold] for gold in ("robust", "not_robust", "claimed", "open"))
        passes = ", ".join(f"{kind} {count[kind] / n:.0f}" for kind in count if kind.endswith("ward"))
        taken = durations[key]
        methods = ", ".join(f"{name} {count[f'by {name}']}" for name in METHODS)
        print(
            f"{folder.name:20} {key:>7} {count['certified robust']:10} {count['robust']:10}"
            f" {count['certified not_robust'] + count['contradictions']:6} {attacked:9} ({by_pgd}, {by_fmn})"
            f" {claimed:14} {count['broken robust']:13}  median {np.median(taken):.2f}, largest {max(taken):.1f};"
            f" {methods}; passes per image: {passes}",
            flush=True,
        )


def certify(classifier, batch: Batch, epsilon: float, seconds: float) -> tuple[bool, float, str]:  # type: ignore[no-untyped-def]
    """Return whether the property is proven, the CPU seconds and the method."""
    probe = Certified(norms=("linf",), epsilons=(epsilon,), iterations=1, refine=8192, seconds=seconds)
    start = time.process_time()
    columns = probe.measure(classifier, batch, Randomness(0, "metrics.certified"))
    duration = time.process_time() - start
    return bool(columns["radius"][0] >= epsilon), duration, METHODS[int(columns["method"][0])]


def pgd(classifier, batch: Batch, epsilon: float) -> bool:  # type: ignore[no-untyped-def]
    """Return whether PGD misleads the deployed model within epsilon."""
    level = {"norm": "linf", "epsilon": epsilon}
    return inside(classifier, batch, Pgd().perturbed(classifier, batch, Randomness(0, "attacks.pgd"), level), epsilon)


def minimum_norm(classifier, batch: Batch, epsilon: float) -> bool:  # type: ignore[no-untyped-def]
    """Return whether the nearest error of the minimum-norm search is within epsilon."""
    points, *_ = FastMinimumNorm().nearest(classifier, batch, Randomness(0, "attacks.minimum-norm"), "linf")
    return inside(classifier, batch, points, epsilon)


def inside(classifier, batch: Batch, points: np.ndarray, epsilon: float) -> bool:  # type: ignore[no-untyped-def]
    """Return whether the deployed model misclassifies a point within epsilon."""
    near = np.abs(np.asarray(points, dtype=np.float64) - batch.pixels).max() <= epsilon * (1 + 1e-6) + 1e-7
    return bool(near and classifier.predict(points).argmax(axis=1)[0] != batch.labels[0])


if __name__ == "__main__":
    main()
