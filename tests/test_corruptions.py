"""ImageNet-C style corruptions against published parameters and values computed by hand, and the probes."""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scipy import ndimage

from auditor.algorithms.corruptions import CORRUPTIONS, PARAMETERS, _gains, _shuffled, corrupt, parameter_set
from auditor.plugins.corruptions.camera import Camera
from auditor.plugins.corruptions.imagenet_c import ALL, FAMILIES, ImageNetC
from auditor.probes.base import Randomness

SHAPES = [(3, 3, 96, 96), (3, 3, 32, 32), (3, 1, 32, 32), (3, 1, 8, 8), (2, 3, 20, 33), (2, 1, 1, 1), (2, 3, 3, 2)]


def pictures(shape: Sequence[int], grain: float = 0.3) -> np.ndarray:
    """Draw random images (n, c, h, w) in [0, 1] with structure at coarse and fine scales."""
    rng = np.random.default_rng(0)
    n, c, h, w = shape
    fine, coarse = rng.random((n, c, h, w)), rng.random((n, c, 4, 4))
    smooth = np.stack([ndimage.zoom(image, (1, h / 4, w / 4), order=1) for image in coarse])
    return (grain * fine + (1 - grain) * smooth[:, :, :h, :w]).astype(np.float32)


def generators(n: int, first: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(first + i) for i in range(n)]


def corrupted(name: str, images: np.ndarray, severity: int) -> np.ndarray:
    return corrupt(name, images, severity, generators(len(images)))


def test_corruptions_are_the_fifteen_of_the_paper_in_order() -> None:
    assert list(CORRUPTIONS) == list(ALL)
    assert len(ALL) == 15
    assert [len(names) for names in FAMILIES.values()] == [3, 4, 4, 4]
    for parameters in PARAMETERS.values():
        assert list(parameters) == list(ALL)
        assert all(len(levels) == 5 for levels in parameters.values())


