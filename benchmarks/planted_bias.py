"""Audit a planted bias ten times, and a control without it ten times: detections and false alarms.

    uv run python benchmarks/planted_bias.py [--seeds 10]

Models of the recipes digits-cue and digits-no-cue are trained with different seeds and audited. A detection means:

- gap: the accuracy gap by scanner has an interval above zero (``bias.groups``);
- slice: at least one slice is confirmed on held-out images (``bias.slices``, which does not use the scanner column);
- slice holds the cue: at least 80 % of the held-out errors of the confirmed slices come from scanner B (which has half
  of the images; a slice of hard digits in the control is real, but not the planted one);
- region: on the images of scanner B the corner of the patch has at least three times its share of the attribution
  (``explanations.integrated-gradients``, and ``explanations.occlusion``);
- covering: covering the corner of the patch changes the scores of scanner B's images more than those of scanner A's, as
  an interval over images (measured on the model directly).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from auditor.plugin.suite import find_suite

SUITE = """
title = "Planted bias"
probes = ["performance.accuracy", "bias.groups", "bias.slices", "bias.counterfactual-occlusion",
          "explanations.occlusion", "explanations.integrated-gradients"]
[settings."explanations.occlusion"]
samples = 200
[settings."explanations.integrated-gradients"]
samples = 200
[settings."bias.counterfactual-occlusion"]
samples = 200
"""
AREA = 4 / 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--model", choices=["digits-cue", "digits-no-cue"], help="run only this recipe")
    arguments = parser.parse_args()
    from auditor.reference_models.digits_cue import CUE

    rows = []
    for name, cue in (("digits-cue", CUE), ("digits-no-cue", 0.5)):
        for seed in range(arguments.seeds if arguments.model in (None, name) else 0):
            rows.append({"model": name, "seed": seed, **audited(name, seed, cue)})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    checks = [c for c in table.columns if c not in ("model", "seed", "accuracy", "gap")]
    print(table.groupby("model", sort=False)[checks].sum().astype(int).to_string())


def audited(name: str, seed: int, cue: float) -> dict[str, Any]:
    """Audit one model and return the detections."""
    from auditor.reference_models.digits_cue import build
    from auditor.run.request import Request
    from auditor.run.session import run

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model = build(home, name, seed=seed, cue=cue, say=lambda _: None)
        (home / "suite.toml").write_text(SUITE)
        outcome = run(Request(model=model, suite=str(home / "suite.toml"), out=home / "run", seed=seed, formats=()))
        probes = {probe["id"]: probe for probe in outcome.audit["probes"]}
        gap = next(
            m
            for m in probes["bias.groups"]["metrics"]
            if m["name"] == "accuracy_gap" and m["at"]["group"] == "scanner" and "class" not in m["at"]
        )
        slices = probes["bias.slices"]["metrics"][0]["value"]
        result: dict[str, Any] = {
            "accuracy": round(probes["performance.accuracy"]["metrics"][0]["value"], 3),
            "gap": round(gap["value"], 3),
            "gap found": gap["low"] is not None and gap["low"] > 0,
            "slice found": bool(slices),
            "slice holds the cue": bool(slices) and scanner_of_slices(home / "run") > 0.8,
        }
        for method in ("integrated-gradients", "occlusion"):
            result[f"region found by {method}"] = corner_share(home / "run", method) > 3 * AREA
        result["covering found"] = covering(home, name, model)
        return result


def records(run: Path, probe_id: str) -> pd.DataFrame:
    """Return a probe's rows."""
    files = sorted((run / "records" / probe_id).glob("*.parquet"))
    return pd.concat([pd.read_parquet(f) for f in files if not f.name.startswith("exhibits")], ignore_index=True)


def scanner_of_slices(run: Path) -> float:
    """Return the share of scanner B among the errors of the confirmed slices' held-out images."""
    from auditor.plugins.bias.slices import Slices
    from auditor.probes.base import Records

    frame = records(run, "bias.slices").sort_values("image_id", ignore_index=True)
    all_records = Records(frame=frame, examples=pd.DataFrame(), classes=["small", "large"], labelled=True)
    ids = [i for s in Slices()._search(all_records)[0] if s.p_value < 0.05 for i in s.ids]
    chosen = frame[frame["image_id"].isin(ids) & (frame["label"] != frame["prediction"])]
    return float((chosen["group:scanner"] == "B").mean()) if len(chosen) else 0.0


def corner_share(run: Path, method: str) -> float:
    """Return the mean share of absolute attribution in the patch's corner, on scanner B's images."""
    frame = records(run, f"explanations.{method}")
    maps = np.abs(np.stack(frame["map"][frame["group:scanner"] == "B"].to_list())).reshape(-1, 8, 8)
    total = maps.sum(axis=(1, 2))
    return float((maps[:, 6:, 6:].sum(axis=(1, 2)) / np.where(total > 0, total, 1)).mean())


def covering(home: Path, name: str, model: Path) -> bool:
    """Return True if covering the corner changes the scores of scanner B's images more than those of scanner A's."""
    from auditor import statistics
    from auditor.plugin import registry
    from auditor.run.opening import open_audit
    from auditor.run.request import Request

    loaded = registry.load()
    classifier, images = open_audit(loaded, Request(model=model), find_suite("full", loaded), "cpu")
    pixels = images.pixels(images.ids)
    covered = pixels.copy()
    covered[:, :, 6:, 6:] = pixels.mean(axis=(1, 2, 3))[:, None, None, None]
    change = np.abs(classifier.predict(covered) - classifier.predict(pixels))[:, 0]
    b = np.array(images.groups["scanner"]) == "B"
    one, other = statistics.bootstrap(change[b]), statistics.bootstrap(change[~b])
    return bool(one.low is not None and other.high is not None and one.low > max(other.high, 0.05))


if __name__ == "__main__":
    main()
