"""What every probe owes the engine, asked of every probe that is installed, a third party's too."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from auditor import NotApplicable, Probe, registry
from auditor.engine import Request, open_audit, run, validator
from auditor.families import Attack, MinimumNorm
from auditor.finding import AREAS, plain
from auditor.images import Batch
from auditor.probe import Randomness, Run

LOADED = registry.load()
N = 6
SAYS_N = re.compile(r"n = \d|\d+ of \d+|\d+ images|Cannot tell")
FEW = {"iterations", "queries", "resamples", "batches", "batch_samples", "draws"}
every_probe = pytest.mark.parametrize("probe_id", LOADED.probes)
OF_IMAGES = [probe_id for probe_id, kind in LOADED.probes.items() if "images" in kind.meta.takes]
every_probe_of_images = pytest.mark.parametrize("probe_id", OF_IMAGES)


def quick(probe_id: str) -> Probe:
    """A probe with as little to do as its settings allow: two of every list of numbers, few iterations."""
    kind = LOADED.probes[probe_id]
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = field.default
        if isinstance(value, tuple) and len(value) > 2:
            settings[field.name] = (value[0], value[-1])
        elif field.name in FEW and isinstance(value, int):
            settings[field.name] = min(value, 3)
    return kind(**settings)


@pytest.fixture(scope="module")
def subject(digits: Path) -> tuple[Any, Batch]:
    """The reference model and six digits of two groups."""
    suite = LOADED.suite("full")
    request = Request(model=digits / "digits-cnn.onnx", samples=N)
    classifier, images = open_audit(LOADED, request, suite, "cpu")
    pixels = images.pixels(images.ids)
    assert images.labels is not None
    batch = Batch(
        ids=images.ids, pixels=pixels, labels=images.labels, probabilities=classifier.predict(pixels),
        groups={"side": ["left", "right"] * (N // 2)},
    )  # fmt: skip
    return classifier, batch


def prepared(subject: tuple[Any, Batch], probe: Probe) -> Any:
    """The probe that measures, as the engine asks for it."""
    classifier, whole = subject
    run = Run(
        classifier=classifier,
        probes=[quick(i) for i in LOADED.probes],
        ids=whole.ids,
        batch=lambda ids: whole.take([whole.ids.index(i) for i in ids]),
        rng=Randomness(0, probe.meta.id),
    )
    try:
        return probe.prepare(run)
    except NotApplicable as reason:
        pytest.skip(f"not applicable here: {reason}")


def measure(subject: tuple[Any, Batch], probe: Probe, indices: list[int]) -> pd.DataFrame:
    """Rows by image id, in the order in which the probe gave them."""
    classifier, batch = subject
    some = batch.take(indices)
    columns = dict(prepared(subject, probe).measure(classifier, some, Randomness(0, probe.meta.id)))
    lengths = {name: len(values) for name, values in columns.items()}
    assert len(set(lengths.values())) <= 1, lengths
    rows = np.asarray(columns.pop("row", np.arange(len(some))))
    frame = pd.DataFrame({name: list(np.asarray(values)) for name, values in columns.items()}, index=range(len(rows)))
    frame.insert(0, "image_id", [some.ids[row] for row in rows])
    return frame.sort_values("image_id", kind="stable", ignore_index=True)


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Equal up to what float32 rounds; where a copy is compared with its original, rounding itself is measured."""
    assert list(one.columns) == list(other.columns)
    for name in one.columns:
        a, b = np.array(one[name].tolist()), np.array(other[name].tolist())
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


@every_probe
def test_meta_says_everything(probe_id: str) -> None:
    kind = LOADED.probes[probe_id]
    meta = kind.meta
    registry.check_probe(kind)
    assert meta.area in AREAS
    assert meta.id.startswith(f"{meta.area}.")
    assert meta.why.strip().endswith((".", "?"))
    assert set(meta.takes) <= {"images", "rows"}
    assert meta.takes
    assert set(meta.needs) <= {"labels", "gradients", "groups"}
    assert all(reference.startswith("https://") for reference in meta.references)


@pytest.mark.parametrize("probe_id", [i for i, plugin in LOADED.origin.items() if ":" not in plugin])
def test_a_built_in_probe_is_its_file(probe_id: str) -> None:
    module = LOADED.probes[probe_id].__module__
    area, noun = probe_id.split(".")
    assert module == f"auditor.plugins.{area}.{noun.replace('-', '_')}"
    assert LOADED.origin[probe_id] == probe_id
    assert (importlib.import_module(module).__doc__ or "").strip()
    assert LOADED.probes[probe_id].meta.references


