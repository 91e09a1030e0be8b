"""The GitHub action, the GitLab component and the pre-commit hook are valid by their published schemas and run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from helpers import fits_schema

from auditor.cli.main import main

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
SPEC, JOBS = yaml.safe_load_all((ROOT / "templates" / "audit.yml").read_text("utf-8"))
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))


def check(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_action_is_valid_and_pinned_by_commit() -> None:
    fits_schema("--builtin-schema", "vendor.github-actions", ROOT / "action.yml")
    used = [step["uses"] for step in ACTION["runs"]["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name in used)


def test_component_is_valid_with_its_defaults(tmp_path: Path) -> None:
    given = {"package": "auditor.whl", "model": "m.onnx", "data": "images"}
    inputs = SPEC["spec"]["inputs"]
    values = {name: given.get(name, (stated or {}).get("default")) for name, stated in inputs.items()}
    text = re.sub(r"\$\[\[ inputs\.([\w-]+) ]]", lambda match: str(values[match[1]]), yaml.safe_dump(JOBS))
    assert "$[[" not in text
    # the two documents of a component: its inputs, and the jobs once these are filled in
    for name, content in {"spec.yml": yaml.safe_dump(SPEC), "jobs.yml": text}.items():
        (tmp_path / name).write_text(content, "utf-8")
        options = ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
        fits_schema(*options, tmp_path / name)


def test_hook_is_valid() -> None:
    check("pre_commit", "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml"))
    assert HOOK["entry"] == "auditor run"
    assert re.search(HOOK["files"], "models/m.onnx")


def test_a_broken_hook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hooks.yaml").write_text("- id: auditor\n", "utf-8")
    with pytest.raises(AssertionError, match="Missing required key"):
        check("pre_commit", "validate-manifest", str(tmp_path / "hooks.yaml"))


def parsed(words: list[str]) -> Any:
    """Parse a command line of ``auditor`` as the command does."""
    assert words[:2] == ["auditor", "run"]
    return main.commands["run"].make_context("run", words[2:], parent=click.Context(main)).params


def executed(script: str, variables: dict[str, str]) -> list[str]:
    """Return the words of the command that a script gives to ``auditor``."""
    shown = f'auditor() {{ printf "%s\\n" auditor "$@"; }}\n{script}'
    environment = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run(["bash", "-euc", shown], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(("data", "more"), [("", ""), ("my images", "--samples 50 --seed 3")])
def test_action_runs_the_audit_that_its_inputs_describe(data: str, more: str) -> None:
    step = next(step for step in ACTION["runs"]["steps"] if "auditor run" in step.get("run", ""))
    values = {name: each.get("default", "") for name, each in ACTION["inputs"].items()}
    values |= {"model": "my $(model).onnx", "data": data, "arguments": more}
    variables = {
        name: values[re.fullmatch(r"\$\{\{ inputs\.([\w-]+) }}", text)[1]]  # type: ignore[index]
        for name, text in step["env"].items()
    }
    params = parsed(executed(step["run"], variables))
    assert str(params["model"]) == "my $(model).onnx"
    assert (params["data"] and str(params["data"])) == (data or None)
    assert (params["suite"], params["policy"], params["fail_on"]) == ("quick", "ci", "high")
    assert params["samples"] == (50 if more else None)


def test_component_runs_the_audit_that_its_inputs_describe() -> None:
    (job,) = JOBS.values()
    (script,) = job["script"]
    variables = dict.fromkeys(job["variables"], "x y.onnx")
    variables |= {"AUDIT_SUITE": "quick", "AUDIT_POLICY": "ci", "AUDIT_FAIL_ON": "high"}
    params = parsed(executed(script, variables))
    assert (str(params["model"]), str(params["data"])) == ("x y.onnx", "x y.onnx")
    assert job["artifacts"]["reports"]["junit"] == f"{params['out']}/audit.junit.xml"


def test_examples_of_the_documentation_name_existing_inputs() -> None:
    page = (ROOT / "docs" / "how-to" / "ci.md").read_text("utf-8").partition("## Action, component and hook")[2]
    step, include, hooks = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    required = {name for name, each in ACTION["inputs"].items() if each.get("required")}
    assert required <= set(step[0]["with"]) <= set(ACTION["inputs"])
    stated = include["include"][0]["inputs"]
    assert {name for name, each in SPEC["spec"]["inputs"].items() if "default" not in each} == set(stated)
    assert hooks["repos"][0]["hooks"][0]["id"] == HOOK["id"]
    words = [*shlex.split(HOOK["entry"]), *hooks["repos"][0]["hooks"][0]["args"]]
    assert str(parsed(words)["model"]) == "model.onnx"


def test_python_of_the_action_is_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lowest, highest = re.findall(r"3\.(\d+)", project["requires-python"])
    assert int(lowest) <= int(ACTION["inputs"]["python-version"]["default"].split(".")[1]) < int(highest)
