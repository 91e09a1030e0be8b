"""Measure in several processes with Ray (``--engine ray``, extra ``auditor[ray]``); the records are the same.

Every worker opens the model and the images itself; only ids and rows are sent. Rows depend on image, probe and seed
alone, so that the distribution does not change them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from auditor.errors import BadInput
from auditor.plugin.suite import find_suite
from auditor.probes.base import Probe
from auditor.run.measuring import Measured, Measurer
from auditor.run.process_state import StateGuard

if TYPE_CHECKING:
    from auditor.run.request import Request


_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Worker:
    """A process with its own model and images."""

    def __init__(self, request: Request, device: str, batch_size: int, drop_copy: str) -> None:
        """Open model and images; ``drop_copy`` is why the differentiable copy is not used, empty if it is."""
        from auditor.plugin import registry
        from auditor.run.opening import open_audit

        plugins = registry.load()
        classifier, images = open_audit(plugins, request, find_suite(request.suite, plugins), device)
        classifier.batch_size = batch_size
        if drop_copy:
            classifier.drop_copy(drop_copy)
        self._measurer = Measurer(classifier, images, request.seed)
        self._guard = StateGuard(classifier)

    def measure(self, probe: Probe, ids: Sequence[str]) -> Measured:
        """Measure images."""
        with self._guard.unchanged(probe.meta.id):
            return self._measurer.measure(probe, ids)


def gpu_share(gpus: int, workers: int) -> float:
    """Return the share of a GPU that each worker gets, so that all workers start.

    A worker uses one GPU. Several workers on one GPU have equal shares, rounded down to Ray's resolution. Raises
    BadInput if Ray finds no GPU.
    """
    if gpus < 1:
        raise BadInput("--engine ray: Ray finds no GPU; use --device cpu, or --engine local")
    per_gpu = -(-workers // gpus)
    return 1.0 if per_gpu == 1 else int(10_000 / per_gpu) / 10_000


@contextmanager
def _visible_gpu(device: str) -> Iterator[None]:
    """Let processes that start meanwhile see only the GPU of a device such as "cuda:1"; others are unchanged."""
    kind, _, index = device.partition(":")
    before = os.environ.get(_VISIBLE)
    if kind == "cuda" and index:
        # the numbers count the visible GPUs, which may be named by number or UUID
        os.environ[_VISIBLE] = before.split(",")[int(index)].strip() if before else index
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VISIBLE, None)
        else:
            os.environ[_VISIBLE] = before


class Workers:
    """Ray workers on this machine or on the cluster of ``RAY_ADDRESS``."""

    def __init__(self, request: Request, measurer: Measurer, count: int | None) -> None:
        """Start ``count`` workers, one per core by default. Raises BadInput if Ray is not installed."""
        try:
            import ray
        except ImportError:
            raise BadInput("--engine ray: Ray is not installed; pip install 'auditor[ray]'") from None
        self._ray = ray
        classifier = measurer.classifier
        on_gpu = classifier.device.startswith("cuda")
        running = ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))
        if running and request.device.startswith("cuda:"):
            raise BadInput(
                f"--device {request.device}: Ray already runs and assigns its GPUs itself; use --device cuda, or set"
                f" {_VISIBLE} before Ray starts"
            )
        if not ray.is_initialized():
            with _visible_gpu(request.device):
                ray.init(num_cpus=count, log_to_driver=False, configure_logging=False, include_dashboard=False)
        resources = ray.cluster_resources()
        number = count or max(1, int(resources.get("CPU", 1)))
        share: dict[str, Any] = {"num_gpus": gpu_share(int(resources.get("GPU", 0)), number)} if on_gpu else {}
        remote = ray.remote(num_cpus=1, **share)(Worker)
        drop_copy = "" if classifier.access == "white-box" else classifier.access_reason
        # a worker's GPUs are numbered from 0
        device = "cuda:0" if on_gpu else classifier.device
        self._idle: list[Any] = [
            remote.remote(request, device, classifier.batch_size, drop_copy) for _ in range(number)
        ]

    def measure(self, probe: Probe, pieces: Iterator[Sequence[str]]) -> Iterator[Measured]:
        """Yield the rows of every piece, in the order of completion."""
        running: dict[Any, Any] = {}
        idle = list(self._idle)
        while True:
            while idle and (piece := next(pieces, None)) is not None:
                worker = idle.pop()
                running[worker.measure.remote(probe, list(piece))] = worker
            if not running:
                return
            (done, *_), _ = self._ray.wait(list(running), num_returns=1)
            idle.append(running.pop(done))
            try:
                yield self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                # the error of the probe, without Ray's wrapper
                raise error.cause from None

    def close(self) -> None:
        """Stop the workers."""
        self._ray.shutdown()
