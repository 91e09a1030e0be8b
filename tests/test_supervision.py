"""Probes, plugins, reports and models that crash, hang or change what they share cost only themselves."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from auditor.errors import BadInput
from auditor.run.casualties import EVERY, MODEL, Casualties, Ending, Work
from auditor.run.folder import RunFolder
from auditor.run.request import PROBE_TIMEOUT, Outcome, Request
from auditor.run.supervisor import Supervisor

PLUGIN = Path(__file__).parent / "misbehaving" / "misbehaving.py"
N = 24
FATAL_IMAGE = 13


def load_plugin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("misbehaving", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULE = load_plugin()
FAULTS: dict[str, tuple[Any, str]] = MODULE.FAULTS
HANGS: dict[str, tuple[Any, str]] = MODULE.HANGS


def install(folder: Path, name: str, code: str) -> None:
    """Write a distribution with one plugin into a folder for PYTHONPATH."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[auditor.plugins]\n{name} = {name}\n")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, write_linear: Callable[..., Path]) -> Path:
    """A linear model, a model whose runtime crashes on one image, images, and the plugin."""
    folder = tmp_path_factory.mktemp("supervision")
    weights = np.random.default_rng(0).normal(size=(3, 16))
    write_linear(folder / "linear.onnx", weights, np.zeros(3), (1, 4, 4))
    (folder / "runtime.fatal").write_bytes(b"a model")
    images = np.random.default_rng(1).integers(0, 200, (N, 4, 4), dtype=np.uint8)
    images[FATAL_IMAGE, 0, 0] = 255
    np.savez(folder / "images.npz", images=images, labels=np.arange(N) % 3)
    (folder / "plugins").mkdir()
    install(folder / "plugins", "misbehaving", PLUGIN.read_text())
    return folder


Audit = Callable[..., Outcome]


@pytest.fixture(scope="module")
def audit(workspace: Path) -> Iterator[Audit]:
    """Run supervised audits; all share one server, because its imports take seconds."""
    with pytest.MonkeyPatch.context() as patch, Supervisor() as supervisor:
        patch.chdir(workspace)
        patch.setenv("PYTHONPATH", str(workspace / "plugins"))
        patch.setenv("MISBEHAVING_RUN", str(workspace / "disturbed"))

        def run(out: str, *probes: str, model: str = "linear.onnx", **options: Any) -> Outcome:
            given: dict[str, Any] = {"formats": (), "batch_size": 8, "trust_model": True} | options
            request = Request(model=Path(model), data=Path("images.npz"), out=Path(out), probes=probes, **given)
            return supervisor.run(request)

        yield run


def by_id(outcome: Outcome) -> dict[str, Any]:
    """Return the records of the probes without the time that they took."""
    return {probe["id"]: {**probe, "seconds": 0} for probe in outcome.audit["probes"]}


HEALTHY = ("performance.accuracy", "sanity.zz-healthy", "attacks.fgsm")


@pytest.fixture(scope="module")
def disturbed(audit: Audit) -> Outcome:
    """An audit with every misbehaving probe that does not take long."""
    return audit("disturbed", *HEALTHY, *(f"sanity.{name}" for name in FAULTS), probe_memory=3 * 10**9)


def test_misbehaving_probes_change_no_other_result(audit: Audit, disturbed: Outcome) -> None:
    undisturbed = audit("undisturbed", *HEALTHY)
    assert not undisturbed.incomplete
    assert len(FAULTS) + len(HANGS) >= 40
    assert disturbed.incomplete
    assert by_id(undisturbed) == {name: by_id(disturbed)[name] for name in by_id(undisturbed)}


@pytest.mark.parametrize("name", FAULTS)
def test_misbehaving_probe_is_an_error_that_says_why(disturbed: Outcome, name: str) -> None:
    probe = by_id(disturbed)[f"sanity.{name}"]
    assert probe["status"] == "error"
    assert FAULTS[name][1] in probe["reason"]


