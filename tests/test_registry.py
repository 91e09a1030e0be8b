"""A plugin that is broken in any way is named and left out; the others work as if it were not there."""

from __future__ import annotations

import importlib.metadata
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from auditor import Conclusion, Meta, Probe, hookimpl
from auditor.errors import BadInput
from auditor.plugin import registry
from auditor.plugin.suite import find_suite


def meta(probe_id: str = "sanity.third", **changes: Any) -> Meta:
    area: Any = probe_id.partition(".")[0]
    given: dict[str, Any] = {"id": probe_id, "title": "Third", "area": area, "why": "It is a test."}
    return Meta(**given | changes)


@dataclass(frozen=True, kw_only=True)
class Third(Probe):
    """A probe with a setting of every type."""

    meta = meta()
    ratio: float = 0.5
    ratios: Sequence[float] = (0.1, 0.2)
    count: int = 3
    name: str = "x"
    fill: Literal["white", "black"] = "white"
    limit: float | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")

    def measure(self, classifier: Any, batch: Any, rng: Any) -> Any:
        return {}

    def conclude(self, records: Any) -> Conclusion:
        return Conclusion()


def variant(**members: Any) -> type[Probe]:
    return dataclass(frozen=True, kw_only=True)(type("Variant", (Third,), {"meta": meta()} | members))


class NoConclude(Probe):
    meta = meta()

    def measure(self, classifier: Any, batch: Any, rng: Any) -> Any:
        return {}


class Mutable(Third):
    meta: ClassVar[Meta] = meta()


@dataclass(frozen=True, kw_only=True)
class NoDefault(Third):
    needed: int


@dataclass(frozen=True, kw_only=True)
class NoJson(Third):
    where: Any = field(default_factory=object)


@dataclass(frozen=True, kw_only=True)
class NoSuchType(Third):
    where: NotImported = None  # type: ignore[name-defined]  # noqa: F821


def module(**hooks: Callable[..., Any]) -> types.ModuleType:
    """A plugin's module with these hooks."""
    made = types.ModuleType("third")
    for name, function in hooks.items():
        setattr(made, name, hookimpl(function))
    return made


def offering(*probes: Any) -> types.ModuleType:
    def auditor_probes() -> list[Any]:
        return list(probes)

    return module(auditor_probes=auditor_probes)


def raises(*_: Any) -> Any:
    raise ZeroDivisionError("one by none")


def raises_bare() -> Any:
    raise ZeroDivisionError("one by none")


Load = Callable[..., registry.Registry]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """The registry with the built-in plugins and these others: (package, module or function that loads one)."""
    own = importlib.metadata.entry_points(group=registry.GROUP)

    def call(*others: Any) -> registry.Registry:
        entries = []
        for i, other in enumerate(others):
            dist = types.SimpleNamespace(name=f"package{i}", version=f"{i}.0")
            loader = other if callable(other) else lambda other=other: other
            entries.append(types.SimpleNamespace(name="third", dist=dist, load=loader))
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [*own, *entries])
        return registry.load()

    return call


