"""Endpoints: the same findings as from the file, faulty servers, query budget, credentials, labels only."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from endpoint_server import Server
from helpers import arrays

from auditor import BadInput
from auditor.conformance.bench import write_subject
from auditor.errors import NotFinite, OutOfTime
from auditor.model.deployed import DeployedModel
from auditor.plugins.formats._endpoint_client import EndpointDown
from auditor.run.opening import open_model

QUICK = 'probes = ["performance.accuracy", "attacks.hopskipjump", "sanity.determinism"]\n'
SUITE = QUICK + '[settings."attacks.hopskipjump"]\nsamples = 3\niterations = 2\nevaluations = 20\nnorms = ["l2"]\n'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model with 24 images."""
    return write_subject(tmp_path_factory.mktemp("fragile"))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.plugins.formats._endpoint_client._FIRST_PAUSE", 0.005)


@pytest.fixture
def server(files: tuple[Path, Path]) -> Iterator[Server]:
    model = open_model(files[0], "cpu")
    running = Server(model.predict, model.shape)
    yield running
    running.close()


def write(folder: Path, url: str, more: str = "", *, protocol: str = "json", data: Path | None = None) -> Path:
    own = {
        "json": f'url = "{url}/predict"\nbody = {{instances = "$images"}}\nanswer = "result.predictions"',
        "kserve-v2": f'url = "{url}"\nmodel = "digits"',
        "torchserve": f'url = "{url}"\nmodel = "digits"\nbatch = 1',
    }[protocol]
    path = folder / "endpoint.toml"
    tables = '[input]\nsize = [16, 16]\nchannels = 3\n[output]\nclasses = ["a", "b", "c", "d"]\n'
    tables += f'[data]\npath = "{data}"\n' if data else ""
    path.write_text(f'[endpoint]\nprotocol = "{protocol}"\n{own}\n{more}\n{tables}', encoding="utf-8")
    return path


def client_of(classifier: DeployedModel) -> Any:
    assert classifier.artefact.endpoint is not None
    return classifier.artefact.endpoint


@pytest.mark.parametrize("protocol", ["json", "kserve-v2", "torchserve"])
def test_answers_are_those_of_the_model(
    protocol: str, server: Server, files: tuple[Path, Path], tmp_path: Path
) -> None:
    classifier = open_model(write(tmp_path, server.url, protocol=protocol), "cpu")
    images = arrays(files[1])["images"][:5]
    if protocol == "torchserve":
        images = np.rint(images * 255).astype(np.float32) / 255
    np.testing.assert_allclose(classifier.predict(images), server.scores(images), atol=1e-5)
    assert (classifier.access, classifier.classes) == ("black-box", ("a", "b", "c", "d"))


