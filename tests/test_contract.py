"""Every installed probe passes the conformance checks of the engine."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditor import NotApplicable
from auditor.conformance import bench, checks, units
from auditor.conformance.checks import CHECKS, HEAVY
from auditor.conformance.subject import Subject
from auditor.findings.finding import AREAS
from auditor.plugin import registry
from auditor.run.request import Request
from auditor.run.session import run
from auditor.schemas import validator

LOADED = registry.load()
ABOUT_ROWS = {"has a description", "is configurable"}
"""Checks that need no images."""
every_probe = pytest.mark.parametrize("probe_id", LOADED.probes)


@pytest.fixture(scope="module")
def digits_subject(digits: Path) -> Subject:
    """The reference model and four digits of two groups: small differences reveal rounding errors."""
    return bench.open_subject(LOADED, digits / "digits-cnn.onnx", None, samples=4)


@pytest.fixture(scope="module")
def fragile_subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The model for probes in `auditor plugin check`: every attack must succeed on it."""
    return bench.open_subject(LOADED, *bench.write_subject(tmp_path_factory.mktemp("fragile")))


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "beats random noise"])
@every_probe
def test_every_probe_conforms(digits_subject: Subject, probe_id: str, name: str) -> None:
    kind = LOADED.probes[probe_id]
    if name not in ABOUT_ROWS and "images" not in kind.meta.input_kinds:
        pytest.skip("is about rows")
    try:
        CHECKS[name](digits_subject, kind)
    except NotApplicable as reason:
        pytest.skip(f"not applicable here: {reason}")


@pytest.mark.parametrize("probe_id", [i for i, kind in LOADED.probes.items() if kind.meta.area == "attacks"])
def test_every_attack_beats_random_noise(fragile_subject: Subject, probe_id: str) -> None:
    try:
        CHECKS["beats random noise"](fragile_subject, LOADED.probes[probe_id])
    except NotApplicable as reason:
        pytest.skip(f"not applicable here: {reason}")


@pytest.mark.parametrize("probe_id", [i for i, plugin in LOADED.origin.items() if ":" not in plugin])
def test_built_in_probe_id_matches_its_file(probe_id: str) -> None:
    module = LOADED.probes[probe_id].__module__
    area, noun = probe_id.split(".")
    assert area in AREAS
    assert module == f"auditor.plugins.{area}.{noun.replace('-', '_')}"
    assert LOADED.origin[probe_id] == probe_id
    assert (importlib.import_module(module).__doc__ or "").strip()
    assert LOADED.probes[probe_id].meta.references


def test_listing_the_probes_imports_nothing_heavy() -> None:
    own = () if any(":" in plugin for plugin in LOADED.origin.values()) else ("numpy",)
    code = "from auditor.plugin import registry; assert len(registry.load().probes) > 6"
    assert checks.heavy_imports(code, heavy=(*HEAVY, *own)) == []


@pytest.fixture(scope="module")
def audited(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Audit all probes on twenty digits, with reduced settings."""
    folder = tmp_path_factory.mktemp("contract")
    suite = bench.write_suite(LOADED, list(LOADED.probes), folder / "suite.toml")
    certified = '[settings."metrics.certified"]'
    assert certified in suite.read_text()
    # optimised slopes take a second per image
    suite.write_text(suite.read_text().replace(certified, f"{certified}\nsamples = 2"))
    request = Request(
        model=digits / "digits-cnn.onnx",
        suite=str(suite),
        samples=20,
        out=folder / "run",
        formats=(),
        batch_size=20,
    )
    return {**run(request).audit, "run": folder / "run"}


def test_record_of_every_probe_matches_the_schema(audited: dict[str, Any]) -> None:
    record = {key: value for key, value in audited.items() if key != "run"}
    assert [error.message for error in validator("audit").iter_errors(record)] == []
    assert [probe["id"] for probe in audited["probes"]] == list(LOADED.probes)


def test_curves_contain_the_number_of_the_sentence(audited: dict[str, Any]) -> None:
    """A finding at a level of its curve, such as epsilon 8/255: the reader looks for its number in the curve."""
    missing, n = [], 0
    for finding in (finding for probe in audited["probes"] for finding in probe["findings"]):
        metric = finding["metric"]
        curves = [each for each in finding["evidence"] if each["kind"] == "curve"]
        at_level = metric is not None and any(isinstance(value, int | float) for value in metric["at"].values())
        if not (curves and at_level and metric["value"] is not None):
            continue
        n += 1
        values = [point["y"] for curve in curves for line in curve["series"] for point in line["points"]]
        if not any(value == pytest.approx(metric["value"], abs=1e-5) for value in values if value is not None):
            missing.append(f"{finding['id']}: {metric['name']} {metric['value']} {metric['at']}")
    assert missing == []
    assert n >= 8


# the value itself changes with copies: bins of equal mass hold other images
_BY_BINS = {"ece", "rms_calibration_error_debiased"}


@every_probe
def test_ten_copies_of_every_image_give_the_interval_of_the_originals(audited: dict[str, Any], probe_id: str) -> None:
    """The originals are the units. Wilson intervals agree exactly, bootstraps up to resampling."""
    try:
        probe, records = units.read_records(LOADED, audited["run"], audited, probe_id)
    except NotApplicable as reason:
        pytest.skip(f"not applicable here: {reason}")
    if hasattr(probe, "minimum"):
        probe = replace(probe, minimum=2)  # type: ignore[call-arg]
    sides = {i: ("left", "right")[n % 2] for n, i in enumerate(sorted(set(records.frame["image_id"])))}
    grouped = [f.assign(**{"group:side": f["image_id"].map(sides)}) for f in (records.frame, *records.others.values())]
    records = replace(records, frame=grouped[0], others=dict(zip(records.others, grouped[1:], strict=True)))
    try:
        pairs = units.check_units(probe, records)
    except NotApplicable as reason:
        pytest.skip(f"not applicable here: {reason}")
    for one, ten in pairs:
        if one.name not in _BY_BINS:
            tolerance = 0.2 * (one.high - one.low) + 1e-9
            assert (ten.value, ten.low, ten.high) == pytest.approx((one.value, one.low, one.high), abs=tolerance), one
            assert ten.n == units.COPIES * one.n
            assert ten.units <= one.n


@every_probe
def test_findings_have_unique_ids_and_state_n(audited: Mapping[str, Any], probe_id: str) -> None:
    try:
        checks.check_record(next(p for p in audited["probes"] if p["id"] == probe_id))
    except NotApplicable as reason:
        pytest.skip(f"not applicable here: {reason}")
