"""The identity of a model covers every byte that its predictions depend on, and records depend on that identity."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import numpy_helper

from auditor.model.identity import model_digest, model_size
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.attacks._transfer_surrogates import surrogate_digest
from auditor.run.manifest import records_key
from auditor.run.opening import open_audit
from auditor.run.request import Request

Cli = Callable[..., Result]


@pytest.fixture
def separate(digits: Path, tmp_path: Path) -> Path:
    """Return the reference model with its weights in a separate file, as ``torch.onnx.export`` writes large models."""
    folder = tmp_path / "separate"
    shutil.copytree(digits, folder)
    path = folder / "digits-cnn.onnx"
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="digits-cnn.onnx.data", size_threshold=1024)
    return path


def change_weights(path: Path) -> None:
    """Reverse the sign of the largest tensor of the separate file; the model file is not changed."""
    before = path.read_bytes()
    stored = onnx.load(str(path), load_external_data=False)
    largest = max((t for t in stored.graph.initializer if t.external_data), key=lambda t: int(np.prod(t.dims)))
    place = {entry.key: entry.value for entry in largest.external_data}
    onnx.external_data_helper.load_external_data_for_tensor(largest, str(path.parent))
    weights = -numpy_helper.to_array(largest)
    data = path.parent / place["location"]
    content = bytearray(data.read_bytes())
    start = int(place.get("offset", 0))
    content[start : start + weights.nbytes] = weights.tobytes()
    data.write_bytes(bytes(content))
    assert path.read_bytes() == before


def audit_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "audit.json").read_text(encoding="utf-8"))


def test_digest_of_one_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"weights")
    assert model_digest(tmp_path / "m.onnx") == hashlib.sha256(b"weights").hexdigest()


def test_digest_covers_separate_files_and_their_names(tmp_path: Path) -> None:
    path, data, other = (tmp_path / name for name in ("m.onnx", "m.data", "n.data"))
    for file, content in ((path, b"graph"), (data, b"weights"), (other, b"more")):
        file.write_bytes(content)
    whole = model_digest(path, [data, other])
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in (path, data, other)]
    assert whole == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert whole == model_digest(path, [other, data])
    assert model_size(path, [data, other]) == len(b"graphweightsmore")
    data.write_bytes(b"Weights")
    assert model_digest(path, [data, other]) != whole


def test_changed_weights_in_a_separate_file_are_measured_again(separate: Path, auditor_cli: Cli) -> None:
    command = ("run", separate, "--probe", "performance.accuracy", "--samples", 100, "--format", "json", "--out", "run")
    assert auditor_cli(*command).exit_code == 0
    before = audit_of(Path("run"))
    change_weights(separate)
    again = auditor_cli(*command)
    assert "Changed since the last run, so measured again: model" in " ".join(again.output.split())
    after = audit_of(Path("run"))
    assert before["model"]["sha256"] != after["model"]["sha256"]
    accuracy = [a["probes"][0]["metrics"][0]["value"] for a in (before, after)]
    assert accuracy[0] > 0.9 > accuracy[1]


def test_replay_accepts_the_audited_weights_and_refuses_changed_ones(separate: Path, auditor_cli: Cli) -> None:
    done = auditor_cli("run", separate, "--probe", "attacks.fgsm", "--samples", 20, "--format", "json", "--out", "run")
    assert done.exit_code in {0, 1}, done.output
    held = auditor_cli("replay", "run")
    assert held.exit_code == 0, held.output
    change_weights(separate)
    refused = auditor_cli("replay", "run")
    assert refused.exit_code == 2
    assert "not the audited file" in refused.output


def test_inspect_shows_one_digest_and_the_size_of_all_files(separate: Path, auditor_cli: Cli) -> None:
    data = separate.parent / "digits-cnn.onnx.data"
    text = auditor_cli("inspect", separate).output
    size = separate.stat().st_size + data.stat().st_size
    assert f"({size:,} bytes in 2 files)" in text
    assert model_digest(separate, [data]) in text


def test_identity_of_a_surrogate_covers_separate_files(separate: Path) -> None:
    before = surrogate_digest(str(separate))
    assert before == model_digest(separate, [separate.parent / "digits-cnn.onnx.data"])
    change_weights(separate)
    assert surrogate_digest(str(separate)) != before


def test_key_of_records_depends_on_the_plugin_version_and_the_class_order(digits: Path) -> None:
    plugins = registry.load()
    probe = plugins.probes["performance.accuracy"]()

    def key(plugin_version: str | None = None, classes: list[str] | None = None) -> str:
        overrides = {} if classes is None else {"output": {"classes": classes}}
        request = Request(model=digits / "digits-cnn.onnx", overrides=overrides)
        classifier, images = open_audit(plugins, request, find_suite("quick", plugins), "cpu")
        return records_key(
            probe,
            images.ids[:5],
            plugin_version=plugin_version,
            probes=[probe],
            classifier=classifier,
            images=images,
            seed=0,
        )

    assert key() == key()
    assert key("1.0") != key("1.1")
    assert key(classes=list("1032456789")) != key()


def test_version_of_a_built_in_probe_is_not_stated() -> None:
    assert registry.load().version_of("attacks.pgd") is None