def test_listing_the_probes_imports_nothing_heavy() -> None:
    heavy = ("torch", "art", "pandas", "sklearn", "scipy", "matplotlib", "onnxruntime", "onnx", "PIL", "pyarrow")
    own = "numpy" if all(":" not in plugin for plugin in LOADED.origin.values()) else "torch"
    code = (
        "import sys; from auditor import registry; assert len(registry.load().probes) > 6;"
        f"print(*[name for name in {(*heavy, own)!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@every_probe
def test_settings_survive_json(probe_id: str) -> None:
    probe = LOADED.probes[probe_id]()
    told = json.loads(json.dumps(dataclasses.asdict(probe)))
    assert LOADED.configure(probe_id, told, where="test") == probe


@every_probe
def test_an_attack_says_who_attacks(probe_id: str) -> None:
    probe = LOADED.probes[probe_id]()
    threat = probe.threat_model()
    if probe.meta.area == "attacks":
        assert threat is not None
    if threat is not None:
        assert all(plain(threat).values())
        assert threat.knowledge in {"white-box", "black-box", "none"}


@every_probe_of_images
def test_measuring_leaves_the_batch_alone_and_says_the_same_again(subject: tuple[Any, Batch], probe_id: str) -> None:
    batch = subject[1]
    before = batch.pixels.copy(), batch.labels.copy(), batch.probabilities.copy()
    probe = quick(probe_id)
    first = measure(subject, probe, list(range(N)))
    assert set(first["image_id"]) <= set(batch.ids)
    for was, now in zip(before, (batch.pixels, batch.labels, batch.probabilities), strict=True):
        np.testing.assert_array_equal(was, now)
    pd.testing.assert_frame_equal(first, measure(subject, probe, list(range(N))))


@every_probe_of_images
def test_an_image_measures_the_same_in_any_company(subject: tuple[Any, Batch], probe_id: str) -> None:
    probe = quick(probe_id)
    whole = measure(subject, probe, list(range(N)))
    pieces = pd.concat([measure(subject, probe, part) for part in ([4, 1], [5, 0, 3, 2])])
    assert_same(whole, pieces.sort_values("image_id", kind="stable", ignore_index=True))


@pytest.mark.parametrize("probe_id", [i for i in OF_IMAGES if hasattr(LOADED.probes[i], "levels")])
def test_perturbed_images_stay_within_the_pixel_range_and_the_budget(subject: tuple[Any, Batch], probe_id: str) -> None:
    classifier, batch = subject
    probe = prepared(subject, quick(probe_id))
    for level in probe.levels():
        images = probe.perturbed(classifier, batch, Randomness(0, probe_id), level)
        assert images.shape == batch.pixels.shape
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 1
        if isinstance(probe, Attack):
            delta = (images - batch.pixels).reshape(N, -1).astype(np.float64)
            order = {"linf": np.inf, "l2": 2, "l1": 1}[level["norm"]]
            assert np.linalg.norm(delta, ord=order, axis=1).max() <= level["epsilon"] + 2e-6


@pytest.mark.parametrize("probe_id", [i for i, kind in LOADED.probes.items() if issubclass(kind, MinimumNorm)])
def test_the_nearest_images_are_images_that_the_original_gets_wrong(subject: tuple[Any, Batch], probe_id: str) -> None:
    classifier, batch = subject
    probe = prepared(subject, quick(probe_id))
    for norm in probe.norms:
        images, answers, found = probe.nearest(classifier, batch, Randomness(0, probe_id), norm)
        assert images.shape == batch.pixels.shape
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 1
        changed = (images != batch.pixels).any(axis=(1, 2, 3))
        np.testing.assert_array_equal(answers.argmax(axis=1) != batch.labels, changed)
        assert found[changed].all()


@pytest.fixture(scope="module")
def audit(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All probes on forty digits, as little as their settings allow."""
    folder = tmp_path_factory.mktemp("contract")
    lines = ['probes = ["*"]']
    for probe_id in LOADED.probes:
        settings = {k: v for k, v in dataclasses.asdict(quick(probe_id)).items() if v is not None}
        lines += [f'[settings."{probe_id}"]', *(f"{k} = {json.dumps(v)}" for k, v in settings.items())]
    (folder / "suite.toml").write_text("\n".join(lines))
    request = Request(
        model=digits / "digits-cnn.onnx", suite=str(folder / "suite.toml"), samples=40, out=folder / "run",
        formats=(), batch_size=40,
    )  # fmt: skip
    return run(request).audit


def test_the_record_of_every_probe_fits_the_schema(audit: dict[str, Any]) -> None:
    assert [error.message for error in validator().iter_errors(audit)] == []
    assert [probe["id"] for probe in audit["probes"]] == list(LOADED.probes)


@every_probe
def test_findings_have_ids_of_their_own_and_say_n(audit: dict[str, Any], probe_id: str) -> None:
    record = next(p for p in audit["probes"] if p["id"] == probe_id)
    assert record["status"] != "error", record["reason"]
    if record["status"] == "not-applicable":
        return
    ids = [finding["id"] for finding in record["findings"]]
    assert len(set(ids)) == len(ids) > 0
    for finding in record["findings"]:
        assert finding["id"].startswith(f"{probe_id}/")
        assert SAYS_N.search(finding["statement"]), finding["statement"]
    keys = [(m["name"], json.dumps(m["at"], sort_keys=True)) for m in record["metrics"]]
    assert len(set(keys)) == len(keys), "two metrics of one name at one place"
    for metric in record["metrics"]:
        low, value, high = metric["low"], metric["value"], metric["high"]
        assert None in {low, value, high} or low - 1e-6 <= value <= high + 1e-6, metric
