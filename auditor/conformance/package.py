"""Check an installed plugin package."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.metadata
import json
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from auditor.errors import BadInput, NotApplicable, one_line
from auditor.plugin import registry
from auditor.plugin.hookspecs import API_VERSION
from auditor.plugin.registry import Registry
from auditor.plugin.suite import find_suite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.findings.record import AuditRecord

from auditor.conformance.checks import CHECKS, check_record, heavy_imports
from auditor.conformance.subject import Breach, Subject, quick
from auditor.conformance.units import check_units, read_records

Outcome = Literal["ok", "FAILED", "n/a"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of one check for one probe, or for the package itself."""

    probe: str
    """Id of the probe; empty for the package."""
    name: str
    outcome: Outcome
    message: str = ""
    """What is wrong, or why the check does not apply."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A package and the outcomes of its checks."""

    package: str
    version: str
    probes: Sequence[str]
    checks: Sequence[Check]

    @property
    def failed(self) -> Sequence[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome == "FAILED"]


def check_package(package: str, say: Callable[[str], None] = lambda _: None) -> Report:
    """Check an installed package, given by its name, or a folder with a pyproject.toml.

    Raises:
        BadInput: if it is neither, or not a plugin of auditor.
    """
    with _findable(package) as (name, paths):
        distribution = _distribution(name)
        entries = [entry for entry in distribution.entry_points if entry.group == registry.GROUP]
        if not entries:
            raise BadInput(
                f'{package}: has no entry point in the group "{registry.GROUP}" (see docs/how-to/plugins.md)'
            )
        plugins = registry.load()
        own = [plugin for plugin in plugins.plugins if _normal(plugin.package) == _normal(name)]
        names = {plugin.name for plugin in own}
        probes = [probe_id for probe_id, origin in plugins.origin.items() if origin in names]
        checks = [
            Check(probe="", name="loads", outcome="FAILED" if plugin.error else "ok", message=plugin.error or "")
            for plugin in own
        ]
        for entry in entries if not any(plugin.error for plugin in own) else ():
            checks.append(_outcome("", "states the interface version", lambda entry=entry: _states_version(entry)))  # type: ignore[misc]
        code = "\n".join(f"import {entry.module}" for entry in entries)
        checks.append(_outcome("", "imports nothing heavy", lambda: _light(code, paths)))
        if probes:
            with tempfile.TemporaryDirectory() as folder:
                checks += _check_probes(plugins, probes, Path(folder), say)
        return Report(package=name, version=distribution.version, probes=probes, checks=checks)


def _states_version(entry: importlib.metadata.EntryPoint) -> None:
    if not hasattr(sys.modules.get(entry.module), "AUDITOR_API"):
        raise Breach(
            f'{entry.module} does not state the plugin interface it was written for: AUDITOR_API = "{API_VERSION}"'
        )


def _light(code: str, paths: Sequence[Path]) -> None:
    found = heavy_imports(code, paths=paths)
    if found:
        raise Breach(f"imports {', '.join(found)} at module level; import it inside the method that needs it")


def _check_probes(
    plugins: Registry, probes: Sequence[str], folder: Path, say: Callable[[str], None]
) -> Iterator[Check]:
    model, data = write_subject(folder)
    subject = open_subject(plugins, model, data)
    audited = audit(plugins, probes, model=model, data=data, folder=folder)
    records = {record["id"]: record for record in audited["probes"]}
    for probe_id in probes:
        say(probe_id)
        kind = plugins.probes[probe_id]
        for name, check in CHECKS.items():
            if "images" not in kind.meta.input_kinds and name not in {"has a description", "is configurable"}:
                continue
            yield _outcome(probe_id, name, lambda check=check, kind=kind: check(subject, kind))  # type: ignore[misc]
        yield _outcome(probe_id, "concludes", lambda probe_id=probe_id: check_record(records[probe_id]))  # type: ignore[misc]
        yield _outcome(probe_id, "intervals over units", lambda i=probe_id: _over_units(plugins, folder, audited, i))  # type: ignore[misc]


def _over_units(plugins: Registry, folder: Path, audited: AuditRecord, probe_id: str) -> None:
    check_units(*read_records(plugins, folder / "run", audited, probe_id))


def _outcome(probe: str, name: str, check: Callable[[], None]) -> Check:
    try:
        check()
    except NotApplicable as reason:
        return Check(probe=probe, name=name, outcome="n/a", message=str(reason))
    except Breach as breach:
        return Check(probe=probe, name=name, outcome="FAILED", message=str(breach))
    except (Exception, SystemExit) as error:
        return Check(probe=probe, name=name, outcome="FAILED", message=one_line(error))
    return Check(probe=probe, name=name, outcome="ok")


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
    from auditor.run.request import Request
    from auditor.run.session import run

    used = [pattern for probe_id in probes for pattern in plugins.probes[probe_id].depends_on]
    chosen = dict.fromkeys([*probes, *(i for pattern in used for i in fnmatch.filter(plugins.probes, pattern))])
    suite = write_suite(plugins, list(chosen), folder / "conformance.toml")
    request = Request(
        model=model, data=data, suite=str(suite), out=folder / "run", formats=(), trust_model=True, device="cpu"
    )
    return run(request).audit


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


@contextmanager
def _findable(package: str) -> Iterator[tuple[str, Sequence[Path]]]:
    """Make a package importable while the context lasts; yield its name and the entries added to ``sys.path``.

    A folder is found as if it were installed, by writing the metadata that an installer would write.
    """
    folder = Path(package)
    if not folder.is_dir() or (not (folder / "pyproject.toml").is_file() and _is_installed(package)):
        yield package, ()
        return
    project = _project(folder)
    with tempfile.TemporaryDirectory() as place:
        name = str(project["name"])
        about = Path(place) / f"{_normal(name).replace('-', '_')}-{project.get('version', 0)}.dist-info"
        about.mkdir()
        about.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {project.get('version', 0)}\n", encoding="utf-8"
        )
        entries = project["entry-points"][registry.GROUP]
        lines = [f"[{registry.GROUP}]", *(f"{key} = {value}" for key, value in entries.items())]
        about.joinpath("entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        root = folder.resolve()
        paths = [Path(place), *([root / "src"] if (root / "src").is_dir() else []), root]
        before = list(sys.path)
        sys.path[:0] = [str(path) for path in paths]
        importlib.invalidate_caches()
        try:
            yield name, paths
        finally:
            sys.path[:] = before


def _project(folder: Path) -> dict[str, Any]:
    """Read the table [project] of a folder's pyproject.toml and check its entry points."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        raise BadInput(
            f"{folder}: has no pyproject.toml; expected the folder of a package or the name of an installed one"
        )
    try:
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: not readable as TOML: {error}") from None
    entries = project.get("entry-points", {}).get(registry.GROUP) if isinstance(project, dict) else None
    if not (isinstance(entries, dict) and entries and isinstance(project.get("name"), str)):
        raise BadInput(
            f'{path}: has no name with [project.entry-points."{registry.GROUP}"]; expected a plugin of auditor'
            " (see docs/how-to/plugins.md); if its entry points are defined elsewhere, install it and give its name"
        )
    return project


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise BadInput(
            f"{name}: no such folder and no installed package of this name (`auditor probes` lists what is installed)"
        ) from None


def _normal(name: str) -> str:
    """Normalise a package name as installers do."""
    return re.sub(r"[-_.]+", "-", name).lower()
