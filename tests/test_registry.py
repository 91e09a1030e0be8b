"""A broken plugin is named and ignored; other plugins are unaffected."""

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
from auditor.plugin.hookspecs import API_VERSION
from auditor.plugin.suite import find_suite


def meta(probe_id: str = "sanity.third", **changes: Any) -> Meta:
    area: Any = probe_id.partition(".")[0]
    fields: dict[str, Any] = {"id": probe_id, "title": "Third", "area": area, "why": "It is a test."}
    return Meta(**fields | changes)


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
    """Create a plugin module with these hooks."""
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
    """Load the registry with the built-in plugins and these: (package, module or function that loads one)."""
    own = importlib.metadata.entry_points(group=registry.GROUP)

    def call(*others: Any) -> registry.Registry:
        entries = []
        for i, other in enumerate(others):
            dist = types.SimpleNamespace(name=f"package{i}", version=f"{i}.0")
            loader = other if callable(other) else lambda other=other: other
            entries.append(types.SimpleNamespace(name="third", dist=dist, load=loader))
        monkeypatch.setattr(
            "importlib.metadata.entry_points", lambda group: [*own, *entries] if group == registry.GROUP else []
        )
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
    "bad area": (offering(variant(meta=meta("third.x"))), "area is 'third'; expected one of"),
    "id of another area": (offering(variant(meta=meta("bias.x", area="sanity"))), "must begin with its area"),
    "says nothing": (offering(variant(meta=meta(why=""))), "title and why must not be empty"),
    "attack without threat model": (offering(variant(meta=meta("attacks.x"))), "must declare its threat_model()"),
    "threat model raises": (offering(variant(meta=meta("attacks.x"), threat_model=raises)), "ZeroDivisionError"),
    "setting without default": (offering(NoDefault), "does not work with its default settings"),
    "setting that is no JSON": (offering(NoJson), "cannot be stored in audit.json"),
    "setting of an unknown type": (offering(NoSuchType), "NotImported"),
    "id is taken by a built-in": (
        offering(variant(meta=meta("performance.accuracy"))),
        "probe id performance.accuracy is already registered by plugin performance.accuracy; ignoring",
    ),
}


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("2.0", "was written for version 2.0 of the plugin interface, and this auditor has 1.0; update auditor"),
        ("1.1", "update auditor"),
        ("0.9", "update the plugin"),
        ("1", "AUDITOR_API is '1'; expected a version such as \"1.0\""),
        (1.0, "AUDITOR_API is 1.0; expected a version"),
    ],
)
def test_incompatible_interface_version_is_refused(load: Load, stated: Any, message: str) -> None:
    plugin = offering(variant(meta=meta("sanity.old")))
    plugin.AUDITOR_API = stated
    loaded = load(plugin)
    assert message in (loaded.broken[0].error or "")
    assert "sanity.old" not in loaded.probes


def test_compatible_interface_version_is_accepted(load: Load) -> None:
    plugin = offering(variant(meta=meta("sanity.current")))
    plugin.AUDITOR_API = API_VERSION
    loaded = load(plugin)
    assert not loaded.broken
    assert "sanity.current" in loaded.probes


