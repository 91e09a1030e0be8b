"""A cluster of two nodes on which workers are lost during an audit. A program: Ray leaves threads in its process.

Arguments: a folder with model.onnx, data.npz and suite.toml. Prints what happened as JSON in the last line, or
{"unavailable": reason} if Ray cannot start two nodes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from click.testing import CliRunner
from ray.cluster_utils import Cluster

from auditor import Conclusion, Meta, Metric, Probe, Records, ThreatModel
from auditor.cli.main import main
from auditor.errors import AuditorError, one_line
from auditor.plugin import registry
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


class Unavailable(Exception):
    """Ray starts no cluster here."""


def start_cluster() -> tuple[Cluster, Any]:
    """Two nodes. On a busy machine, Ray gives up before its own processes have started. Raises Unavailable."""
    reason = ""
    for _ in range(4):
        try:
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            return cluster, cluster.add_node(num_cpus=1)
        except Exception as error:
            reason = one_line(error)
    raise Unavailable(reason)


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
    arguments = ["run", folder / "model.onnx", "--data", folder / "data.npz", "--suite", folder / "suite.toml"]
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
            if probe.meta.id == "attacks.crash":
                (folder / "model.onnx").rename(folder / "away.onnx")
            if probe.meta.id != "attacks.pgd":
                return super().measure(probe, pieces)
            while any(worker.stage != "open" for worker in self._fleet._workers):
                self._fleet._attend()
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


if __name__ == "__main__":
    try:
        happened = run(Path(sys.argv[1]))
    except Unavailable as error:
        happened = {"unavailable": str(error)}
    sys.stdout.write(json.dumps(happened) + "\n")
