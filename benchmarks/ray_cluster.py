"""Audit on a Ray cluster of two nodes while workers are lost; the findings must be those of one process.

    uv run python benchmarks/ray_cluster.py

One worker is killed while the model file is moved away, and the second node is removed during PGD. Takes a minute on an
idle machine, most of it for Ray's own processes; on a busy one Ray may not start two nodes at all.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# as the audit does, which imports Ray later
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# the probe that ends a worker exists in this process only
os.environ["AUDITOR_IN_PROCESS"] = "1"

import ray
from click.testing import CliRunner
from ray.cluster_utils import Cluster

from auditor import Conclusion, Meta, Metric, Probe, Records, ThreatModel
from auditor.cli.main import main
from auditor.errors import AuditorError, one_line
from auditor.plugin import registry
from auditor.reference_models import recipe
from auditor.run import distributed, session
from auditor.run.fleet import Fleet
from auditor.run.watch import Watch


def crashing(killed: Path) -> type[Probe]:
    """A class that only this process knows, so that Ray sends its code; it writes ``killed`` and ends one worker."""

    @dataclass(frozen=True, kw_only=True)
    class Crash(Probe):
        meta = Meta(id="attacks.crash", title="Crash", area="attacks", why="Ends one worker.")

        def measure(self, classifier: Any, batch: Any, rng: Any) -> dict[str, Any]:
            if "000038" in batch.ids and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"mean": batch.pixels.mean(axis=(1, 2, 3))}

        def conclude(self, records: Records) -> Conclusion:
            mean = float(records.frame["mean"].mean())
            return Conclusion(metrics=[Metric(name="robust_accuracy", value=mean, n=len(records.frame))])

        def threat_model(self) -> ThreatModel:
            return ThreatModel(goal="none", knowledge="black-box", norm="none", budget="none")

    return Crash


SUITE = """
probes = ["performance.accuracy", "attacks.pgd", "attacks.noise", "sanity.parity", "attacks.crash"]
samples = 60
[settings."attacks.pgd"]
epsilons = ["8/255"]
l2_epsilons = []
l1_epsilons = []
iterations = 2
"""


def start_cluster() -> tuple[Cluster, Any]:
    """Two nodes. On a busy machine, Ray gives up before its own processes have started."""
    reason = ""
    for _ in range(4):
        try:
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            return cluster, cluster.add_node(num_cpus=1)
        except Exception as error:
            reason = one_line(error)
    raise SystemExit(f"Ray starts no cluster of two nodes here: {reason}")


def ended(pids: Sequence[int]) -> bool:
    """Whether no process of these runs any more; one that was killed ends within seconds."""
    left = set(pids)
    for _ in range(100):
        for pid in list(left):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                left.remove(pid)
        if not left:
            return True
        time.sleep(0.1)
    return False


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except AuditorError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def audited(folder: Path, out: str, *options: str) -> dict[str, Any]:
    arguments = ["run", folder / "digits-cnn.onnx", "--data", folder / "digits-test.npz"]
    arguments += ["--suite", folder / "suite.toml"]
    arguments += ["--format", "json", "--batch-size", "16", "--out", folder / out, *options]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return {"exit": done.exit_code, "output": done.output}


def run(folder: Path) -> dict[str, Any]:
    load = registry.load
    killed = folder / "killed"
    pids: list[int] = []

    def with_crash(*arguments: Any) -> Any:
        loaded = load(*arguments)
        kind = crashing(killed)
        loaded.probes[kind.meta.id], loaded.origin[kind.meta.id] = kind, "test"
        return loaded

    class Faulty(session.Workers):
        """The model file is gone when a worker is killed; the second machine is lost during PGD."""

        def measure(self, probe: Probe, pieces: Iterator[Sequence[str]]) -> Iterator[Any]:
            if probe.meta.id in {"attacks.crash", "attacks.pgd"}:
                while any(worker.stage != "open" for worker in self._fleet._workers):
                    self._fleet._attend()
            if probe.meta.id == "attacks.crash":
                (folder / "digits-cnn.onnx").rename(folder / "away.onnx")
            if probe.meta.id != "attacks.pgd":
                return super().measure(probe, pieces)
            pids.extend(ray.get([worker.handle.process.remote() for worker in self._fleet._workers]))
            return super().measure(probe, self._lossy(pieces))

        def _lossy(self, pieces: Iterator[Sequence[str]]) -> Iterator[Sequence[str]]:
            yield next(pieces)
            yield next(pieces)
            state = random.getstate()
            cluster.remove_node(second, allow_graceful=False)
            random.setstate(state)
            yield from pieces

    registry.load = with_crash
    session.Workers = Faulty  # type: ignore[misc, attr-defined]
    killed.touch()
    found: dict[str, Any] = {"local": audited(folder, "local")}
    killed.unlink()
    cluster, second = start_cluster()
    found["ray"] = audited(folder, "ray", "--engine", "ray", "--address", cluster.address, "--workers", "2")
    found["killed"], found["connected"] = killed.exists(), ray.is_initialized()
    # the cluster still runs
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    found["workers"], found["ended"] = len(pids), ended(pids)
    found["new"] = distributed.connect(ray, None, "cpu", None)
    other = "127.0.0.1:6379" if not cluster.address.endswith(":6379") else "127.0.0.1:6380"
    found["other"] = refusal(lambda: distributed.connect(ray, other, "cpu", None))
    distributed._Ray.place_seconds = 0.5
    found["place"] = refusal(lambda: Fleet(distributed._Ray(ray, {"num_cpus": 100}, ()), 1, Watch()))
    ray.shutdown()
    cluster.shutdown()
    return found


def findings(folder: Path) -> list[Any]:
    probes = json.loads((folder / "audit.json").read_text())["probes"]
    # parity's largest difference is the runtime's rounding, which may differ from batch to batch
    return [
        (p["id"], p["status"], p["n"], [m for m in p["metrics"] if m["name"] != "max_abs_difference"]) for p in probes
    ]


def checks(folder: Path, found: dict[str, Any]) -> dict[str, bool]:
    """Return what must hold, and whether it does."""
    return {
        "both audits end with 0": found["local"]["exit"] == found["ray"]["exit"] == 0,
        "a worker was killed": found["killed"],
        "both losses are counted": "2 workers were lost during the audit" in found["ray"]["output"],
        "the findings are equal": findings(folder / "ray") == findings(folder / "local"),
        "all images were measured": {probe[2] for probe in findings(folder / "ray")} == {60},
        "the audit has disconnected": not found["connected"],
        "its two workers have ended": found["workers"] == 2 and found["ended"],
        "a connection of the user is used": found["new"] is False and "this process is connected to" in found["other"],
        "a full cluster is refused in one sentence": found["place"].startswith("BadInput: --engine ray: Ray started no")
        and "each needs 100 cpus, and the cluster has" in found["place"],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        recipe("digits-cnn").train(place, say=lambda _: None)
        (place / "suite.toml").write_text(SUITE)
        begun = time.monotonic()
        happened = run(place)
        if not (place / "ray" / "audit.json").exists():
            sys.exit(happened["ray"]["output"])
        results = checks(place, happened)
        print({name: happened[name] for name in ("workers", "ended", "killed")})
        for name, holds in results.items():
            print("holds " if holds else "FAILED", name)
        print(f"{time.monotonic() - begun:.0f} s")
        if not all(results.values()):
            sys.exit(happened["ray"]["output"])
