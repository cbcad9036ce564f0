from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from robot_wm.preprocess import IMAGENET_MEAN, IMAGENET_STD, ImageSpec, NormStats, prepare_images


def test_a_flat_colour_comes_out_as_imagenet_says():
    picture = np.full((48, 64, 3), (10, 20, 30), np.uint8)
    out = prepare_images(picture, ImageSpec(16, 16))
    want = (np.array([10, 20, 30]) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert out.shape == (3, 16, 16)
    np.testing.assert_allclose(out.mean((1, 2)), want, rtol=1e-5)
    np.testing.assert_allclose(out.std((1, 2)), 0, atol=1e-6)


def test_a_wide_picture_is_cropped_in_its_centre_not_squeezed():
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 16:48] = 255
    out = prepare_images(picture, ImageSpec(32, 32))
    assert out.min() > 2.0  # only the white middle is left


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_resizing_is_pillows(how):
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    picture[:, 30:] //= 8  # an edge, where bicubic overshoots
    plain = ImageSpec(24, 24, (0.0,) * 3, (1 / 255,) * 3, how)
    ours = prepare_images(picture, plain).permute(1, 2, 0).numpy()
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[how]
    pillows = np.asarray(Image.fromarray(picture).resize((24, 24), method), np.float32)
    np.testing.assert_allclose(ours, pillows, atol=1.01)
    assert ours.min() >= 0 and ours.max() <= 255


def test_without_antialiasing_pixels_are_passed_over():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[::4] = 255  # a line in four: averaged, a quarter
    plain = ImageSpec(16, 16, (0.0,) * 3, (1 / 255,) * 3)
    smooth = prepare_images(picture, plain)
    raw = prepare_images(picture, replace(plain, antialias=False))
    assert smooth[:, 2:-2].std() < 1 and float(smooth.mean()) == pytest.approx(64, abs=3)
    frames = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    reference = torch.nn.functional.interpolate(
        frames, (16, 16), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(raw, reference[0])
    assert (raw - smooth).abs().max() > 30


def test_many_pictures_are_each_treated_alone():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 20, 3), np.uint8)
    spec = ImageSpec(8, 8)
    together = prepare_images(pictures, spec)
    assert together.shape == (2, 3, 3, 8, 8)
    assert torch.equal(together[1, 2], prepare_images(pictures[1, 2], spec))


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_other_arrays_are_refused(bad):
    with pytest.raises(ValueError, match="uint8"):
        prepare_images(bad, ImageSpec(2, 2))


vectors = npst.arrays(np.float64, (20, 3), elements=st.floats(-1e3, 1e3))


@given(vectors)
def test_normalising_and_back_is_where_it_started(values):
    stats = NormStats.fit(values)
    there = stats.forward(torch.from_numpy(values))
    scale = 1 + np.abs(values).max()
    np.testing.assert_allclose(stats.inverse(there), values, atol=1e-4 * scale)


def test_a_dimension_that_never_moves_is_not_blown_up():
    values = np.column_stack((np.linspace(0, 1, 50), np.full(50, 3.0)))
    assert NormStats.fit(values).std[1] == 1.0


@pytest.mark.parametrize("std", [0.0, -1.0, np.nan])
def test_pictures_without_a_spread_are_refused(std):
    with pytest.raises(ValueError, match="std"):
        ImageSpec(4, 4, std=(0.2, std, 0.2))


@pytest.mark.parametrize("std", [[0.0], [-1.0], [np.nan], [1.0, 1.0]])
def test_impossible_statistics_are_refused(std):
    with pytest.raises(ValueError, match="NormStats"):
        NormStats(np.zeros(1), np.array(std))
