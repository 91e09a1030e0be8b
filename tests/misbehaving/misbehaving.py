"""Probes that misbehave, each in one way: a plugin for test_supervision.py.

Most methods take images of one channel; the healthy probe at the end shows that nothing of this changed its result.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import auditor
from auditor import Conclusion, Example, Meta, Metric, MetricSpec, Probe

SPECS = (MetricSpec(name="mean", label="Mean", better="neither"),)


@dataclass(frozen=True, kw_only=True)
class Healthy(Probe):
    """Measures the mean pixel."""

    meta = Meta(id="sanity.zz-healthy", title="Mean pixel", area="sanity", why="It is a test.")
    metrics = SPECS

    def measure(self, classifier: Any, batch: Any, rng: Any) -> Any:
        return {"mean": batch.pixels.reshape(len(batch), -1).mean(axis=1)}

    def conclude(self, records: Any) -> Conclusion:
        value = float(records.frame["mean"].mean())
        return Conclusion(metrics=[Metric(name="mean", value=value, n=len(records.frame))])


def segfault(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(5)


def null_pointer(*_: Any) -> Any:
    import ctypes

    ctypes.string_at(0)


def loop(*_: Any) -> Any:
    while True:
        pass


def query_forever(self: Any, classifier: Any, batch: Any, rng: Any) -> Any:
    while True:
        classifier.predict(batch.pixels)


def fill_memory(*_: Any) -> Any:
    return {"mean": [np.ones((1000, 1 << 20)) for _ in range(1000)]}


def close_descriptors(*_: Any) -> Any:
    os.closerange(0, 256)


def measure_and(action: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a ``measure`` that measures properly and does something else."""

    def measure(self: Any, classifier: Any, batch: Any, rng: Any) -> Any:
        columns = Healthy.measure(self, classifier, batch, rng)
        action(classifier, batch)
        return columns

    return measure


