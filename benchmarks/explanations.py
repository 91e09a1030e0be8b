"""SHAP and LIME as the auditor asks for them, against their model passes alone and against the libraries' plain use.

    uv run python benchmarks/explanations.py [--images 20] [--rounds 3] [--plain 1] [--skip shap|lime]

ResNet-18 of random weights at 224x224 as an ONNX file in ONNX Runtime; SHAP Partition with 500 evaluations, LIME with
1,000 samples, both of the packaged photographs. Per round and method: our call, the same number of images through
``Classifier.predict`` at the batch size that ``auditor run`` finds, and, for ``--plain`` images, the library as its
documentation uses it (SHAP: the masker that blurs, batches of 10; LIME: quickshift, batches of 10). Ratios are of
seconds per explained image, within a round; medians over rounds are printed at the end.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
    """The opened model and its images in memory."""
    import torch
    import torchvision

    from auditor import environment, registry
    from auditor.engine import Request, open_audit
    from auditor.measuring import Measurer, tune

    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    path = folder / "resnet18.onnx"
    size = {0: torch.export.Dim("n", min=1)}
    torch.onnx.export(
        network, (torch.zeros(2, 3, SIDE, SIDE),), str(path), dynamo=True, dynamic_shapes=(size,), verbose=False
    )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    environment.make_repeatable()
    loaded = registry.load()
    classifier, images = open_audit(loaded, Request(model=path), loaded.suite("full"), device)
    ids = [images.ids[i % len(images)] for i in range(count)]
    classifier.batch_size = tune(classifier, images.pixels(ids))
    return classifier, Measurer(classifier, images, 0).batch(ids)


def report(method: str, classifier: Any, batch: Any, rounds: int, plain: int) -> None:
    """Rounds of one method, side by side, and their medians."""
    ours, passes, theirs = METHODS[method]
    over, gain = [], []
    for number in range(rounds):
        before = classifier.calls.forward
        mine = timed(lambda: ours(classifier, batch)) / len(batch)
        asked = classifier.calls.forward - before
        bare = timed(lambda n=asked: alone(classifier, batch, n)) / len(batch)
        over.append(mine / bare)
        text = f"{method} {number + 1}: {asked // len(batch)} passes an image; ours {mine:.2f} s, passes {bare:.2f} s"
        text += f", ratio {over[-1]:.3f}"
        if plain:
            few = batch.take(range(min(plain, len(batch))))
            library = timed(lambda f=few: theirs(classifier, f)) / len(few)
            gain.append(library / mine)
            text += f"; plain use {library:.2f} s, {gain[-1]:.2f} times ours"
        print(text, flush=True)
    print(f"{method}: median over its passes alone {statistics.median(over):.3f} (goal {passes})", end="")
    print(f"; plain use takes {statistics.median(gain):.2f} times as long" if gain else "", flush=True)


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alone(classifier: Any, batch: Any, count: int) -> None:
    """``count`` images through the model, as many at a time as it likes."""
    step = classifier.batch_size
    piece = np.resize(batch.pixels, (step, *batch.pixels.shape[1:]))
    for start in range(0, count, step):
        classifier.predict(piece[: min(step, count - start)])


def our_shap(classifier: Any, batch: Any) -> None:
    from auditor.plugins.explanations.shap import Shap
    from auditor.probe import Randomness

    Shap().attribute(classifier, batch, Randomness(0, "benchmark"))


def our_lime(classifier: Any, batch: Any) -> None:
    from auditor.plugins.explanations.lime import Lime
    from auditor.probe import Randomness

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
            image.astype(np.float64), lambda x: classifier.predict(np.float32(x).transpose(0, 3, 1, 2)),
            top_labels=1, num_samples=1000,
        )  # fmt: skip


METHODS = {"shap": (our_shap, 1.2, plain_shap), "lime": (our_lime, 1.2, plain_lime)}


if __name__ == "__main__":
    main()
