"""What the checks of a plugin run on: a small model, images that it classifies correctly, and an audit of them."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from auditor.conformance.subject import Subject, quick
from auditor.conformance.units import read_records
from auditor.errors import BadInput
from auditor.plugin import registry
from auditor.plugin.registry import Registry
from auditor.plugin.suite import find_suite

if TYPE_CHECKING:
    import numpy as np
    import pluggy
    from numpy.typing import NDArray

    from auditor.findings.record import AuditRecord, ProbeRecord
    from auditor.probes.base import Probe, Records
    from auditor.run.request import Outcome


class Planned(NamedTuple):
    """A check that has not run yet."""

    subject: str
    """Id of the probe, or name of what else the package provides; empty for the package."""
    name: str
    run: Callable[[], object]
    """Raises Breach if the check fails, NotApplicable if it does not apply."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A package under test, and what its checks share; each part is made when a check first needs it."""

    plugins: Registry
    package: str
    names: Collection[str]
    """Names of the plugins of the package."""
    probes: Sequence[str]
    """Ids of its probes."""
    folder: Path
    """Empty folder for temporary files."""

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Return the implementations of a hook by this package."""
        found = getattr(self.plugins.manager.hook, hook).get_hookimpls()
        return [each for each in found if each.plugin_name in self.names]

    @cached_property
    def files(self) -> tuple[Path, Path]:
        """The small model and its images."""
        return write_subject(self.folder)

    @cached_property
    def subject(self) -> Subject:
        """The small model and its images, opened."""
        return open_subject(self.plugins, *self.files)

    @cached_property
    def outcome(self) -> Outcome:
        """An audit of the small model with the probes of the package, or with the accuracy alone."""
        model, data = self.files
        with only(self.package):
            return audit_outcome(
                registry.load(), self.probes or ["performance.accuracy"], model=model, data=data, folder=self.folder
            )

    @cached_property
    def records(self) -> Mapping[str, ProbeRecord]:
        """The probes of that audit, by id."""
        return {record["id"]: record for record in self.outcome.audit["probes"]}

    def measured(self, probe_id: str) -> tuple[Probe, Records]:
        """Return a probe of that audit and its records. Raises NotApplicable if it was not measured."""
        return read_records(self.plugins, self.folder / "run", self.outcome.audit, probe_id)


@contextmanager
def only(package: str) -> Iterator[None]:
    """Load no other third-party plugins while the context lasts: they must not publish the audits of a check."""
    before = os.environ.get(registry.ONLY)
    os.environ[registry.ONLY] = package
    try:
        yield
    finally:
        del os.environ[registry.ONLY]
        if before is not None:
            os.environ[registry.ONLY] = before


def open_subject(plugins: Registry, model: Path, data: Path | None, samples: int | None = None) -> Subject:
    """Open a model file and its images, in two groups."""
    from auditor.data.dataset import Batch
    from auditor.run.opening import open_audit
    from auditor.run.request import Request

    request = Request(model=model, data=data, samples=samples, trust_model=True)
    classifier, images = open_audit(plugins, request, find_suite("full", plugins), "cpu")
    pixels = images.pixels(images.ids)
    if images.labels is None:
        raise BadInput(f"{images.path}: has no labels; expected labelled images")
    batch = Batch(
        ids=images.ids,
        pixels=pixels,
        labels=images.labels,
        probabilities=classifier.predict(pixels),
        groups={"side": [("left", "right")[i % 2] for i in range(len(pixels))]},
    )
    return Subject(classifier=classifier, images=batch, plugins=plugins)


def audit(plugins: Registry, probes: Sequence[str], *, model: Path, data: Path, folder: Path) -> AuditRecord:
    """Run an audit with these probes and those they depend on; return its audit.json, with the records in run/."""
    return audit_outcome(plugins, probes, model=model, data=data, folder=folder).audit


def audit_outcome(
    plugins: Registry,
    probes: Sequence[str],
    *,
    model: Path,
    data: Path | None,
    folder: Path,
    samples: int | None = None,
) -> Outcome:
    """Run an audit with these probes and those they depend on; its folder is run/."""
    from auditor.run.request import Request
    from auditor.run.session import run

    used = [pattern for probe_id in probes for pattern in plugins.probes[probe_id].depends_on]
    chosen = dict.fromkeys([*probes, *(each for pattern in used for each in _some(plugins.probes, pattern))])
    suite = write_suite(plugins, list(chosen), folder / "conformance.toml")
    return run(
        Request(
            model=model,
            data=data,
            suite=str(suite),
            out=folder / "run",
            samples=samples,
            formats=(),
            trust_model=True,
            device="cpu",
        )
    )


_FEW = {"attacks.minimum-norm", "attacks.pgd"}
"""An attack within a budget and a search for the nearest error, in place of all that a glob names."""


def _some(probes: Collection[str], pattern: str) -> Sequence[str]:
    """Return the probes that a pattern of ``depends_on`` names, or the few of them that are enough for a check."""
    found = fnmatch.filter(probes, pattern)
    return [probe_id for probe_id in found if probe_id in _FEW] or found


def write_suite(plugins: Registry, probes: Sequence[str], path: Path) -> Path:
    """Write a suite file with these probes and reduced settings; return its path."""
    lines = [f"probes = {json.dumps(probes)}"]
    for probe_id in probes:
        probe = quick(plugins.probes[probe_id])
        lines += [f'[settings."{probe_id}"]']
        lines += [
            f"{setting.name} = {json.dumps(getattr(probe, setting.name))}"
            for setting in dataclasses.fields(probe)
            if getattr(probe, setting.name) != setting.default and setting.default is not dataclasses.MISSING
        ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_subject(folder: Path) -> tuple[Path, Path]:
    """Write a small, fragile network as ONNX and 24 images that it classifies correctly; return both paths.

    The weights over 768 pixels are random: many small components of the gradient add up along its sign and cancel in
    noise, which is the linear explanation of adversarial examples (Goodfellow, Shlens and Szegedy 2015,
    arXiv:1412.6572, section 3). The labels are the predictions of the network.
    """
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(20)
    # like photographs: mostly slow changes, with some detail
    slow = np.kron(rng.uniform(0.2, 0.8, (24, 3, 4, 4)), np.ones((1, 1, 4, 4)))
    images = (slow + rng.normal(0, 0.05, (24, 3, 16, 16))).clip(0, 1).astype(np.float32)
    weights = {
        "kernels1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "kernels2": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "readout": rng.normal(0, 0.1, (4, 8 * 12 * 12)),
        "bias": np.zeros(4),
    }

    def network(given: Mapping[str, NDArray[np.float64]]) -> bytes:
        nodes = [
            helper.make_node("Conv", ["image", "kernels1"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "kernels2"], ["c"]),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("Flatten", ["d"], ["e"]),
            helper.make_node("Gemm", ["e", "readout", "bias"], ["logits"], transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "fragile",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
            [numpy_helper.from_array(array.astype(np.float32), name) for name, array in given.items()],
        )
        made: bytes = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
        ).SerializeToString()
        return made

    def answers(made: bytes) -> NDArray[np.float64]:
        session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"image": images})[0], dtype=np.float64)

    # balanced classes, and a margin of about 3 nats
    logits = answers(network(weights))
    factor = 3 / logits.std(axis=0).mean()
    weights |= {"readout": weights["readout"] * factor, "bias": -logits.mean(axis=0) * factor}
    made = network(weights)
    onnx.checker.check_model(onnx.load_from_string(made))
    model, data = folder / "fragile.onnx", folder / "fragile.npz"
    model.write_bytes(made)
    sides = np.array(["left", "right"] * 12)
    np.savez(data, images=images, labels=answers(made).argmax(axis=1), groups_side=sides)
    return model, data
