"""The CI snippets are valid by the published schemas of GitHub and GitLab, and their commands and policy are real."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from helpers import fits_schema

from auditor.cli.main import main
from auditor.plugin import registry
from auditor.policy.rules import read_policy

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "ci.md").read_text("utf-8")
SNIPPETS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"(?:run: |- |^    )(auditor .+)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(
    ("place", "options"),
    [
        (0, ["--builtin-schema", "vendor.github-workflows"]),
        (1, ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]),
    ],
    ids=["github", "gitlab"],
)
def test_the_snippets_are_valid(place: int, options: list[str], tmp_path: Path) -> None:
    kind, text = SNIPPETS[place]
    assert kind == "yaml"
    (tmp_path / "ci.yml").write_text(text, "utf-8")
    fits_schema(*options, tmp_path / "ci.yml")


def test_the_workflow_of_the_project_is_valid_and_runs_the_checks() -> None:
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    fits_schema("--builtin-schema", "vendor.github-workflows", workflow)
    (script,) = re.findall(r"- run: (.+)", workflow.read_text("utf-8"))
    assert os.access(ROOT / script, os.X_OK)


def test_the_workflow_tests_every_supported_python_and_the_lowest_versions() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    versions = re.search(r"python: \[(.+)\]", text)
    assert versions is not None
    tested = versions[1].replace('"', "").split(", ")
    below = f"3.{int(tested[-1].split('.')[1]) + 1}"
    assert project["requires-python"] == f">={tested[0]},<{below}"
    assert "resolution: lowest-direct" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_parse_and_name_known_formats(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    found = main.commands[name]
    context = found.make_context(name, arguments, parent=click.Context(main))
    known = registry.load().formats()
    assert set(context.params["formats"]) - {"json"} <= set(known)
    assert name == "judge" or read_policy(context.params["policy"]).name == "ci"


def test_the_commands_are_found() -> None:
    assert [command.split()[1] for command in COMMANDS] == ["run", "run", "judge"]


def test_the_policy_reads(tmp_path: Path) -> None:
    kind, text = SNIPPETS[2]
    assert kind == "toml"
    (tmp_path / "policy.toml").write_text(text, "utf-8")
    policy = read_policy(str(tmp_path / "policy.toml"), registry.load().probes)
    assert policy.fails_at == "high"
    assert [each.author for each in policy.accepted] == ["A. Turing, safety"]
    assert {rule.metric: rule for rule in policy.rules if rule.probe == "performance.accuracy"}["accuracy"].thresholds[
        "low"
    ] == 0.97