@pytest.mark.parametrize(("plugin", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_plugin_is_named_and_others_work(load: Load, plugin: Any, message: str) -> None:
    before = dict(load().probes)
    loaded = load(plugin, offering(variant(meta=meta("sanity.good"))))
    assert [p.name for p in loaded.broken] == ["package0:third"]
    assert message in (loaded.broken[0].error or "")
    assert "\n" not in (loaded.broken[0].error or "")
    assert loaded.probes == before | {"sanity.good": loaded.probes["sanity.good"]}
    assert loaded.origin["sanity.good"] == "package1:third"


def test_plugin_with_one_invalid_hook_is_ignored_entirely(load: Load) -> None:
    """A partial plugin would not measure what its author intended."""

    def auditor_probes() -> list[Any]:
        return [Third]

    def auditor_suites(extra: int) -> list[Path]:
        return []

    loaded = load(module(auditor_probes=auditor_probes, auditor_suites=auditor_suites))
    assert len(loaded.broken) == 1
    assert "sanity.third" not in loaded.probes


def test_duplicate_id_keeps_the_first_probe_and_names_both(load: Load) -> None:
    loaded = load(offering(Third), offering(variant()))
    assert loaded.probes["sanity.third"] is Third
    assert [p.name for p in loaded.broken] == ["package1:third"]
    assert "package0:third" in (loaded.broken[0].error or "")


def test_invalid_probe_does_not_affect_others_of_its_plugin(load: Load) -> None:
    loaded = load(offering(NoConclude, Third))
    assert loaded.probes["sanity.third"] is Third
    assert "does not define conclude" in (loaded.broken[0].error or "")


@pytest.mark.parametrize("hook", ["auditor_suites", "auditor_report_formats"])
def test_hook_that_raises_is_named(load: Load, hook: str) -> None:
    loaded = load(module(**{hook: raises_bare}))
    assert {"quick", "standard", "full"} <= loaded.suites().keys()
    assert {"html", "pdf", "sarif", "junit", "md"} <= loaded.formats().keys()
    assert [p.error for p in loaded.broken] == [f"{hook} raised ZeroDivisionError: one by none"]


def test_plugin_cannot_replace_a_suite_or_a_format(load: Load, tmp_path: Path) -> None:
    fmt = types.SimpleNamespace(name="html", file="mine.html", render=None)
    loaded = load(module(auditor_suites=lambda: [tmp_path / "full.toml"]), module(auditor_report_formats=lambda: [fmt]))
    assert loaded.suites()["full"] != tmp_path / "full.toml"
    assert loaded.formats()["html"].file == "report.html"
    assert [p.name for p in loaded.broken] == ["package0:third", "package1:third"]
    assert "full" in (loaded.broken[0].error or "")
    assert "html" in (loaded.broken[1].error or "")


def test_plugins_add_suites_formats_and_openers(load: Load, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('probes = ["sanity.*"]\nsamples = 7\n')
    fmt = types.SimpleNamespace(name="csv", file="audit.csv", render=None)

    def auditor_open_images(path: Path) -> Any:
        return "mine" if path.suffix == ".mine" else None

    loaded = load(
        module(
            auditor_suites=lambda: [tmp_path / "mine.toml"],
            auditor_report_formats=lambda: [fmt],
            auditor_open_images=auditor_open_images,
        )
    )
    assert not loaded.broken
    assert find_suite("mine", loaded).samples == 7
    assert loaded.formats()["csv"] is fmt
    assert loaded.first("auditor_open_images", path=Path("x.mine")) == "mine"
    assert loaded.first("auditor_open_images", path=Path("x.unknown")) is None


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
)
def test_settings_are_converted_to_their_types(
    load: Load, settings: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    assert load(offering(Third)).configure("sanity.third", settings, where="suite") == Third(**expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speed": 1}, "has no setting 'speed'"),
        ({"ratio": "much"}, "ratio is 'much'; expected a number or a fraction"),
        ({"ratio": True}, "ratio is True"),
        ({"ratios": 0.5}, "ratios is 0.5; expected a list"),
        ({"count": 1.5}, "count is 1.5; expected a whole number"),
        ({"count": True}, "count is True; expected a whole number"),
        ({"fill": "pink"}, "fill is 'pink'; expected white or black"),
        ({"limit": "none"}, "limit is 'none'"),
        ({"count": -1}, "count must not be negative"),
    ],
)
def test_invalid_setting_is_refused(load: Load, settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(offering(Third)).configure("sanity.third", settings, where="suite")


@pytest.mark.parametrize("value", ["1/0", "1.2.3/4", "./."])
def test_invalid_fraction_is_refused(load: Load, value: str) -> None:
    with pytest.raises(BadInput, match="expected a number"):
        load(offering(Third)).configure("sanity.third", {"ratio": value}, where="suite")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_setting_is_refused(load: Load, value: float) -> None:
    """TOML supports nan and inf; audit.json does not."""
    with pytest.raises(BadInput, match="expected a number"):
        load(offering(Third)).configure("sanity.third", {"ratio": value}, where="suite")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("probes = [", "not readable as TOML"),
        ("samples = 3", "probes is empty"),
        ('probes = ["no.such"]', "no such probe"),
        ('probes = ["*"]\nsamples = 0', "samples is 0"),
        ('probes = ["*"]\nspeed = 1', "unknown key 'speed'"),
        ('probes = ["*"]\n[settings."no.such"]\nx = 1', "no such probe"),
        ('probes = ["*"]\n[settings."attacks.fgsm"]\nx = 1', "has no setting 'x'"),
        ('probes = ["*"]\nsettings = 3', "settings"),
        ('probes = ["*"]\n[settings]\n"attacks.fgsm" = 3', "attacks.fgsm"),
    ],
)
def test_invalid_suite_is_refused(load: Load, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "suite.toml").write_text(text)
    with pytest.raises(BadInput, match=message):
        find_suite(str(tmp_path / "suite.toml"), load())


@pytest.mark.parametrize("name", ["quick", "standard", "full"])
def test_packaged_suites_load(load: Load, name: str) -> None:
    plugins = load()
    assert plugins.select(find_suite(name, plugins).probes, option="--probe")
