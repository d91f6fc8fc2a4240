"""The authors' protocol against loops over its thresholds, written out pixel by pixel, on real masks too."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from prsmed.errors import DataError
from prsmed.metrics.protocol import ProtocolScores, protocol_scores, protocol_scores_float

THRESHOLDS = np.linspace(1, 0, 256)
N_REAL = 50


def loop(prob_HW, truth_HW):
    """Dice and IoU at each threshold, 0 where prediction and truth share nothing; their means."""
    dice, iou = [], []
    for threshold in THRESHOLDS:
        predicted_HW = prob_HW >= threshold
        shared = int((predicted_HW & truth_HW).sum())
        either = int((predicted_HW | truth_HW).sum())
        dice.append(2 * shared / (shared + either) if shared else 0.0)
        iou.append(shared / either if shared else 0.0)
    return np.mean(dice), np.mean(iou)


def e_measure_loop(prob_HW, truth_HW):
    """Fan et al. 2018: bias matrices, their alignment, (1 + alignment)^2 / 4, averaged over pixels and thresholds."""
    values = []
    for threshold in THRESHOLDS:
        predicted_HW = prob_HW >= threshold
        if not truth_HW.any():
            values.append((~predicted_HW).mean())
        elif truth_HW.all():
            values.append(predicted_HW.mean())
        else:
            bias_HW, bias_truth_HW = predicted_HW - predicted_HW.mean(), truth_HW - truth_HW.mean()
            alignment_HW = 2 * bias_HW * bias_truth_HW / (bias_HW**2 + bias_truth_HW**2)
            values.append(((1 + alignment_HW) ** 2 / 4).mean())
    return np.mean(values)


def soften(mask_HW, seed):
    """A prediction that is off by some pixels, blurred, and darker or lighter than the truth."""
    generator = np.random.default_rng(seed)
    moved_HW = ndimage.shift(mask_HW.astype(np.float64), generator.integers(-12, 13, 2), order=0)
    blurred_HW = ndimage.gaussian_filter(moved_HW, generator.uniform(0.5, 8.0))
    return np.clip(generator.uniform(0.6, 1.2) * blurred_HW + generator.uniform(0, 0.1), 0, 1)


def code(prob_HW):
    return np.rint(prob_HW * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def real_masks(shared_data):
    """Fifty masks spread over the whole table, so over all modalities; negatives among them."""
    folder = shared_data / "six_modalities"
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    chosen = [rows[index] for index in np.linspace(0, len(rows) - 1, N_REAL).astype(int)]
    assert len({row["modality"] for row in chosen}) == 6
    return [np.asarray(Image.open(folder / row["mask"]).convert("L")) > 0 for row in chosen]


def test_real_masks_with_8_bit_maps(real_masks):
    for seed, truth_HW in enumerate(real_masks):
        codes_HW = code(soften(truth_HW, seed))
        ours = protocol_scores(codes_HW, truth_HW)
        assert (ours.dice, ours.iou) == pytest.approx(loop(codes_HW / 255, truth_HW), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_masks_with_float_maps(real_masks, dtype):
    for seed, truth_HW in enumerate(real_masks[::2]):
        prob_HW = soften(truth_HW, seed).astype(dtype)
        ours = protocol_scores_float(prob_HW, truth_HW)
        assert (ours.dice, ours.iou) == pytest.approx(loop(prob_HW, truth_HW), abs=1e-12)


def test_e_measure_of_real_masks(real_masks):
    """Every eighth pixel of every eighth row: the loop works on whole matrices 256 times."""
    for seed, truth_HW in enumerate(real_masks):
        prob_HW, thinned_HW = soften(truth_HW, seed)[::8, ::8], truth_HW[::8, ::8]
        expected = e_measure_loop(code(prob_HW) / 255, thinned_HW)
        assert protocol_scores(code(prob_HW), thinned_HW).e_measure == pytest.approx(expected, abs=1e-12)
        expected = e_measure_loop(prob_HW, thinned_HW)
        assert protocol_scores_float(prob_HW, thinned_HW).e_measure == pytest.approx(expected, abs=1e-12)


def test_a_right_binary_map():
    """Thresholds above 0 are all right; at 0 everything is predicted: Dice 2 * 4 / (4 + 16), IoU 4 / 16.

    There the alignment is 0 everywhere, so the E-measure is 1 / 4.
    """
    truth_HW = np.zeros((4, 4), dtype=bool)
    truth_HW[0] = True
    ours = protocol_scores(truth_HW.astype(np.uint8) * 255, truth_HW)
    means = [(255 + at_zero) / 256 for at_zero in (0.4, 0.25, 0.25)]
    assert [ours.dice, ours.iou, ours.e_measure] == pytest.approx(means, abs=1e-12)
    assert protocol_scores_float(truth_HW.astype(np.float32), truth_HW) == ours


def test_nothing_shared_is_zero_even_if_nothing_is_there():
    """The E-measure of an empty truth is the share of pixels left out: all of them but at threshold 0."""
    empty_HW = np.zeros((4, 4), dtype=bool)
    ours = protocol_scores(empty_HW.astype(np.uint8), empty_HW)
    assert ours == ProtocolScores(dice=0.0, iou=0.0, e_measure=pytest.approx(255 / 256))


def test_the_full_truth():
    """A uniform map of value 1 / 2 (float) is predicted at the 128 thresholds up to 127 / 255."""
    ours = protocol_scores_float(np.full((4, 4), 0.5), np.ones((4, 4), dtype=bool))
    assert [ours.dice, ours.iou, ours.e_measure] == pytest.approx([0.5, 0.5, 0.5], abs=1e-12)


@pytest.mark.parametrize("level", range(256))
def test_a_value_at_a_threshold_reaches_it(level):
    """Values at a threshold, and a rounding error below and above: where >= is decided. With one pixel, IoU counts."""
    truth_HW = np.ones((1, 1), dtype=bool)
    at = THRESHOLDS[level]
    for value in (at, max(0.0, np.nextafter(at, -1)), min(1.0, np.nextafter(at, 2)), np.float32(at)):
        expected = (value >= THRESHOLDS).sum() / 256
        assert protocol_scores_float(np.array([[value]]), truth_HW).iou == expected
    assert protocol_scores(np.array([[level]], dtype=np.uint8), truth_HW).iou == (level / 255 >= THRESHOLDS).sum() / 256


@pytest.mark.parametrize(
    ("score", "soft", "message"),
    [
        (protocol_scores, np.zeros((4, 4)), "protocol_scores_float"),
        (protocol_scores_float, np.zeros((4, 4), dtype=np.uint8), "use protocol_scores for"),
        (protocol_scores_float, np.full((4, 4), 1.5), "sigmoid"),
        (protocol_scores_float, np.full((4, 4), np.nan), "NaN"),
        (protocol_scores, np.zeros((4, 5), dtype=np.uint8), "map's grid"),
    ],
)
def test_wrong_maps_are_refused(score, soft, message):
    with pytest.raises(DataError, match=message):
        score(soft, np.zeros((4, 4), dtype=bool))
