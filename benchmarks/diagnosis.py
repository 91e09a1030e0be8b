"""What the audit says about a wrong class order or a wrong preprocessing: one table, a row per setting.

    python benchmarks/diagnosis.py MODEL IMAGES [--input TOML] [--samples N] [--own-labels]

IMAGES is a folder per class. ``--input`` states the right preprocessing in the keys of the sidecar, for example
'mean = [0.5]' (separate keys with semicolons). ``--own-labels`` is for a model of other classes than the images show:
its own answers with the right preprocessing are the labels, a tenth of them replaced at random.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import auditor
from auditor.errors import BadInput
from auditor.model.device import pick_device
from auditor.plugin import registry
from auditor.plugin.suite import Suite
from auditor.run.opening import open_audit
from auditor.run.request import Request

SUITE = 'title = "Diagnosis"\nprobes = ["performance.accuracy", "sanity.labels", "sanity.preprocessing"]\n'
IMAGENET = {"range": [0, 1], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--input", default="", help="the right preprocessing, keys of [input] separated by semicolons")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--own-labels", action="store_true")
    options = parser.parse_args()
    right = tomllib.loads(options.input.replace(";", "\n"))
    files = [(path, path.parent.name) for path in sorted(options.images.glob("*/*")) if path.is_file()]
    chosen = np.random.default_rng(0).permutation(len(files))[: options.samples]
    rows = [files[i] for i in sorted(chosen)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.csv"
        write(data, rows)
        classes = sorted({label for _, label in rows})
        if options.own_labels:
            rows, classes = with_own_labels(options.model, data, rows, right)
            write(data, rows)
        print("| setting | accuracy | verdict | what the audit says |\n|---|---|---|---|")
        for name, input_keys, order in settings(right, classes, [label for _, label in rows]):
            print(f"| {name} | " + " | ".join(diagnosis(options.model, data, input_keys, order)) + " |", flush=True)


def settings(
    right: Mapping[str, Any], classes: list[str], labels: list[str]
) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
    """Yield the name of each setting, its preprocessing and its class order."""
    yield "right", right, classes
    yield "names shuffled", right, [classes[i] for i in np.random.default_rng(1).permutation(len(classes))]
    yield "names shifted by one", right, classes[1:] + classes[:1]
    yield "two names swapped", right, swapped(classes, labels)
    yield "channels reversed", {**right, "order": "rgb" if right.get("order") == "bgr" else "bgr"}, classes
    other = {"range": [0, 255], "mean": [0.0], "std": [1.0]} if right.get("mean") else IMAGENET
    yield "wrong preset", {**right, **other}, classes
    yield "wrong range", {**right, "range": [0, 1] if right.get("range") == [0, 255] else [0, 255]}, classes


def swapped(classes: list[str], labels: list[str]) -> list[str]:
    """Exchange the names of the two commonest labels."""
    (one, _), (other, _) = Counter(labels).most_common(2)
    exchange = {one: other, other: one}
    return [exchange.get(name, name) for name in classes]


def diagnosis(model: Path, data: Path, input_keys: Mapping[str, Any], classes: list[str]) -> tuple[str, str, str]:
    """Return accuracy, verdict and the reasons of the probes that are not a pass."""
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder) / "diagnosis.toml"
        suite.write_text(SUITE)
        overrides = {"input": dict(input_keys), "output": {"classes": classes}}
        try:
            audit = auditor.audit(model, data=data, suite=str(suite), out=Path(folder) / "run", overrides=overrides)
        except BadInput as error:
            return "-", "refused", str(error).replace(str(model.parent), "").strip("/")
        probes = {probe["id"]: probe for probe in audit.record["probes"]}
        accuracy = probes["performance.accuracy"]["metrics"][0]["value"]
        failed = [f"{i} fails" for i, probe in probes.items() if probe["status"] == "fail"]
        named = [
            f"{metric['at'].get('order') or metric['at'].get('preset')}"
            for i in ("sanity.labels", "sanity.preprocessing")
            if probes[i]["status"] == "fail"
            for metric in probes[i]["metrics"][:1]
        ]
        text = "; ".join(failed + [f"fits better: {name}" for name in named]) or "no failure"
        return f"{100 * accuracy:.1f} %", audit.verdict, text


def with_own_labels(
    model: Path, data: Path, rows: list[tuple[Path, str]], right: Mapping[str, Any]
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Label the images with the model's own answers, a tenth of them replaced by those of other images."""
    unlabelled = data.with_name("unlabelled.csv")
    write(unlabelled, rows, labelled=False)
    request = Request(model=model, data=unlabelled, overrides={"input": dict(right)})
    classifier, images = open_audit(registry.load(), request, Suite("own", "", ["*"]), pick_device("auto"))
    answers = classifier.predict(images.pixels(images.ids)).argmax(axis=1)
    rng = np.random.default_rng(2)
    noisy = np.where(rng.random(len(answers)) < 0.1, rng.permutation(answers), answers)
    width = len(str(classifier.n_classes))
    classes = [f"class {i:0{width}d}" for i in range(classifier.n_classes)]
    labels = dict(zip(images.ids, noisy, strict=True))
    return [(path, classes[labels[str(path)]]) for path, _ in rows], classes


def write(path: Path, rows: list[tuple[Path, str]], *, labelled: bool = True) -> None:
    """Write a manifest."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"] if labelled else ["image"])
        writer.writerows([str(image.resolve()), label] if labelled else [str(image.resolve())] for image, label in rows)


if __name__ == "__main__":
    main()
