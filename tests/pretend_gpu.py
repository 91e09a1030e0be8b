"""A pretend CUDA device on a machine without one: tensors that say ``cuda:0`` and hold a CPU tensor inside.

What a GPU refuses is refused: operands on two devices, ``.numpy()``, integer matrix products. What makes a GPU wait for
the host is counted by line of the auditor: ``.item()``, ``bool()``, boolean masks, copies. TorchScript, streams, TF32,
rounding of real kernels and memory limits are not covered.

``switch_on`` changes the whole process and cannot be undone: use it in a separate process. It rests on torch's
experimental Python backend (PrivateUse1) and raises ``Unavailable`` if that has changed.
"""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
ROOT = str(Path(__file__).parents[1])
NAME = "pretend"

KERNELS: collections.Counter[str] = collections.Counter()
"""Operators that ran on the device."""
EVENTS: collections.Counter[tuple[str, str]] = collections.Counter()
"""Copies and waits by kind and line: ("wait: item", "auditor/algorithms/pgd.py:45")."""

_LOCK = threading.RLock()
_ELSEWHERE = "outside (a library, or autograd's thread)"

_WAITS = {
    "_local_scalar_dense": "item",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "repeat_interleave": "repeat_interleave",
    "is_nonzero": "bool",
    "equal": "equal",
    "bincount": "bincount",
}
_NO_HOST_SCALAR = {
    "addmm", "baddbmm", "bmm", "cat", "convolution", "cumsum", "embedding", "gather", "index_select", "mm", "scatter",
    "scatter_add", "sort", "stack", "topk",
}  # fmt: skip
_NO_INTEGERS = {
    "_adaptive_avg_pool2d", "_cdist_forward", "_log_softmax", "_softmax", "adaptive_max_pool2d", "addbmm", "addmm",
    "addmv", "avg_pool2d", "avg_pool3d", "baddbmm", "bmm", "convolution", "convolution_overrideable", "dot",
    "grid_sampler_2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "mm", "mv", "reflection_pad1d",
    "reflection_pad2d", "replication_pad2d", "upsample_bicubic2d", "upsample_bilinear2d",
}  # fmt: skip
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_TAKES_HOST_TENSORS = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten.copy_.default, aten._to_copy.default, aten.to.dtype_layout,
}  # fmt: skip


class Unavailable(Exception):
    """This version of torch lacks what the pretend device is built on."""


class Refused(RuntimeError):
    """What a GPU would refuse."""


def reset() -> None:
    KERNELS.clear()
    EVENTS.clear()


def waits() -> int:
    """Return how often the host waited for the device, copies included."""
    return sum(n for (kind, _), n in EVENTS.items() if kind.startswith(("wait", "copy")))


