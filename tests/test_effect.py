"""Keys, options, arrays and columns that would change nothing are refused with one sentence, or named in a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from auditor.data.dataset import Source
from auditor.errors import BadInput
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.formats import manifest, npz
from auditor.run.request import Request
from auditor.run.selection import selection_warnings
from auditor.run.session import run

CLI = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, linear_model: Callable[..., Path]) -> Path:
    """A model of grey images with a fixed size, images of that size, a tabular model and a table."""
    weights = np.array([np.ones(16), -np.ones(16)])
    linear_model(tmp_path / "model.onnx", weights, np.array([-8.0, 8.0]), (1, 4, 4))
    linear_model(tmp_path / "rows.onnx", np.array([[1.0, 1], [-1, -1]]), np.array([-1.0, 1]), (2,))
    for i in range(6):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 90 + 30 * i, dtype=np.uint8)).save(path)
    (tmp_path / "table.csv").write_text("x,y,id,label\n" + "".join(f"0.{i},0.{i},{i},{i % 2}\n" for i in range(8)))
    (tmp_path / "suite.toml").write_text('probes = ["performance.accuracy"]\n')
    return tmp_path


def audit(folder: Path, model: str, data: str, sidecar: str = "", **options: Any) -> dict[str, Any]:
    (folder / f"{model}.audit.toml").write_text(sidecar)
    request = Request(
        model=folder / model,
        data=folder / data,
        suite=str(folder / "suite.toml"),
        out=folder / "run",
        formats=(),
        trust_model=True,
        **options,
    )
    return dict(run(request).audit)


@pytest.mark.parametrize(
    "key",
    ['size = [1, 2]', "channels = 1", 'layout = "nchw"', "range = [0, 255]", "mean = [0.5]", "std = [0.5]",
     'order = "bgr"', 'resize = "stretch"', "crop = 0.9", 'interpolation = "box"', "white = 255", 'preset = "unit"'],
)  # fmt: skip
def test_keys_about_images_are_refused_for_tables(folder: Path, key: str) -> None:
    with pytest.raises(BadInput, match=r"rows.onnx.audit.toml: \[input\] \w+: describes images, but .*table.csv holds"):
        audit(folder, "rows.onnx", "table.csv", f"[input]\n{key}\n")


def test_options_about_images_are_refused_for_tables(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"^--crop: describes images, but"):
        audit(folder, "rows.onnx", "table.csv", overrides={"input": {"crop": 0.9}})


@pytest.mark.parametrize("key", ['label = "x"', 'groups = ["x"]', 'features = ["x"]'])
def test_keys_about_columns_are_refused_for_images(folder: Path, key: str) -> None:
    with pytest.raises(BadInput, match=r"\[data\] \w+: names columns of tabular data, but .*images holds images"):
        audit(folder, "model.onnx", "images", f"[data]\n{key}\n")


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ('order = "bgr"', "orders three channels, but"),
        ('resize = "stretch"\ncrop = 0.9', "has no effect with resize"),
        ('preset = "unit"\nrange = [0, 1]\nmean = [0]\nstd = [1]\norder = "rgb"', "preset unit has no effect"),
    ],
)
def test_keys_that_other_keys_replace_are_refused(folder: Path, sidecar: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        audit(folder, "model.onnx", "images", f"[input]\n{sidecar}\n")


def test_keys_that_change_no_image_are_named_in_a_warning(folder: Path) -> None:
    record = audit(folder, "model.onnx", "images", "[input]\nwhite = 4095\n", overrides={"input": {"crop": 0.9}})
    assert any("[input] white has no effect: no image has more than 8 bits" in text for text in record["warnings"])
    assert any("--crop has no effect: every image already has the input size" in text for text in record["warnings"])
    (folder / "images" / "a" / "large.png").write_bytes(b"")
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(folder / "images" / "a" / "large.png")
    record = audit(folder, "model.onnx", "images", overrides={"input": {"crop": 0.9}})
    assert not any("--crop" in text for text in record["warnings"])


def test_columns_that_no_feature_list_names_are_named_in_a_warning(folder: Path) -> None:
    record = audit(folder, "rows.onnx", "table.csv", '[data]\nfeatures = ["x", "y"]\n')
    assert any(text.endswith("table.csv that are not used: id.") for text in record["warnings"])


def test_arrays_that_nothing_reads_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), label=np.zeros(2), sex=np.zeros(2))
    with pytest.raises(
        BadInput, match=r"contains label, sex, which nothing reads; expected images, labels, ids, units, epsilons and"
    ):
        npz.auditor_open_images(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("header", "message"),
    [("image,label,label", "two columns called 'label'"), (",image,label", "column 1 of 3 has no name")],
)
def test_columns_with_equal_or_empty_names_are_refused(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(BadInput, match=message):
        manifest.auditor_open_images(tmp_path / "a.csv")


def test_quoted_headers_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeff"image", "eye, colour"\na.png,x\n', encoding="utf-8")
    source = manifest.auditor_open_images(tmp_path / "a.csv")
    assert isinstance(source, Source)
    assert source.groups == {"eye, colour": ["x"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "model.onnx", "--paper", "letter", "--format", "json"], "--paper: concerns the PDF"),
        (["report", "run", "--paper", "letter", "--format", "html"], "--paper: concerns the PDF"),
        (["report", "run", "--pdf", "short", "--format", "pdfa"], "--pdf: concerns the PDF"),
        (["judge", "run", "--policy", "ci", "--paper", "a4", "--format", "html"], "--paper: concerns the PDF"),
        (["run", "model.onnx", "-v", "-q"], "--verbose and --quiet: exclude each other"),
        (["inspect", "model.onnx", "--samples", "5"], "--samples: is the number of images of --data"),
        (["train", "--preset", "tiny"], "auditor train: names no recipe"),
        (["train", "digits-cnn", "--data", "images"], "recipe digits-cnn needs no images"),
    ],
)
def test_options_without_effect_are_refused(folder: Path, auditor_cli: CLI, arguments: list[str], message: str) -> None:
    del folder
    done = auditor_cli(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output


def test_a_skip_and_settings_without_effect_are_named_in_a_warning(folder: Path) -> None:
    (folder / "suite.toml").write_text(
        'probes = ["performance.accuracy"]\n[settings."attacks.fgsm"]\nepsilons = ["1/255"]\n'
    )
    record = audit(folder, "model.onnx", "images", skip=["attacks.pgd"])
    assert "--skip attacks.pgd has no effect: no such probe is part of this run." in record["warnings"]
    assert "Suite suite has settings of probes that it does not run: attacks.fgsm." in record["warnings"]


def test_packaged_suites_have_no_settings_without_effect() -> None:
    plugins = registry.load()
    for name in ("quick", "standard", "full"):
        request = Request(model=Path("model.onnx"), suite=name)
        assert selection_warnings(plugins, find_suite(name, plugins), request) == []


def test_a_batch_size_that_the_file_does_not_accept_is_refused(folder: Path) -> None:
    import onnx

    model = onnx.load(str(folder / "model.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, str(folder / "fixed.onnx"))
    with pytest.raises(BadInput, match=r"--batch-size 4: .*fixed.onnx accepts only batches of 3"):
        audit(folder, "fixed.onnx", "images", batch_size=4)
