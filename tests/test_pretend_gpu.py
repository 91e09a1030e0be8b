"""On a pretend GPU (pretend_gpu.py), the auditor finds what it finds on the CPU. No GPU is used or needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).with_name("pretend_parts.py")

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: run benchmarks/first_day.py")


def outcome(part: str, folder: Path) -> dict[str, Any]:
    """Run a part in its own process; skip the test if torch has changed."""
    command = [sys.executable, str(PROGRAM), part, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "unavailable" in found:
        pytest.skip(f"the pretend device rests on private functions of torch: {found['unavailable']}")
    return found


@pytest.mark.parametrize(("part", "at_least"), [("audit", 30), ("copies", 9), ("operators", 350), ("training", 3)])
def test_results_equal_those_of_the_cpu(part: str, at_least: int, tmp_path: Path) -> None:
    found = outcome(part, tmp_path)
    assert found["differ"] == []
    assert found["n"] >= at_least


def test_pgd_waits_for_the_gpu_at_most_once_in_five_steps(tmp_path: Path) -> None:
    counts = outcome("pgd_waits", tmp_path)["counts"]
    assert counts["linf"] <= 0.2
    assert counts["l2"] <= 0.2
    # the projection onto the L1 ball asks whether Newton's steps have converged
    assert counts["l1"] <= 3
