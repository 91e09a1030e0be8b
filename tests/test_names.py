"""Misspelt names: the nearest one is suggested, by every command, and before a heavy library is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

MISSPELT = {
    "probe": (["run", "m.onnx", "--probe", "attack.pgd"], "attacks.pgd"),
    "skipped probe": (["run", "m.onnx", "--skip", "atacks.fgsm"], "attacks.fgsm"),
    "probe to describe": (["probes", "attack.pgd"], "attacks.pgd"),
    "suite": (["run", "m.onnx", "--suite", "ful"], "full"),
    "policy": (["run", "m.onnx", "--policy", "defalt"], "default"),
    "format": (["run", "m.onnx", "--format", "htm"], "html"),
    "option": (["run", "m.onnx", "--samples-", "3"], "--samples"),
    "command": (["runn", "m.onnx"], "run"),
    "command of a group": (["plugin", "chek"], "check"),
    "recipe": (["train", "digits-cn"], "digits-cnn"),
    "option of compare": (["compare", "a", "b", "--formt", "json"], "--format"),
}


@pytest.mark.parametrize("name", MISSPELT)
def test_nearest_name_is_suggested(name: str, auditor_cli: Callable[..., Result], digits: Path, tmp_path: Path) -> None:
    arguments, meant = MISSPELT[name]
    (tmp_path / "m.onnx").write_bytes((digits / "digits-cnn.onnx").read_bytes())
    result = auditor_cli(*arguments)
    assert result.exit_code == 2, result.output
    assert f"'{meant}'" in result.output
    assert "id you mean" in result.output
    assert "Traceback" not in result.output


CHECK = """
import sys
from pathlib import Path
from auditor.errors import BadInput
from auditor.run.names import check_names
from auditor.run.request import Request

for given in ({"suite": "ful"}, {"probes": ["attack.pgd"]}, {"policy": "strit"}, {"formats": ["htm"]}):
    try:
        check_names(Request(model=Path(sys.executable), **given))
    except BadInput:
        continue
    raise AssertionError(given)
check_names(Request(model=Path(sys.executable)))
print(*{"numpy", "pandas", "pyarrow", "torch"} & set(sys.modules))
"""


def test_names_are_checked_without_heavy_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
