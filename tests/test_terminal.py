"""What a terminal shows: one line a probe at 80 columns, a bar with pace and time left, colours only where wanted."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from auditor.cli import progress, tables
from auditor.run.request import Outcome, Position

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"
STATUSES = ["pass", "fail", "inconclusive", "informative", "not-applicable", "error"]


@pytest.fixture
def outcome() -> Outcome:
    """An audit with many probes, of every status, with long ids, long numbers and hostile reasons."""
    audit: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    pattern = next(probe for probe in audit["probes"] if probe["metrics"])
    audit["probes"] = []
    for number in range(48):
        status = STATUSES[number % len(STATUSES)]
        measured = status not in ("not-applicable", "error")
        metric = pattern["metrics"][0] | {"value": 0.0012345, "low": -0.0567, "high": 0.0555, "unit": "1", "n": 123456}
        audit["probes"].append(
            pattern
            | {
                "id": f"explanations.{'integrated-gradients-' * (1 + number % 3)}{number}",
                "status": status,
                "severity": "critical" if status == "fail" else "none",
                "n": 200000 if measured else 0,
                "metrics": [metric] if measured else [],
                "reason": "[bold]because " + "x" * 200,
            }
        )
    return Outcome(audit=audit, out=Path("run"), files=[Path("run/report.html")], incomplete=True)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_every_probe_has_one_line_within_the_width(outcome: Outcome, width: int) -> None:
    lines = tables.summary(outcome, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    table = lines[2 : 2 + len(outcome.audit["probes"])]
    for line, probe in zip(table, outcome.audit["probes"], strict=True):
        assert line.split()[0].rstrip("…") in probe["id"]
        status = {"not-applicable": "n/a", "fail": "fail (critical)"}.get(probe["status"], probe["status"])
        assert f" {status} " in line
        # n of the key metric, not of the probe
        assert line.endswith(" 123456" if probe["metrics"] else " -")


def test_reasons_are_below_the_table(outcome: Outcome) -> None:
    message = " ".join(tables.summary(outcome, width=80).split())
    assert "broke: [bold]because" in message
    assert "not applicable: [bold]because" in message


def bar(**options: Any) -> tuple[Any, io.StringIO]:
    sink = io.StringIO()
    console = Console(file=sink, width=80, force_terminal=True, **options)
    return progress._OnTerminal(console), sink


def test_bar_shows_probe_images_pace_and_time_left() -> None:
    visible, _ = bar()
    clock = iter(range(1000))
    visible._bar.get_time = lambda: float(next(clock))
    visible.begin("explanations.integrated-gradients", 899, Position(26, 44))
    visible.advance(200)  # resumed: no measure of this run's speed
    assert visible._bar.tasks[0].speed is None
    for _ in range(5):
        visible.advance(64)
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(visible._bar.get_renderable())
    (line,) = captured.get().splitlines()
    assert len(line) <= 80
    assert line.startswith("27/44 explanations.integrated-gradients ")
    assert "520/899" in line
    assert "images/s" in line
    assert line.rstrip().endswith("left")


def test_finished_probe_has_a_line() -> None:
    visible, sink = bar(no_color=True)
    visible.begin("attacks.pgd", 10, Position(0, 1))
    visible.end({"id": "attacks.pgd", "status": "fail"})
    assert "fail" in sink.getvalue()
    assert "\x1b[31m" not in sink.getvalue()


@pytest.mark.parametrize(("setting", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_depend_on_terminal_and_environment(setting: dict[str, str], coloured: bool) -> None:
    """On a pseudo-terminal, as a user has one."""
    code = (
        "from pathlib import Path; import json; from auditor.cli import tables\n"
        "from auditor.run.request import Outcome\n"
        f"audit = json.loads(Path({str(GOLDEN)!r}).read_text())\n"
        "print(tables.summary(Outcome(audit=audit, out=Path('run'), files=[], incomplete=False)))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=slave, stderr=slave, env=environment | {"TERM": "xterm"} | setting
    )
    os.close(slave)
    text = b""
    try:
        while piece := os.read(master, 65536):
            text += piece
    except OSError:
        # the other end has gone: Linux says so with an error
        pass
    assert process.wait() == 0, text
    os.close(master)
    assert (b"\x1b[31m" in text or b"\x1b[1;31m" in text) == coloured
    assert b"Verdict: " in text
