"""Grade attribution maps: deletion, insertion, infidelity, sensitivity, shuffled weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from auditor.algorithms.masking import Block
from auditor.findings.metric import Metric
from auditor.probes.base import Randomness

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.model.classifier import Classifier
from typing import TYPE_CHECKING, NamedTuple

from auditor.algorithms.masking import cells

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.model.classifier import Classifier
    from auditor.model.scores import Outputs

SAME = 0.9
"""Mean rank correlation of two maps of one image from which they are called the same."""

SHUFFLED = 0.5
"""Mean rank correlation with the maps of a model of shuffled weights from which a map does not depend on the model."""


class Check(NamedTuple):
    """One check of a method's maps."""

    name: str
    metric: Metric
    wanted: str
    verdict: str


class Grades(NamedTuple):
    """All checks of a method's maps, and what may be done with the maps."""

    metrics: Sequence[Metric]
    """The advantage in deletion first."""
    checks: Sequence[Check]
    verdict: str
    readable: bool


def fair(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the random sample: images that are explained because they went wrong would colour every mean."""
    sampled = frame[frame["sampled"].astype(bool)] if "sampled" in frame else frame
    return sampled if len(sampled) else frame


def grade(frame: pd.DataFrame) -> Grades:
    """Grade the maps of an explanation's records; ``frame`` must have a row."""
    import numpy as np

    from auditor import statistics

    areas = {name: curve_area(np.stack(frame[name].to_list()).astype(np.float64))
             for name in ("deletion", "insertion", "deletion_random", "insertion_random")}  # fmt: skip
    advantage = statistics.mean("deletion_advantage", areas["deletion_random"] - areas["deletion"], unit="fraction")
    gain = statistics.mean("insertion_advantage", areas["insertion"] - areas["insertion_random"], unit="fraction")
    curves = [
        statistics.mean(f"{kind}_auc", areas[kind + suffix], unit="fraction", at={"order": order})
        for kind in ("deletion", "insertion")
        for suffix, order in (("", "map"), ("_random", "random"))
    ]
    infidel = statistics.mean("infidelity", frame["infidelity"], unit="1")
    sensitive = statistics.mean("max_sensitivity", frame["sensitivity"], unit="1")
    stable = statistics.mean("seed_stability", frame["stability"], unit="1")
    shuffle = statistics.mean("shuffled_similarity", frame["shuffled"], unit="1")
    checks = [
        Check("deletion: advantage over chance", advantage, "above 0", is_above(advantage, 0.0)),
        Check("insertion: advantage over chance", gain, "above 0", is_above(gain, 0.0)),
        Check("infidelity: share not foretold", infidel, "below 1", is_below(infidel, 1.0)),
        Check("max-sensitivity to invisible noise", sensitive, "below 1", is_below(sensitive, 1.0)),
    ]
    if stable.n:
        checks.append(
            Check("rank correlation under other random numbers", stable, f"above {SAME}", is_above(stable, SAME))
        )
    if shuffle.n:
        checks.append(Check("rank correlation with a model of shuffled weights", shuffle, f"below {SHUFFLED}",
                            is_below(shuffle, SHUFFLED)))  # fmt: skip
    failed = [check.name for check in checks if check.verdict == "fails"]
    if advantage.low is None:
        return Grades([advantage, gain, *curves], checks, "too few images to grade the maps", readable=False)
    metrics = [advantage, gain, *curves, infidel, sensitive, stable, shuffle]
    if advantage.high is not None and advantage.high < 0:
        return Grades(metrics, checks, "the maps are worse than chance: do not read them", readable=False)
    if advantage.low <= 0:
        verdict = "the maps are not shown to be better than chance: do not rely on them"
        return Grades(metrics, checks, verdict, readable=False)
    if failed:
        verdict = f"the maps are better than chance, but fail a check ({'; '.join(failed)}): read them with that caveat"
        return Grades(metrics, checks, verdict, readable=False)
    return Grades(metrics, checks, "the maps are faithful: they may be read", readable=True)


def parts(classifier: Classifier, grid: int) -> list[Block]:
    """What a map speaks of: a grid of at most ``grid`` x ``grid`` cells, or every feature of a row."""
    _, height, width = classifier.shape
    return cells(height, width, width if classifier.input_kind == "rows" else grid)


def means(pixels: NDArray[np.float64], grid: Sequence[Block]) -> NDArray[np.float64]:
    """Pixel maps (n, h, w) as means over cells, (n, cells)."""
    import numpy as np

    return np.stack([pixels[:, c.top : c.bottom, c.left : c.right].mean(axis=(1, 2)) for c in grid], axis=1)


def infidelity(foretold: NDArray[np.float64], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unexplained share of ``cost`` (n, sets) by ``foretold`` (n, sets) at the best scale, (n,); NaN without cost."""
    import numpy as np

    both, own = (foretold * cost).sum(axis=1), (foretold**2).sum(axis=1)
    scale = np.divide(both, own, out=np.zeros_like(both), where=own > 0)
    rest, whole = ((scale[:, None] * foretold - cost) ** 2).sum(axis=1), (cost**2).sum(axis=1)
    # below this nothing is lost but rounding
    worth = whole > 1e-12 * cost.shape[1]
    share: NDArray[np.float64] = np.divide(rest, whole, out=np.full_like(rest, np.nan), where=worth)
    return share


def rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Spearman's correlation of each row with its counterpart, (n,); NaN where one is constant."""
    import numpy as np
    from scipy.stats import rankdata

    # the last bits of a map are rounding, which must not decide ranks
    a, b = (rankdata(np.asarray(x, dtype=np.float64).round(9), axis=1) for x in (one, other))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    result: NDArray[np.float64] = np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size > 0)
    return result


def shuffled(classifier: Classifier, rng: Randomness) -> Classifier | None:
    """The classifier's copy with the entries of every weight array permuted, asked for predictions, too; None where
    the copy has no weights of its own to permute (a frozen TorchScript module)."""
    import copy
    from dataclasses import replace

    import numpy as np
    import torch

    from auditor.model.classifier import Classifier as Made

    module = classifier.artefact.copy
    if module is None:
        return None
    try:
        module = copy.deepcopy(module)
    except (RuntimeError, TypeError):
        # a script module that cannot be copied cannot be shuffled, either
        return None
    changed = 0
    with torch.no_grad():
        for name, weights in module.state_dict().items():
            if weights.ndim >= 2 and weights.is_floating_point() and weights.numel() > 1:
                order = torch.from_numpy(rng("", f"shuffle {name}").permutation(weights.numel())).to(weights.device)
                weights.copy_(weights.flatten()[order].reshape(weights.shape))
                changed += 1
    if not changed:
        return None

    def scores(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            answer = module(torch.from_numpy(np.asarray(inputs)).to(classifier.device))
        answer = answer[0] if isinstance(answer, tuple | list) else answer
        return np.asarray(answer.float().cpu().numpy())

    # what a copy without its final activation gives are logits
    outputs: Outputs = "logits" if classifier.artefact.cut else classifier.outputs
    return Made(
        replace(classifier.artefact, copy=module, scores=scores), classifier.preprocessing, path=classifier.path,
        sha256=classifier.sha256, n_classes=classifier.n_classes, outputs=outputs,
        single=classifier.decoder.single,
        classes=classifier.named_classes, device=classifier.device, fixed_batch=classifier.fixed_batch,
    )  # fmt: skip


def curve_area(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean height of each curve by the trapezoid rule, (n,)."""
    result: NDArray[np.float64] = (curve[:, 1:] + curve[:, :-1]).mean(axis=1) / 2
    return result


def is_above(metric: Metric, bound: float) -> str:
    """Test whether the whole interval lies above ``bound``."""
    if metric.value is None or metric.low is None or metric.high is None:
        return "cannot tell"
    return "holds" if metric.low > bound else "fails" if metric.high < bound else "cannot tell"


def is_below(metric: Metric, bound: float) -> str:
    """Test whether the whole interval lies below ``bound``."""
    if metric.value is None or metric.low is None or metric.high is None:
        return "cannot tell"
    return "holds" if metric.high < bound else "fails" if metric.low > bound else "cannot tell"
