"""Measure on the machines of a Ray cluster (``--engine ray``, extra ``auditor[ray]``); the records are the same.

Every worker opens the model and the images itself; only ids and rows are sent. Files of models are sent by content
(``shipping.py``); every worker reads the images that it measures, at the path or URI of the audit. ``fleet.py`` decides
who measures what, and replaces workers that are lost.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditorError, BadInput, first_line, one_line
from auditor.plugin.registry import ONLY, Registry
from auditor.plugin.suite import Suite
from auditor.probes.base import Probe
from auditor.run.fleet import Fleet, Ticket, WorkerLost
from auditor.run.measuring import Measured, Measurer
from auditor.run.shipping import Shipment, ship, unpack
from auditor.run.watch import ProbeLost, Watch
from auditor.run.worker import Identity, Worker, with_surrogates

if TYPE_CHECKING:
    from auditor.run.request import Request

_VISIBLE = "CUDA_VISIBLE_DEVICES"

_SENT = (ONLY, "OMP_WAIT_POLICY")
"""Environment variables that a worker must share with the audit; on a cluster it inherits those of its node."""

_PLACE_SECONDS = 60.0
"""How long Ray may take to start the first worker. Chosen, not measured: it takes seconds on an idle cluster."""

_CONNECT_SECONDS = 10.0

_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The beginning of a connection of gRPC, which the head node speaks: preface and empty settings (RFC 9113, 3.4)."""

_SETTINGS = b"\4"
"""Type of the frame that such a server sends first, the fourth of its bytes."""

_CLEAN_SECONDS = 2.0
"""How long workers may take to remove their files; one that still measures is ended at once."""


class RayWorker:
    """A worker in a process of Ray: an actor."""

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        """Take over environment variables of the audit, before a library reads them."""
        self._cache: tempfile.TemporaryDirectory[str] | None = None
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def process(self) -> int:
        """Return the id of this process; an answer shows that it runs."""
        return os.getpid()

    def open(
        self,
        request: Request,
        suite: Suite,
        expected: Identity,
        shipments: Sequence[Shipment],
        contents: Mapping[str, Any],
        *settings: Any,
    ) -> None:
        """Open model and images as ``Worker`` does; the first of ``shipments`` is the model, the others surrogates.

        ``contents`` has a reference to the bytes of each file by digest, ``settings`` are further arguments of
        ``Worker``. Raises BadInput if the worker refuses.
        """
        import ray

        where = f"--engine ray: the worker on {platform.node()}"
        self._cache = tempfile.TemporaryDirectory(prefix="auditor-")
        cache = Path(self._cache.name)
        try:
            paths = [unpack(shipment, lambda digest: ray.get(contents[digest]), cache) for shipment in shipments]
            self._surrogates = {
                str(given): str(path) for given, path in zip(request.surrogates, paths[1:], strict=True)
            }
            own = replace(request, model=paths[0], surrogates=())
            self._worker = Worker(own, *settings, suite=suite, expected=expected)
        except AuditorError as error:
            raise BadInput(f"{where}: {error}") from None
        except Exception as error:
            raise BadInput(f"{where}: opening the model and the data raised {one_line(error)}") from None

    def measure(self, probe: Probe, ids: Sequence[str]) -> Measured:
        """Measure images."""
        try:
            return self._worker.measure(with_surrogates(probe, self._surrogates), ids)
        except (SystemExit, KeyboardInterrupt) as error:
            # Ray would end the process
            raise ProbeLost(one_line(error)) from None

    def close(self) -> None:
        """Remove the files that this worker wrote."""
        if self._cache is not None:
            self._cache.cleanup()