def test_probes_that_hang_are_stopped(audit: Audit) -> None:
    outcome = audit("hangs", "sanity.zz-healthy", *(f"sanity.{name}" for name in HANGS), probe_timeout=2.0)
    found = by_id(outcome)
    assert outcome.incomplete
    for name, (_, reason) in HANGS.items():
        assert found[f"sanity.{name}"]["status"] == "error"
        assert reason in found[f"sanity.{name}"]["reason"]
    assert found["sanity.zz-healthy"]["n"] == N


def test_limits_and_losses_are_recorded(disturbed: Outcome) -> None:
    supervision = disturbed.audit["supervision"]
    assert (supervision["supervised"], supervision["probe_timeout"], supervision["probe_memory"]) == (
        True,
        PROBE_TIMEOUT,
        3 * 10**9,
    )
    assert any(line.startswith("sanity.segfault: the process was ended by SIGSEGV") for line in supervision["losses"])
    assert any("The process of the audit ended" in warning for warning in disturbed.audit["warnings"])


def test_image_that_ends_the_process_of_one_probe_is_left_out(audit: Audit) -> None:
    outcome = audit("one-image", "performance.accuracy", "sanity.one-image", formats=("fatal", "md"))
    probe = by_id(outcome)["sanity.one-image"]
    (lost,) = probe["left_out"]
    assert (probe["status"], probe["n"]) == ("informative", N - 1)
    assert by_id(outcome)["performance.accuracy"]["n"] == N
    losses = outcome.audit["supervision"]["losses"]
    assert f"sanity.one-image: the process was ended by SIGSEGV on image {lost}, which is left out" in losses
    assert f"sanity.one-image ended the process on 1 image ({lost})." in outcome.audit["warnings"]
    # the same audit, because every one takes seconds
    assert any("fatal.txt was not written: the process was ended by SIGSEGV" in text for text in outcome.problems)
    assert (outcome.out / "summary.md").is_file()
    assert outcome.incomplete


def test_image_that_ends_the_runtime_is_left_out_of_every_probe(audit: Audit) -> None:
    outcome = audit("runtime", "performance.accuracy", model="runtime.fatal")
    data = outcome.audit["data"]
    assert (data["n"], data["n_unanswered"]) == (N - 1, 1)
    assert "the process was ended by SIGSEGV" in data["unreadable"][0]
    assert by_id(outcome)["performance.accuracy"]["n"] == N - 1


def test_plugin_that_ends_the_process_at_import_is_named(audit: Audit, workspace: Path) -> None:
    install(workspace / "plugins", "exits", "import os\nos._exit(0)\n")
    try:
        outcome = audit("import", "sanity.zz-healthy")
    finally:
        shutil.rmtree(workspace / "plugins" / "exits-1.0.dist-info")
    broken = next(plugin for plugin in outcome.audit["plugins"] if plugin["name"] == "exits:exits")
    assert "ended itself with status 0 while importing" in (broken["error"] or "")
    assert by_id(outcome)["sanity.zz-healthy"]["n"] == N


