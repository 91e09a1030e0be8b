"""Write auditor/run/passes.json: the passes that each probe takes for an image, from finished audits.

    for suite in quick standard full; do
        uv run auditor run models/digits-cnn.onnx --suite $suite --samples 100 --budget none --out $suite
    done
    uv run python benchmarks/passes.py full standard quick

For other settings than those of these suites, the forecast of ``auditor run`` uses the first audit. The seconds that
are not passes are those of the machine that runs the audits.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from auditor.model.deployed import Price
from auditor.run import expected_time
from auditor.run.measuring import _timed
from auditor.run.opening import open_model


def price_of(model: Path) -> Price:
    """Return the price of a pass, the best of five."""
    classifier = open_model(model, "cpu", trust=True)
    pixels = np.random.default_rng(0).uniform(size=(32, *classifier.shape)).astype(np.float32)
    times = [_timed(classifier, pixels) for _ in range(5)]
    return Price(*(min(parts) / len(pixels) for parts in zip(*times, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    table: dict[str, dict[str, Any]] = defaultdict(dict)
    for run in parser.parse_args().runs:
        audit = json.loads((run / "audit.json").read_bytes())
        price = price_of(Path(audit["model"]["path"]))
        for probe in audit["probes"]:
            if probe["status"] in {"not-applicable", "error"} or not probe["n"]:
                continue
            calls, n = probe["model_calls"], probe["n"]
            # a gradient counts as one forward and one backward pass, or shares its forward pass with others
            predictions, gradients = max(0, calls["forward"] - calls["backward"]) / n, calls["backward"] / n
            passes = n * (predictions * price.forward + gradients * price.gradient)
            row = [round(predictions, 1), round(gradients, 1), round(max(0.0, probe["seconds"] - passes), 2)]
            table[probe["id"]].setdefault(expected_time.settings_digest(probe["settings"]), row)
    lines = [f"  {json.dumps(probe)}: {json.dumps(rows)}" for probe, rows in sorted(table.items())]
    Path(expected_time.__file__).with_name("passes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
