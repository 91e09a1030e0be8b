"""``--engine ray``: the same records from several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from auditor.errors import BadInput
from auditor.run.distributed import _visible_gpu, gpu_share


def command(digits: Path, folder: Path, *arguments: str) -> list[str]:
    """Write a small suite; return the arguments of its audit."""
    suite = folder / "tiny.toml"
    suite.write_text(
        # no wrapper of another library: each of six processes would import it
        'probes = ["performance.accuracy", "attacks.pgd", "attacks.noise", "sanity.parity"]\nsamples = 60\n'
        '[settings."attacks.pgd"]\nepsilons = ["8/255"]\nl2_epsilons = []\nl1_epsilons = []\niterations = 2\n'
    )
    return [
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


def audit(digits: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("auditor"))
    arguments = (program, *command(digits, folder, *arguments))
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def findings(folder: Path) -> list[Any]:
    probes = json.loads((folder / "audit.json").read_text())["probes"]
    # parity's largest difference is the runtime's rounding, which may differ from batch to batch
    return [
        (p["id"], p["status"], p["n"], [m for m in p["metrics"] if m["name"] != "max_abs_difference"]) for p in probes
    ]


def test_workers_have_the_same_findings_and_ray_reuses_records(digits: Path, tmp_path: Path, auditor_cli: Any) -> None:
    two = ("--workers", "2")
    assert auditor_cli(*command(digits, tmp_path, "--out", "local")).exit_code == 0
    assert auditor_cli(*command(digits, tmp_path, "--out", "workers", *two)).exit_code == 0
    # Ray leaves threads
    done = audit(digits, tmp_path, "--out", "ray", "--engine", "ray", *two)
    assert done.returncode == 0, done.stderr
    assert findings(tmp_path / "workers") == findings(tmp_path / "local")
    assert findings(tmp_path / "ray") == findings(tmp_path / "local")
    before = sorted(path.name for path in (tmp_path / "ray" / "records").rglob("shard-*.parquet"))
    assert auditor_cli(*command(digits, tmp_path, "--out", "ray")).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "ray" / "records").rglob("shard-*.parquet")) == before


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(8, 3, 1.0), (8, 8, 1.0), (1, 3, 0.3333), (2, 3, 0.5), (1, 1, 1.0), (3, 16, 0.1666)]
)
def test_every_worker_gets_a_share_that_ray_accepts(gpus: int, workers: int, share: float) -> None:
    assert gpu_share(gpus, workers) == share
    # all workers fit: each GPU takes as many as their shares allow
    assert gpus * int(1 / share + 1e-9) >= workers


def test_ray_without_a_gpu_is_refused() -> None:
    with pytest.raises(BadInput, match="Ray finds no GPU"):
        gpu_share(0, 2)


@pytest.mark.parametrize(
    ("device", "before", "visible"),
    [("cuda:1", None, "1"), ("cuda:1", "4,GPU-5", "GPU-5"), ("cuda", "4,5", "4,5"), ("auto", None, None)],
)
def test_workers_see_the_gpu_of_the_device(
    device: str, before: str | None, visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with _visible_gpu(device):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