# Copied from the published scripts, in their order: one line per corruption, severities 1 to 5.
PUBLISHED_IMAGENET = {
    "gaussian-noise": [0.08, 0.12, 0.18, 0.26, 0.38],
    "shot-noise": [60, 25, 12, 5, 3],
    "impulse-noise": [0.03, 0.06, 0.09, 0.17, 0.27],
    "defocus-blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    "glass-blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    "motion-blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    "zoom-blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    "snow": [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
    "frost": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
    "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
    "elastic-transform": [(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)],
    "pixelate": [0.6, 0.5, 0.4, 0.3, 0.25],
    "jpeg-compression": [25, 18, 15, 10, 7],
}
PUBLISHED_CIFAR = {
    "gaussian-noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot-noise": [500, 250, 100, 75, 50],
    "impulse-noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "defocus-blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "glass-blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    "motion-blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom-blur": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
    "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "elastic-transform": [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
    "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
    "jpeg-compression": [80, 65, 58, 50, 40],
}


@pytest.mark.parametrize(("which", "published"), [("imagenet", PUBLISHED_IMAGENET), ("cifar", PUBLISHED_CIFAR)])
def test_parameters_equal_the_published_ones(which: Any, published: dict[str, list[Any]]) -> None:
    assert {name: list(levels) for name, levels in PARAMETERS[which].items()} == published


def test_parameter_set_depends_on_image_size() -> None:
    sides = {side: parameter_set((1, 3, side, side)) for side in (8, 32, 64, 84, 85, 96, 224, 512)}
    assert {side for side, which in sides.items() if which == "cifar"} == {8, 32, 64, 84}
    assert parameter_set((1, 3, 300, 40)) == "cifar"  # depends on the shorter side


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_corruption_keeps_shape_type_range_and_ignores_the_batch(name: str, shape: tuple[int, ...]) -> None:
    images = pictures(shape)
    before = images.copy()
    for severity in (1, 3, 5):
        result = corrupted(name, images, severity)
        assert result.shape == images.shape
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        assert result.min() >= 0
        assert result.max() <= 1
        np.testing.assert_array_equal(result, corrupted(name, images, severity))
        for i in range(len(images)):
            single = corrupt(name, images[i : i + 1], severity, generators(1, first=i))
            np.testing.assert_array_equal(result[i], single[0])
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("shape", [(4, 3, 128, 128), (8, 3, 32, 32)], ids=str)
def test_damage_grows_with_severity(shape: tuple[int, ...]) -> None:
    images = pictures(shape, grain=0.1)
    damage = {n: [float(((corrupted(n, images, s) - images) ** 2).mean()) for s in range(1, 6)] for n in ALL}
    assert all(min(values) > 1e-7 for values in damage.values())
    rising = {name for name, values in damage.items() if np.all(np.diff(values) > -1e-9)}
    # the published parameters of these do not grow on every count: glass-blur trades reach for rounds, snow few large
    # flakes for many small ones, frost the image for ice as bright, elastic-transform one large bend for many small
    assert set(ALL) - rising <= {"glass-blur", "snow", "frost", "elastic-transform"}
    assert all(damage[name][4] > damage[name][0] for name in rising)


def test_black_and_white_images_stay_finite() -> None:
    for value in (0.0, 1.0):
        images = np.full((1, 3, 16, 16), value, dtype=np.float32)
        for name in ALL:
            assert np.isfinite(corrupted(name, images, 5)).all()


# Values that can be computed by hand


def test_brightness_adds_to_the_largest_channel_and_keeps_the_hue() -> None:
    images = np.array([0.2, 0.4, 0.1], dtype=np.float32).reshape(1, 3, 1, 1)
    # CIFAR, severity 3: V 0.4 becomes 0.55, all channels by the factor 1.375
    np.testing.assert_allclose(corrupted("brightness", images, 3).ravel(), [0.275, 0.55, 0.1375], rtol=1e-6)
    np.testing.assert_allclose(corrupted("brightness", images + 0.5, 5).ravel(), np.array([7, 9, 6]) / 9, rtol=1e-6)
    black = np.zeros((1, 3, 2, 2), dtype=np.float32)
    np.testing.assert_allclose(corrupted("brightness", black, 2), 0.1, rtol=1e-6)
    grey = np.full((1, 1, 100, 100), 0.25, dtype=np.float32)
    np.testing.assert_allclose(corrupted("brightness", grey, 5), 0.75, rtol=1e-6)  # ImageNet


def test_contrast_shrinks_the_distance_to_each_channel_mean() -> None:
    images = np.array([[0.0, 1.0], [0.5, 0.9]], dtype=np.float32).reshape(1, 2, 1, 2)
    np.testing.assert_allclose(corrupted("contrast", images, 2).ravel(), [0.25, 0.75, 0.6, 0.8], rtol=1e-6)


def test_pixelate_equals_block_means() -> None:
    images = pictures((1, 3, 96, 96))
    expected = images.reshape(1, 3, 24, 4, 24, 4).mean(axis=(3, 5)).repeat(4, axis=2).repeat(4, axis=3)
    np.testing.assert_allclose(corrupted("pixelate", images, 5), expected, atol=1e-6)  # 0.25 of the side


@pytest.mark.parametrize(("side", "severity", "sigma"), [(96, 1, 0.08), (96, 2, 0.12), (64, 1, 0.04), (64, 5, 0.10)])
def test_gaussian_noise_has_the_published_sigma(side: int, severity: int, sigma: float) -> None:
    images = np.full((4, 3, side, side), 0.5, dtype=np.float32)
    noise = corrupted("gaussian-noise", images, severity) - images
    assert noise.std() == pytest.approx(sigma, rel=0.02)
    assert abs(noise.mean()) < 0.01 * sigma * 3


def test_shot_noise_has_poisson_variance() -> None:
    images = np.full((4, 3, 96, 96), 0.25, dtype=np.float32)
    noisy = corrupted("shot-noise", images, 1)
    assert noisy.mean() == pytest.approx(0.25, rel=0.01)
    assert noisy.var() == pytest.approx(0.25 / 60, rel=0.03)
    np.testing.assert_allclose(noisy * 60, np.rint(noisy * 60), atol=1e-4)


def test_impulse_noise_replaces_the_published_share_half_by_salt() -> None:
    images = np.full((4, 3, 96, 96), 0.5, dtype=np.float32)
    noisy = corrupted("impulse-noise", images, 5)
    assert (noisy != 0.5).mean() == pytest.approx(0.27, rel=0.02)
    assert (noisy == 1).mean() == pytest.approx(0.135, rel=0.04)
    assert set(np.unique(noisy)) == {0, 0.5, 1}


@pytest.mark.parametrize("name", [*FAMILIES["blur"], "elastic-transform", "pixelate"])
def test_blur_and_distortion_do_not_change_a_flat_image(name: str) -> None:
    images = np.full((2, 3, 90, 90), 0.3, dtype=np.float32)
    np.testing.assert_allclose(corrupted(name, images, 5), images, atol=2e-6)


def test_defocus_blurs_a_point_to_a_disk() -> None:
    images = np.zeros((1, 1, 101, 101), dtype=np.float32)
    images[0, 0, 50, 50] = 1
    y, x = np.mgrid[-50:51, -50:51]
    disk = (x * x + y * y <= 9) / np.sum(x * x + y * y <= 9)
    np.testing.assert_allclose(corrupted("defocus-blur", images, 1)[0, 0], disk, atol=1e-6)  # radius 3, no softening


def test_zoom_blur_is_the_mean_of_enlargements() -> None:
    images = pictures((1, 3, 96, 96))
    total = images.astype(np.float64)
    factors = np.arange(1, 1.21, 0.02)
    for factor in factors:
        crop = int(np.ceil(96 / factor))
        top = (96 - crop) // 2
        big = ndimage.zoom(images[0, :, top : top + crop, top : top + crop], (1, factor, factor), order=1)
        trim = (big.shape[1] - 96) // 2
        total[0] += big[:, trim : trim + 96, trim : trim + 96]
    np.testing.assert_allclose(corrupted("zoom-blur", images, 3), total / (len(factors) + 1), atol=2e-6)


def test_glass_blur_equals_the_published_loop() -> None:
    height, width, reach = 12, 15, 2
    source = _shuffled(height, width, reach, np.random.default_rng(5))
    colours = np.arange(height * width).reshape(height, width)
    rows, columns = np.arange(reach + 1, height - reach + 1), np.arange(reach + 1, width - reach + 1)
    down, right = np.random.default_rng(5).integers(-reach, reach, size=(2, len(rows), len(columns)))
    for h in rows[::-1]:
        for w in columns[::-1]:
            dy, dx = down[h - rows[0], w - columns[0]], right[h - rows[0], w - columns[0]]
            colours[h, w] = colours[h + dy, w + dx]
    np.testing.assert_array_equal(source, colours.ravel())


def test_cosine_smoothing_equals_the_reflected_gaussian() -> None:
    from scipy import fft

    signal = np.random.default_rng(0).uniform(-1, 1, 40)
    for sigma in (0.0, 0.9, 3.0, 28.0):
        smooth = fft.idct(fft.dct(signal) * _gains(40, sigma))
        expected = ndimage.gaussian_filter1d(signal, sigma, mode="reflect", truncate=3) if sigma else signal
        np.testing.assert_allclose(smooth, expected, atol=1e-10)


def test_motion_blur_keeps_parallel_lines() -> None:
    class Straight:
        def uniform(self, low: float, high: float) -> float:
            assert (low, high) == (-45, 45)
            return 0.0

    rows = np.broadcast_to(pictures((1, 1, 96, 1)), (1, 1, 96, 96)).astype(np.float32)
    still: Any = [Straight()]
    np.testing.assert_allclose(corrupt("motion-blur", rows, 5, still), rows, atol=1e-6)
    columns = np.ascontiguousarray(rows.transpose(0, 1, 3, 2))
    blurred = corrupt("motion-blur", columns, 1, still)
    weights = np.exp(-0.5 * (np.arange(21) / 3) ** 2)
    np.testing.assert_allclose(blurred[0, 0, 0, 10], columns[0, 0, 0, 10:31] @ (weights / weights.sum()), atol=2e-5)


# The probe


def test_invalid_settings_are_refused() -> None:
    for wrong in ({"corruptions": ("rain",)}, {"severities": (0,)}, {"severities": ()}, {"corruptions": ()}):
        with pytest.raises(ValueError, match="corruption"):
            ImageNetC(**wrong)
    levels = ImageNetC(corruptions=("fog", "snow"), severities=(5, 1)).levels()
    assert [(at["corruption"], at["severity"]) for at in levels] == [("snow", 1), ("snow", 5), ("fog", 1), ("fog", 5)]


def test_corruptions_use_only_the_probes_rng() -> None:
    source = inspect.getsource(inspect.getmodule(corrupt))
    assert "np.random.default_rng" not in source
    assert "np.random.seed" not in source
    images = pictures((1, 3, 32, 32))
    for name in ("gaussian-noise", "frost", "elastic-transform"):
        a, b = (corrupt(name, images, 3, [Randomness(seed, "corruptions.imagenet-c")("one", name)]) for seed in (0, 1))
        assert np.abs(a - b).max() > 0


def brightness_model(path: Path) -> Path:
    """Write a model that returns class 1 if the mean of an 8x8 image is above 0.5: logits (0, mean - 0.5)."""
    weights = np.stack([np.zeros(64), np.full(64, 1 / 64)]).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([0, -0.5], dtype=np.float32), "bias"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def measure(model: Path, data: Path, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """Return the record of an audit with this probe only."""
    from auditor.run.request import Request
    from auditor.run.session import run

    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'probes = ["corruptions.imagenet-c"]\n[settings."corruptions.imagenet-c"]\n' + "\n".join(lines),
        encoding="utf-8",
    )
    out = tmp_path / "out"
    outcome = run(Request(model=model, suite=str(suite), data=data, out=out, formats=["json"]))
    assert not outcome.incomplete, outcome.audit["probes"][0]["reason"]
    probe: dict[str, Any] = outcome.audit["probes"][0]
    return probe


def test_brightness_model_has_the_expected_errors(tmp_path: Path) -> None:
    model = brightness_model(tmp_path / "m.onnx")
    # flat images on both sides of 0.5
    values = np.repeat(np.array([0.1, 0.3, 0.42, 0.6, 0.9], dtype=np.float32), 4)
    images = np.broadcast_to(values[:, None, None], (20, 8, 8)).copy()
    np.savez(tmp_path / "data.npz", images=images, labels=(values > 0.5).astype(np.int64))
    probe = measure(model, tmp_path / "data.npz", tmp_path, corruptions=["brightness", "contrast"])
    found = {(m["at"]["corruption"], m["at"]["severity"]): m["value"] for m in probe["metrics"] if m["at"]}
    # brightness adds 0.05, 0.1, 0.15, 0.2, 0.3: 0.42 crosses at 0.1, 0.3 at 0.3; contrast changes no flat image
    assert [found["brightness", s] for s in range(1, 6)] == [1.0, 0.8, 0.8, 0.8, 0.6]
    assert [found["contrast", s] for s in range(1, 6)] == [1.0] * 5
    headline, relative = probe["metrics"][:2]
    assert headline["name"] == "mce"
    assert headline["value"] == pytest.approx((0 + 0.2 + 0.2 + 0.2 + 0.4) / 10)
    assert headline["low"] < headline["value"] < headline["high"]
    assert relative["name"] == "relative_mce"
    assert relative["value"] == pytest.approx(headline["value"])  # the clean error is 0


def test_audit_of_digits_reports_all_levels(digits: Path, tmp_path: Path) -> None:
    probe = measure(digits / "digits-cnn.onnx", digits / "digits-test.npz", tmp_path, samples=60, severities=[1, 3, 5])
    assert probe["n"] == 60
    assert probe["status"] in {"pass", "fail", "inconclusive"}
    names = [metric["name"] for metric in probe["metrics"]]
    assert names == ["mce", "relative_mce", *["corruption_accuracy"] * 45]
    accuracy = [metric["value"] for metric in probe["metrics"][2:]]
    mce, relative = (metric["value"] for metric in probe["metrics"][:2])
    assert mce == pytest.approx(1 - np.mean(accuracy), abs=1e-4)
    (finding,) = probe["findings"]
    evidence = {item["kind"]: item for item in finding["evidence"]}
    assert "CIFAR-10-C" in evidence["text"]["text"]
    assert "procedural ice" in evidence["text"]["text"]
    assert "AlexNet" in evidence["text"]["text"]
    assert np.shape(evidence["heat-map"]["values"]) == (15, 3)
    assert [series["name"] for series in evidence["curve"]["series"]] == list(FAMILIES)
    assert [len(row["cells"]) for row in evidence["image-grid"]["rows"]] == [4, 5, 5, 5]
    assert all((tmp_path / "out" / c["file"]).is_file() for row in evidence["image-grid"]["rows"] for c in row["cells"])
    clean = float(finding["statement"].split("clean accuracy ")[1].split(" %")[0]) / 100
    assert relative == pytest.approx(mce - (1 - clean), abs=1e-3)


def test_jpeg_blur_and_brightness_equal_reference_implementations() -> None:
    images = pictures((4, 3, 24, 32))
    batch = SimpleNamespace(pixels=images)

    def at(**level: Any) -> np.ndarray:
        return Camera().perturb(None, batch, None, level)  # type: ignore[arg-type]

    sink = io.BytesIO()
    Image.fromarray(np.rint(images[0] * 255).astype(np.uint8).transpose(1, 2, 0)).save(sink, "JPEG", quality=30)
    read = np.asarray(Image.open(sink), dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(at(change="JPEG", quality=30)[0], read)
    blurred = ndimage.gaussian_filter(
        images.astype(np.float64), (0, 0, 0.08 * 24, 0.08 * 24), mode="reflect", truncate=3
    )
    np.testing.assert_allclose(at(change="Gaussian blur", blur=0.08), blurred, atol=1e-5)
    value = images.max(axis=1)
    np.testing.assert_allclose(at(change="brighter", brightness=0.2).max(axis=1), np.minimum(value + 0.2, 1), atol=1e-6)
    np.testing.assert_allclose(at(change="darker", brightness=0.2).max(axis=1), np.maximum(value - 0.2, 0), atol=1e-6)


def test_camera_levels_are_validated_and_mildest_first() -> None:
    levels = Camera(qualities=(10, 90), blurs=(0.08, 0.01), brightnesses=(0.3, 0.1)).levels()
    assert [list(level.values())[1] for level in levels] == [90, 10, 0.01, 0.08, 0.1, 0.3, 0.1, 0.3]
    for settings in ({"qualities": (0,)}, {"blurs": (2.0,)}, {"qualities": (), "blurs": (), "brightnesses": ()}):
        with pytest.raises(ValueError, match=r"qualities|blurs|expected at least one"):
            Camera(**settings)