class _Ray:
    """The backend of a fleet of Ray actors."""

    place_seconds = _PLACE_SECONDS

    def __init__(self, ray: Any, resources: Mapping[str, float], opening: Sequence[Any]) -> None:
        """``resources`` are those of an actor, ``opening`` the arguments of ``RayWorker.open``."""
        self._ray = ray
        self._resources = resources
        self._opening = opening
        # a machine that is lost should not take all workers with it
        self._actor = ray.remote(scheduling_strategy="SPREAD", max_restarts=0, **resources)(RayWorker)

    def start(self) -> tuple[Any, Ticket]:
        worker = self._actor.remote({name: os.environ.get(name) for name in _SENT})
        return worker, worker.process.remote()

    def open(self, worker: Any) -> Ticket:
        return worker.open.remote(*self._opening)

    def share(self, probe: Probe) -> Any:
        return self._ray.put(probe)

    def measure(self, worker: Any, probe: Any, ids: Sequence[str]) -> Ticket:
        return worker.measure.remote(probe, list(ids))

    def finished(self, tickets: Sequence[Ticket], seconds: float) -> Sequence[Ticket]:
        done, _ = self._ray.wait(list(tickets), num_returns=1, timeout=seconds)
        return list(done)

    def result(self, ticket: Ticket) -> Any:
        try:
            return self._ray.get(ticket)
        except self._ray.exceptions.RayTaskError as error:
            # the error of the probe, without Ray's wrapper
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise WorkerLost(_reason(error)) from None

    def kill(self, worker: Any) -> None:
        self._ray.kill(worker)

    def dismiss(self, workers: Sequence[Any]) -> None:
        cleaned = [worker.close.remote() for worker in workers]
        if cleaned:
            self._ray.wait(cleaned, num_returns=len(cleaned), timeout=_CLEAN_SECONDS)
        for worker in workers:
            self._ray.kill(worker)

    def no_place(self) -> str:
        wanted = " and ".join(f"{value:g} {name.removeprefix('num_')}" for name, value in self._resources.items())
        found = {name: self._ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU")}
        free = {name: self._ray.available_resources().get(name, 0.0) for name in found}
        listed = ", ".join(f"{free[name]:g} of {count:g} {name}s free" for name, count in found.items() if count)
        return (
            f"--engine ray: Ray started no worker within {_PLACE_SECONDS:g} s; each needs {wanted}, and the cluster has"
            f" {listed or 'no CPUs'}; wait until it is free, or use fewer --workers"
        )


def _reason(error: Exception) -> str:
    """Return why Ray lost a worker, in one line: the end of its message without advice."""
    text = " ".join(str(error).split())
    for start in ("The actor is dead because ", "Worker exit detail: ", " is unavailable: "):
        text = text.rpartition(start)[2]
    return text.partition(" Some common causes")[0][:200].rstrip(". ")


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


def connect(ray: Any, address: str | None, device: str, count: int | None) -> bool:
    """Connect to the cluster at ``address``, by default to one that starts on this machine with ``count`` CPUs.

    Returns whether the connection is new: one that the user made is used as it is. Raises BadInput if it fails.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if (address or ray.is_initialized()) and device.startswith("cuda:"):
        raise BadInput(
            f"--device {device}: Ray already runs and assigns its GPUs itself; use --device cuda, or set {_VISIBLE}"
            " before Ray starts"
        )
    if ray.is_initialized():
        connected = ray.get_runtime_context().gcs_address
        if address not in {None, "auto", connected}:
            raise BadInput(f"--address {address}: this process is connected to {connected} already; leave it out")
        return False
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is not None:
        _check_address(address)
    else:
        # nothing about the user's machine is sent
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"num_cpus": count, "include_dashboard": False}
    try:
        with _visible_gpu(device), _same_signals():
            ray.init(address=address or "local", **options)
    except Exception as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        what, advice = f"--address {address}: Ray could not be reached", "see `ray status` on that machine"
        if address is None:
            what, advice = "Ray could not be started", "try again when this machine is less busy"
        raise BadInput(f"--engine ray: {what}: {first_line(error)[:300].rstrip('. ')}; {advice}") from None
    return True


def _check_address(address: str) -> None:
    """Raise BadInput for an address that no Ray cluster answers at; Ray itself would wait, or end the process."""
    if address == "auto":
        return
    found = re.fullmatch(r"\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if found is None or int(found[2]) > 65535:
        raise BadInput(
            f"--address {address}: expected HOST:PORT of the head node, such as 10.0.0.5:6379, or auto for the cluster"
            " that this machine is part of"
        )
    try:
        with socket.create_connection((found[1], int(found[2])), _CONNECT_SECONDS) as connection:
            connection.sendall(_HTTP2)
            answer = connection.recv(9)
    except OSError as error:
        raise BadInput(
            f"--address {address}: no Ray cluster answers there ({error.strerror or first_line(error)}); start one with"
            f" `ray start --head --port={found[2]}`, or correct the address"
        ) from None
    if answer[3:4] != _SETTINGS:
        raise BadInput(
            f"--address {address}: another program than Ray answers there; expected the port of `ray start --head`,"
            " 6379 by default"
        )


@contextmanager
def _same_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray sets its own one, with which the audit would not end as it should."""
    if threading.current_thread() is not threading.main_thread():
        # only the main thread may set handlers, so that Ray does not either
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Workers:
    """Ray workers on this machine or on a cluster."""

    def __init__(
        self,
        request: Request,
        measurer: Measurer,
        *,
        plugins: Registry,
        probes: Sequence[Probe],
        suite: Suite,
        watch: Watch,
        say: Callable[[str], None],
    ) -> None:
        """Start ``request.workers`` workers, one per CPU by default, and wait until the first is open.

        Raises BadInput if Ray is not installed or cannot be reached, and if no worker opens.
        """
        # under `uv run`, Ray would copy the working directory to every worker and install it there
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            import ray
        except ImportError:
            raise BadInput("--engine ray: Ray is not installed; pip install 'auditor[ray]'") from None
        self._ray = ray
        classifier = measurer.classifier
        on_gpu = classifier.device.startswith("cuda")
        self._owned = connect(ray, request.address, request.device, request.workers)
        try:
            resources = ray.cluster_resources()
            number = request.workers or max(1, int(resources.get("CPU", 1)))
            share = {"num_gpus": gpu_share(int(resources.get("GPU", 0)), number)} if on_gpu else {}
            # a worker's GPUs are numbered from 0
            settings = (
                "cuda:0" if on_gpu else classifier.device,
                classifier.batch_size,
                "" if classifier.access == "white-box" else classifier.access_reason,
                ray.put(measurer.images.looks.to_parquet()),
            )
            expected = Identity.of(plugins, classifier, measurer.images)
            sent = _sent(request, measurer, _surrogates(probes))
            shipments = _shipments(sent, classifier.artefact.files)
            contents = {digest: ray.put(content) for shipment in shipments for digest, content in shipment.contents()}
            opening = (sent, suite, expected, shipments, contents, *settings)
            self._fleet = Fleet(_Ray(ray, {"num_cpus": 1, **share}, opening), number, watch, say)
        except BaseException:
            self._disconnect()
            raise

    def measure(self, probe: Probe, pieces: Iterator[Sequence[str]]) -> Iterator[Measured]:
        """Yield the rows of every piece, in the order of completion."""
        return self._fleet.measure(probe, pieces)

    def close(self) -> None:
        """Stop the workers; the Ray cluster stops if this process has started it."""
        self._fleet.close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._owned:
            self._ray.shutdown()


def _shipments(request: Request, further: Sequence[Path]) -> list[Shipment]:
    """Return the shipment of the model, then those of the surrogates."""
    from auditor.model.loading.external_data import separate_files

    return [ship(request.model, further), *(ship(path, separate_files(path)) for path in request.surrogates)]


def _surrogates(probes: Sequence[Probe]) -> list[Path]:
    """Return the surrogates of all probes, from ``--surrogate`` or from the suite."""
    named = [getattr(probe, "surrogates", ()) for probe in probes if type(probe).accepts_surrogates]
    return list(dict.fromkeys(Path(path) for paths in named for path in paths))


def _sent(request: Request, measurer: Measurer, surrogates: Sequence[Path] = ()) -> Request:
    """Return the request for a worker: the data path is absolute, because its working folder is another one."""
    from auditor.run.opening import data_location

    data = data_location(request, measurer.classifier.artefact)
    return replace(
        request,
        data=data.absolute() if isinstance(data, Path) else data,
        surrogates=surrogates,
        address=None,
        out=None,
    )
