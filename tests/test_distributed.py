"""Several processes that measure: the same findings as from one, also if machines are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from auditor.errors import BadInput
from auditor.run.distributed import RayWorker, _reason, _sent, _surrogates, _visible_gpu, connect, gpu_share
from auditor.run.request import Request
from auditor.run.shipping import ship, unpack
from auditor.run.worker import Identity, Worker, with_surrogates


@pytest.fixture(scope="module")
def folder(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx with its sidecar, data.npz and suite.toml."""
    folder = tmp_path_factory.mktemp("cluster")
    for name, source in {
        "model.onnx": "digits-cnn.onnx",
        "model.onnx.audit.toml": "digits-cnn.onnx.audit.toml",
        "data.npz": "digits-test.npz",
    }.items():
        shutil.copy(digits / source, folder / name)
    (folder / "suite.toml").write_text(
        # no wrapper of another library: each of the processes would import it
        'probes = ["performance.accuracy", "attacks.pgd", "attacks.noise", "sanity.parity"%s]\nsamples = 60\n'
        '[settings."attacks.pgd"]\nepsilons = ["8/255"]\nl2_epsilons = []\nl1_epsilons = []\niterations = 2\n'
    )
    return folder


def findings(folder: Path) -> list[Any]:
    probes = json.loads((folder / "audit.json").read_text())["probes"]
    # parity's largest difference is the runtime's rounding, which may differ from batch to batch
    return [
        (p["id"], p["status"], p["n"], [m for m in p["metrics"] if m["name"] != "max_abs_difference"]) for p in probes
    ]


def suite(folder: Path, more: str = "") -> Path:
    """Write the suite, with further probes."""
    path = folder / f"suite{len(more)}.toml"
    path.write_text((folder / "suite.toml").read_text() % more)
    return path


def command(folder: Path) -> list[Any]:
    """Return the arguments of an audit, without its folder and engine."""
    arguments = ["run", folder / "model.onnx", "--data", folder / "data.npz", "--suite", suite(folder), "-q"]
    return [*arguments, "--format", "json", "--batch-size", "16"]


def test_processes_have_the_same_findings(folder: Path, auditor_cli: Any) -> None:
    arguments = command(folder)
    assert auditor_cli(*arguments, "--out", folder / "one").exit_code == 0
    assert auditor_cli(*arguments, "--out", folder / "two", "--workers", "2").exit_code == 0
    assert findings(folder / "two") == findings(folder / "one")


def test_ray_has_the_same_findings_and_reuses_records(folder: Path, auditor_cli: Any) -> None:
    """On one worker; benchmarks/ray_cluster.py has two machines, and losses."""
    arguments = command(folder)
    uv = shutil.which("uv")
    program = [uv, "run", "--no-sync", "auditor"] if uv else [Path(sys.executable).with_name("auditor")]
    program += [*arguments, "--out", folder / "ray", "--engine", "ray", "--workers", "1"]
    # a program, because Ray leaves threads
    done = subprocess.run(list(map(str, program)), capture_output=True, text=True, timeout=300, check=False)
    assert "working directory" not in done.stderr, "Ray sends the working directory to its workers"
    assert done.returncode == 0, done.stderr
    before = sorted(path.name for path in (folder / "ray" / "records").rglob("shard-*.parquet"))
    assert auditor_cli(*arguments, "--out", folder / "ray").exit_code == 0
    assert sorted(path.name for path in (folder / "ray" / "records").rglob("shard-*.parquet")) == before
    assert auditor_cli(*arguments, "--out", folder / "local").exit_code == 0
    assert findings(folder / "ray") == findings(folder / "local")


