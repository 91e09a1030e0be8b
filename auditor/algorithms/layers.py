"""Record what the layers of a differentiable copy compute, for imported graphs and for TorchScript modules, which have
no Python hooks.

Operators are intercepted below autograd, where every copy passes (``torch.utils._python_dispatch``). The gradient at a
convolution's output is the one that the backward pass hands to that convolution. One batch at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from auditor.data.dataset import Pixels
    from auditor.model.classifier import Classifier


class Convolution(NamedTuple):
    """The last convolution whose output has more than one pixel."""

    output: NDArray[Any]
    """(n, channels, h, w)"""
    slope: NDArray[Any] | None
    """Gradient of the predicted logit at the output, same shape; None if the prediction does not depend on it."""


def last_convolution(classifier: Classifier, pixels: Pixels, answers: NDArray[Any]) -> Convolution | None:
    """Return the last two-dimensional convolution of a forward and backward pass; None if there is none.

    ``pixels`` (n, c, h, w); ``answers`` (n,), the classes to explain. Raises NoCopy.
    """
    import torch
    from torch.jit._fuser import optimized_execution
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    outputs: list[tuple[torch.Tensor, int]] = []
    slopes: dict[int, torch.Tensor] = {}

    class Watch(TorchDispatchMode):
        """Keep the last convolution's output, and in the backward pass the gradient at each convolution."""

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is aten.convolution_backward.default:
                # in backward order: of a layer used twice the last use comes first
                slopes.setdefault(args[2].data_ptr(), args[0])
            result = function(*args, **(kwargs or {}))
            name = function.overloadpacket
            if name in {aten.convolution, aten._convolution} and result.ndim == 4 and result.shape[2:].numel() > 1:
                outputs[:] = [(result.detach(), args[1].data_ptr())]
            return result

    x = classifier.tensor(pixels).requires_grad_()
    # TorchScript's executor fuses operators, which then bypass the dispatcher
    with optimized_execution(False), Watch():  # type: ignore[no-untyped-call]
        logits = classifier.logits(x)
        targets = torch.from_numpy(answers).to(logits.device)
        torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), x, allow_unused=True)
    if not outputs:
        return None
    output, weights = outputs[0]
    slope = slopes.get(weights)
    fits = slope is not None and slope.shape == output.shape
    n = len(pixels)
    return Convolution(
        output[:n].float().cpu().numpy(), slope[:n].float().cpu().numpy() if slope is not None and fits else None
    )


def last_layer(classifier: Classifier, pixels: Pixels) -> NDArray[Any] | None:
    """Return the input of the copy's last linear layer or convolution, (n, d), averaged over positions; None if none.

    ``pixels`` (n, c, h, w). Raises NoCopy.
    """
    import torch
    from torch.jit._fuser import optimized_execution
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    layers = {aten.addmm, aten.mm, aten.bmm, aten.linear, aten.matmul, aten.convolution, aten._convolution}
    expected = classifier.fixed_batch or len(pixels)
    inputs_of_last: list[torch.Tensor] = []

    class Watch(TorchDispatchMode):
        """Keep the input of the last layer whose rows are images."""

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.overloadpacket in layers:
                inputs = [a for a in args[:3] if isinstance(a, torch.Tensor) and a.ndim >= 2]
                rows = [a for a in inputs if len(a) == expected]
                if rows:
                    inputs_of_last[:] = [rows[0]]
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), optimized_execution(False), Watch():  # type: ignore[no-untyped-call]
        classifier.logits(classifier.tensor(pixels))
    if not inputs_of_last:
        return None
    features = inputs_of_last[0][: len(pixels)].float()
    result: NDArray[Any] = (features.flatten(2).mean(dim=2) if features.ndim > 2 else features).cpu().numpy()
    return result