def start(workspace: Path, out: Path) -> subprocess.Popen[str]:
    """Start the command with a probe that sleeps, and wait until it does."""
    program = str(Path(sys.executable).with_name("auditor"))
    options = ["--data", "images.npz", "--format", "json", "--batch-size", "8", "--trust-model", "--out", str(out)]
    process = subprocess.Popen(
        [
            # under nohup, which may have started the tests, an audit ignores SIGHUP
            "env",
            "--default-signal=HUP",
            program,
            "run",
            "linear.onnx",
            *options,
            "--probe",
            "sanity.zz-healthy",
            "--probe",
            "sanity.sleep-in-conclude",
        ],
        cwd=workspace,
        env={**os.environ, "AUDITOR_IN_PROCESS": "", "PYTHONPATH": str(workspace / "plugins")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "sanity.sleep-in-conclude: 24 images" in line:
            break
    else:
        raise AssertionError("the probe did not begin")
    time.sleep(1)
    return process


def children(pid: int) -> list[int]:
    """Return the descendants of a process."""
    direct = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.is_file() and int(path.read_text().rpartition(")")[2].split()[1]) == pid
    ]
    return [*direct, *(each for child in direct for each in children(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the processes in /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_signal_ends_all_processes_and_keeps_the_records(
    workspace: Path, tmp_path: Path, number: int, status: int
) -> None:
    process = start(workspace, tmp_path)
    family = children(process.pid)
    assert len(family) >= 2
    with pytest.raises(BadInput, match=rf"another audit \(process {process.pid}, started 20"):
        RunFolder(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == status
    end = time.monotonic() + 20
    while any(map(is_running, family)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in family if is_running(pid)]
    assert list((tmp_path / "records" / "sanity.sleep-in-conclude").glob("shard-*.parquet"))
    assert not (tmp_path / "audit.json").exists()
    RunFolder(tmp_path).close()


def test_folder_is_opened_once_the_last_process_of_a_killed_audit_has_ended(tmp_path: Path) -> None:
    lock = RunFolder(tmp_path)._lock
    assert lock is not None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / ".lock").write_text(f'{{"pid": {ended.pid}, "started": "2026-01-01"}}')
    with subprocess.Popen(["sleep", "0.5"], pass_fds=[lock.fileno()]):
        lock.close()
        RunFolder(tmp_path).close()


def test_folder_in_use_is_opened_when_the_other_audit_has_ended(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    said: list[str] = []

    def wait(sentence: str) -> None:
        said.append(sentence)
        first.close()

    RunFolder(tmp_path, wait=wait).close()
    assert len(said) == 1
    assert f"process {os.getpid()}, started 20" in said[0]


CRASH = Ending("was ended by SIGSEGV")
IMAGES = tuple(f"{i:02d}" for i in range(33))


def test_batch_that_ends_the_process_is_measured_in_parts() -> None:
    after = Casualties().after(Work(stage="measure", subject="a.b", images=IMAGES), CRASH, proven=False)
    assert after.probes == {}
    assert after.piece("a.b", IMAGES, 32) == IMAGES[:1]
    assert after.piece("a.b", IMAGES[1:], 32) == IMAGES[1:5]
    assert after.piece("a.b", ["other"] * 40, 32) == ["other"] * 32
    assert after.piece("other.probe", IMAGES, 32) == IMAGES[:32]


def test_two_images_without_a_result_are_an_error_of_the_probe() -> None:
    casualties = Casualties()
    for image_id in IMAGES[:2]:
        assert casualties.probes == {}
        work = Work(stage="measure", subject="a.b", images=[image_id])
        casualties = casualties.after(work, CRASH, proven=False)
    assert casualties.probes["a.b"] == "the process was ended by SIGSEGV during the measurement; images: 00, 01"


def test_slow_batch_makes_every_later_batch_smaller() -> None:
    work = Work(stage="measure", subject="a.b", images=IMAGES)
    slow = Ending("was stopped after 2 s", timed_out=True)
    assert Casualties().after(work, slow, proven=True).largest_batch == {"a.b": {EVERY: 4}}
    assert Casualties().after(work, slow, proven=False).largest_batch == {"a.b": {EVERY: 1}}


def test_model_that_always_ends_the_process_ends_the_audit() -> None:
    casualties = Casualties()
    for image_id in IMAGES[:2]:
        assert not casualties.fatal
        work = Work(stage="predict", subject=MODEL, images=[image_id])
        casualties = casualties.after(work, CRASH, proven=False)
    assert "SIGSEGV during the model's prediction; images: 00, 01" in casualties.fatal


@pytest.mark.parametrize(("stage", "field"), [("plugin", "plugins"), ("report", "reports"), ("conclude", "probes")])
def test_other_stages_lose_their_subject(stage: Any, field: str) -> None:
    after = Casualties().after(Work(stage=stage, subject="x"), CRASH, proven=True)
    assert list(getattr(after, field)) == ["x"]
    assert after.restarts == 1
