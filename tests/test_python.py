"""The Python interface: its documented example, notebook display, errors, fast import."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import auditor

DOCS = Path(__file__).parents[1] / "docs" / "how-to" / "python.md"


@pytest.fixture(scope="module")
def example(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run the example of the documentation unchanged; return the folder and its names."""
    folder = tmp_path_factory.mktemp("python")
    for file in digits.iterdir():
        shutil.copy(file, folder)
    (block,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(block, "docs/how-to/python.md", "exec"), names)
        names["run"] = auditor.load(folder / "run")
    return folder, names


def test_documented_example_works(example: tuple[Path, dict[str, Any]]) -> None:
    folder, names = example
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert names["again"].record == names["run"].record
    assert names["run"].findings[0].statement
    grades = ["critical", "high", "medium", "low", "none"]
    order = [grades.index(claim.severity) for claim in names["run"].findings]
    assert order == sorted(order)


def test_notebook_shows_the_verdict_with_escaped_html(example: tuple[Path, dict[str, Any]]) -> None:
    run = example[1]["run"]
    hostile = auditor.Audit(run.folder, {**run.record, "verdict_reason": "<script>alert(1)</script>"})
    html = hostile._repr_html_()
    assert html.startswith(f"<p><b>{run.verdict.upper()}</b>: &lt;script&gt;")
    assert "performance.accuracy" in html
    assert "digits-cnn.onnx" in repr(run)


def test_missing_entry_gives_one_sentence(example: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run = example[1]["run"]
    with pytest.raises(auditor.errors.BadInput, match=r"unknown ending '\.docx'"):
        run.report(tmp_path / "report.docx")
    with pytest.raises(auditor.errors.BadInput, match="no metric"):
        run.metric("attacks.fgsm", "nothing")
    with pytest.raises(auditor.errors.BadInput, match="no rows"):
        run.rows("attacks.none")
    with pytest.raises(auditor.errors.BadInput, match="nonsense"):
        auditor.audit("model.onnx", nonsense=1)
    with pytest.raises(auditor.errors.BadInput, match=r"no audit\.json"):
        auditor.load(tmp_path)


def test_import_is_light() -> None:
    code = (
        "import sys, auditor; auditor.errors.BadInput; print(*{'numpy', 'torch', 'pandas', 'click'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
