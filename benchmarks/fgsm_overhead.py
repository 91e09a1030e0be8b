"""Compare the wall time of the FGSM probe with that of its model passes.

    uv run python benchmarks/fgsm_overhead.py [--images 512] [--rounds 5]

A small ResNet with random weights (which do not affect the cost of a pass) on random 32x32 images. Each round runs the
probe (measuring and writing records) and its bare passes (the same number of forward passes of the deployed model and
forward and backward passes of the copy, with the model's preprocessing, at an audit's batch size) in sequence and gives
one ratio, because machine speed drifts. Goal: at most 1.25.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from auditor.plugin.suite import find_suite


class Block(nn.Module):
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
        self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False) if inside != outside else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def small_resnet() -> nn.Module:
    """Create a ResNet-8: 16, 32, 64 channels, ten classes."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    from auditor.plugin import registry
    from auditor.reference_models.common.export import export
    from auditor.run.request import Request
    from auditor.run.session import run

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = export(
            small_resnet().eval(),
            torch.zeros(2, 3, 32, 32),
            folder / "resnet8",
            {
                "input": {"size": [32, 32], "channels": 3, "mean": [0.5], "std": [0.25]},
                "data": {"path": "images.npz"},
            },
        )
        np.savez(folder / "images.npz", images=rng.integers(0, 256, (arguments.images, 32, 32, 3), dtype=np.uint8))
        ratios = []
        # the first round also imports and allocates; it is not counted
        for round_ in range(arguments.rounds + 1):
            request = Request(
                model=model, suite="full", probes=["attacks.fgsm"], out=folder / f"run{round_}", formats=["json"]
            )
            outcome = run(request)
            probe = outcome.audit["probes"][0]
            bare = passes_alone(registry.load(), model, request, probe["model_calls"])
            ratio = probe["seconds"] / bare
            note = " (warm-up)" if round_ == 0 else ""
            print(f"probe {probe['seconds']:.3f} s, passes alone {bare:.3f} s, ratio {ratio:.3f}{note}")
            if round_:
                ratios.append(ratio)
    print(f"{probe['model_calls']} image passes for {arguments.images} images")
    print(f"ratio: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


def passes_alone(plugins, model, request, calls) -> float:  # type: ignore[no-untyped-def]
    """Return the seconds for as many bare passes as the probe made."""
    from auditor.run.measuring import tune
    from auditor.run.opening import open_audit

    suite = find_suite("full", plugins)
    classifier, images = open_audit(plugins, request, suite, "cpu")
    pixels = images.pixels(images.ids)
    batch = tune(classifier, pixels)
    classifier.batch_size = batch
    backward, forward = calls["backward"], calls["forward"] - calls["backward"]
    pieces = [pixels[i : i + batch] for i in range(0, len(pixels), batch)]
    tensors = [torch.from_numpy(piece) for piece in pieces]
    start, done = time.perf_counter(), 0
    while done < forward:
        for piece in pieces:
            classifier.artefact.scores(classifier.preprocessing.apply(piece))
            done += len(piece)
    seconds = (time.perf_counter() - start) * forward / done
    start, done = time.perf_counter(), 0
    while done < backward:
        for piece in tensors:
            x = piece.clone().requires_grad_()
            torch.autograd.grad(classifier.logits(x).logsumexp(1).sum(), x)
            done += len(piece)
    return seconds + (time.perf_counter() - start) * backward / done


if __name__ == "__main__":
    main()
