"""Check that a probe leaves the process, the model and the records of other probes as it found them.

A change by one probe would change the results of the others. So the state is compared before and after each use
of a probe; a difference is an error of that probe, and what it changed is restored.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import AuditorError
from auditor.run.folder import RunFolder

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Batch
    from auditor.model.deployed import DeployedModel

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
_STREAMS = {0: "standard input", 1: "standard output", 2: "standard error"}


class StateChanged(AuditorError):
    """A probe changed something that it shares with the others."""


@dataclass(frozen=True)
class _Item:
    """Something that a probe must not change."""

    name: str
    read: Callable[[], Any]
    """Return a value that is equal as long as nothing changed."""
    restore: Callable[[Any], object]
    """Set such a value again."""
    changed_by_imports: bool = False
    """Whether the import of a library may change it; it is then restored and no error."""


def _torch_items() -> list[_Item]:
    import torch

    return [
        _Item("torch.set_grad_enabled", torch.is_grad_enabled, torch.set_grad_enabled),
        _Item("torch.set_default_dtype", torch.get_default_dtype, torch.set_default_dtype),
        _Item("torch.set_default_device", torch.get_default_device, torch.set_default_device),
        _Item("torch.set_num_threads", torch.get_num_threads, torch.set_num_threads),
        _Item(
            "torch.use_deterministic_algorithms",
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
        _Item(
            "torch.set_float32_matmul_precision",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        _Item("torch.autograd.set_detect_anomaly", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        _Item("torch.backends", _backends, _set_backends),
        _Item(
            "the random state of torch",
            lambda: torch.get_rng_state().numpy().tobytes(),
            lambda state: torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8)),
            changed_by_imports=True,
        ),
    ]


def _items() -> list[_Item]:
    return [
        *_torch_items(),
        _Item("the random state of numpy", _numpy_state, _set_numpy_state, changed_by_imports=True),
        _Item("the random state of random", random.getstate, random.setstate, changed_by_imports=True),
        _Item("np.seterr", np.geterr, lambda kept: np.seterr(**kept)),
        _Item("the working directory", _directory, os.chdir),
        _Item("os.environ", lambda: dict(os.environ), _set_environment, changed_by_imports=True),
        _Item("the signal handlers", lambda: [signal.getsignal(number) for number in _SIGNALS], _set_handlers),
    ]


_BACKENDS = (
    ("cudnn", "benchmark"),
    ("cudnn", "deterministic"),
    ("cudnn", "allow_tf32"),
    ("mkldnn", "enabled"),
)
"""Switches of torch.backends that change results or their repeatability."""


def _backends() -> list[Any]:
    import torch

    return [getattr(getattr(torch.backends, part), name) for part, name in _BACKENDS]


def _set_backends(values: list[Any]) -> None:
    import torch

    for (part, name), value in zip(_BACKENDS, values, strict=True):
        setattr(getattr(torch.backends, part), name, value)


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return kind, np.asarray(keys).tobytes(), *rest


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    kind, keys, *rest = state
    np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), *rest))


def _directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


def _set_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        # only the main thread may, and not a handler that another language installed
        with suppress(ValueError, TypeError):
            signal.signal(number, handler)


class StateGuard:
    """Knows the state that the probes of one run share."""

    def __init__(self, classifier: DeployedModel, folder: RunFolder | None = None) -> None:
        """Keep a copy of the weights of the differentiable copy, in main memory.

        ``folder`` is the run folder; None in a worker, which does not know it.
        """
        self._classifier = classifier
        self._folder = folder
        self._items = _items()
        self._weights = {name: tensor.detach().cpu().clone() for name, tensor in self._tensors().items()}
        self._modes = self._training_modes()

    @contextmanager
    def unchanged(self, probe_id: str) -> Iterator[None]:
        """Raise StateChanged if the context changed anything, unless it raises itself; restore it in either case."""
        before = [item.read() for item in self._items]
        streams = {number: os.dup(number) for number in _STREAMS if _is_open(number)}
        threads = {thread for thread in threading.enumerate() if not thread.daemon}
        records = self._records_of_others(probe_id)
        attributes = dict(vars(self._classifier))
        failed, process, modules = True, os.getpid(), len(sys.modules)
        try:
            yield
            failed = False
        finally:
            if os.getpid() != process:
                # a copy of this process that the probe made must not go on with the audit
                os._exit(0)
            # rich draws a random number when it is imported, and others import it
            imported = len(sys.modules) > modules
            changed = [
                item.name
                for item, value in zip(self._items, before, strict=True)
                if _restored(item, value) and not (imported and item.changed_by_imports)
            ]
            changed += [_STREAMS[number] for number, kept in streams.items() if _reopened(number, kept)]
            changed += self._restored_attributes(attributes)
            changed += self._restored_weights()
            left = {thread for thread in threading.enumerate() if not thread.daemon and thread.is_alive()} - threads
            changed += [f"the threads: {thread.name} still runs" for thread in left]
            gone = records - self._records_of_others(probe_id)
            if gone:
                named = ", ".join(sorted({path.parent.name for path in gone}))
                changed.append(f"the run folder: {len(gone)} files of {named} are gone, which the next run measures")
            if failed:
                # it may have run out of memory through its own fault
                self._classifier.batch_size = attributes["batch_size"]
            elif changed:
                self._discard_records(probe_id)
                raise StateChanged(f"the probe changed {'; '.join(changed)}; a probe must leave these as it finds them")

    def _records_of_others(self, probe_id: str) -> set[Path]:
        return set() if self._folder is None else self._folder.records_of_others(probe_id)

    def _discard_records(self, probe_id: str) -> None:
        """Remove the records of a probe: the next run must not take them for good ones."""
        if self._folder is not None:
            self._folder.discard(probe_id)

    def _tensors(self) -> dict[str, torch.Tensor]:
        copy = self._classifier.copy
        return {} if copy is None else dict(copy.state_dict())

    def _training_modes(self) -> list[bool]:
        copy = self._classifier.copy
        return [] if copy is None else [module.training for module in copy.modules()]

    def _restored_attributes(self, before: dict[str, Any]) -> list[str]:
        """Restore the attributes of the classifier; those that a method caches start with an underscore."""
        now = vars(self._classifier)
        free = {"batch_size", "calls"}
        names = [
            name
            for name in sorted({*now, *before} - free)
            if now.get(name) is not before.get(name) and not (name.startswith("_") and name not in before)
        ]
        for name in names:
            if name in before:
                setattr(self._classifier, name, before[name])
            else:
                delattr(self._classifier, name)
        return [f"the classifier: {name}" for name in names if name != "_largest_score"]

    def _restored_weights(self) -> list[str]:
        """Restore the weights and training modes of the copy; return what was changed."""
        if self._classifier.copy is None:
            return []
        import torch

        changed = []
        now = self._tensors()
        with torch.no_grad():
            for name, kept in self._weights.items():
                tensor = now.get(name)
                if tensor is not None and not _same(tensor.detach().cpu(), kept):
                    tensor.copy_(kept)
                    changed.append(name)
        for module, training in zip(self._classifier.copy.modules(), self._modes, strict=False):
            if module.training != training:
                module.training = training
                changed.append("its training mode")
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return [f"the differentiable copy: {changed[0]}{more}"] if changed else []


def _same(tensor: torch.Tensor, kept: torch.Tensor) -> bool:
    """Whether two tensors are equal, NaN included."""
    import torch

    return torch.equal(tensor, kept) or (
        tensor.shape == kept.shape and tensor.is_floating_point() and torch.allclose(tensor, kept, 0, 0, equal_nan=True)
    )


def _restored(item: _Item, before: Any) -> bool:
    """Whether an item had changed and is restored."""
    if item.read() == before:
        return False
    item.restore(before)
    return True


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _reopened(descriptor: int, kept: int) -> bool:
    """Whether a descriptor was no longer the file of ``kept``, and is again; close ``kept``."""
    if not _is_open(kept):
        return True
    changed = not _is_open(descriptor) or not os.path.sameopenfile(descriptor, kept)
    if changed:
        os.dup2(kept, descriptor)
    os.close(kept)
    return changed


@contextmanager
def unchanged_batch(batch: Batch) -> Iterator[None]:
    """Raise StateChanged if the context wrote to the arrays of a batch: rows would describe other images."""
    arrays: dict[str, NDArray[Any]] = {
        "pixels": batch.pixels,
        "labels": batch.labels,
        "probabilities": batch.probabilities,
    }
    if batch.masks is not None:
        arrays["masks"] = batch.masks
    before = {name: array.copy() for name, array in arrays.items()}
    groups = {name: list(values) for name, values in batch.groups.items()}
    yield
    changed = [name for name, array in arrays.items() if not np.array_equal(array, before[name], equal_nan=True)]
    if {name: list(values) for name, values in batch.groups.items()} != groups:
        changed.append("groups")
    if changed:
        raise StateChanged(f"the probe wrote to batch.{changed[0]}, which other probes share; write to a copy")