def test_kserve_reads_shape_and_version_from_the_server(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(f'[endpoint]\nprotocol = "kserve-v2"\nurl = "{server.url}"\nmodel = "digits"\n', encoding="utf-8")
    classifier = open_model(path, "cpu")
    assert classifier.shape == (3, 16, 16)
    assert classifier.artefact.runtime == f"kserve-v2 endpoint {server.url}, model digits, test, version 7"


def test_audit_finds_the_same_as_from_the_file(
    server: Server, files: tuple[Path, Path], tmp_path: Path, auditor_cli: Callable[..., Result]
) -> None:
    """Also while every tenth request fails and every twenty-fifth is answered too late; queries are counted."""
    model, data = files
    (tmp_path / "s.toml").write_text(SUITE, encoding="utf-8")
    server.fail_every, server.stall_every = 10, 25
    path = write(tmp_path, server.url, "timeout = 0.2\nbatch = 16", data=data)
    options = ["--suite", "s.toml", "--format", "json"]
    remote = auditor_cli("run", path, *options, "--out", "remote")
    assert remote.exit_code == 0, remote.output
    local = auditor_cli("run", model, "--data", data, *options, "--out", "local")
    assert local.exit_code == 0, local.output
    one, other = (json.loads((tmp_path / name / "audit.json").read_text()) for name in ("remote", "local"))
    for found, expected in zip(one["probes"], other["probes"], strict=True):
        assert (found["id"], found["n"]) == (expected["id"], expected["n"])
        values = [(metric["name"], metric["value"]) for metric in found["metrics"]]
        for (name, value), metric in zip(values, expected["metrics"], strict=True):
            assert name == metric["name"]
            assert value == pytest.approx(metric["value"], abs=1e-4), (found["id"], name)
    counts = one["model"]["endpoint"]
    assert counts["requests"] == server.requests
    assert counts["queries"] >= server.images > 100
    assert counts["retries"] > 10
    assert (counts["unanswered"], one["model"]["format"], other["model"]["endpoint"]) == (0, "endpoint", None)


def test_images_are_sent_once_unless_a_probe_repeats_queries(
    server: Server, files: tuple[Path, Path], tmp_path: Path
) -> None:
    classifier = open_model(write(tmp_path, server.url), "cpu")
    images = arrays(files[1])["images"][:6]
    server.images = 0
    first = classifier.predict(images)
    np.testing.assert_array_equal(classifier.predict(images[::-1].copy()), first[::-1])
    assert server.images == 6
    with client_of(classifier).fresh():
        classifier.predict(images[[0, 0]])
    assert server.images == 8


def test_drift_is_found_at_the_end(
    server: Server, files: tuple[Path, Path], tmp_path: Path, auditor_cli: Callable[..., Result]
) -> None:
    (tmp_path / "s.toml").write_text(
        'probes = ["sanity.determinism", "performance.accuracy", "attacks.noise"]\n', encoding="utf-8"
    )
    before = server.scores
    server.scores = lambda pixels: before(pixels) if server.requests < 4 else np.roll(before(pixels), 1, axis=1)
    result = auditor_cli(
        "run", write(tmp_path, server.url, data=files[1]), "--suite", "s.toml", "--format", "json", "--out", "run"
    )
    probes = {probe["id"]: probe for probe in json.loads((tmp_path / "run" / "audit.json").read_text())["probes"]}
    assert result.exit_code == 0, result.output
    assert probes["sanity.determinism"]["status"] == "fail"
    assert probes["performance.accuracy"]["status"] != "pass"


def test_query_budget_is_kept_and_shared(
    server: Server, files: tuple[Path, Path], tmp_path: Path, auditor_cli: Callable[..., Result]
) -> None:
    (tmp_path / "s.toml").write_text(SUITE, encoding="utf-8")
    result = auditor_cli(
        "run",
        write(tmp_path, server.url, data=files[1]),
        "--suite",
        "s.toml",
        "--queries",
        "400",
        "--format",
        "json",
        "--out",
        "run",
    )
    assert result.exit_code == 0, result.output
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert server.images <= audit["model"]["endpoint"]["queries"] <= 400
    assert all(probe["n"] for probe in audit["probes"] if probe["id"] != "attacks.hopskipjump")
    assert "query budget" in json.dumps(audit["probes"])


def test_limit_stops_before_a_query_too_many(server: Server, files: tuple[Path, Path], tmp_path: Path) -> None:
    classifier = open_model(write(tmp_path, server.url), "cpu")
    client_of(classifier).limit = client_of(classifier).queries + 5
    with pytest.raises(OutOfTime):
        classifier.predict(arrays(files[1])["images"][:6])
    classifier.predict(arrays(files[1])["images"][:5])


def test_labels_only_endpoint_gets_decision_based_probes(
    server: Server, files: tuple[Path, Path], tmp_path: Path, auditor_cli: Callable[..., Result]
) -> None:
    server.labels = True
    probes = 'probes = ["performance.*", "attacks.hopskipjump", "attacks.simba", "attacks.square"]\n'
    (tmp_path / "s.toml").write_text(SUITE.replace(QUICK, probes), encoding="utf-8")
    path = write(tmp_path, server.url, 'returns = "labels"', data=files[1])
    result = auditor_cli("run", path, "--suite", "s.toml", "--format", "json", "--out", "run")
    assert result.exit_code == 0, result.output
    probes_by_id = {probe["id"]: probe for probe in json.loads((tmp_path / "run" / "audit.json").read_text())["probes"]}
    for probe_id in ("attacks.simba", "attacks.square", "performance.calibration"):
        assert probes_by_id[probe_id]["status"] == "not-applicable"
        assert probes_by_id[probe_id]["reason"] == "requires scores; the endpoint answers with labels only"
    assert probes_by_id["attacks.hopskipjump"]["n"] == 3
    names = {metric["name"] for metric in probes_by_id["performance.accuracy"]["metrics"]}
    assert "accuracy" in names
    assert not names & {"log_loss", "roc_auc"}


def test_credentials_come_from_the_environment_and_appear_nowhere(
    server: Server, files: tuple[Path, Path], tmp_path: Path, auditor_cli: Callable[..., Result], monkeypatch: Any
) -> None:
    (tmp_path / "s.toml").write_text('probes = ["performance.accuracy"]\n', encoding="utf-8")
    path = write(tmp_path, server.url, 'headers.Authorization = "Bearer ${TEST_TOKEN}"', data=files[1])
    run = ["run", path, "--suite", "s.toml", "--format", "json,html", "--out", "run"]
    missing = auditor_cli(*run)
    assert missing.exit_code == 2
    assert "headers.Authorization needs the environment variable TEST_TOKEN; set it" in missing.output
    monkeypatch.setenv("TEST_TOKEN", "s3cr3t-9f")
    server.refuse = "wrong token s3cr3t-9f"
    refused = auditor_cli(*run)
    assert refused.exit_code == 2
    assert "HTTP status 401" in refused.output
    server.refuse = ""
    done = auditor_cli(*run, "-v")
    assert done.exit_code == 0, done.output
    assert server.seen[-1]["Authorization"] == "Bearer s3cr3t-9f"
    written = [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert not [content for content in written if b"s3cr3t" in content]
    assert "s3cr3t" not in missing.output + refused.output + done.output


def test_server_that_is_down_is_given_up(server: Server, files: tuple[Path, Path], tmp_path: Path) -> None:
    path = write(tmp_path, server.url, "retries = 1")
    classifier = open_model(path, "cpu")
    server.down = True
    images = arrays(files[1])["images"][:2]
    for _ in range(3):
        with pytest.raises(NotFinite, match="did not answer 2 times: HTTP status 503"):
            classifier.predict(images)
    with pytest.raises(EndpointDown, match="does not answer any more"):
        classifier.predict(images)
    with pytest.raises(BadInput, match="did not answer 2 times"):
        open_model(path, "cpu")


def test_rate_limit(server: Server, files: tuple[Path, Path], tmp_path: Path) -> None:
    classifier = open_model(write(tmp_path, server.url, "rate = 20\nbatch = 1"), "cpu")
    start = time.monotonic()
    classifier.predict(arrays(files[1])["images"][:8])
    assert time.monotonic() - start > 7 / 20


def test_python_function_needs_trust(tmp_path: Path) -> None:
    (tmp_path / "own_model_23.py").write_text(
        "def scores(pixels):\n    p = pixels.mean(axis=(1, 2, 3))\n    return [[1 - x, x] for x in p]\n",
        encoding="utf-8",
    )
    path = tmp_path / "e.toml"
    path.write_text(
        '[endpoint]\nprotocol = "python"\nfunction = "own_model_23:scores"\n[input]\nsize = [4, 4]\nchannels = 1\n',
        encoding="utf-8",
    )
    with pytest.raises(BadInput, match="runs the Python function own_model_23:scores; if you trust it, pass --trust-m"):
        open_model(path, "cpu")
    classifier = open_model(path, "cpu", trust=True)
    np.testing.assert_allclose(classifier.predict(np.full((1, 1, 4, 4), 0.25, np.float32)), [[0.75, 0.25]], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[input]\nsize = [2, 2]", r"has no table \[endpoint\]"),
        ('[endpoint]\nprotocol = "grpc"', "protocol is 'grpc'; expected one of kserve-v2, torchserve, json, python"),
        ('[endpoint]\nprotocol = "json"\nbody = {}\nurl = "x"', "protocol json requires body"),
        ('[endpoint]\nprotocol = "kserve-v2"\nmodel = "m"\nurl = "ftp://x"', "expected an address that begins with"),
        ('[endpoint]\nprotocol = "kserve-v2"\nmodel = "m"\nurl = "http://u:p@x"', "url holds a password"),
        ('[endpoint]\nprotocol = "json"\nur = "x"', r"unknown key 'ur' \(did you mean 'url'\?\)"),
        ('[endpoint]\nprotocol = "python"\nfunction = "m"', "function is 'm'; expected module:function"),
        ('[endpoint]\nprotocol = "torchserve"\nmodel = "m"\nurl = "http://x"', r"state \[endpoint\] batch = 1"),
        ('[endpoint]\nprotocol = "json"\nbody = "$images"\nurl = "http://x"\nretries = -1', "expected a whole number"),
    ],
)
def test_unusable_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        open_model(path, "cpu")


def test_unreadable_answers_are_refused(server: Server, tmp_path: Path) -> None:
    server.scores = lambda pixels: np.ones((2, 4), dtype=np.float32)
    with pytest.raises(BadInput, match="it holds 2; expected a list of 3 answers"):
        open_model(write(tmp_path, server.url), "cpu")


def test_options_that_have_no_effect_are_refused(
    server: Server, files: tuple[Path, Path], tmp_path: Path, auditor_cli: Callable[..., Result]
) -> None:
    (tmp_path / "s.toml").write_text(SUITE, encoding="utf-8")
    path = write(tmp_path, server.url, data=files[1])
    for options, message in (
        (["--workers", "2"], "state [endpoint] concurrency instead"),
        (["--queries", "9", "--budget", "5m"], "--queries and --budget: exclude each other"),
        (["--queries", "9"], ""),
    ):
        result = auditor_cli("run", path, "--suite", "s.toml", *options, "--format", "json", "--out", "run")
        assert result.exit_code == (2 if message else 0), result.output
        assert message in result.output
    result = auditor_cli("run", files[0], "--suite", "s.toml", "--queries", "9", "--out", "run2")
    assert "--queries: limits the queries of an endpoint" in result.output


def test_mlserver_speaks_kserve_v2(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Skipped where MLServer is not installed: it pins older versions of libraries of the project."""
    command = shutil.which("mlserver")
    if command is None:
        pytest.skip("mlserver is not on the path; install it in another environment to run this test")
    (tmp_path / "runtime.py").write_text(
        "import numpy as np\n"
        "from mlserver import MLModel\n"
        "from mlserver.codecs import NumpyCodec\n"
        "from mlserver.types import InferenceResponse\n\n"
        "class Means(MLModel):\n"
        "    async def load(self):\n        return True\n\n"
        "    async def predict(self, payload):\n"
        "        pixels = NumpyCodec.decode_input(payload.inputs[0])\n"
        "        high = pixels.mean(axis=(1, 2, 3))\n"
        "        scores = np.stack([1 - high, high], axis=1).astype(np.float32)\n"
        "        found = NumpyCodec.encode_output('scores', scores)\n"
        "        return InferenceResponse(model_name=self.name, outputs=[found])\n",
        encoding="utf-8",
    )
    tensor = [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]
    model = {"name": "means", "implementation": "runtime.Means", "inputs": tensor}
    (tmp_path / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    ports = [free_port() for _ in range(3)]
    names = ("http_port", "grpc_port", "metrics_port")
    settings = {"parallel_workers": 0, "host": "127.0.0.1", **dict(zip(names, ports, strict=True))}
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen([command, "start", tmp_path], stdout=log, stderr=log, cwd=tmp_path)
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        wait_for(f"{url}/v2/models/means/ready")
        path = tmp_path / "e.toml"
        path.write_text(f'[endpoint]\nprotocol = "kserve-v2"\nurl = "{url}"\nmodel = "means"\n', encoding="utf-8")
        classifier = open_model(path, "cpu")
        images = np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32)
        np.testing.assert_allclose(classifier.predict(images)[:, 1], images.mean(axis=(1, 2, 3)), atol=1e-5)
    finally:
        process.terminate()
        process.wait()
        log.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} does not answer")
