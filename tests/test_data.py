"""Images reach the model correctly: data sources, decoding, labels and groups."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from click.testing import Result
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from auditor.data.dataset import Images, Source, sample
from auditor.data.labels import match_labels
from auditor.data.resizing import Resizing, fit, read_file
from auditor.errors import BadInput

RGB, GREY = (3, 8, 8), (1, 8, 8)
TINY = 'probes = ["performance.accuracy", "bias.groups", "sanity.parity"]\n'


@pytest.fixture(scope="session")
def plugins() -> Any:
    from auditor.plugin.registry import load

    return load()


@pytest.fixture
def find_source(plugins: Any) -> Callable[[Path], Source]:
    """Return the source that the format plugins find at a path."""

    def call(path: Path) -> Source:
        source = plugins.first("auditor_open_images", path=path)
        assert isinstance(source, Source)
        return source

    return call


def picture(
    path: Path, colour: Any = "red", *, mode: str = "RGB", size: tuple[int, int] = (8, 8), **options: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def decoded(path: Path, shape: tuple[int, int, int] = RGB, resize: Any = "crop") -> NDArray[np.float64]:
    """Return pixels in [0, 1] as the engine reads them."""
    stored = fit(read_file(path)[1], shape, Resizing(resize=resize))
    assert stored.shape == shape
    return stored / 255 if stored.dtype == np.uint8 else stored.astype(np.float64)


def colours(path: Path, metadata: str = "") -> Path:
    """Write a model with three classes: the score of a class is ten times its channel's mean."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Constant", [], ["ten"], value_float=10.0),
        helper.make_node("Mul", ["means", "ten"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if metadata:
        helper.set_model_props(model, {"auditor.toml": metadata})
    onnx.save(model, str(path))
    return path


@pytest.fixture
def audit(tmp_path: Path, auditor_cli: Callable[..., Result]) -> Callable[..., dict[str, Any]]:
    """Audit the colour model and return its audit.json."""
    (tmp_path / "tiny.toml").write_text(TINY)

    def call(*arguments: object, model: Path | None = None) -> dict[str, Any]:
        model = model or colours(tmp_path / "colours.onnx")
        options = ["--suite", "tiny.toml", "--out", "run", "--format", "json", "-q"]
        result = auditor_cli("run", model, *options, *arguments)
        assert result.exit_code == 0, result.output
        record: dict[str, Any] = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
        return record

    return call


# decoding


@pytest.mark.parametrize(
    ("mode", "colour", "options", "expected"),
    [
        ("RGB", (255, 0, 51), {}, (1, 0, 0.2)),
        ("L", 51, {}, (0.2, 0.2, 0.2)),
        ("1", 1, {}, (1, 1, 1)),
        ("RGBA", (0, 0, 0, 0), {}, (1, 1, 1)),
        ("RGBA", (255, 0, 0, 51), {}, (1, 0.8, 0.8)),
        ("LA", (0, 51), {}, (0.8, 0.8, 0.8)),
        ("RGB", (255, 0, 0), {"transparency": (255, 0, 0)}, (1, 1, 1)),
        ("I;16", 13107, {}, (0.2, 0.2, 0.2)),
        ("I;16", 65535, {}, (1, 1, 1)),
    ],
)
def test_png_of_every_mode(mode: str, colour: Any, options: Any, expected: tuple[float, ...], tmp_path: Path) -> None:
    for size in [(8, 8), (16, 24), (1, 1)]:
        pixels = decoded(picture(tmp_path / "a.png", colour, mode=mode, size=size, **options))
        np.testing.assert_allclose(pixels.mean(axis=(1, 2)), expected, atol=0.003)


def test_16_bit_grey_keeps_its_depth(tmp_path: Path) -> None:
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(ramp).save(tmp_path / "a.png")
    np.testing.assert_allclose(decoded(tmp_path / "a.png", GREY)[0], ramp / 65535, atol=1e-6)


def test_palette_transparency_is_white(tmp_path: Path) -> None:
    paletted = Image.new("P", (8, 8), 0)
    paletted.putpalette([0, 255, 0, 0, 0, 255])
    paletted.paste(1, (4, 0, 8, 8))
    paletted.save(tmp_path / "a.png", transparency=0)
    paletted.save(tmp_path / "plain.png")
    assert decoded(tmp_path / "a.png")[:, 0, 0].tolist() == [1, 1, 1]
    assert decoded(tmp_path / "a.png")[:, 0, 7].tolist() == [0, 0, 1]
    assert decoded(tmp_path / "plain.png")[:, 0, 0].tolist() == [0, 1, 0]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    pixels = decoded(picture(tmp_path / "a.jpg", (0, 255, 255, 0), mode="CMYK", quality=95))
    assert pixels[0].min() > 0.9
    assert pixels[1:].max() < 0.1


def test_float_tiff_is_read_as_0_to_1(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(tmp_path / "a.tiff")
    assert decoded(tmp_path / "a.tiff", GREY).mean() == 0.5
    Image.fromarray(np.full((8, 8), 700, dtype=np.float32)).save(tmp_path / "b.tiff")
    with pytest.raises(ValueError, match="expected 0 to 1"):
        decoded(tmp_path / "b.tiff")


def test_camera_rotation_is_reverted(tmp_path: Path) -> None:
    top_red = Image.new("RGB", (8, 8), "blue")
    top_red.paste("red", (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees counterclockwise
    top_red.rotate(90).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decoded(tmp_path / "a.png")[0, :, 3], [1, 1, 1, 1, 0, 0, 0, 0])


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decoded(tmp_path / "a.gif").mean(axis=(1, 2)), [1, 0, 0], atol=0.01)


def test_colour_for_a_grey_model_and_grey_for_a_colour_model(tmp_path: Path) -> None:
    red = picture(tmp_path / "a.png", "red")
    assert decoded(red, GREY).mean() == pytest.approx(0.299, abs=0.003)
    again = picture(tmp_path / "b.png", 76, mode="L")
    np.testing.assert_array_equal(decoded(again, RGB), np.repeat(decoded(red, GREY), 3, axis=0))


@pytest.mark.parametrize(("resize", "reds"), [("crop", [1] * 8), ("stretch", [0, 0, 1, 1, 1, 1, 0, 0])])
def test_wide_picture(resize: str, reds: list[int], tmp_path: Path) -> None:
    """Blue, red, blue: the crop has only the middle, the stretch all of it."""
    wide = Image.new("RGB", (32, 16), "blue")
    wide.paste("red", (8, 0, 24, 16))
    wide.save(tmp_path / "a.png")
    pixels = decoded(tmp_path / "a.png", resize=resize)
    np.testing.assert_array_equal(np.round(pixels[0, 4]), reds)


def test_white_is_at_most_1_in_every_grey_conversion() -> None:
    for white in (np.ones((8, 8, 3), np.float32), np.ones((9, 9, 3), np.float32), np.full((8, 8, 3), 255, np.uint8)):
        pixels = fit(white, GREY, Resizing())
        assert pixels.max() == (255 if pixels.dtype == np.uint8 else 1)


@pytest.mark.parametrize(
    "start", [b"\x89PNG\r\n", b"GIF89a", b"BM", b"II*", b"RIFF", b"P6 9 9", b"\xff\xd8\xff", b"8BPS"]
)
def test_truncated_header_is_unreadable_not_fatal(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(start + bytes(40))
    with pytest.raises(BadInput, match="none of 1 images could be read"):
        Images(Source(path="here", ids=["a.png"], read=lambda _: read_file(tmp_path / "a.png")), shape=RGB)


def test_truncated_pictures_are_unreadable_not_fatal(tmp_path: Path) -> None:
    complete = {}
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        sink = io.BytesIO()
        Image.fromarray(noise).save(sink, kind)
        complete[kind] = sink.getvalue()
    files = [(k, b[: len(b) * i // 12]) for k, b in complete.items() for i in range(12)] + list(complete.items())
    for number, (_, content) in enumerate(files):
        (tmp_path / str(number)).write_bytes(content)
    names = [f"{kind}-{i}" for i, (kind, _) in enumerate(files)]
    images = Images(Source(path="here", ids=names, read=lambda i: read_file(tmp_path / str(i))), shape=RGB)
    assert len(images) >= len(complete)
    assert len(images) + len(images.unreadable) == len(files)
    assert not any("0x" in line or "\\n" in line for line in images.unreadable), "the text is the same on every run"


# folders


def test_folder_per_class_with_stray_files(tmp_path: Path, find_source: Any) -> None:
    for name in ("cat/b.png", "cat/a.PNG", "cat/more/c.png", "dog/a.jpeg"):
        picture(tmp_path / name)
    for name in ("cat/._a.png", "cat/.thumbs/a.png", ".git/x.png", "dog/Thumbs.db.png"):
        if name.startswith("dog"):
            (tmp_path / "dog" / "Thumbs.db").write_text("no image")
        else:
            picture(tmp_path / name)
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "empty").mkdir()
    source = find_source(tmp_path)
    assert list(source.ids) == ["cat/a.PNG", "cat/b.png", "cat/more/c.png", "dog/a.jpeg"]
    assert list(source.labels or []) == ["cat", "cat", "cat", "dog"]


def test_flat_folder_has_no_labels(tmp_path: Path, find_source: Any) -> None:
    picture(tmp_path / "b.png")
    picture(tmp_path / "a.png")
    picture(tmp_path / "._a.png")
    source = find_source(tmp_path)
    assert list(source.ids) == ["a.png", "b.png"]
    assert source.labels is None


# manifests


def test_csv_with_groups_byte_order_mark_and_quotes(tmp_path: Path, find_source: Any) -> None:
    picture(tmp_path / "a, b.png", "red")
    picture(tmp_path / "sub" / "c.png", "blue")
    text = '\ufeffimage,label,sex,age group\n"a, b.png",007,f,"60, or more"\nsub/c.png,NA,None,\n'
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    source = find_source(tmp_path / "t.csv")
    assert list(source.ids) == ["a, b.png", "sub/c.png"]
    assert list(source.labels or []) == ["007", "NA"], "a label is a string: not a number, not a missing value"
    assert source.groups == {"sex": ["f", "None"], "age group": ["60, or more", ""]}
    assert source.read(1)[1].getpixel((0, 0)) == (0, 0, 255)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "expected"), [([1, 0], ["1", "0"]), (["01", "0"], ["01", "0"]), ([1.0, 0.0], ["1", "0"]), (None, None)]
)
def test_parquet_is_the_same_table(labels: Any, expected: Any, tmp_path: Path, find_source: Any) -> None:
    table = pd.DataFrame({"image": ["a.png", "b.png"], "camera": ["x", None]})
    if labels is not None:
        table["label"] = labels
    table.to_parquet(tmp_path / "t.parquet")
    source = find_source(tmp_path / "t.parquet")
    assert source.labels == expected
    assert source.groups == {"camera": ["x", ""]}


def test_file_in_two_rows_is_two_images(tmp_path: Path, find_source: Any) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image,label\na.png,0\na.png,1\na.png#2,1\n")
    source = find_source(tmp_path / "t.csv")
    assert len(set(source.ids)) == 3


def test_empty_label_column_means_no_labels(tmp_path: Path, find_source: Any) -> None:
    (tmp_path / "t.csv").write_text("image,label\na.png,\n")
    assert find_source(tmp_path / "t.csv").labels is None


# npz


@pytest.mark.parametrize(
    "shape", [(2, 8, 8), (2, 8, 8, 1), (2, 1, 8, 8), (2, 8, 8, 3), (2, 3, 8, 8), (2, 16, 12, 3), (2, 3, 16, 12)]
)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16"])
def test_npz_of_every_layout_and_type(shape: tuple[int, ...], dtype: str, tmp_path: Path, find_source: Any) -> None:
    images = np.full(shape, 51 if dtype == "uint8" else 0.2, dtype=dtype)
    np.savez(tmp_path / "d.npz", images=images)
    for channels in (1, 3):
        read = Images(find_source(tmp_path / "d.npz"), shape=(channels, 8, 8))
        np.testing.assert_allclose(read.pixels(read.ids), 0.2, atol=2e-4)
        assert read.pixels(read.ids).dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([3, 1]), ["3", "1"]),
        (np.array([3.0, 1.0]), ["3", "1"]),
        (np.array(["cat", "dog"]), ["cat", "dog"]),
        (np.array([b"cat", b"dog"]), ["cat", "dog"]),
        (np.array([True, False]), ["True", "False"]),
    ],
)
def test_npz_with_labels_ids_and_groups(labels: Any, expected: list[str], tmp_path: Path, find_source: Any) -> None:
    np.savez(
        tmp_path / "d.npz",
        images=np.zeros((2, 8, 8), np.uint8),
        labels=labels,
        ids=np.array(["x", "y"]),
        groups_sex=np.array(["f", "m"]),
    )
    source = find_source(tmp_path / "d.npz")
    assert list(source.labels or []) == expected
    assert list(source.ids) == ["x", "y"]
    assert source.groups == {"sex": ["f", "m"]}


# labels and samples


@pytest.mark.parametrize(
    ("names", "classes", "n", "expected"),
    [
        (["2", "0"], None, 3, [2, 0]),
        (["02", "000"], None, 3, [2, 0]),
        (["b", "a", "c"], None, 3, [1, 0, 2]),
        (["dog", "cat"], ("dog", "cat"), 2, [0, 1]),
        (["1", "cat"], ("dog", "cat"), 2, [1, 1]),
        # a name takes precedence over a number
        (["0", "1"], ("1", "0"), 2, [1, 0]),
    ],
)
def test_labels_match_their_class(names: list[str], classes: Any, n: int, expected: list[int]) -> None:
    assert match_labels(names, classes, n).indices == expected


@pytest.mark.parametrize("label", ["3", "-1", "1.5", "²", "٣", "9" * 5000, "", "Cat"])
def test_label_without_a_class(label: str) -> None:
    with pytest.raises(BadInput, match="the model has no class for it"):
        match_labels(["0", label], ("a", "b", "c"), 3)


def test_samples_are_drawn_by_the_seed_and_nested() -> None:
    ids = [f"image-{i}" for i in range(100)]
    ten, twenty = sample(ids, 10, 0), sample(ids, 20, 0)
    assert set(ten) < set(twenty)
    assert ten == sorted(ten) != sample(ids, 10, 1)
    backwards = sample(ids[::-1], 10, 0)
    assert {ids[i] for i in ten} == {ids[::-1][i] for i in backwards}, "the order of the files is irrelevant"
    assert sample(ids, 1000, 0) == list(range(100))


# through the command line


def test_unreadable_images_are_named_counted_and_left_out(tmp_path: Path, audit: Any) -> None:
    data = tmp_path / "data"
    for i in range(3):
        picture(data / "0" / f"{i}.png", "red")
        picture(data / "1" / f"{i}.png", "lime")
    (data / "0" / "text.png").write_text("no image at all")
    (data / "1" / "empty.jpg").touch()
    cut = picture(data / "1" / "cut.jpg", "lime", size=(64, 64))
    cut.write_bytes(cut.read_bytes()[:-200])
    picture(data / "1" / "._hidden.png")
    data_record = audit("--data", data)["data"]
    assert (data_record["n"], data_record["n_available"], data_record["n_unreadable"]) == (6, 9, 3)
    assert [line.partition(":")[0] for line in data_record["unreadable"]] == ["0/text.png", "1/cut.jpg", "1/empty.jpg"]
    assert "not an image" in data_record["unreadable"][0]
    assert "runcated" in data_record["unreadable"][1]
    assert "an empty file" in data_record["unreadable"][2]


def test_missing_file_of_a_manifest(tmp_path: Path, audit: Any) -> None:
    picture(tmp_path / "a.png", "red")
    picture(tmp_path / "b.png", "lime")
    (tmp_path / "t.csv").write_text("image,label,camera\na.png,0,x\nb.png,1,y\ngone.png,1,y\n")
    record = audit("--data", "t.csv")
    assert (record["data"]["n"], record["data"]["unreadable"]) == (2, ["gone.png: No such file or directory"])
    assert record["data"]["groups"] == {"camera": {"x": 1, "y": 1}}
    assert any("1 images could not be read" in warning for warning in record["warnings"])


def test_flat_folder_is_audited_without_accuracy_and_bias(tmp_path: Path, audit: Any) -> None:
    for i, colour in enumerate(("red", "lime", "blue")):
        picture(tmp_path / "data" / f"{i}.png", colour)
    record = audit("--data", "data")
    assert record["data"]["labelled"] is False
    assert {p["id"]: p["status"] for p in record["probes"]} == {
        "performance.accuracy": "not-applicable",
        "bias.groups": "not-applicable",
        "sanity.parity": "pass" if record["probes"][-1]["status"] == "pass" else "inconclusive",
    }
    assert any("no labels" in warning for warning in record["warnings"])
    assert record["verdict"] == "incomplete"


def test_without_data_photographs_are_used_with_a_warning(tmp_path: Path, auditor_cli: Any) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    model = colours(tmp_path / "colours.onnx")
    result = auditor_cli("run", model, "--suite", "tiny.toml", "--out", "run", "--format", "json")
    assert result.exit_code == 0, result.output
    assert "Accuracy and bias were not measured; give --data" in " ".join(result.stderr.split())
    record = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert "Accuracy and bias were not measured" in record["warnings"][0]
    assert record["data"]["path"] == "packaged photographs"
    assert record["data"]["n"] == 48
    assert record["verdict"] == "incomplete"
    status = {p["id"]: p["status"] for p in record["probes"]}
    assert status["performance.accuracy"] == status["bias.groups"] == "not-applicable"


def test_photographs_are_real_and_different(plugins: Any) -> None:
    from auditor.data import sample_photos

    images = Images(sample_photos.source(), shape=(3, 32, 32))
    pixels = images.pixels(images.ids)
    assert len({image.tobytes() for image in pixels}) == len(images) == 48
    assert pixels.std(axis=(1, 2, 3)).min() > 0.05


def test_data_is_searched_in_the_order_of_the_contract(tmp_path: Path, audit: Any) -> None:
    for folder in ("option", "neighbour", "inside"):
        picture(tmp_path / folder / "0" / "a.png", "red")
        picture(tmp_path / folder / "1" / "a.png", "lime")
    model = colours(tmp_path / "m.onnx", metadata='[data]\npath = "inside"')
    assert Path(audit(model=model)["data"]["path"]).name == "inside"
    (tmp_path / "m.onnx.audit.toml").write_text('[data]\npath = "neighbour"')
    assert Path(audit(model=model)["data"]["path"]).name == "neighbour"
    assert Path(audit("--data", "option", model=model)["data"]["path"]).name == "option"
    (tmp_path / "m.onnx.audit.toml").unlink()
    assert audit(model=colours(tmp_path / "m.onnx"))["data"]["path"] == "packaged photographs"


def test_sidecar_without_data_keeps_the_data_of_the_metadata(tmp_path: Path, audit: Any) -> None:
    picture(tmp_path / "inside" / "0" / "a.png", "red")
    picture(tmp_path / "inside" / "1" / "a.png", "lime")
    model = colours(tmp_path / "m.onnx", metadata='[data]\npath = "inside"\n[output]\nclasses = ["x", "y", "z"]')
    (tmp_path / "m.onnx.audit.toml").write_text('[output]\nclasses = ["r", "g", "b"]')
    record = audit(model=model)
    assert Path(record["data"]["path"]).name == "inside"
    assert record["model"]["classes"] == ["r", "g", "b"]


def test_labels_reach_the_probe(tmp_path: Path, audit: Any) -> None:
    """Two of three are correct: the manifest, its paths, its labels and its groups all reach the probe."""
    for name in ("red", "lime", "blue"):
        picture(tmp_path / "data" / f"{name}.png", name)
    (tmp_path / "data" / "t.csv").write_text("image,label,half\nred.png,0,a\nlime.png,1,a\nblue.png,1,b\n")
    record = audit("--data", "data/t.csv")
    accuracy = next(m for p in record["probes"] for m in p["metrics"] if m["name"] == "accuracy")
    assert accuracy["value"] == pytest.approx(2 / 3)
    assert accuracy["n"] == 3


def test_images_with_several_frames_are_named(tmp_path: Path, find_source: Any) -> None:
    picture(tmp_path / "a" / "one.png", "red")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a" / "two.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a" / "pages.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a" / "photo.jpg", format="MPO", save_all=True, append_images=frames[1:])
    images = Images(find_source(tmp_path), shape=RGB)
    assert images.warnings == [
        "Of images with several frames or pages, the first is audited (2): a/pages.tif, a/two.gif."
    ]
    assert images.pixels(["a/two.gif"])[0].mean(axis=(1, 2)) == pytest.approx([1, 0, 0], abs=0.01)


def test_missing_value_of_a_group_has_a_name(tmp_path: Path, find_source: Any) -> None:
    picture(tmp_path / "a.png", "red")
    (tmp_path / "t.csv").write_text("image,sex\na.png,f\na.png,\n")
    assert Images(find_source(tmp_path / "t.csv"), shape=RGB).groups == {"sex": ["f", "(no value)"]}


@pytest.mark.parametrize("header", ["image,Label", "Image,label", "image, Unit", "image,MASK"])
def test_almost_the_name_of_a_special_column_is_refused(header: str, tmp_path: Path, find_source: Any) -> None:
    """Label would be a group, and the data would have no labels."""
    picture(tmp_path / "a.png", "red")
    (tmp_path / "t.csv").write_text(f"{header}\na.png,x\n")
    with pytest.raises(BadInput, match=r"has a column called '.*'; expected '"):
        find_source(tmp_path / "t.csv")


def test_epsilon_of_each_image_is_read_from_a_manifest_and_an_npz(tmp_path: Path, find_source: Any) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    manifest = tmp_path / "m.csv"
    manifest.write_text("image,label,epsilon,sex\na.png,0,8/255,f\nb.png,1,0.03,m\n")
    source = find_source(manifest)
    assert set(source.groups) == {"sex"}
    images = Images(source, shape=RGB)
    np.testing.assert_allclose(images.epsilons, [8 / 255, 0.03])
    archive = tmp_path / "d.npz"
    np.savez(archive, images=np.zeros((2, 8, 8, 3), dtype=np.uint8), epsilons=np.array([0.1, 0.2]))
    other = Images(find_source(archive), shape=RGB)
    np.testing.assert_allclose(other.epsilons, [0.1, 0.2])
    # rows depend on it
    manifest.write_text("image,label,epsilon,sex\na.png,0,8/255,f\nb.png,1,0.04,m\n")
    assert Images(find_source(manifest), shape=RGB).measured_sha256 != images.measured_sha256


@pytest.mark.parametrize("value", ["", "0", "-0.1", "2", "nan", "8/0", "8/", "big", "8"])
def test_invalid_epsilon_names_the_image_and_what_was_expected(value: str, tmp_path: Path, find_source: Any) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"image,label,epsilon\na.png,0,0.1\nb.png,1,{value}\n")
    with pytest.raises(BadInput, match=r"the epsilon of b\.png is .*; expected a number or fraction above 0"):
        Images(find_source(manifest), shape=RGB)