BROKEN = {
    "does not import": (raises, "does not import: ZeroDivisionError: one by none"),
    "leaves at import": (lambda: (_ for _ in ()).throw(SystemExit(1)), "does not import: SystemExit"),
    "hook of no such name": (module(auditor_probe=lambda: []), "unknown hook 'auditor_probe'"),
    "hook with another argument": (module(auditor_open_images=lambda file: None), "Argument(s) {'file'}"),
    "hook that raises": (module(auditor_probes=raises_bare), "auditor_probes raised ZeroDivisionError"),
    "hook that returns nothing": (module(auditor_probes=lambda: None), "auditor_probes raised TypeError"),
    "no probe": (offering(int), "must return subclasses of auditor.Probe"),
    "an instance": (offering(Third()), "must return subclasses of auditor.Probe"),
    "abstract": (offering(NoConclude), "does not define conclude"),
    "not frozen": (offering(Mutable), "must be a frozen dataclass"),
    "without meta": (offering(variant(meta=None)), "has no `meta = Meta(...)`"),
    "bad id": (offering(variant(meta=meta("Third", area="sanity"))), "must be area.noun"),
    "bad area": (offering(variant(meta=meta("third.x"))), "area 'third' is none of"),
    "id of another area": (offering(variant(meta=meta("bias.x", area="sanity"))), "must begin with its area"),
    "says nothing": (offering(variant(meta=meta(why=""))), "title and why must say something"),
    "attack without threat model": (offering(variant(meta=meta("attacks.x"))), "must declare its threat_model()"),
    "threat model raises": (offering(variant(meta=meta("attacks.x"), threat_model=raises)), "ZeroDivisionError"),
    "setting without default": (offering(NoDefault), "does not work with its default settings"),
    "setting that is no JSON": (offering(NoJson), "cannot be stored in audit.json"),
    "setting of an unknown type": (offering(NoSuchType), "NotImported"),
    "id is taken by a built-in": (
        offering(variant(meta=meta("performance.accuracy"))),
        "probe id performance.accuracy is taken: plugin performance.accuracy has it already, so that of package0:third",
    ),
}