def _place() -> str:
    """Return the innermost line of the auditor on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and "/tests/" not in name and "/.venv/" not in name:
            return f"{name.removeprefix(ROOT + '/')}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return _ELSEWHERE


def _count(kind: str) -> None:
    with _LOCK:
        EVENTS[kind, _place()] += 1


class Pretend(torch.Tensor):
    """Says cuda:0; ``inner`` is on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Pretend:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
            dispatch_sizes_strides_policy=None,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Pretend({self.inner!r})"

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            with torch.no_grad():
                new = Pretend(self.inner.clone())
            parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(new) if parameter else new
            memo[id(self)].requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.detach().clone().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Pretend) else x


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the tensors inside; refuse or count what a GPU would refuse or wait for."""
    name = func.overloadpacket.__name__
    flat, _ = tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, Pretend)]
    host = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, Pretend)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if name == "_to_copy" or func is aten.to.dtype_layout:
        return _moved(func, name, args[0], dict(kwargs), device)
    if name == "copy_":
        target, source = args[0], args[1]
        if isinstance(target, Pretend) != isinstance(source, Pretend):
            _count("copy to device" if isinstance(target, Pretend) else "copy to host")
        _inner(target).copy_(_inner(source))
        return target
    generator = kwargs.get("generator")
    to_device = device is not None and device.type == NAME
    if (ours or to_device) and generator is not None and generator.device.type == "cpu":
        raise Refused("Expected a 'cuda' device type for generator but found 'cpu'")
    if not ours:
        if not to_device:
            return func(*args, **kwargs)
        KERNELS[name] += 1
        return Pretend(func(*args, **{**kwargs, "device": torch.device("cpu")}))
    _check(func, name, args, ours, host)
    inner_args, inner_kwargs = tree_map_only(Pretend, _inner, (args, dict(kwargs)))
    if device is not None and device.type == "cpu":
        return func(*inner_args, **inner_kwargs)
    if device is not None:
        inner_kwargs["device"] = torch.device("cpu")
    KERNELS[name] += 1
    result = func(*inner_args, **inner_kwargs)
    if name == "_local_scalar_dense":
        return result
    known = {id(x.inner): x for x in ours}
    result = tree_map_only(torch.Tensor, lambda x: known[id(x)] if id(x) in known else Pretend(x), result)
    return return_and_correct_aliasing(func, args, kwargs, result)


def _moved(func: Any, name: str, source: Any, kwargs: dict[str, Any], device: torch.device | None) -> Any:
    """Convert a tensor or copy it between host and device."""
    kwargs.pop("device", None)
    kwargs.pop("non_blocking", None)
    to_device = isinstance(source, Pretend) if device is None else device.type == NAME
    inner = func(_inner(source), **kwargs)
    if not to_device:
        if isinstance(source, Pretend):
            _count("copy to host")
        return inner
    if isinstance(source, Pretend):
        KERNELS[name] += 1
    else:
        _count("copy to device")
        inner = inner.clone() if inner is source else inner
    return Pretend(inner)


def _check(func: Any, name: str, args: Any, ours: list[Pretend], host: list[torch.Tensor]) -> None:
    base = name.rstrip("_")
    if host and func not in _TAKES_HOST_TENSORS:
        if base in _NO_HOST_SCALAR or any(x.dim() for x in host):
            shapes = [tuple(x.shape) for x in host]
            raise Refused(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
                f" ({name} with host tensors of shape {shapes} at {_place()})"
            )
        _count("host scalar")
    if name in _INDEXING:
        if not isinstance(args[0], Pretend):
            raise Refused(f"indices should be either on cpu or on the same device as the indexed tensor at {_place()}")
        for index in args[1]:
            if index is not None and not isinstance(index, Pretend):
                _count("copy of an index to device")
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                _count("wait: boolean mask")
        if name != "index" and not isinstance(args[2], Pretend) and args[2].dim() > 0:
            raise Refused(f"{name} with host values at {_place()}")
    if base in _NO_INTEGERS and not (ours[0].dtype.is_floating_point or ours[0].dtype.is_complex):
        raise NotImplementedError(f'"{name}_cuda" not implemented for {ours[0].dtype} at {_place()}')
    if name in _WAITS:
        _count(f"wait: {_WAITS[name]}")


class _Factories(TorchDispatchMode):
    """Tensors made on the device, and copies to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _named(device: Any) -> Any:
    """Translate what the auditor calls cuda."""
    if isinstance(device, str) and device.startswith("cuda"):
        return torch.device(NAME, 0)
    return torch.device(NAME, 0) if isinstance(device, torch.device) and device.type == "cuda" else device


class _Names(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {key: _named(x) if key in {"device", "map_location"} else x for key, x in (kwargs or {}).items()}
        here = torch.device(NAME, 0)
        if args and isinstance(args[0], Pretend):
            if func is torch.Tensor.new_tensor:
                made = {"dtype": args[0].dtype, **kwargs}
                made.pop("device", None)
                return torch.tensor(*args[1:], **made).to(here)
            if func is torch.Tensor.tolist:
                _count("wait: tolist")
                return args[0].inner.tolist()
            if func is torch.Tensor.numpy:
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor")
        if func in {torch.tensor, torch.as_tensor} and kwargs.get("device") == here:
            kwargs.pop("device")
            return func(*args, **kwargs).to(here)
        if func is torch.Tensor.cuda:
            return torch.Tensor.to(args[0], here)
        args = tuple(_named(x) if isinstance(x, torch.device) or func is torch.Tensor.to else x for x in args)
        return func(*args, **kwargs)


class _Properties:
    name, total_memory, major, minor, multi_processor_count = "Pretend GPU", 16 << 30, 9, 0, 132


class _Stream:
    def synchronize(self) -> None:
        _count("wait: synchronize")


def switch_on() -> None:
    """Make this process believe in a GPU. Raises Unavailable if torch's private functions have changed."""
    try:
        from torch.utils import backend_registration as registration

        registration._DummyBackendModule.get_rng_state = lambda self, device=None: torch.zeros(16, dtype=torch.uint8)
        registration._DummyBackendModule.set_rng_state = lambda self, state, device=None: None
        registration._setup_privateuseone_for_python_backend(NAME)
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise Unavailable(f"torch {torch.__version__}: {error}") from None
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    answers: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "current_stream": lambda device=None: _Stream(),
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: _Properties.name,
        "get_device_properties": lambda device=None: _Properties(),
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "mem_get_info": lambda device=None: (8 << 30, 16 << 30),
        "set_rng_state": lambda state, device=None: None,
        "synchronize": lambda device=None: _count("wait: synchronize"),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    # operators that only CUDA has are not chosen
    torch.backends.cudnn.enabled = False
    for name in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(False)
    _Factories().__enter__()
    _Names().__enter__()
