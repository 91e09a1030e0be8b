"""One offer for every rule that a plugin can break next to those of probes (auditor-careless)."""

import itertools
from pathlib import Path

import numpy as np

from auditor import Artefact, ProbeFamily, ReportFormat, Source, hookimpl

AUDITOR_API = "1.0"
_COUNT = itertools.count()


@hookimpl
def auditor_open_model(path: Path, device: str):
    if path.suffix == ".unknown-format":
        return "not an artefact"
    if path.suffix != ".faulty":
        return None
    # half a file raises ValueError
    weights = np.frombuffer(path.read_bytes(), dtype=np.float32).reshape(3 * 8 * 8, 2)

    def scores(images):
        rows = images.reshape(len(images), -1)
        return (rows - rows.mean(axis=0)) @ weights

    import torch

    copy = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    torch.nn.init.zeros_(copy[1].weight)
    return Artefact(
        format="faulty", runtime="NumPy", input_shape=(None, 3, 8, 8), input_dtype="float32", scores=scores, copy=copy
    )


@hookimpl
def auditor_open_images(path: Path):
    if path.suffix != ".faulty":
        return None
    return Source(path=str(path), ids=["a", "a"], read=lambda index: (bytes([next(_COUNT) % 256]), np.zeros((8, 8))))


@hookimpl
def auditor_example_files(folder: Path):
    path = folder / "example.faulty"
    path.write_bytes(np.random.default_rng(0).normal(size=(3 * 8 * 8, 2)).astype(np.float32).tobytes())
    return [path]


@hookimpl
def auditor_probe_families():
    return [ProbeFamily(name="faulty", area="attacks", members=lambda: ["A", "a"], probe=lambda member: object)]


@hookimpl
def auditor_suites():
    return [Path(__file__).parent / "misspelt.toml", Path(__file__).parent / "quick.toml"]


@hookimpl
def auditor_policies():
    return [Path(__file__).parent / "typo.toml"]


@hookimpl
def auditor_report_formats():
    return [
        ReportFormat(name="restless", file="../outside.txt", render=lambda audit, run: str(next(_COUNT)).encode()),
        ReportFormat(name="rude", file="report.html", render=lambda audit, run: audit["probes"].clear() or b"x"),
    ]


@hookimpl
def auditor_run_finished(run):
    raise ConnectionError("the tracking server does not answer")
