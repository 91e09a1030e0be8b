"""The CI snippets are valid by the published schemas of GitHub and GitLab, and their commands and policy are real."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from auditor.cli.main import main
from auditor.plugin import registry
from auditor.policy.rules import read_policy

PAGE = (Path(__file__).parent.parent / "docs" / "ci.md").read_text("utf-8")
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
    command = [sys.executable, "-m", "check_jsonschema", *options, str(tmp_path / "ci.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
    assert next(rule for rule in policy.rules if rule.probe == "performance.accuracy").thresholds["low"] == 0.97
