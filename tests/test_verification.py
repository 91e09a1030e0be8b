"""``auditor verify``: an untouched audit holds, and every manipulation is found."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from helpers import arrays
from PIL import Image

from auditor.cli.main import main
from auditor.errors import BadInput
from auditor.files import digest, file_sha256
from auditor.policy.document import restore_policy
from auditor.policy.rules import builtin, read_policy
from auditor.run.integrity import file_digests
from auditor.run.reconclusion import difference
from auditor.run.verification import Check, Given, verify

SUITE = """
probes = ["performance.accuracy", "attacks.fgsm", "attacks.noise", "bias.classes"]
samples = 40
[settings."attacks.fgsm"]
epsilons = ["8/255", "48/255"]
l2_epsilons = []
"""
LENIENT = """
[[rule]]
probe = "performance.accuracy"
metric = "accuracy"
at_least = { medium = 0.01 }
reason = "anything will do"
source = "this test"
"""


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its data and a finished audit ``run`` of them. Do not write into it."""
    folder = tmp_path_factory.mktemp("verified")
    for name in ("digits-cnn.onnx", "digits-cnn.onnx.audit.toml", "digits-test.npz"):
        shutil.copy(digits / name, folder)
    with (folder / "digits-cnn.onnx.audit.toml").open("a") as sidecar:
        sidecar.write('benchmark = "organisation/digits"\n')
    (folder / "small.toml").write_text(SUITE)
    (folder / "lenient.toml").write_text(LENIENT)
    arguments = ["run", "digits-cnn.onnx", "--suite", "small.toml", "--out", "run", "--format"]
    arguments += ["json,intoto,eval-results", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the audit, in a folder without model and data."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.copy(finished / "lenient.toml", tmp_path)
    return tmp_path / "run"


def outcomes(run: Path, given: Given | None = None) -> dict[str, Check]:
    return {check.claim: check for check in verify(run, given or Given())}


def failed(run: Path, given: Given | None = None) -> set[str]:
    return {claim for claim, check in outcomes(run, given).items() if check.outcome == "FAILED"}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def edit_rows(run: Path, probe: str, column: str, change: Callable[[Any], Any]) -> None:
    """Change a column of a shard, as someone who wants other results would."""
    (path,) = (run / "records" / probe).glob("shard-*.parquet")
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    values = pa.array(change(table[column].to_numpy()), table.schema.field(column).type)
    table = table.set_column(table.schema.get_field_index(column), table.schema.field(column), values)
    pq.write_table(table, path)


def rewrite_digests(run: Path) -> None:
    """Make manifest.json and the digests in audit.json fit the changed files, as a careful attacker would."""
    files = file_digests(run)
    edit(run / "manifest.json", lambda manifest: manifest.update(files=files))
    parts = {part: digest(listed) for part, listed in files.items()}
    edit(run / "audit.json", lambda audit: audit["digests"].update(parts, manifest=file_sha256(run / "manifest.json")))
    (run / "audit.intoto.json").unlink(missing_ok=True)


# the untouched audit


def test_untouched_audit_holds(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--model", finished / "digits-cnn.onnx", "--data", finished / "digits-test.npz"]
    result: Result = CliRunner().invoke(main, ["verify", str(finished / "run"), *map(str, given)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {line.split("  ")[0].strip() for line in lines[:-1]} == {"holds"}
    for claim in ("plan", "manifest.json", "records", "evidence", "verdict", "model", "data", "statement"):
        assert any(f"  {claim}: " in line for line in lines), claim
    for probe in ("performance.accuracy", "attacks.fgsm", "attacks.noise", "bias.classes"):
        assert any(f"  probe {probe}: " in line for line in lines)
    assert any("  pictures of attacks.fgsm/" in line for line in lines)
    assert lines[-1].endswith("0 failed, 0 could not be checked.")


def test_what_is_not_at_hand_is_not_checked(run: Path) -> None:
    checks = outcomes(run)
    assert {claim for claim, check in checks.items() if check.outcome == "not checked"} == {"model"}
    assert "--model" in checks["model"].text


def test_plan_is_written_before_the_first_measurement(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    plan = manifest["plan"]
    assert plan["probes"] == ["attacks.fgsm", "attacks.noise", "bias.classes", "performance.accuracy"]
    assert plan["policy"]["sha256"] == read_policy("default").sha256 == digest(plan["policy"]["content"])
    assert plan["suite"]["name"] == "small"
    audit = json.loads((run / "audit.json").read_text("utf-8"))
    assert audit["plan"]["policy"] == {"name": "default", "sha256": plan["policy"]["sha256"]}
    assert audit["warnings"] == [text for text in audit["warnings"] if "Not as planned" not in text]


def test_benchmark_of_the_sidecar_is_stated(run: Path) -> None:
    audit = json.loads((run / "audit.json").read_text("utf-8"))
    assert audit["data"]["benchmark"] == {"id": "organisation/digits", "task_id": "default"}
    assert '"organisation/digits"' in (run / ".eval_results" / "auditor.yaml").read_text("utf-8")


# manipulations


def change_a_record(run: Path) -> None:
    edit_rows(run, "performance.accuracy", "prediction", lambda values: (values + 1) % 10)


def change_a_record_and_all_digests(run: Path) -> None:
    change_a_record(run)
    rewrite_digests(run)


def delete_a_record(run: Path) -> None:
    next((run / "records" / "attacks.fgsm").glob("shard-*.parquet")).unlink()
    rewrite_digests(run)


def change_a_threshold(run: Path) -> None:
    def lower(manifest: dict[str, Any]) -> None:
        for rule in manifest["plan"]["policy"]["content"]["rule"]:
            rule["at_least"] = dict.fromkeys(rule["at_least"], 0.01)

    edit(run / "manifest.json", lower)
    rewrite_digests(run)


def change_a_picture(run: Path) -> None:
    path = sorted((run / "evidence").glob("*.png"))[0]
    Image.new("L", (8, 8), 0).save(path)


def replace_a_picture_by_another(run: Path) -> None:
    first, second = sorted((run / "evidence").glob("attacks-fgsm*.png"))[:2]
    first.write_bytes(second.read_bytes())


def change_a_metric(run: Path) -> None:
    def improve(audit: dict[str, Any]) -> None:
        metric = audit["probes"][0]["metrics"][0]
        metric["value"] = min(1.0, metric["value"] + 0.01)

    edit(run / "audit.json", improve)


def narrow_an_interval(run: Path) -> None:
    edit(run / "audit.json", lambda audit: audit["probes"][0]["metrics"][0].update(low=0.99))


def change_a_statement(run: Path) -> None:
    edit(run / "audit.json", lambda audit: audit["probes"][0]["findings"][0].update(statement="All is well."))


def change_a_status(run: Path) -> None:
    def hide(audit: dict[str, Any]) -> None:
        fgsm = next(probe for probe in audit["probes"] if probe["id"] == "attacks.fgsm")
        fgsm.update(status="not-applicable", metrics=[], findings=[])

    edit(run / "audit.json", hide)


def change_the_verdict(run: Path) -> None:
    edit(run / "audit.json", lambda audit: audit.update(verdict="pass", verdict_reason="every threshold is met"))


def remove_a_probe(run: Path) -> None:
    edit(run / "audit.json", lambda audit: audit["probes"].pop(1))


def change_the_seed(run: Path) -> None:
    edit(run / "audit.json", lambda audit: audit.update(seed=7))


def change_the_time_of_the_plan(run: Path) -> None:
    edit(run / "audit.json", lambda audit: audit["plan"].update(written="2020-01-01T00:00:00+00:00"))


def judge_by_another_policy(run: Path) -> None:
    arguments = ["judge", str(run), "--policy", "lenient.toml", "--format", "json"]
    assert CliRunner().invoke(main, arguments).exit_code == 0


def change_a_suite_setting(run: Path) -> None:
    edit(run / "manifest.json", lambda manifest: manifest["plan"]["suite"]["content"].update(samples=39))


def change_the_digest_of_the_model(run: Path) -> None:
    edit(run / "audit.json", lambda audit: audit["model"].update(sha256="0" * 64))


def change_the_statement_file(run: Path) -> None:
    edit(run / "audit.intoto.json", lambda statement: statement["predicate"].update(result="PASSED"))


@pytest.mark.parametrize(
    ("manipulate", "claims"),
    [
        (change_a_record, {"records", "probe performance.accuracy"}),
        (change_a_record_and_all_digests, {"probe performance.accuracy"}),
        (delete_a_record, {"probe attacks.fgsm"}),
        (change_a_threshold, {"plan"}),
        (change_a_picture, {"evidence"}),
        (replace_a_picture_by_another, {"evidence"}),
        (change_a_metric, {"probe performance.accuracy"}),
        (narrow_an_interval, {"probe performance.accuracy"}),
        (change_a_statement, {"probe performance.accuracy"}),
        (change_a_status, {"probe attacks.fgsm"}),
        (change_the_verdict, {"verdict"}),
        (remove_a_probe, {"plan"}),
        (change_the_seed, {"plan"}),
        (change_the_time_of_the_plan, {"plan"}),
        (judge_by_another_policy, {"plan"}),
        (change_a_suite_setting, {"plan", "manifest.json"}),
        (change_the_digest_of_the_model, {"model"}),
        (change_the_statement_file, {"statement"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_manipulation_is_found(manipulate: Callable[[Path], None], claims: set[str], run: Path) -> None:
    manipulate(run)
    assert claims <= failed(run)


def test_changed_audit_does_not_fit_its_statement(run: Path) -> None:
    """The statement binds audit.json as a whole, also what cannot be computed again."""
    edit(run / "audit.json", lambda audit: audit["environment"].update(device="cuda"))
    assert failed(run) == {"statement"}


def test_changed_model_byte_is_found(finished: Path, run: Path, tmp_path: Path) -> None:
    model = bytearray((finished / "digits-cnn.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (tmp_path / "changed.onnx").write_bytes(model)
    assert failed(run, Given(model=tmp_path / "changed.onnx")) == {"model"}


def test_changed_image_and_picture_are_found_with_the_model(finished: Path, run: Path, tmp_path: Path) -> None:
    archive = arrays(finished / "digits-test.npz")
    name = next(name for name, values in archive.items() if values.ndim > 2)
    archive[name][:] = archive[name][::-1]
    np.savez(tmp_path / "changed.npz", **archive)
    replace_a_picture_by_another(run)
    rewrite_digests(run)
    problems = failed(run, Given(model=finished / "digits-cnn.onnx", data=tmp_path / "changed.npz"))
    assert "data" in problems
    assert any(claim.startswith("pictures of attacks.fgsm/") for claim in problems)


# the plan of a resumed run, and other judges


def test_other_policy_after_the_run_is_visible(run: Path) -> None:
    judge_by_another_policy(run)
    audit = json.loads((run / "audit.json").read_text("utf-8"))
    assert audit["policy"]["name"] == "lenient"
    assert audit["plan"]["policy"]["name"] == "default"
    (warning,) = (text for text in audit["warnings"] if text.startswith("Not as planned"))
    assert "policy lenient" in warning
    # the judgement itself is correct by that policy
    checks = outcomes(run, Given(policy="lenient.toml"))
    assert checks["verdict"].outcome == "holds"
    CliRunner().invoke(main, ["judge", str(run), "--policy", "default", "--format", "json"])
    audit = json.loads((run / "audit.json").read_text("utf-8"))
    assert not [text for text in audit["warnings"] if text.startswith("Not as planned")]


def test_resumed_run_keeps_its_plan(finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = json.loads((run / "manifest.json").read_text("utf-8"))["plan"]
    monkeypatch.chdir(finished)
    arguments = ["run", "digits-cnn.onnx", "--suite", "small.toml", "--policy", "lenient.toml", "-q"]
    arguments += ["--out", str(run), "--format", "json"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert json.loads((run / "manifest.json").read_text("utf-8"))["plan"] == before
    monkeypatch.chdir(tmp_path)
    assert {"plan"} <= failed(run)
    # the same name, but other settings than planned
    (tmp_path / "small.toml").write_text(SUITE.replace("48/255", "32/255"))
    monkeypatch.chdir(finished)
    other = [str(tmp_path / "small.toml") if word == "small.toml" else word for word in arguments]
    assert CliRunner().invoke(main, other).exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert "suite small" in outcomes(run)["plan"].text
    monkeypatch.chdir(finished)
    assert CliRunner().invoke(main, [*arguments, "--fresh"]).exit_code == 0
    assert json.loads((run / "manifest.json").read_text("utf-8"))["plan"]["policy"]["name"] == "lenient"
    monkeypatch.chdir(tmp_path)
    (run / "audit.intoto.json").unlink()
    assert failed(run) == set()


@pytest.mark.parametrize("name", sorted(builtin()))
def test_policy_is_restored_from_its_document(name: str) -> None:
    policy = read_policy(name)
    document = json.loads(json.dumps(policy.document))
    assert restore_policy(document, name, policy.today) == replace(policy, document=document)


def test_difference_names_the_place() -> None:
    assert difference({"a": [1.0, {"b": 2}]}, {"a": [1.0, {"b": 3}]}) == "a.1.b is 2, the records give 3"
    assert difference({"a": 0.123456}, {"a": 0.1234561}) == "", "the last digit depends on the machine"
    assert difference({"a": 1}, {"a": True}) != ""
    assert "missing" in difference({}, {"a": 1})


def test_damaged_manifest_is_named(run: Path) -> None:
    edit(run / "manifest.json", lambda manifest: manifest.pop("settings"))
    result = CliRunner().invoke(main, ["verify", str(run)])
    assert result.exit_code == 2
    assert "manifest.json" in result.stderr
    assert "Traceback" not in result.output


def test_run_of_an_older_version_is_refused(run: Path) -> None:
    edit(run / "audit.json", lambda audit: audit.pop("plan"))
    with pytest.raises(BadInput, match="audit the model again"):
        outcomes(run)
