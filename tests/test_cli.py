"""The command line as its users meet it: every command, every exit status, interruption, what is printed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import auditor
from auditor import Conclusion, Meta, Metric, Probe
from auditor.cli.main import main
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.schemas import validator

Cli = Callable[..., Result]

SUITE = 'probes = ["performance.accuracy", "sanity.parity"]\nsamples = 400\n'
COMMANDS = [
    "run",
    "demo",
    "inspect",
    "probes",
    "judge",
    "report",
    "compare",
    "replay",
    "verify",
    "train",
    "plugin",
    "completion",
    "doctor",
]
LENIENT = """
required = ["performance.accuracy"]
[[rule]]
probe = "performance.accuracy"
metric = "accuracy"
at_least = { medium = 0.5 }
reason = "half will do"
source = "this test"
"""
STRICT = """
required = ["performance.accuracy"]
[[rule]]
probe = "performance.accuracy"
metric = "accuracy"
at_least = { medium = 0.9999 }
reason = "nothing less will do"
source = "this test"
"""


def outcome(result: Result, status: int) -> Result:
    assert result.exit_code == status, f"status {result.exit_code}\n{result.output}"
    return result


def read(run: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((run / "audit.json").read_text(encoding="utf-8"))
    return answer


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.toml"
    path.write_text(SUITE)
    (path.parent / "lenient.toml").write_text(LENIENT)
    return path


@pytest.fixture(scope="module")
def finished(digits: Path, suite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished audit of the reference model, with every report; and what it printed. Do not write into it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    formats = "html,pdf,json,sarif,junit,md"
    model = digits / "digits-cnn.onnx"
    arguments = ["run", model, "--suite", suite, "--policy", suite.parent / "lenient.toml", "--out", out, "--format"]
    arguments = [*map(str, arguments), formats]
    return out, outcome(CliRunner().invoke(main, arguments), 0)


@pytest.fixture
def run(finished: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of the finished audit, to play with."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def model(digits: Path, tmp_path: Path) -> Path:
    """A copy of the reference model with its sidecar and data."""
    for file in digits.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / "digits-cnn.onnx"


def meta(name: str) -> Meta:
    return Meta(id=f"sanity.{name}", title=name, area="sanity", why="A test of the command line.")


@dataclass(frozen=True, kw_only=True)
class Counting(Probe):
    """Counts the images that it measures, slowly if asked to."""

    meta = meta("counting")
    seen: ClassVar[list[str]] = []
    pause: float = 0.0

    def measure(self, classifier: Any, batch: Any, rng: Any) -> dict[str, Any]:
        time.sleep(self.pause * len(batch))
        self.seen.extend(batch.ids)
        return {"x": np.ones(len(batch))}

    def conclude(self, records: Any) -> Conclusion:
        n = len(records.frame)
        return Conclusion(metrics=[Metric(name="images", value=float(n), low=None, high=None, n=n, unit="count")])


# help


def test_help_lists_all_commands_in_order(auditor_cli: Cli) -> None:
    text = outcome(auditor_cli("--help"), 0).output
    places = [text.index(f"\n  {command} ") for command in COMMANDS]
    assert places == sorted(places)
    assert outcome(auditor_cli("--version"), 0).output.strip().endswith(auditor.__version__)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, auditor_cli: Cli) -> None:
    text = outcome(auditor_cli(command, "--help"), 0).output
    assert f"{command} " in text.splitlines()[0] + " "
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, auditor_cli: Cli) -> None:
    assert f"_AUDITOR_COMPLETE={shell}_complete" in outcome(auditor_cli("completion", shell), 0).stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from auditor.cli.main import main\n"
        "assert CliRunner().invoke(main, ['run', '--help']).exit_code == 0\n"
        "print(*sorted({'numpy', 'torch', 'onnx', 'onnxruntime', 'pandas', 'art', 'rich', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_freed_memory_is_reused() -> None:
    code = """
