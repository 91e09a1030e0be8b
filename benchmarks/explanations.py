"""Compare the time of SHAP and LIME in the auditor with that of their model passes, and with the libraries' plain use.

    uv run --with opencv-python-headless python benchmarks/explanations.py [--images 20] [--rounds 3] [--plain 1]

ResNet-18 with random weights at 224x224 as an ONNX file in ONNX Runtime; SHAP Partition with 500 evaluations, LIME with
1,000 samples, on the packaged photographs. Each round times, per method: the auditor's call; the same number of images
through ``Classifier.predict`` at the batch size that ``auditor run`` selects; and, for ``--plain`` images, the library
as in its documentation (SHAP: the blurring masker, batches of 10; LIME: quickshift, batches of 10). Ratios are of
seconds per explained image within a round, in wall time and CPU time, with medians over rounds at the end. Work that is
done once per process is reported separately.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from auditor.plugin.suite import find_suite

SIDE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--plain", type=int, default=1, help="images for the plain use, which is slow; 0 for none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", choices=["shap", "lime"])
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        classifier, batch = subject(Path(folder), arguments.images, arguments.device)
        print(f"batch size {classifier.batch_size}, {len(batch)} images, {classifier.artefact.runtime}", flush=True)
        for method in ("shap", "lime"):
            if method != arguments.skip:
                report(method, classifier, batch, arguments.rounds, arguments.plain)


def subject(folder: Path, count: int, device: str) -> tuple[Any, Any]:
    """Return the opened model and its images in memory."""
    import torch
    import torchvision

    from auditor.model import device
    from auditor.plugin import registry
    from auditor.run.measuring import Measurer, tune
    from auditor.run.opening import open_audit
    from auditor.run.request import Request

    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    path = folder / "resnet18.onnx"
    size = {0: torch.export.Dim("n", min=1)}
    torch.onnx.export(
        network, (torch.zeros(2, 3, SIDE, SIDE),), str(path), dynamo=True, dynamic_shapes=(size,), verbose=False
    )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device.make_repeatable()
    loaded = registry.load()
    classifier, images = open_audit(loaded, Request(model=path), find_suite("full", loaded), device)
    ids = [images.ids[i % len(images)] for i in range(count)]
    classifier.batch_size = tune(classifier, images.pixels(ids))
    return classifier, Measurer(classifier, images, 0).batch(ids)


def report(method: str, classifier: Any, batch: Any, rounds: int, plain: int) -> None:
    """Time rounds of one method and print their medians."""
    ours, goal, theirs = METHODS[method]
    over: list[Cost] = []
    gain: list[Cost] = []
    first = batch.take([0])
    cold, warm = timed(lambda: ours(classifier, first)), timed(lambda: ours(classifier, first))
    print(f"{method}: once a process {cold.clock - warm.clock:.1f} s (shap compiles its loops)", flush=True)
    for number in range(rounds):
        before = classifier.calls.forward
        mine = timed(lambda: ours(classifier, batch)) / len(batch)
        passes = classifier.calls.forward - before
        print(f"{method} {number + 1}: {passes // len(batch)} passes an image; ours {mine}", end="", flush=True)
        bare = timed(lambda n=passes: alone(classifier, batch, n)) / len(batch)
        over.append(mine.over(bare))
        print(f"; passes {bare}; ratio {over[-1]}", end="", flush=True)
        if plain:
            few = batch.take(range(min(plain, len(batch))))
            library = timed(lambda f=few: theirs(classifier, f)) / len(few)
            gain.append(library.over(mine))
            print(f"; plain use {library}, {gain[-1]} times ours", end="", flush=True)
        print(flush=True)
    print(f"{method}: median over its passes alone {middle(over)} (goal {goal})", end="")
    print(f"; plain use takes {middle(gain)} times as long" if gain else "", flush=True)


class Cost(NamedTuple):
    """Seconds of wall time and CPU time, or ratios of both; other work hardly affects CPU time."""

    clock: float
    processor: float

    def __str__(self) -> str:
        return f"{self.clock:.3f} (processor {self.processor:.3f})"

    def __truediv__(self, count: int) -> Cost:
        return Cost(self.clock / count, self.processor / count)

    def over(self, other: Cost) -> Cost:
        """Return the ratio to another cost."""
        return Cost(self.clock / other.clock, self.processor / other.processor)


def middle(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(part) for part in zip(*costs, strict=True)))


def timed(call: Callable[[], Any]) -> Cost:
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - clock, time.process_time() - processor)


def alone(classifier: Any, batch: Any, count: int) -> None:
    """Pass ``count`` images through the model at its batch size."""
    step = classifier.batch_size
    piece = np.resize(batch.pixels, (step, *batch.pixels.shape[1:]))
    for start in range(0, count, step):
        classifier.predict(piece[: min(step, count - start)])


def our_shap(classifier: Any, batch: Any) -> None:
    from auditor.plugins.explanations.shap import Shap
    from auditor.probes.base import Randomness

    Shap().attribute(classifier, batch, Randomness(0, "benchmark"))


def our_lime(classifier: Any, batch: Any) -> None:
    from auditor.plugins.explanations.lime import Lime
    from auditor.probes.base import Randomness

    Lime().attribute(classifier, batch, Randomness(0, "benchmark"))


def plain_shap(classifier: Any, batch: Any) -> None:
    import shap

    images = batch.pixels.transpose(0, 2, 3, 1)
    masker = shap.maskers.Image("blur(64,64)", images[0].shape)
    explainer = shap.Explainer(lambda x: classifier.predict(np.float32(x).transpose(0, 3, 1, 2)), masker)
    explainer(images, max_evals=500, batch_size=10, outputs=shap.Explanation.argsort.flip[:1], silent=True)


def plain_lime(classifier: Any, batch: Any) -> None:
    from lime.lime_image import LimeImageExplainer

    for i, image in enumerate(batch.pixels.transpose(0, 2, 3, 1)):
        LimeImageExplainer(random_state=i).explain_instance(
            image.astype(np.float64),
            lambda x: classifier.predict(np.float32(x).transpose(0, 3, 1, 2)),
            top_labels=1,
            num_samples=1000,
        )


METHODS = {"shap": (our_shap, 1.2, plain_shap), "lime": (our_lime, 1.2, plain_lime)}


if __name__ == "__main__":
    main()
