"""The HTML report in a real browser: accessible, sortable, filterable, readable by keyboard, dark and on paper.

Needs Chromium, Node.js and ``npm install --prefix tests/browser``; where one of them is missing the tests are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from auditor.compare.comparison import compare
from auditor.report import comparison
from auditor.report.html import render_html

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODE = shutil.which("node")
MISSING = [
    *([] if CHROMIUM else ["Chromium"]),
    *([] if NODE else ["Node.js"]),
    *([] if (HERE / "browser" / "node_modules" / "axe-core").is_dir() else ["npm install --prefix tests/browser"]),
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the browser tests need {', '.join(MISSING)}")

SCRIPT = "<script>alert(1)</script>"


def hostile(audit: dict[str, Any]) -> dict[str, Any]:
    """The audit with names that run code, never end, or read from right to left."""
    changed: dict[str, Any] = json.loads(json.dumps(audit))
    changed["model"]["path"] = "m/<script>alert(1)<!--.onnx"
    changed["model"]["classes"][:3] = [SCRIPT, "x" * 300, "\u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629"]
    changed["warnings"] = ['"><img src=x onerror=alert(2)>', "y" * 400]
    for probe in changed["probes"]:
        probe["title"] = "z" * 300
        for finding in probe["findings"]:
            finding["title"] = SCRIPT
            for evidence in finding["evidence"]:
                evidence["title"] = "\u202e" + "w" * 300
                for series in evidence.get("series", []):
                    series["name"] = SCRIPT + "v" * 300
    return changed


def comparisons(audit: dict[str, Any], folder: Path) -> list[Path]:
    """The pages of two runs and of three: the audit, one of another model with other numbers, a hostile one."""
    others = [json.loads(json.dumps(audit)), hostile(audit)]
    others[0]["model"]["sha256"] = "f" * 64
    for probe in others[0]["probes"]:
        for metric in probe["metrics"]:
            if metric["unit"] == "fraction" and metric["value"] is not None:
                metric |= {"value": metric["value"] / 3, "low": metric["value"] / 4, "high": metric["value"] / 2}
    runs, files = [], []
    for number, one in enumerate([audit, *others]):
        # runs of models with other classes cannot be compared
        one["model"]["classes"] = audit["model"]["classes"]
        runs.append(folder / f"run{number}")
        runs[-1].mkdir()
        (runs[-1] / "audit.json").write_text(json.dumps(one))
    for count in (2, 3):
        compared = compare(runs[:count])
        files.append(folder / f"comparison{count}.html")
        files[-1].write_bytes(comparison.render_html(compared))
    return files


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a reader sees in the golden audit's report, and in one with hostile names."""
    folder = tmp_path_factory.mktemp("browser")
    audit = json.loads((HERE / "data" / "golden_audit.json").read_text("utf-8"))
    (folder / "evidence").mkdir()
    for probe in audit["probes"]:
        for finding in probe["findings"]:
            for evidence in finding["evidence"]:
                for row in evidence["rows"] if evidence["kind"] == "image-grid" else ():
                    for cell in row["cells"]:
                        if cell["file"] and "lost" not in cell["file"]:
                            Image.effect_noise((32, 32), 60).convert("RGB").save(folder / cell["file"])
    (folder / "report.html").write_bytes(render_html(audit, folder))
    (folder / "hostile.html").write_bytes(render_html(hostile(audit), folder))
    pages = [folder / "report.html", folder / "hostile.html", *comparisons(audit, folder)]
    command = [NODE, HERE / "browser" / "look.mjs", CHROMIUM, *pages]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("state", ["axe light", "axe dark", "axe light-box", "axe narrow"])
def test_axe_finds_no_problem(observed: dict[str, Any], state: str) -> None:
    assert observed[state] == []


def test_axe_finds_no_problem_in_comparisons(observed: dict[str, Any]) -> None:
    assert len(observed["comparisons"]) == 6
    for page in observed["comparisons"]:
        assert page["violations"] == []
        assert page["wide"] == 0
        assert page["rows"] > 3


def test_nothing_is_fetched_executed_or_refused(observed: dict[str, Any]) -> None:
    assert (observed["requests"], observed["trouble"]) == ([], [])
    assert "<script>alert(1)<!--.onnx" in observed["hostile"]["title"]


def test_page_fits_the_window(observed: dict[str, Any]) -> None:
    assert (observed["narrow"], observed["hostile"]["wide"]) == (0, 0)


def test_tables_are_sorted_from_the_keyboard(observed: dict[str, Any]) -> None:
    order = ["none", "low", "medium", "high", "critical"]
    up = [order.index(name) for name in observed["sorted"]["up"]]
    assert up == sorted(up)
    assert up[0] < up[-1]
    assert observed["sorted"]["down"] == [order[index] for index in sorted(up, reverse=True)]
    assert observed["sorted"]["said"] == "ascending"


def test_probes_are_filtered_by_status_and_word(observed: dict[str, Any]) -> None:
    assert {cell[1:] for cell in observed["filtered"]["status"]} == {"fail"}
    assert observed["filtered"]["said"].startswith(f"{len(observed['filtered']['status'])} of ")
    assert len(observed["filtered"]["word"]) == 1
    assert "attacks.pgd" in observed["filtered"]["word"][0]


def test_images_open_in_a_light_box(observed: dict[str, Any]) -> None:
    box = observed["box"]
    assert box["open"]
    assert box["closed"]
    assert box["focus"]
    assert box["place"].startswith("1 of ")
    assert box["next"].startswith("2 of ")
    assert box["width"] > 300


def test_curve_shows_values_by_mouse_and_keyboard(observed: dict[str, Any]) -> None:
    first, second, last, closed = observed["stepped"]
    hovered = observed["hovered"].split("\n")  # one line for each curve through the point
    assert first in hovered
    assert len(hovered) == len(set(hovered))
    assert "n = " in first
    assert len({first, second, last}) == 3
    assert (observed["left"], closed) == ("", "")


def test_the_keyboard_reaches_the_report_first(observed: dict[str, Any]) -> None:
    assert observed["skip"]["hash"] == "#main"
    assert observed["skip"]["left"] >= 0
    assert observed["skip"]["outline"] == "solid"


def test_dark_and_print(observed: dict[str, Any]) -> None:
    assert observed["dark"] == "rgb(17, 22, 28)"
    visible = {
        "navigation": False,
        "filter": False,
        "buttons": False,
        "findings": True,
        "background": "rgb(255, 255, 255)",
    }
    assert observed["print"] == visible
    assert observed["pages"] > 10_000