@pytest.mark.parametrize(("plugin", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_named_and_the_rest_works(load: Load, plugin: Any, said: str) -> None:
    before = dict(load().probes)
    found = load(plugin, offering(variant(meta=meta("sanity.good"))))
    assert [p.name for p in found.broken] == ["package0:third"]
    assert said in (found.broken[0].error or "")
    assert "\n" not in (found.broken[0].error or "")
    assert found.probes == before | {"sanity.good": found.probes["sanity.good"]}
    assert found.origin["sanity.good"] == "package1:third"


def test_a_plugin_with_one_bad_hook_loses_the_good_ones_too(load: Load) -> None:
    """Half a plugin would measure what its author did not mean."""

    def auditor_probes() -> list[Any]:
        return [Third]

    def auditor_suites(extra: int) -> list[Path]:
        return []

    found = load(module(auditor_probes=auditor_probes, auditor_suites=auditor_suites))
    assert len(found.broken) == 1
    assert "sanity.third" not in found.probes


def test_of_two_newcomers_with_one_id_the_first_keeps_it_and_both_are_named(load: Load) -> None:
    found = load(offering(Third), offering(variant()))
    assert found.probes["sanity.third"] is Third
    assert [p.name for p in found.broken] == ["package1:third"]
    assert "package0:third" in (found.broken[0].error or "")


def test_one_bad_probe_does_not_take_the_good_one_of_the_same_plugin(load: Load) -> None:
    found = load(offering(NoConclude, Third))
    assert found.probes["sanity.third"] is Third
    assert "does not define conclude" in (found.broken[0].error or "")


@pytest.mark.parametrize("hook", ["auditor_suites", "auditor_report_formats"])
def test_a_hook_that_raises_later_is_named_too(load: Load, hook: str) -> None:
    found = load(module(**{hook: raises_bare}))
    assert {"quick", "standard", "full"} <= found.suites().keys()
    assert {"html", "pdf", "sarif", "junit", "md"} <= found.formats().keys()
    assert [p.error for p in found.broken] == [f"{hook} raised ZeroDivisionError: one by none"]


def test_a_plugin_may_not_replace_a_suite_or_a_format(load: Load, tmp_path: Path) -> None:
    fmt = types.SimpleNamespace(name="html", file="mine.html", render=None)
    found = load(module(auditor_suites=lambda: [tmp_path / "full.toml"]), module(auditor_report_formats=lambda: [fmt]))
    assert found.suites()["full"] != tmp_path / "full.toml"
    assert found.formats()["html"].file == "report.html"
    assert [p.name for p in found.broken] == ["package0:third", "package1:third"]
    assert "full" in (found.broken[0].error or "")
    assert "html" in (found.broken[1].error or "")


def test_plugins_add_suites_formats_and_openers(load: Load, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('probes = ["sanity.*"]\nsamples = 7\n')
    fmt = types.SimpleNamespace(name="csv", file="audit.csv", render=None)

    def auditor_open_images(path: Path) -> Any:
        return "mine" if path.suffix == ".mine" else None

    found = load(
        module(
            auditor_suites=lambda: [tmp_path / "mine.toml"], auditor_report_formats=lambda: [fmt],
            auditor_open_images=auditor_open_images,
        )
    )  # fmt: skip
    assert not found.broken
    assert find_suite("mine", found).samples == 7
    assert found.formats()["csv"] is fmt
    assert found.first("auditor_open_images", path=Path("x.mine")) == "mine"
    assert found.first("auditor_open_images", path=Path("x.unknown")) is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ratio": 1}, {"ratio": 1.0}),
        ({"ratio": "8/255"}, {"ratio": 8 / 255}),
        ({"ratios": [1, "1/4"]}, {"ratios": (1.0, 0.25)}),
        ({"limit": 0.5}, {"limit": 0.5}),
        ({"count": 4, "name": "y"}, {"count": 4, "name": "y"}),
        ({"fill": "black", "exact": True}, {"fill": "black", "exact": True}),
        ({}, {}),
    ],
)  # fmt: skip
def test_settings_get_their_types(load: Load, settings: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert load(offering(Third)).configure("sanity.third", settings, where="suite") == Third(**expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"speed": 1}, "has no setting 'speed'"),
        ({"ratio": "much"}, "ratio is 'much'; expected a number or a fraction"),
        ({"ratio": True}, "ratio is True"),
        ({"ratios": 0.5}, "ratios is 0.5; expected a list"),
        ({"count": 1.5}, "count is 1.5; expected int"),
        ({"count": True}, "count is True; expected int"),
        ({"fill": "pink"}, "fill is 'pink'; expected one of white, black"),
        ({"limit": "none"}, "limit is 'none'"),
        ({"count": -1}, "count must not be negative"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(load: Load, settings: Mapping[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(offering(Third)).configure("sanity.third", settings, where="suite")


@pytest.mark.parametrize("value", ["1/0", "1.2.3/4", "./."])
def test_a_fraction_that_is_no_number_is_refused(load: Load, value: str) -> None:
    with pytest.raises(BadInput, match="expected a number"):
        load(offering(Third)).configure("sanity.third", {"ratio": value}, where="suite")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_setting_that_is_no_finite_number_is_refused(load: Load, value: float) -> None:
    """TOML knows nan and inf; audit.json does not."""
    with pytest.raises(BadInput, match="expected a number"):
        load(offering(Third)).configure("sanity.third", {"ratio": value}, where="suite")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("probes = [", "not readable as TOML"),
        ("samples = 3", "probes must be a list"),
        ('probes = ["no.such"]', "no such probe"),
        ('probes = ["*"]\nsamples = 0', "samples is 0"),
        ('probes = ["*"]\nspeed = 1', "unknown key 'speed'"),
        ('probes = ["*"]\n[settings."no.such"]\nx = 1', "no such probe"),
        ('probes = ["*"]\n[settings."attacks.fgsm"]\nx = 1', "has no setting 'x'"),
        ('probes = ["*"]\nsettings = 3', "settings"),
        ('probes = ["*"]\n[settings]\n"attacks.fgsm" = 3', "attacks.fgsm"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(load: Load, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "suite.toml").write_text(text)
    with pytest.raises(BadInput, match=said):
        find_suite(str(tmp_path / "suite.toml"), load())


@pytest.mark.parametrize("name", ["quick", "standard", "full"])
def test_the_packaged_suites_read(load: Load, name: str) -> None:
    found = load()
    assert found.select(find_suite(name, found).probes, option="--probe")