NOT_CONNECTED = SimpleNamespace(is_initialized=lambda: False)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("no-such-host.invalid:6379", "no Ray cluster answers there"),
        ("ray://127.0.0.1:10001", "expected HOST:PORT"),
        ("nonsense", "expected HOST:PORT"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
    ],
)
def test_wrong_address_is_refused_in_one_sentence(address: str, message: str) -> None:
    with pytest.raises(BadInput, match=f"--address {address}: {message}"):
        connect(NOT_CONNECTED, address, "cpu", None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"HTTP/1.0 400 Bad Request\r\n\r\n", "another program than Ray answers there"), (b"", "another program")],
)
def test_port_of_another_program_is_refused(answer: bytes, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(BadInput, match=message):
            connect(NOT_CONNECTED, f"127.0.0.1:{server.getsockname()[1]}", "cpu", None)
        thread.join()


def test_handler_of_sigterm_is_kept() -> None:
    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    before = signal.getsignal(signal.SIGTERM)
    assert connect(SimpleNamespace(is_initialized=lambda: False, init=init), None, "cpu", 1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_ray_that_does_not_start_is_refused_in_one_sentence() -> None:
    def init(**options: Any) -> None:
        assert options["address"] == "local"
        assert options["num_cpus"] == 3
        raise RuntimeError("The current node timed out during startup.\nsee the logs")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    with pytest.raises(BadInput, match=r"^--engine ray: Ray could not be started: The current node timed out[^\n]*$"):
        connect(ray, None, "cpu", 3)


def test_existing_cluster_is_never_given_a_number_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    ray = SimpleNamespace(is_initialized=lambda: False, init=given.update)
    assert connect(ray, "auto", "cpu", 8)
    assert given["address"] == "auto"
    assert "num_cpus" not in given
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    given.clear()
    connect(ray, None, "cpu", 8)
    assert given["address"] == "auto"
    assert "num_cpus" not in given
    with pytest.raises(BadInput, match="assigns its GPUs itself"):
        connect(ray, "auto", "cuda:1", 8)


def test_address_without_ray_is_refused(auditor_cli: Any) -> None:
    done = auditor_cli("run", "model.onnx", "--address", "auto")
    assert done.exit_code == 2
    assert "--address auto: has no effect without --engine ray" in done.output


def test_loss_is_described_in_one_line() -> None:
    died = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: A\nThe actor is dead because its worker"
        " process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker exits with an exit code 3. Some"
        " common causes include: (1) ..."
    )
    assert _reason(RuntimeError(died)) == "Worker exits with an exit code 3"
    gone = "The actor d250cc is unavailable: The actor is temporarily unavailable: RPC error"
    assert _reason(RuntimeError(gone)) == "The actor is temporarily unavailable: RPC error"


def test_model_is_used_in_place_or_unpacked_elsewhere(folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    for name in ("model.onnx", "model.onnx.audit.toml"):
        shutil.copy(folder / name, here / name)
    (here / "weights").mkdir()
    (here / "weights" / "a.bin").write_bytes(b"weights")
    (here.parent / "config.json").write_text("{}")
    shipment = ship(here / "model.onnx", [here / "weights" / "a.bin"])
    assert set(shipment.files) == {
        "config.json",
        "here/model.onnx",
        "here/model.onnx.audit.toml",
        "here/weights/a.bin",
    }
    contents = dict(shipment.contents())
    assert unpack(shipment, contents.__getitem__, tmp_path / "cache") == here / "model.onnx"
    assert not (tmp_path / "cache").exists()
    (here / "weights" / "a.bin").write_bytes(b"of another machine")
    found = unpack(shipment, contents.__getitem__, tmp_path / "cache")
    assert found.is_relative_to(tmp_path / "cache")
    assert found.read_bytes() == (folder / "model.onnx").read_bytes()
    assert found.with_name("model.onnx.audit.toml").is_file()
    assert (found.parent / "weights" / "a.bin").read_bytes() == b"weights"
    assert (found.parents[1] / "config.json").read_text() == "{}"
    with pytest.raises(BadInput, match=r"a\.bin: has changed since the audit began"):
        dict(shipment.contents())
    first = next(iter(contents.values()))
    with pytest.raises(BadInput, match="arrived with another digest"):
        unpack(shipment, lambda _: first, tmp_path / "other")


def test_surrogates_are_those_of_the_worker() -> None:
    from auditor.plugins.attacks.noise import Noise
    from auditor.plugins.attacks.transfer import Transfer

    # the second one from a suite, which may write a path in any way
    probe = Transfer(surrogates=["a/s.onnx", "./t.onnx"], iterations=3)
    assert _surrogates([Noise(), probe]) == [Path("a/s.onnx"), Path("t.onnx")]
    paths = {"a/s.onnx": "/cache/s.onnx", "t.onnx": "/cache/t.onnx"}
    assert with_surrogates(probe, paths) == replace(probe, surrogates=["/cache/s.onnx", "/cache/t.onnx"])
    assert with_surrogates(probe, {}) is probe
    assert with_surrogates(noise := Noise(), paths) is noise


@pytest.fixture(scope="module")
def opened(folder: Path) -> tuple[Request, Identity]:
    """A request and what its audit opened."""
    from auditor.plugin import registry
    from auditor.plugin.suite import find_suite
    from auditor.run.opening import open_audit

    request = Request(model=folder / "model.onnx", data=folder / "data.npz", suite=str(suite(folder)))
    plugins = registry.load()
    classifier, images = open_audit(plugins, request, find_suite(request.suite, plugins), "cpu")
    return request, Identity.of(plugins, classifier, images)


def test_worker_opens_what_the_audit_opened(opened: tuple[Request, Identity]) -> None:
    request, identity = opened
    Worker(request, "cpu", 16, "", expected=identity)


def test_worker_refuses_another_identity(opened: tuple[Request, Identity]) -> None:
    _, own = opened
    own.check(own)
    other_version = replace(own, versions=own.versions | {"auditor": "9.9"})
    with pytest.raises(BadInput, match=r"package auditor is 9\.9 there and \d.* in the process of the audit; install"):
        own.check(other_version)
    with pytest.raises(BadInput, match=r"plugin mine is 1\.0 there and missing in the process"):
        own.check(replace(own, plugins=own.plugins | {"mine": "1.0"}))
    with pytest.raises(BadInput, match="model's digest is abc there"):
        own.check(replace(own, model=own.model | {"digest": "abc"}))
    with pytest.raises(BadInput, match="images or labels there have the digest abc, those of the audit"):
        own.check(replace(own, data="abc"))


def test_worker_without_the_data_says_so(opened: tuple[Request, Identity], tmp_path: Path) -> None:
    from auditor.plugin import registry
    from auditor.plugin.suite import find_suite

    request, identity = opened
    worker = RayWorker({})
    gone = replace(request, data=tmp_path / "gone.npz")
    suite = find_suite(request.suite, registry.load())
    with pytest.raises(BadInput, match=r"^--engine ray: the worker on .*: --data .*gone\.npz: no such file or folder"):
        worker.open(gone, suite, identity, [ship(request.model)], {}, "cpu", 1, "")
    worker.close()


def test_worker_gets_the_path_of_the_data_that_the_sidecar_names(digits: Path, monkeypatch: Any) -> None:
    from auditor.plugin import registry
    from auditor.plugin.suite import find_suite
    from auditor.run.measuring import Measurer
    from auditor.run.opening import open_audit

    monkeypatch.chdir(digits)
    plugins = registry.load()
    request = Request(model=Path("digits-cnn.onnx"), suite="quick", samples=8)
    classifier, images = open_audit(plugins, request, find_suite("quick", plugins), "cpu")
    assert _sent(request, Measurer(classifier, images, 0)).data == digits / "digits-test.npz"


def test_system_exit_of_a_probe_does_not_end_its_worker() -> None:
    from auditor.run.watch import ProbeLost

    def leave(*_: Any) -> None:
        raise SystemExit(3)

    worker = RayWorker({})
    worker._worker, worker._surrogates = SimpleNamespace(measure=leave), {}  # type: ignore[assignment]
    with pytest.raises(ProbeLost, match="SystemExit: 3"):
        worker.measure(SimpleNamespace(), [])  # type: ignore[arg-type]


def test_worker_takes_over_the_choice_of_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_ONLY_PLUGINS", "of-the-node")
    RayWorker({"AUDITOR_ONLY_PLUGINS": "of-the-audit"})
    assert os.environ["AUDITOR_ONLY_PLUGINS"] == "of-the-audit"
    RayWorker({"AUDITOR_ONLY_PLUGINS": None})
    assert "AUDITOR_ONLY_PLUGINS" not in os.environ


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(8, 3, 1.0), (8, 8, 1.0), (1, 3, 0.3333), (2, 3, 0.5), (1, 1, 1.0), (3, 16, 0.1666)]
)
def test_every_worker_gets_a_share_that_ray_accepts(gpus: int, workers: int, share: float) -> None:
    assert gpu_share(gpus, workers) == share
    # all workers fit: each GPU takes as many as their shares allow
    assert gpus * int(1 / share + 1e-9) >= workers


def test_ray_without_a_gpu_is_refused() -> None:
    with pytest.raises(BadInput, match="Ray finds no GPU"):
        gpu_share(0, 2)


@pytest.mark.parametrize(
    ("device", "before", "visible"),
    [("cuda:1", None, "1"), ("cuda:1", "4,GPU-5", "GPU-5"), ("cuda", "4,5", "4,5"), ("auto", None, None)],
)
def test_workers_see_the_gpu_of_the_device(
    device: str, before: str | None, visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with _visible_gpu(device):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
