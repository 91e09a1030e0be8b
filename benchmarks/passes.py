"""Write auditor/run/passes.json: the passes that each probe takes for an image, from finished audits.

    for suite in full standard quick; do
        uv run auditor run models/digits-cnn.onnx --suite $suite --samples 100 --budget none --out $suite
        uv run auditor run weak.onnx --data weak.npz --suite $suite --samples 24 --budget none --out weak-$suite
    done
    uv run python benchmarks/passes.py full standard quick weak-full weak-standard weak-quick

digits-cnn withstands most attacks at the usual sizes. weak.onnx, which ``--weak FOLDER`` writes, is a linear model with
random weights, which a small change fools. A row has the passes of the audit with the fewest and of that with the most.
For other settings than those of these suites, the forecast of ``auditor run`` uses the first audit. The seconds that
are not passes are those of the first audit, on the machine that ran it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from auditor.model.deployed import Price
from auditor.run import expected_time
from auditor.run.measuring import _timed
from auditor.run.opening import open_model

_GRADIENT = 4
"""Predictions that cost as much as a gradient, to order the audits."""


def write_weak(folder: Path) -> None:
    """Write a linear model of images of noise (3 x 12 x 12), which it labels itself."""
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(3 * 12 * 12, 3)).astype(np.float32)
    images = generator.integers(0, 255, (40, 12, 12, 3), dtype=np.uint8)
    flat = images.transpose(0, 3, 1, 2).reshape(40, -1) / 255
    np.savez(folder / "weak.npz", images=images, labels=(flat @ weights).argmax(axis=1))
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "weak",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "weak.onnx"))


def price_of(model: Path) -> Price:
    """Return the price of a pass, the best of five."""
    classifier = open_model(model, "cpu", trust=True)
    pixels = np.random.default_rng(0).uniform(size=(32, *classifier.shape)).astype(np.float32)
    times = [_timed(classifier, pixels) for _ in range(5)]
    return Price(*(min(parts) / len(pixels) for parts in zip(*times, strict=True)))


def _row(audits: list[tuple[float, float, float]]) -> list[float]:
    """Return the fewest and the most passes of audits, and the seconds of the first."""
    ordered = sorted(audits, key=lambda audit: audit[0] + _GRADIENT * audit[1])
    passes = [*ordered[0][:2], *ordered[-1][:2]]
    return [*(round(number, 1) for number in passes), audits[0][2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--weak", type=Path, help="write the model that is easily fooled, and its images")
    arguments = parser.parse_args()
    if arguments.weak:
        write_weak(arguments.weak)
        return
    table: dict[str, dict[str, Any]] = defaultdict(dict)
    for run in arguments.runs:
        audit = json.loads((run / "audit.json").read_bytes())
        price = price_of(Path(audit["model"]["path"]))
        for probe in audit["probes"]:
            if probe["status"] in {"not-applicable", "error"} or not probe["n"]:
                continue
            calls, n = probe["model_calls"], probe["n"]
            # a gradient counts as one forward and one backward pass, or shares its forward pass with others
            predictions, gradients = max(0, calls["forward"] - calls["backward"]) / n, calls["backward"] / n
            passes = n * (predictions * price.forward + gradients * price.gradient)
            seconds = round(max(0.0, probe["seconds"] - passes), 2)
            table[probe["id"]].setdefault(expected_time.settings_digest(probe["settings"]), []).append(
                (predictions, gradients, seconds)
            )
    lines = [
        f"  {json.dumps(probe)}: {json.dumps({key: _row(audits) for key, audits in rows.items()})}"
        for probe, rows in sorted(table.items())
    ]
    Path(expected_time.__file__).with_name("passes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