def measure_as(columns: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda self, classifier, batch, rng: columns(batch)


def raising(error: BaseException) -> Callable[..., Any]:
    def method(*_: Any) -> Any:
        raise error

    return method


def torch_call(name: str, *arguments: Any) -> Callable[..., Any]:
    def action(*_: Any) -> Any:
        import torch

        values = [
            getattr(torch, each) if isinstance(each, str) and hasattr(torch, each) else each for each in arguments
        ]
        getattr(torch, name)(*values)

    return measure_and(action)


def change_weights(classifier: Any, _: Any) -> None:
    next(iter(classifier.copy.state_dict().values())).add_(1)


def set_training(classifier: Any, _: Any) -> None:
    for module in classifier.copy.modules():
        module.training = not module.training


def replace_predict(classifier: Any, _: Any) -> None:
    classifier.predict = lambda images: np.full((len(images), 3), 1 / 3, dtype=np.float32)


def delete_records(*_: Any) -> None:
    from pathlib import Path

    for path in Path(os.environ["MISBEHAVING_RUN"]).glob("records/performance.accuracy/*.parquet"):
        path.unlink()


def write_into(name: str) -> Callable[..., Any]:
    return measure_and(lambda classifier, batch: getattr(batch, name).fill(0))


def close_output(*_: Any) -> None:
    with contextlib.suppress(OSError):
        os.close(1)


def start_thread(*_: Any) -> None:
    threading.Thread(target=time.sleep, args=(300,), name="left-behind").start()


def change_backend(*_: Any) -> None:
    import torch

    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark


def detect_anomalies(*_: Any) -> None:
    import torch

    torch.autograd.set_detect_anomaly(True)


def at_nan(self: Any, records: Any) -> Conclusion:
    return Conclusion(metrics=[Metric(name="mean", value=1.0, n=1, at={"epsilon": float("nan")})])


def infinite(self: Any, records: Any) -> Conclusion:
    return Conclusion(metrics=[Metric(name="mean", value=float("inf"), n=1)])


ONE_EXAMPLE = {"examples": lambda self, records: [Example(image_id=records.frame["image_id"][0])]}

ENDS_THE_PROCESS: dict[str, tuple[dict[str, Any], str]] = {
    "segfault": ({"measure": segfault}, "SIGSEGV"),
    "null-pointer": ({"measure": null_pointer}, "SIGSEGV"),
    "exit": ({"measure": lambda *_: os._exit(0)}, "ended itself with status 0"),
    "exit-in-conclude": ({"conclude": lambda *_: os._exit(0)}, "ended itself with status 0 while concluding"),
    "abort-in-prepare": ({"prepare": lambda *_: os.abort()}, "SIGABRT while preparing"),
    "kill-in-conclude": ({"conclude": lambda *_: os.kill(os.getpid(), signal.SIGKILL)}, "SIGKILL"),
    "terminate-in-conclude": ({"conclude": lambda *_: signal.raise_signal(signal.SIGTERM)}, "signal that the user did"),
    "exit-in-examples": ({"examples": lambda *_: os._exit(3)}, "status 3"),
    "segfault-in-draw": ({**ONE_EXAMPLE, "draw_example": segfault}, "SIGSEGV"),
    "close-descriptors": ({"conclude": close_descriptors}, "status 71"),
}
"""By name: the methods, and what the reason says."""

HANGS: dict[str, tuple[dict[str, Any], str]] = {
    "loop": ({"measure": loop}, "--probe-timeout"),
    "sleep-in-prepare": ({"prepare": lambda *_: time.sleep(300)}, "--probe-timeout"),
    "sleep-in-conclude": ({"conclude": lambda *_: time.sleep(300)}, "--probe-timeout"),
    "query-forever": ({"measure": query_forever}, "--probe-timeout"),
}

RAISES: dict[str, tuple[dict[str, Any], str]] = {
    "fill-memory": ({"measure": fill_memory}, "MemoryError"),
    "system-exit": ({"measure": raising(SystemExit(0))}, "SystemExit"),
    "keyboard-interrupt": ({"measure": raising(KeyboardInterrupt())}, "KeyboardInterrupt"),
    "base-exception": ({"measure": raising(BaseException("odd"))}, "BaseException: odd"),
    "generator-exit": ({"conclude": raising(GeneratorExit())}, "GeneratorExit"),
    "recursion": ({"conclude": lambda self, records: self.conclude(records)}, "RecursionError"),
    "no-columns": ({"measure": measure_as(lambda batch: [1, 2])}, "list"),
    "unequal-columns": ({"measure": measure_as(lambda batch: {"mean": [1.0]})}, "expected 8"),
    "own-image-id": ({"measure": measure_as(lambda b: {"image_id": list(b.ids), "mean": b.labels})}, "'image_id'"),
    "own-label": ({"measure": measure_as(lambda batch: {"label": batch.labels})}, "'label' is reserved"),
    "negative-row": ({"measure": measure_as(lambda batch: {"row": np.array([-1]), "mean": [1.0]})}, "value -1"),
    "row-of-no-image": ({"measure": measure_as(lambda batch: {"row": np.array([99]), "mean": [1.0]})}, "value 99"),
    "row-of-fractions": ({"measure": measure_as(lambda batch: {"row": np.array([0.5]), "mean": [1.0]})}, "float64"),
    "infinite-metric": ({"conclude": infinite}, "infinite"),
    "setting-of-nan": ({"conclude": at_nan}, "is measured at epsilon = nan"),
    "no-conclusion": ({"conclude": lambda *_: 7}, "int; expected a Conclusion"),
}

CHANGES_STATE: dict[str, tuple[dict[str, Any], str]] = {
    "gradients": ({"measure": torch_call("set_grad_enabled", False)}, "set_grad_enabled"),
    "default-dtype": ({"measure": torch_call("set_default_dtype", "float64")}, "set_default_dtype"),
    "default-device": ({"measure": torch_call("set_default_device", "meta")}, "set_default_device"),
    "threads": ({"measure": torch_call("set_num_threads", 7)}, "set_num_threads"),
    "deterministic": ({"measure": torch_call("use_deterministic_algorithms", True)}, "use_deterministic_algorithms"),
    "precision": ({"measure": torch_call("set_float32_matmul_precision", "medium")}, "matmul_precision"),
    "torch-random": ({"measure": torch_call("manual_seed", 5)}, "random state of torch"),
    "numpy-random": ({"measure": measure_and(lambda *_: np.random.seed(5))}, "random state of numpy"),
    "random": ({"measure": measure_and(lambda *_: random.seed(5))}, "random state of random"),
    "floating-point-errors": ({"measure": measure_and(lambda *_: np.seterr(all="raise"))}, "np.seterr"),
    "backends": ({"measure": measure_and(change_backend)}, "torch.backends"),
    "anomaly": ({"measure": measure_and(detect_anomalies)}, "set_detect_anomaly"),
    "environment": ({"measure": measure_and(lambda *_: os.environ.update(OMP_NUM_THREADS="3"))}, "os.environ"),
    "groups": ({"measure": measure_and(lambda _, batch: batch.groups.update(new=["x"]))}, "batch.groups"),
    "directory": ({"measure": measure_and(lambda *_: os.chdir("/"))}, "working directory"),
    "signals": ({"measure": measure_and(lambda *_: signal.signal(signal.SIGTERM, signal.SIG_IGN))}, "signal handlers"),
    "output": ({"measure": measure_and(close_output)}, "standard output"),
    "thread": ({"measure": measure_and(start_thread)}, "left-behind still runs"),
    "weights": ({"measure": measure_and(change_weights)}, "the differentiable copy"),
    "training": ({"measure": measure_and(set_training)}, "training mode"),
    "predict": ({"measure": measure_and(replace_predict)}, "the classifier: predict"),
    "write-pixels": ({"measure": write_into("pixels")}, "batch.pixels"),
    "write-labels": ({"measure": write_into("labels")}, "batch.labels"),
    "write-probabilities": ({"measure": write_into("probabilities")}, "batch.probabilities"),
    "records": ({"measure": measure_and(delete_records)}, "files of performance.accuracy are gone"),
}

FAULTS = {**ENDS_THE_PROCESS, **RAISES, **CHANGES_STATE}


def _probe(name: str, methods: dict[str, Any]) -> type[Probe]:
    meta = Meta(id=f"sanity.{name}", title=name, area="sanity", why="It is a test.")
    kind = type(name, (Healthy,), {"meta": meta, "__module__": __name__, **methods})
    return dataclass(frozen=True, kw_only=True)(kind)


def crash_on_one_image(self: Any, classifier: Any, batch: Any, rng: Any) -> Any:
    if (batch.pixels[:, 0, 0, 0] == 1).any():
        segfault()
    return Healthy.measure(self, classifier, batch, rng)


@auditor.hookimpl
def auditor_probes() -> list[type[Probe]]:
    one = _probe("one-image", {"measure": crash_on_one_image})
    return [Healthy, one, *(_probe(name, methods) for name, (methods, _) in {**FAULTS, **HANGS}.items())]


@auditor.hookimpl
def auditor_report_formats() -> list[auditor.ReportFormat]:
    return [auditor.ReportFormat(name="fatal", file="fatal.txt", render=segfault)]


@auditor.hookimpl
def auditor_open_model(path: Any, device: str) -> Any:
    """Open ``*.fatal``: a linear model whose runtime crashes on images with a first pixel of 1."""
    if path.suffix != ".fatal":
        return None

    def scores(images: Any) -> Any:
        if (images[:, 0, 0, 0] == 1).any():
            segfault()
        return images.reshape(len(images), -1)[:, :3].astype(np.float32)

    return auditor.Artefact(
        format="onnx",
        runtime="fatal",
        input_shape=(None, 1, 4, 4),
        input_dtype="float32",
        scores=scores,
        copy_reason="it has none",
    )