import ctypes, resource, sys, torch
from auditor.model.device import keep_memory

conv = torch.nn.Conv2d(16, 16, 3, padding=1)
net = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), conv, torch.nn.ReLU())
x = torch.rand(64, 1, 24, 24, requires_grad=True)

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.autograd.grad(net(x).sum(), x)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
without = pages()
keep_memory()
pages()
print(without, pages(), hasattr(ctypes.CDLL(None), "mallopt"))
"""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    without, kept, known = done.stdout.split()
    if known != "True":
        pytest.skip("this C library has no mallopt")
    assert int(kept) < 0.1 * int(without)


# a finished audit


def test_audit_fits_the_published_schema(finished: tuple[Path, Result], digits: Path) -> None:
    published = validator("audit")
    published.check_schema(published.schema)
    audit = read(finished[0])
    assert [error.message for error in published.iter_errors(audit)] == []
    assert audit["schema"] == "auditor/1"
    assert audit["data"]["n"] == 400
    assert Path(audit["data"]["path"]) == digits / "digits-test.npz"
    assert "NaN" not in (finished[0] / "audit.json").read_text()


def test_run_folder_contains_exactly_the_requested_files(finished: tuple[Path, Result]) -> None:
    out = finished[0]
    files = {path.name for path in out.iterdir() if path.is_file()}
    reports = {"report.html", "report.pdf", "audit.json", "audit.sarif", "audit.junit.xml", "summary.md"}
    assert files - {".lock"} == {*reports, "manifest.json"}
    assert (out / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert list((out / "records" / "performance.accuracy").glob("*.parquet"))
    assert list((out / "evidence").glob("*.png"))
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]


def test_summary_fits_80_columns_and_has_no_escape_codes(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert "\x1b" not in result.output
    assert "\r" not in result.output
    lines = [line for line in result.stdout.splitlines() if str(out.parent) not in line]
    assert max(map(len, lines)) <= 80
    assert "Verdict: " in result.stdout
    assert "performance.accuracy" in result.stdout
    assert str(out / "report.html") in result.stdout
    assert "[1/2] performance.accuracy: 400 images" in result.stderr


def test_quiet_prints_only_the_verdict(model: Path, suite: Path, auditor_cli: Cli) -> None:
    result = outcome(auditor_cli("run", model, "--suite", suite, "--samples", 30, "--format", "json", "-q"), 0)
    assert re.fullmatch(r"Verdict: (pass|fail|incomplete)\n", result.stdout)
    assert result.stderr == ""


def test_default_folder_is_named_by_model_and_hash(model: Path, suite: Path, auditor_cli: Cli, tmp_path: Path) -> None:
    outcome(auditor_cli("run", model.name, "--suite", suite, "--samples", 30, "--format", "json"), 0)
    audit = read(tmp_path / "audits" / f"digits-cnn-{registry_hash(model)[:8]}")
    assert audit["model"]["sha256"] == registry_hash(model)


def registry_hash(model: Path) -> str:
    from auditor.files import file_sha256

    return file_sha256(model)


def test_run_without_options_runs_the_standard_suite(model: Path, auditor_cli: Cli, with_probes: Any) -> None:
    """Every packaged suite is readable and finds its probes; the default is ``standard``."""
    loaded = with_probes()
    for name in ("quick", "standard", "full"):
        assert loaded.select(find_suite(name, loaded).probes, option="suite")
    result = outcome(auditor_cli("run", model, "--probe", "sanity.parity", "--samples", 30, "--format", "json"), 0)
    audit = read(Path(re.findall(r"^  (.*)audit\.json$", result.stdout, re.MULTILINE)[0]))
    assert audit["suite"] == "standard"
    assert [probe["id"] for probe in audit["probes"]] == ["sanity.parity"]


# exit status 1


@pytest.mark.parametrize(("level", "status"), [("never", 0), ("critical", 0), ("high", 0), ("medium", 1), ("low", 1)])
def test_fail_on_sets_the_lowest_severity_that_counts(level: str, status: int, run: Path, auditor_cli: Cli) -> None:
    (run / "strict.toml").write_text(STRICT)
    arguments = ["judge", run, "--policy", run / "strict.toml", "--fail-on", level, "--format", "json"]
    outcome(auditor_cli(*arguments), status)


def test_run_exits_by_its_policy(model: Path, suite: Path, auditor_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "strict.toml").write_text(STRICT)
    common = ["run", model, "--suite", suite, "--format", "json", "--out", "out", "--policy", "strict.toml"]
    outcome(auditor_cli(*common), 0)
    result = outcome(auditor_cli(*common, "--fail-on", "medium"), 1)
    assert "FAIL" in result.stdout
    assert "Traceback" not in result.output


# judging, drawing, replaying


def test_judge_changes_the_verdict_without_the_model(run: Path, auditor_cli: Cli, suite: Path) -> None:
    before = read(run)
    assert before["verdict"] == "pass"
    # no model, no data and no records are needed
    before["model"]["path"] = "/gone/model.onnx"
    (run / "audit.json").write_text(json.dumps(before))
    shutil.rmtree(run / "records")
    (run / "strict.toml").write_text(STRICT)
    result = outcome(auditor_cli("judge", run, "--policy", run / "strict.toml", "--format", "json,md"), 0)
    after = read(run)
    assert after["verdict"] == "fail"
    assert "nothing less will do" in after["probes"][0]["reason"]
    assert after["policy"]["name"] == "strict"
    assert after["probes"][0]["metrics"] == before["probes"][0]["metrics"]
    assert "FAIL" in result.stdout
    assert "1 of 2 probes failed" in (run / "summary.md").read_text()
    outcome(auditor_cli("judge", run, "--policy", suite.parent / "lenient.toml", "--format", "json"), 0)
    assert read(run)["verdict"] == "pass", "and back again"


def test_report_writes_reports_again(run: Path, auditor_cli: Cli) -> None:
    audit = (run / "audit.json").read_bytes()
    for name in ("summary.md", "audit.junit.xml"):
        (run / name).unlink()
    result = outcome(auditor_cli("report", run, "--format", "md,junit"), 0)
    assert result.stdout.split() == [str(run / "summary.md"), str(run / "audit.junit.xml")]
    assert (run / "summary.md").is_file()
    assert (run / "audit.json").read_bytes() == audit


@pytest.mark.parametrize("other", [None, "digits-cnn.pt"])
def test_replay_confirms_all_claims(other: str | None, run: Path, digits: Path, auditor_cli: Cli) -> None:
    option = [] if other is None else ["--model", digits / other]
    result = outcome(auditor_cli("replay", run, *option), 0)
    match = re.search(r"^(\d+) of (\d+) claims hold: (\d+) of (\d+) stored images", result.stdout, re.MULTILINE)
    assert match
    assert match[1] == match[2] != "0"
    assert match[3] == match[4] != "0"
    assert "DIFFERS" not in result.stdout
    # claim by claim: every finding with pictures, and what it states
    said = " ".join(result.stdout.split())
    for probe in read(run)["probes"]:
        for finding in probe["findings"]:
            shows = any(e["kind"] == "image-grid" and e["rows"] for e in finding["evidence"])
            assert (f"holds {finding['id']}: " in said) == shows
            assert (finding["statement"] in said) == shows


def upside_down(path: Path, original: Path) -> Path:
    """The reference model with its answers turned round: the least likely class first."""
    model = onnx.load(str(original))
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if output == name else output for output in node.output]
    model.graph.node.append(helper.make_node("Neg", ["before"], [name]))
    onnx.save(model, str(path))
    if path != original:
        shutil.copy(original.with_name(original.name + ".audit.toml"), path.with_name(path.name + ".audit.toml"))
    return path


def test_replay_with_another_model_differs(run: Path, model: Path, auditor_cli: Cli, tmp_path: Path) -> None:
    result = outcome(auditor_cli("replay", run, "--model", upside_down(tmp_path / "other.onnx", model)), 1)
    assert re.search(r"DIFFERS +\S+ of \S+: label \d, reported \d", result.stdout)
    assert result.stdout.splitlines()[-1].startswith("0 of ")


def test_replay_refuses_a_changed_model_without_the_option(run: Path, model: Path, auditor_cli: Cli) -> None:
    audit = read(run)
    audit["model"]["path"] = str(model)
    (run / "audit.json").write_text(json.dumps(audit))
    upside_down(model, model)
    result = outcome(auditor_cli("replay", run), 2)
    assert "not the audited file" in result.stderr
    assert "--model" in result.stderr


def test_replay_names_missing_images(run: Path, auditor_cli: Cli) -> None:
    missing = sorted((run / "evidence").glob("*.png"))[0]
    missing.unlink()
    result = outcome(auditor_cli("replay", run), 1)
    assert f"MISSING  evidence/{missing.name}" in result.stdout


def test_replay_refuses_a_run_without_images(run: Path, auditor_cli: Cli) -> None:
    shutil.rmtree(run / "records")
    assert "nothing to replay" in outcome(auditor_cli("replay", run), 2).stderr


# exit status 3


class Measures(Counting):
    """Raises while measuring."""

    meta = meta("measures")

    def measure(self, classifier: Any, batch: Any, rng: Any) -> dict[str, Any]:
        raise ZeroDivisionError("oh dear\nand more")


class Concludes(Counting):
    """Raises while concluding."""

    meta = meta("concludes")

    def conclude(self, records: Any) -> Conclusion:
        raise KeyError("nothing")


class Ragged(Counting):
    """Gives columns of another length."""

    meta = meta("ragged")

    def measure(self, classifier: Any, batch: Any, rng: Any) -> dict[str, Any]:
        return {"x": np.ones(len(batch) + 1)}


class Nothing(Counting):
    """Gives nothing at all."""

    meta = meta("nothing")

    def conclude(self, records: Any) -> Conclusion:
        return None  # type: ignore[return-value]


class Unfit(Counting):
    """Gives a number that the schema does not know."""

    meta = meta("unfit")

    def conclude(self, records: Any) -> Conclusion:
        return Conclusion(metrics=[Metric(name="x", value=0.5, low=None, high=None, n=3, unit="furlong")])  # type: ignore[arg-type]


BROKEN: list[tuple[type[Probe], str]] = [
    (Measures, "ZeroDivisionError: oh dear"),
    (Concludes, "KeyError"),
    (Ragged, "column 'x'"),
    (Nothing, "NoneType; expected a Conclusion"),
    (Unfit, "furlong"),
]


def test_broken_probes_are_named_and_the_others_run(
    model: Path, auditor_cli: Cli, with_probes: Any, tmp_path: Path
) -> None:
    with_probes(*(kind for kind, _ in BROKEN))
    (tmp_path / "s.toml").write_text('probes = ["sanity.*", "performance.accuracy"]\nsamples = 30')
    result = outcome(auditor_cli("run", model, "--suite", "s.toml", "--out", "out", "--format", "json,md"), 3)
    assert "Traceback" not in result.output
    probes = {probe["id"]: probe for probe in read(tmp_path / "out")["probes"]}
    for kind, sentence in BROKEN:
        assert probes[kind.meta.id]["status"] == "error"
        assert sentence in probes[kind.meta.id]["reason"]
        assert "\n" not in probes[kind.meta.id]["reason"]
    assert probes["performance.accuracy"]["status"] in {"pass", "inconclusive"}
    assert read(tmp_path / "out")["verdict"] == "incomplete"


def test_broken_plugin_is_named_and_the_audit_continues(
    model: Path, suite: Path, auditor_cli: Cli, with_probes: Any, tmp_path: Path
) -> None:
    with_probes(broken={"else:bad": "does not import: ModuleNotFoundError: No module named 'numpie'"})
    arguments = ["run", model, "--suite", suite, "--samples", 30, "--out", "out", "--format", "json"]
    result = outcome(auditor_cli(*arguments), 3)
    assert "Plugin else:bad 1.0 is left out: does not import" in result.stderr
    audit = read(tmp_path / "out")
    assert [plugin["name"] for plugin in audit["plugins"]] == ["else:bad"]
    assert audit["probes"][0]["n"] == 30
    listed = outcome(auditor_cli("probes"), 3)
    assert "performance.accuracy" in listed.stdout
    assert "else:bad" in listed.stderr
    assert "MISSING  plugin else:bad" in outcome(auditor_cli("doctor"), 0).stdout


def test_broken_model_opener_is_named(model: Path, auditor_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import auditor.plugins.formats.onnx as plugin

    def explode(*_: object) -> None:
        raise TypeError("surprise")

    monkeypatch.setattr(plugin, "_read", explode)
    result = outcome(auditor_cli("inspect", model), 2)
    version = importlib.metadata.version("auditor")
    assert f"plugin formats.onnx {version} could not open it: auditor_open_model raised TypeError" in result.stderr


def test_broken_report_does_not_prevent_other_reports(
    run: Path, auditor_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import auditor.report.sarif

    def explode(*_: object) -> bytes:
        raise RuntimeError("no ink")

    monkeypatch.setattr(auditor.report.sarif, "render_sarif", explode)
    (run / "summary.md").unlink()
    result = outcome(auditor_cli("report", run, "--format", "sarif,md"), 3)
    assert "audit.sarif was not written: RuntimeError: no ink" in result.stderr
    assert (run / "summary.md").is_file()


def test_internal_error_has_its_own_exit_status(auditor_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> None:
        raise TypeError("surprise")

    monkeypatch.setattr(registry, "load", explode)
    result = outcome(auditor_cli("probes"), 3)
    assert "TypeError: surprise" in result.stderr
    assert "bug" in result.stderr


# exit status 130


def test_interruption_before_measuring(auditor_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "load", interrupt)
    assert "nterrupted" in outcome(auditor_cli("probes"), 130).stderr


SLOW = '''
import signal, sys, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from auditor import Conclusion, Meta, Metric, Probe
from auditor.plugin import registry

@dataclass(frozen=True, kw_only=True)
class Slow(Probe):
    """Writes down what it measured."""
    meta = Meta(id="sanity.slow", title="Slow", area="sanity", why="A test.")
    def measure(self, classifier, batch, rng):
        time.sleep(0.04)
        with Path("seen").open("a") as file:
            print(*batch.ids, sep="\\n", file=file)
        return {"x": np.ones(len(batch))}
    def conclude(self, records):
        n = len(records.frame)
        return Conclusion(metrics=[Metric(name="images", value=float(n), low=None, high=None, n=n, unit="count")])

if __name__ == "__main__":
    found = registry.load()
    found.probes["sanity.slow"], found.origin["sanity.slow"] = Slow, "test"
    registry.load = lambda *_: found
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from auditor.cli.main import main
    main()
'''
SLOW_AUDIT = ["--probe", "sanity.slow", "--samples", "50", "--batch-size", "1", "--out", "out", "--format", "json"]


@pytest.fixture
def slow_audit(model: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """An audit of 50 images, one at a time, in a separate process."""
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "slow.py", "run", model.name, *SLOW_AUDIT],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_interrupted_audit_keeps_records_and_resumes(
    slow_audit: subprocess.Popen[str], model: Path, auditor_cli: Cli, with_probes: Any, tmp_path: Path
) -> None:
    def seen() -> list[str]:
        return (tmp_path / "seen").read_text().split() if (tmp_path / "seen").exists() else []

    deadline = time.monotonic() + 60
    while len(seen()) < 10:
        assert slow_audit.poll() is None, slow_audit.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    slow_audit.send_signal(signal.SIGINT)
    said = slow_audit.communicate(timeout=30)
    assert slow_audit.returncode == 130, said
    assert "Measured records are kept in out. To resume:" in said[1]
    assert said[1].splitlines()[-1] == f"  auditor run {model.name} {' '.join(SLOW_AUDIT)}"
    assert "Traceback" not in said[1]
    assert "\x1b" not in "".join(said)
    first = seen()
    assert 10 <= len(first) < 50
    assert not (tmp_path / "out" / "audit.json").exists()

    spec = importlib.util.spec_from_file_location("slow", tmp_path / "slow.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with_probes(module.Slow)
    outcome(auditor_cli("run", model.name, *SLOW_AUDIT), 0)
    (probe,) = read(tmp_path / "out")["probes"]
    assert probe["n"] == probe["metrics"][0]["value"] == len(set(seen())) == 50
    # the one image at work when the signal came may be measured again; nothing that was finished is
    assert len(seen()) <= 51


class Stops(Counting):
    """The machine is shut down while this measures."""

    meta = meta("stops")

    def measure(self, classifier: Any, batch: Any, rng: Any) -> dict[str, Any]:
        if len(self.seen) >= 20:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        return super().measure(classifier, batch, rng)


def test_sigterm_is_handled_like_an_interruption(model: Path, auditor_cli: Cli, with_probes: Any) -> None:
    with_probes(Stops)
    before = signal.getsignal(signal.SIGTERM)
    Stops.seen.clear()
    try:
        options = ["--probe", "sanity.stops", "--batch-size", 4, "--out", "out", "--format", "json"]
        result = outcome(auditor_cli("run", model, *options), 130)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "Measured records are kept in out" in result.stderr
    import pyarrow.parquet as pq

    kept = [pq.read_table(file).num_rows for file in Path("out/records/sanity.stops").glob("*.parquet")]
    assert sum(kept) == 20


def test_same_command_reuses_records_and_a_changed_one_does_not(
    model: Path, auditor_cli: Cli, with_probes: Any, tmp_path: Path
) -> None:
    with_probes(Counting)

    def measured(*options: object) -> int:
        Counting.seen.clear()
        common = ["run", model, "--probe", "sanity.counting", "--out", "out", "--format", "json", "--samples"]
        outcome(auditor_cli(*common, *options), 0)
        assert read(tmp_path / "out")["probes"][0]["n"] == int(str(options[0]))
        return len(Counting.seen)

    assert measured(30) == 30
    assert measured(30, "--batch-size", 7, "--policy", "default", "-v") == 0
    assert measured(30, "--fresh") == 30
    assert measured(30, "--seed", 1) == 30
    model.with_name(model.name + ".audit.toml").write_text(
        model.with_name(model.name + ".audit.toml").read_text().replace("0.305", "0.3")
    )
    assert measured(30, "--seed", 1) == 30, "the preprocessing is part of the model"


def test_budget_limits_measuring_and_the_next_run_completes_it(
    model: Path, auditor_cli: Cli, with_probes: Any, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(time, "sleep", pause)
    with_probes(Counting)
    (tmp_path / "s.toml").write_text('probes = ["sanity.counting"]\n[settings."sanity.counting"]\npause = 1.0')
    common = ["run", model, "--suite", "s.toml", "--samples", 50, "--batch-size", 2, "--out", "out", "--format", "json"]
    Counting.seen.clear()
    outcome(auditor_cli(*common, "--budget", "20s"), 0)
    (probe,) = read(tmp_path / "out")["probes"]
    # four fifths of the limit are for measuring
    assert probe["n"] == len(Counting.seen) == 16
    assert f"{probe['n']} of 50 images fitted into its share of the time limit" in probe["reason"]
    outcome(auditor_cli(*common), 0)
    assert len(Counting.seen) == len(set(Counting.seen)) == 50


def test_closed_pipe_is_not_an_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from auditor.cli.main import main; main(['probes'])"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(30) == 0
    assert "Traceback" not in said


# the small commands


@pytest.mark.parametrize("name", ["digits-cnn.onnx", "digits-cnn.pt"])
def test_inspect_describes_the_model(name: str, digits: Path, auditor_cli: Cli) -> None:
    text = outcome(auditor_cli("inspect", digits / name), 0).stdout
    for part in ("1 x 8 x 8", "10 classes, logits", "white-box", "mean [0.305]", "any batch size", "same label"):
        assert part in text, f"{part!r} is not in\n{text}"


def test_inspect_warns_about_guessed_preprocessing(tmp_path: Path, auditor_cli: Cli) -> None:
    weights = numpy_helper.from_array(np.eye(2, 192, dtype=np.float32), "weights")
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights"], ["y"], transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "m.onnx")
    text = outcome(auditor_cli("inspect", "m.onnx"), 0).stdout
    assert "warning" in text
    assert "No preprocessing is stated" in text


def test_probes_are_listed_and_described(auditor_cli: Cli) -> None:
    known = registry.load().probes
    listed = outcome(auditor_cli("probes"), 0).stdout
    assert listed.rstrip().splitlines()[-1].startswith(f"{len(known)} probes")
    for probe_id, kind in known.items():
        assert probe_id in listed
        text = outcome(auditor_cli("probes", probe_id), 0).stdout
        for part in (kind.meta.title, "Requires: ", "Settings", "References"):
            assert part in text
        assert ("Threat model" in text) == (kind().threat_model() is not None)


def test_probe_can_be_selected_by_glob(auditor_cli: Cli) -> None:
    assert "performance.accuracy" in outcome(auditor_cli("probes", "performance.acc*"), 0).stdout


def test_doctor_checks_all_components(auditor_cli: Cli) -> None:
    text = outcome(auditor_cli("doctor"), 0).stdout
    for part in ("torch", "CUDA in PyTorch", "ONNX Runtime", "Pango", "probes"):
        assert part in text
    assert "\x1b" not in text


@pytest.fixture
def one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("auditor.reference_models.digits_cnn"), "EPOCHS", 1)


@pytest.mark.usefixtures("one_epoch")
def test_trained_model_can_be_audited(auditor_cli: Cli, suite: Path, tmp_path: Path) -> None:
    result = outcome(auditor_cli("train", "digits-cnn", "--out", "built"), 0)
    assert result.stdout.splitlines()[-1] == f"Wrote {Path('built/digits-cnn.onnx')}"
    for name in ("digits-cnn.onnx", "digits-cnn.pt", "digits-cnn.onnx.audit.toml", "digits-cnn.pt.audit.toml"):
        assert (tmp_path / "built" / name).is_file()
    result = outcome(auditor_cli("run", "built/digits-cnn.pt", "--suite", suite, "--format", "json", "--out", "out"), 0)
    assert read(tmp_path / "out")["model"]["format"] == "torchscript"
    assert "No preprocessing is stated" not in result.output


@pytest.mark.usefixtures("one_epoch")
def test_demo_prints_the_path_of_the_report(auditor_cli: Cli, suite: Path, tmp_path: Path) -> None:
    given = ("--digits", "--suite", suite, "--samples", 50, "--format", "md,json", "--out", "out")
    result = outcome(auditor_cli("demo", *given), 0)
    assert "Training the reference model" in result.stdout
    assert "out/summary.md" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert (tmp_path / "models" / "digits-cnn.onnx").is_file()


def test_demo_without_weights_names_the_package_and_the_alternative(
    auditor_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.reference_models.common import efficientnet

    monkeypatch.setattr(efficientnet, "_PACKAGE", "no_such_package")
    result = outcome(auditor_cli("demo", "--format", "json"), 2)
    assert "auditor[imagenet]" in result.stderr
    assert "--digits" in result.stderr
