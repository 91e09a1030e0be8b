"""Run classifiers that others trained and exported through `auditor run`: a table in docs/reference/models.md.

    uv run python benchmarks/third_party_models.py MODELS DATA [--only NAME] [--samples 300]

MODELS is a folder with the files named below (each is in the public repository that the table names, at the given
commit); DATA has CIFAR-10's test images with their original pixels (cifar10_exact_subset.npz: x, y), and MNIST's test
set (t10k-*-ubyte.gz). A file without data is audited on the packaged photographs. Rows are replaced one by one; the
operators of the files are added to the document's list.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import document
import numpy as np
import onnx
from sklearn import datasets
from torchvision_models import written_operators

import auditor

HEADER = ("file", "from", "what it is", "access", "largest difference", "accuracy", "stated accuracy", "quick suite")
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class File:
    """A model file: its source, and its input."""

    source: str
    what: str
    data: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    accuracy: str = "-"
    """Accuracy stated by its authors or repository, or measured elsewhere with the same preprocessing."""


FILES = {
    "akamaster_resnet20": File(
        "akamaster/pytorch_resnet_cifar10 @ d5489e8995e8",
        "torch, opset 12, float32",
        "cifar10",
        IMAGENET,
        "0.917 (whole test set); 0.943 (these images)",
    ),
    "antispoof_minifasv2se_fp32": File(
        "johnraivenolazo/face-antispoof-onnx @ 2b9830bb0ecc", "torch, opset 13, float32", accuracy="0.982 (other data)"
    ),
    "antispoof_minifasv2se_int8dyn": File(
        "johnraivenolazo/face-antispoof-onnx @ 2b9830bb0ecc", "its twin, dynamically quantised (ConvInteger)"
    ),
    "coral_mobilenetv2_uint8_qdq": File(
        "google-coral/test_data @ 104342d2d348", "TensorFlow Lite by tf2onnx, uint8 QDQ, NHWC, batch of 1"
    ),
    "hummingbird_lgbm_tensor": File("sonos/tract @ 38b383fbd8ee", "LightGBM as tensors, 13 features", "wine"),
    "mlperf_tiny_resnet8_fp32": File(
        "mlcommons/tiny @ 1afd2c9820f7",
        "Keras by tf2onnx, opset 17, NHWC, softmax",
        "cifar10",
        {"range": [0, 255]},
        "0.927 (these images)",
    ),
    "mlperf_tiny_resnet8_int8": File(
        "mlcommons/tiny @ 1afd2c9820f7",
        "TensorFlow Lite by tf2onnx, int8 in and out",
        "cifar10",
        accuracy="0.924 (these images)",
    ),
    "neurom_lenet1_keras2onnx_nhwc": File(
        "neurom-iot/onnx-registry @ 6d71db58cd67",
        "keras2onnx, opset 11, NHWC",
        "mnist",
        accuracy="0.544 (2,000 of these)",
    ),
    "onnxmltools_xgb_wine_tensor_probs": File("sonos/tract @ 38b383fbd8ee", "XGBoost, trees, 13 features", "wine"),
    "skl_knn_iris_zipmap": File(
        "neurom-iot/onnx-registry @ 6d71db58cd67", "scikit-learn, neighbours (Scan), ZipMap", "iris"
    ),
    "skl_logreg_iris_zipmap": File(
        "neurom-iot/onnx-registry @ 6d71db58cd67", "scikit-learn, logistic regression, ZipMap", "iris"
    ),
    "winml_cifar_pytorch_opset10": File(
        "microsoft/Windows-Machine-Learning @ 155b5eeb1f48",
        "torch 1.7, opset 10",
        "cifar10",
        {"mean": [0.5], "std": [0.5]},
    ),
    "winml_squeezenet_fp16_opset7": File(
        "microsoft/Windows-Machine-Learning @ 155b5eeb1f48",
        "Caffe2, opset 7, float16, batch of 1",
        overrides={"range": [0, 255], "mean": [104, 117, 123], "order": "bgr"},
    ),
}


def make_data(source: Path, folder: Path) -> dict[str, Path]:
    """Write the data sets in the auditor's format."""
    made = {}
    for path in source.rglob("cifar10_exact_subset.npz"):
        made["cifar10"] = folder / "cifar10.npz"
        with np.load(path) as arrays:
            np.savez(made["cifar10"], images=arrays["x"], labels=arrays["y"])
    for path in source.rglob("t10k-images-idx3-ubyte.gz"):
        pixels = np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=16).reshape(-1, 28, 28)
        labels = gzip.decompress((path.parent / "t10k-labels-idx1-ubyte.gz").read_bytes())
        made["mnist"] = folder / "mnist.npz"
        numbers = np.frombuffer(labels, dtype=np.uint8, offset=8)
        np.savez(made["mnist"], images=pixels[:2000], labels=numbers[:2000].astype(np.int64))
    for name, load in {"iris": datasets.load_iris, "wine": datasets.load_wine}.items():
        table = load(as_frame=True).frame.rename(columns={"target": "label"})
        made[name] = folder / f"{name}.csv"
        table.to_csv(made[name], index=False)
    return made


def audit_row(name: str, path: Path, data: Mapping[str, Path], out: Path, samples: int) -> document.Row:
    """Audit one file and return its table row."""
    file = FILES[name]
    overrides = {"input": dict(file.overrides)} if file.overrides else {}
    run = auditor.audit(path, data=data.get(file.data), suite="quick", out=out, samples=samples, overrides=overrides)
    model = run.record["model"]
    accuracy = "-"
    if run.record["data"]["labelled"]:
        metric = run.metric("performance.accuracy", "accuracy")
        accuracy = f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}], n {metric['n']}"
    parity = model["parity"] or {}
    difference = parity.get("max_abs_difference")
    statuses = Counter(probe["status"] for probe in run.record["probes"])
    summary = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    if broken := [probe["id"] for probe in run.record["probes"] if probe["status"] == "error"]:
        summary += f" ({', '.join(broken)})"
    access = model["access"] + (f": {model['access_reason']}" if model["access"] == "black-box" else "")
    difference_text = "-" if difference is None else f"{difference:.0e}"
    return (path.name, file.source, file.what, access, difference_text, accuracy, file.accuracy, summary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", action="append", default=[], help="file name without .onnx (repeatable)")
    parser.add_argument("--samples", type=int, default=300)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(arguments.data, Path(folder))
        for name in arguments.only or FILES:
            path = arguments.models / f"{name}.onnx"
            row = audit_row(name, path, data, Path(folder) / name, arguments.samples)
            print(" | ".join(row), flush=True)
            document.add_row("third-party", HEADER, row)
            document.add_operators(written_operators(onnx.load(path, load_external_data=False)))


if __name__ == "__main__":
    main()
