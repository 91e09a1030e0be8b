"""Compare the time of the differentiable copy with that of its torch module, forward and with backward.

    uv run python benchmarks/copy_speed.py [--network resnet18] [--side 224] [--batch 32] [--rounds 7] [--only forward]

The module is in evaluation mode and frozen, the fair setting for an attack; the copy is the one that `auditor run` uses
for gradients: the ONNX file of the default exporter, opened. Each round runs both in sequence on all cores and gives
one ratio, because machine speed drifts. Backward is the gradient of the top logits with respect to the input. Goal: at
most 1.05.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision_models as survey


def forward(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        network(x)
    return time.perf_counter() - start


def backward(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    v = x.clone().requires_grad_()
    start = time.perf_counter()
    torch.autograd.grad(network(v).amax(1).sum(), v)
    return time.perf_counter() - start


MEASURES = {"forward": forward, "forward and backward": backward}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18", choices=survey.NETWORKS)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=MEASURES)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    survey.NETWORKS[arguments.network] = survey.Network(arguments.side, survey.NETWORKS[arguments.network].options)
    module = survey.make(arguments.network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        survey.export(module, survey.pictures(arguments.network, 2, 0), "default", path)
        opened = survey.open_file(path)
    assert opened.copy is not None
    copy = opened.copy
    networks = {"module": module, "copy": lambda x: copy(x)[0]}
    x = survey.pictures(arguments.network, arguments.batch, 1)
    for name, measure in MEASURES.items():
        if arguments.only not in {None, name}:
            continue
        seconds: dict[str, list[float]] = {"module": [], "copy": []}
        for round_ in range(arguments.rounds + 1):
            # the second one finds warm caches, so the order alternates
            for version in sorted(networks, reverse=bool(round_ % 2)):
                seconds[version].append(measure(networks[version], x))
        # in the first round the libraries choose their algorithms
        ratios = [c / m for c, m in zip(seconds["copy"][1:], seconds["module"][1:], strict=True)]
        medians = {version: statistics.median(times[1:]) for version, times in seconds.items()}
        print(
            f"{arguments.network}, {arguments.batch} x {arguments.side} x {arguments.side}, {name}, "
            f"{torch.get_num_threads()} threads: module {medians['module']:.3f} s, copy {medians['copy']:.3f} s, ratio "
            f"{statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
