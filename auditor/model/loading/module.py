"""Run a torch module as the deployed model, for TorchScript and torch.export archives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from auditor.errors import BadInput

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def module_scores(module: torch.nn.Module, device: str, output: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return ``Artefact.scores`` for a module that takes one tensor; ``output`` as in ``pick``."""
    import torch

    def scores(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            answer = pick(module(torch.from_numpy(inputs).to(device)), output)
        result: NDArray[Any] = answer.float().cpu().numpy()
        return result

    return scores


def pick(answer: Any, output: str) -> torch.Tensor:
    """Select the class scores of a module's result: the only tensor, or the one named or numbered ``output``."""
    import torch

    if isinstance(answer, torch.Tensor):
        if output:
            raise BadInput(f"--output {output}: no such output; the model returns one tensor")
        return answer
    kind = type(answer).__name__
    if not isinstance(answer, tuple | list | dict):
        raise BadInput(f"the model returns a {kind}; expected a tensor of class scores")
    named = answer if isinstance(answer, dict) else {str(i): value for i, value in enumerate(answer)}
    if not output and kind != "dict" and len(named) == 1:
        output = "0"
    if output not in named:
        raise BadInput(
            f"the model returns a {kind} of {len(named)} outputs ({', '.join(named)}); state with --output NAME which"
            " one contains the class scores (the members of a tuple are numbered from 0)"
        )
    chosen = named[output]
    if not isinstance(chosen, torch.Tensor):
        raise BadInput(f"output {output} is a {type(chosen).__name__}; expected a tensor of class scores")
    return chosen


def picking(module: torch.nn.Module, output: str) -> torch.nn.Module:
    """Wrap a module so that it returns only one of its outputs."""
    import torch

    class Picking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return pick(self.model(inputs), output)

    return Picking() if output else module
