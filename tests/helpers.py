"""Builders of batches, records and attack rows for tests of probes."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from click.testing import CliRunner
from torch import Tensor

from auditor import Records
from auditor.algorithms.bounds.bounder import Bounder
from auditor.data.dataset import Batch
from auditor.model.artefact import Artefact
from auditor.model.classifier import Classifier
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.probes.base import no_examples


def install_package(source: Path, target: Path) -> None:
    """Install the package in a folder into the folder ``target``, without a network. Building leaves traces in it."""
    uv = shutil.which("uv")
    offline = [uv, "pip", "install", "--offline", "--python", sys.executable]
    installer = offline if uv else [sys.executable, "-m", "pip", "install", "--no-index"]
    command = [*installer, "--no-deps", "--no-build-isolation", "--target", target, source]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def fits_schema(*arguments: str | Path) -> None:
    """Assert that check-jsonschema accepts a file; in this process, because its imports take a second."""
    from check_jsonschema import main

    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


def margins(bounder: Bounder, pixels: Tensor, labels: Tensor, epsilon: Tensor, norm: str) -> Tensor:
    """Return lower bounds (n,) of the label's score minus the largest other score, over balls of ``epsilon`` (n,)."""
    return bounder.bounds(pixels, labels, epsilon, norm)[1].amin(1).cpu()


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name: str) -> Any:
    """Load a script of benchmarks/ as a module. Scripts import each other by name."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    # dataclasses look up their module
    sys.modules[name] = script
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(script)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return script


def arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of an .npz file, and close it: left to the garbage collector, it fails a later test."""
    with np.load(path) as archive:
        return dict(archive)


def suite_file(folder: Path, text: str) -> str:
    """Write a suite file; return its path."""
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def classifier_of(
    copy: torch.nn.Module,
    shape: tuple[int, int, int],
    classes: int,
    scores: Callable[[np.ndarray], np.ndarray] | None = None,
) -> DeployedModel:
    """Build a classifier of logits from its differentiable copy; the deployed model is the copy, or ``scores``."""

    def of_copy(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(copy(torch.from_numpy(np.asarray(x, dtype=np.float32))))

    artefact = Artefact(
        format="torchscript" if scores is None else "onnx",
        runtime="test",
        input_shape=(None, *shape),
        input_dtype="float32",
        copy=copy.eval(),
        scores=scores or of_copy,
    )
    return DeployedModel(
        artefact, Preprocessing(shape=shape), path="test", sha256="0" * 64, n_classes=classes, outputs="logits"
    )


def batch_of(classifier: Classifier, pixels: np.ndarray, labels: np.ndarray | None = None) -> Batch:
    """Build a batch with ids "000", "001", ...; labels default to the predictions."""
    probabilities = classifier.predict(pixels)
    labels = probabilities.argmax(axis=1) if labels is None else labels
    ids = tuple(f"{i:03d}" for i in range(len(pixels)))
    return Batch(ids=ids, pixels=pixels, labels=labels.astype(np.int64), probabilities=probabilities)


def records_of(
    batch: Batch, columns: Mapping[str, Any], *, extra: Mapping[str, Any] | None = None, **fields: Any
) -> Records:
    """Build the records of measured columns as the engine does.

    Args:
        batch: The measured images.
        columns: What ``measure`` returned.
        extra: Further columns of the frame, one value per row, for example groups.
        fields: Fields of ``Records`` other than the frame; classes default to "0", "1", ...
    """
    rows = np.asarray(columns.get("row", np.arange(len(batch))), dtype=int)
    frame = pd.DataFrame(
        {"image_id": np.array(batch.ids)[rows], "label": batch.labels[rows], "prediction": batch.predictions[rows]}
        | dict(extra or {})
        | {name: list(values) for name, values in columns.items() if name != "row"}
    )
    return records(frame, batch.probabilities.shape[1], **fields)


def records(frame: pd.DataFrame, classes: int | Sequence[str] = 2, **fields: Any) -> Records:
    """Build records without examples; a number of classes names them "0", "1", ..."""
    names = [str(k) for k in range(classes)] if isinstance(classes, int) else classes
    return Records(**{"frame": frame, "examples": no_examples(), "classes": names, "labelled": True, **fields})


def as_attack(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Add the columns that every attack records, unless the frame has them."""
    defaults = {
        "norm": "linf",
        "linf": np.nan,
        "l2": np.nan,
        "l1": np.nan,
        "snr_db": 20.0,
        "label": 0,
        "prediction": 0,
        "searched": False,
        "surrogate_misclassified": False,
        "component": "",
    }
    return frame.assign(**{name: value for name, value in (defaults | values).items() if name not in frame})


def metrics_of(conclusion: Any, name: str) -> dict[tuple[Any, ...], Any]:
    """Return the metrics of this name by the values of ``at``."""
    return {tuple(metric.at.values()): metric for metric in conclusion.metrics if metric.name == name}
