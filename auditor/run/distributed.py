"""Measure in several processes with Ray (``--engine ray``, extra ``auditor[ray]``); the records are the same.

Every worker opens the model and the images itself; only ids and rows are sent. Rows depend on image, probe and seed
alone, so that the distribution does not change them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from auditor.errors import BadInput
from auditor.plugin.suite import find_suite
from auditor.probes.base import Probe
from auditor.run.measuring import Measured, Measurer

if TYPE_CHECKING:
    from auditor.run.request import Request


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

    def measure(self, probe: Probe, ids: Sequence[str]) -> Measured:
        """Measure images."""
        return self._measurer.measure(probe, ids)


class Workers:
    """Ray workers on this machine or on the cluster of ``RAY_ADDRESS``."""

    def __init__(self, request: Request, measurer: Measurer, count: int | None) -> None:
        """Start ``count`` workers, one per core by default. Raises BadInput if Ray is not installed."""
        try:
            import ray
        except ImportError:
            raise BadInput("--engine ray: Ray is not installed; pip install 'auditor[ray]'") from None
        self._ray = ray
        if not ray.is_initialized():
            ray.init(num_cpus=count, log_to_driver=False, configure_logging=False, include_dashboard=False)
        resources = ray.cluster_resources()
        number = count or max(1, int(resources.get("CPU", 1)))
        classifier = measurer.classifier
        on_gpu = classifier.device.startswith("cuda")
        share = {"num_gpus": resources.get("GPU", 0) / number} if on_gpu else {}
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
