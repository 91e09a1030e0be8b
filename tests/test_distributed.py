"""``--engine ray``: the same records from several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def audit(digits: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    suite = folder / "tiny.toml"
    suite.write_text(
        'probes = ["performance.accuracy", "attacks.fgsm", "attacks.noise", "sanity.parity"]\nsamples = 60\n'
        '[settings."attacks.fgsm"]\nepsilons = ["8/255"]\nl2_epsilons = []\n'
    )
    command = [
        str(Path(sys.executable).with_name("auditor")),
        "run",
        str(digits / "digits-cnn.onnx"),
        "--suite",
        str(suite),
        "--format",
        "json",
        "--batch-size",
        "16",
        "-q",
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def findings(folder: Path) -> list[Any]:
    probes = json.loads((folder / "audit.json").read_text())["probes"]
    # parity's largest difference is the runtime's rounding, which may differ from batch to batch
    return [
        (p["id"], p["status"], p["n"], [m for m in p["metrics"] if m["name"] != "max_abs_difference"]) for p in probes
    ]


def test_ray_has_the_same_findings_and_reuses_records(digits: Path, tmp_path: Path) -> None:
    for name, arguments in {"local": (), "ray": ("--engine", "ray", "--workers", "2")}.items():
        done = audit(digits, tmp_path, "--out", name, *arguments)
        assert done.returncode == 0, done.stderr
    assert findings(tmp_path / "ray") == findings(tmp_path / "local")
    before = sorted(path.name for path in (tmp_path / "ray" / "records").rglob("shard-*.parquet"))
    assert audit(digits, tmp_path, "--out", "ray").returncode == 0
    assert sorted(path.name for path in (tmp_path / "ray" / "records").rglob("shard-*.parquet")) == before


def test_workers_without_ray_are_refused(digits: Path, tmp_path: Path) -> None:
    done = audit(digits, tmp_path, "--workers", "2")
    assert done.returncode == 2
    assert "requires --engine ray" in done.stderr
    assert "Traceback" not in done.stderr
