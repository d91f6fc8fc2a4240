"""What the figures are drawn from; expected numbers are counted from the rows."""

from dataclasses import replace

import numpy as np
from PIL import Image

from prsmed.report.plots import draw_confusions, draw_dice, draw_plots, draw_reliability
from tests.unit.report.evaluations import made_up_content, made_up_rows

ROWS = made_up_rows(48)


def test_dice_of_images_with_the_target_without_probes():
    rows = [replace(ROWS[0], mask=replace(ROWS[0].mask, dice=dice)) for dice in (0.2, 0.5, 0.9)]
    rows += [replace(rows[0], probe="flip"), replace(rows[0], present=False)]
    figure, _, alt = draw_dice(rows)
    assert alt == "Distribution of Dice. Medians: ct lesions 0.500."
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ct lesions (n 3)"]
    assert sorted(figure.axes[0].collections[0].get_offsets()[:, 0]) == [0.2, 0.5, 0.9]
    assert draw_dice(rows[3:]) is None


def test_one_matrix_per_modality():
    labels = ["top-left", "top-right", "bottom-left", "bottom-right", "center", "none", "unreadable", "several"]
    counts = np.zeros((5, 8), int)
    counts[0, 0], counts[0, 6], counts[4, 4] = 2, 1, 1
    matrix = {"confusion": {"labels": labels, "rows": counts.tolist()}}
    figure, _, alt = draw_confusions({"ct": matrix, "mri": None, "x-ray": matrix})
    assert [axes.get_title() for axes in figure.axes] == ["ct (n 4)", "x-ray (n 4)"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[0], [2 / 3, 0, 0, 0, 0, 0, 1 / 3, 0])
    assert "ct 0.750" in alt
    assert draw_confusions({"ct": {}}) is None


def test_reliability_leaves_out_empty_bins():
    bins = [
        {"lower": 0.0, "upper": 0.5, "n": 4, "mean_prob": 0.2, "share_present": 0.25},
        {"lower": 0.5, "upper": 1.0, "n": 0, "mean_prob": None, "share_present": None},
    ]
    figure, _, alt = draw_reliability(bins)
    assert alt == "Reliability diagram. 0.200 stated, 0.250 seen."
    assert figure.axes[1].patches[0].get_height() == 4
    assert draw_reliability(bins[1:]) is None


def test_figures_fit_a_page(tmp_path):
    plots = draw_plots(tmp_path, made_up_content(ROWS), ROWS)
    assert set(plots) == {"dice", "confusion", "reliability"}
    for plot in plots.values():
        with Image.open(tmp_path / plot.path) as picture:
            assert 300 < picture.width <= 1232
