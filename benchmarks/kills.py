"""Kill audits with SIGKILL at random times, resume them, and compare their rows with those of an audit left alone.

    uv run python benchmarks/kills.py [--kills 100] [--suite full] [--samples 8] [--seed 0]

The reference model of digits. A kill ends all processes of an audit at once, as a power failure does, and the same
command resumes it. When an audit ends, its rows and findings are compared; then the next one begins.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from auditor.api import Audit
from auditor.files import parse_json
from auditor.reference_models import recipe

TOLERANCE = 1e-4
"""Relative and absolute difference of numbers: float32 scores depend on the images that share a batch."""

ABOUT_THE_RUN = {"seconds", "model_calls"}


def descendants(pid: int) -> list[int]:
    """Return a process and all that it started, parents first."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def lives(command: Sequence[str], seconds: float | None) -> float | None:
    """Run a command for at most so long, then kill it; return its seconds if it ended by itself."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        for pid in descendants(process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()
        return None
    if process.returncode not in (0, 1):
        raise SystemExit(f"the audit ended with {process.returncode}: {said}")
    return time.monotonic() - start


def opened(folder: Path) -> Audit:
    return Audit(folder, parse_json((folder / "audit.json").read_bytes(), "audit.json"))


def differences(whole: Audit, resumed: Audit) -> list[str]:
    """List the probes whose rows or findings differ."""
    found = []
    for one, other in zip(whole.record["probes"], resumed.record["probes"], strict=True):
        name = one["id"]
        if (whole.folder / "records" / name).is_dir():
            found += [f"{name}: {text}" for text in _different_rows(whole.rows(name), resumed.rows(name))]
        a, b = ({k: v for k, v in probe.items() if k not in ABOUT_THE_RUN} for probe in (one, other))
        # what it measures is the rounding itself
        if name != "sanity.parity" and not _same(a["metrics"], b["metrics"]):
            found.append(f"{name}: other metrics")
        if a["status"] != b["status"]:
            found.append(f"{name}: {a['status']} and {b['status']}")
    return found


def _different_rows(one: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    counts = one["image_id"].value_counts().sort_index(), other["image_id"].value_counts().sort_index()
    if not counts[0].equals(counts[1]):
        return [f"{len(one)} rows of {len(counts[0])} images, {len(other)} of {len(counts[1])} after kills"]
    one, other = (frame.sort_values("image_id", kind="stable").reset_index(drop=True) for frame in (one, other))
    return [f"column {name}" for name in one if not _same(one[name].tolist(), other[name].tolist())]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | np.ndarray):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
    return bool(one == other)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--suite", default="full")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        recipe("digits-cnn").train(folder, say=lambda _: None)
        program = [sys.executable, "-W", "ignore", "-c", "from auditor.cli.main import main; main()"]
        settings = ["--suite", options.suite, "--samples", str(options.samples), "--batch-size", "4"]
        command = [*program, "run", str(folder / "digits-cnn.onnx"), *settings, "--format", "json", "--out"]
        seconds = lives([*command, str(folder / "whole")], None)
        assert seconds is not None
        whole = opened(folder / "whole")
        print(f"undisturbed: {seconds:.0f} s, {len(whole.record['probes'])} probes")
        kills = audits = 0
        different: list[str] = []
        while kills < options.kills:
            out = folder / f"killed-{audits}"
            allowed = mean = 2 * seconds / options.kills + 5
            while lives([*command, str(out)], allowed if kills < options.kills else None) is None:
                kills += 1
                # what takes longer than a life must end at some time
                mean *= 1.02
                allowed = rng.uniform(0.2, 1.8) * mean
            different += differences(whole, opened(out))
            audits += 1
            print(f"{kills} kills in {audits} audits; different: {different or 'nothing'}", flush=True)


if __name__ == "__main__":
    main()
