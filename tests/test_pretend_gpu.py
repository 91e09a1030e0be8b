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


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run all parts in a separate process; skip the tests if torch has changed."""
    folder = tmp_path_factory.mktemp("pretend")
    command = [sys.executable, str(PROGRAM), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    parts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "unavailable" in parts:
        pytest.skip(f"the pretend device rests on private functions of torch: {parts['unavailable']}")
    return parts


@pytest.mark.parametrize(("part", "at_least"), [("audit", 30), ("copies", 9), ("operators", 350), ("training", 3)])
def test_results_equal_those_of_the_cpu(part: str, at_least: int, found: dict[str, Any]) -> None:
    outcome = found[part]
    assert outcome.get("error", "") == ""
    assert outcome["differ"] == []
    assert outcome["n"] >= at_least


def test_pgd_waits_for_the_gpu_at_most_once_in_five_steps(found: dict[str, Any]) -> None:
    assert found["pgd_waits"].get("error", "") == ""
    counts = found["pgd_waits"]["counts"]
    assert counts["linf"] <= 0.2
    assert counts["l2"] <= 0.2
    # the projection onto the L1 ball asks whether Newton's steps have converged
    assert counts["l1"] <= 3
