"""Mask scores against values counted by hand, MONAI's own metrics and the golden values; two processes as one."""

import multiprocessing
import socket

import numpy as np
import pytest
import torch
from monai.data.box_utils import box_iou
from monai.metrics import DiceMetric, MeanIoU, SurfaceDiceMetric

from prsmed.errors import DataError
from prsmed.metrics.masks import MaskMetric, Tolerance, ciou, giou, score_masks
from prsmed.metrics.rows import MaskScores

TOLERANCE = Tolerance()


def drawn(hw_px, *boxes_xyxy_px):
    mask_HW = np.zeros(hw_px, dtype=bool)
    for x0, y0, x1, y1 in boxes_xyxy_px:
        mask_HW[y0:y1, x0:x1] = True
    return mask_HW


def score(predicted_HW, truth_HW, **options):
    return score_masks(predicted_HW, truth_HW, **{"tolerance": TOLERANCE, **options})


def blobs(seed, hw_px=(60, 90)):
    """A few rectangles, some of them at the border."""
    generator = np.random.default_rng(seed)
    x0, y0 = generator.integers(0, hw_px[1] - 5, 3), generator.integers(0, hw_px[0] - 5, 3)
    sides = generator.integers(5, 40, (2, 3))
    return drawn(hw_px, *zip(x0, y0, x0 + sides[0], y0 + sides[1], strict=True))


def golden():
    """The three pairs of 4 x 4 masks of the specification: row 0 against 3 + 3 px, nothing twice, nothing and 2 px."""
    empty = np.zeros((4, 4), dtype=bool)
    pairs = [(drawn((4, 4), (0, 0, 3, 2)), drawn((4, 4), (0, 0, 4, 1))), (empty, empty)]
    return [*pairs, (drawn((4, 4), (0, 0, 2, 1)), empty)]


def test_golden_values():
    scores = [score(*pair) for pair in golden()]
    assert [row.iou for row in scores] == pytest.approx([0.428571, 1, 0], abs=1e-6)
    assert [row.dice for row in scores] == pytest.approx([0.6, 1, 0], abs=1e-12)
    assert giou(scores) == pytest.approx(0.476190, abs=1e-6)
    assert ciou(scores) == pytest.approx(3 / 9, abs=1e-12)


def test_cumulative_iou_of_nothing():
    empty = score(np.zeros((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool))
    assert (ciou([]), giou([])) == (None, None)
    assert (ciou([empty]), giou([empty])) == (1.0, 1.0)


def test_the_policy_for_empty_masks():
    """Both empty is right and one of two empty is wrong, in every score; regions are counted all the same."""
    empty, full = np.zeros((20, 30), dtype=bool), drawn((20, 30), (2, 2, 8, 8), (20, 5, 28, 15))
    assert score(empty, empty) == MaskScores(1.0, 1.0, 1.0, 0, 0, 1.0, 0, 0, 0)
    assert score(empty, full) == MaskScores(0.0, 0.0, 0.0, 0, 116, 0.0, 2, 0, 0)
    assert score(full, empty) == MaskScores(0.0, 0.0, 0.0, 0, 116, 0.0, 0, 0, 2)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing_hw_mm", [None, (0.5, 0.8)])
def test_monai_agrees(seed, spacing_hw_mm):
    """On whole pictures, uncropped by us, with masks that touch the border."""
    predicted, truth = blobs(seed), blobs(seed + 100)
    ours = score(predicted, truth, spacing_hw_mm=spacing_hw_mm)
    tensors = [torch.from_numpy(mask_HW)[None, None] for mask_HW in (predicted, truth)]
    options = {"spacing": spacing_hw_mm} if spacing_hw_mm else {}
    assert ours.nsd == float(SurfaceDiceMetric([2.0], include_background=True)(*tensors, **options))
    assert ours.dice == pytest.approx(float(DiceMetric()(*tensors)), abs=1e-6)
    assert ours.iou == pytest.approx(float(MeanIoU()(*tensors)), abs=1e-6)
    edges = [np.nonzero(mask_HW) for mask_HW in (predicted, truth)]
    boxes = [np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], dtype=np.float32) for y, x in edges]
    assert ours.box_iou == pytest.approx(box_iou(*boxes).item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_surface_dice_is_monai_s_to_the_last_digit(seed):
    """Ragged masks, and tolerances that distances reach exactly: rows of 0.1 mm, columns of 0.3 mm."""
    generator = np.random.default_rng(seed)
    predicted, truth = (drawn((40, 50), (5, 5, 45, 35)) & (generator.random((40, 50)) < 0.8) for _ in range(2))
    tensors = [torch.from_numpy(mask_HW)[None, None] for mask_HW in (predicted, truth)]
    for limit_mm in (0.1, 0.3, 0.9, 0.7):
        expected = SurfaceDiceMetric([limit_mm], include_background=True)(*tensors, spacing=(0.1, 0.3))
        ours = score(predicted, truth, spacing_hw_mm=(0.1, 0.3), tolerance=Tolerance(mm=limit_mm))
        assert ours.nsd == float(expected)


@pytest.mark.parametrize("corner_yx", [(0, 0), (0, 20), (40, 0), (40, 20), (20, 10)])
def test_surfaces_at_the_border_count_like_others(corner_yx):
    """The same two masks in the corners and in the middle of a picture: the border of a picture is a surface, too."""
    y, x = corner_yx
    pair = [np.zeros((60, 40), dtype=bool) for _ in range(2)]
    for mask_HW, patch in zip(pair, (drawn((20, 20), (0, 0, 20, 12)), drawn((20, 20), (0, 6, 20, 20))), strict=True):
        mask_HW[y : y + 20, x : x + 20] = patch
    # Outlines: 2 (20 + 12) - 4 = 60 px and 2 (20 + 14) - 4 = 64 px. Of the first, 6 rows on both sides are within 2 px
    # of the second outline (which starts at row 6) from row 4 on, 8 px each; its lower edge of 18 px more lies 5 rows
    # below the second's upper edge: its outermost 2 px on each side are within 2 px of the second's sides. The second
    # likewise: rows 6 to 13 on both sides, and of its upper edge the outermost 2 px on each side.
    assert score(*pair).nsd == pytest.approx((2 * 8 + 2 * 2 + 2 * 8 + 2 * 2) / (60 + 64), abs=1e-6)


def test_tolerance_is_in_mm_where_the_spacing_is_known():
    """Two lines 3 px apart: beyond 2 px; at 0.5 mm a pixel they are 1.5 mm apart, at 1 mm a row 3 mm."""
    pair = drawn((20, 20), (5, 5, 15, 6)), drawn((20, 20), (5, 8, 15, 9))
    assert score(*pair).nsd == 0
    assert score(*pair, tolerance=Tolerance(px=3.0)).nsd == 1
    assert score(*pair, spacing_hw_mm=(0.5, 0.5)).nsd == 1
    assert score(*pair, spacing_hw_mm=(1.0, 0.5)).nsd == 0
    assert score(*pair, spacing_hw_mm=(1.0, 0.5), tolerance=Tolerance(mm=3.0)).nsd == 1


@pytest.mark.parametrize(
    ("predicted", "truth", "counts"),
    [
        ([(0, 0, 10, 10)], [(0, 0, 10, 10), (30, 30, 40, 40)], (2, 1, 0)),  # one found, one missed
        ([(0, 0, 10, 10), (60, 0, 70, 10)], [(0, 0, 10, 10)], (1, 1, 1)),  # and one invented
        ([(0, 0, 10, 1)], [(0, 0, 10, 10)], (1, 1, 0)),  # IoU 10 / 100: just enough
        ([(0, 0, 9, 1)], [(0, 0, 10, 10)], (1, 0, 1)),  # IoU 9 / 100
        ([(0, 0, 80, 50)], [(0, 0, 10, 10)], (1, 0, 1)),  # everything: IoU 100 / 4000
        ([(0, 0, 22, 10)], [(0, 0, 10, 10), (12, 0, 22, 10)], (2, 2, 0)),  # drawn as one
        ([(0, 0, 10, 4), (0, 6, 10, 10)], [(0, 0, 10, 10)], (1, 1, 0)),  # drawn in two pieces
        ([(0, 0, 5, 5), (5, 5, 10, 10)], [(0, 0, 10, 10)], (1, 1, 0)),  # corners touch: one region
        ([(0, 0, 10, 10), (50, 30, 53, 32)], [(0, 0, 10, 10)], (1, 1, 0)),  # 6 px are no finding
        (
            [(0, 0, 10, 10), (50, 30, 53, 33)],
            [(0, 0, 10, 10), (50, 30, 53, 32)],
            (1, 1, 0),
        ),  # a hit on 6 px
    ],
)
def test_lesions_are_matched(predicted, truth, counts):
    row = score(drawn((50, 80), *predicted), drawn((50, 80), *truth))
    assert (row.lesions_true, row.lesions_found, row.lesions_false) == counts


def test_small_regions_are_judged_by_the_whole_picture():
    """In 1000 x 1000 px a finding has at least 100 px, however small the part of the picture that holds the masks."""
    truth, speck = (100, 100, 120, 120), (130, 100, 139, 111)
    assert score(drawn((1000, 1000), truth, speck), drawn((1000, 1000), truth)).lesions_false == 0
    assert score(drawn((900, 900), truth, speck), drawn((900, 900), truth)).lesions_false == 1


def test_boxes_are_half_open():
    """Boxes (0, 0, 4, 4) and (2, 2, 6, 6): 4 px of 28. Boxes that share an edge share nothing."""
    assert score(drawn((8, 8), (0, 0, 4, 4)), drawn((8, 8), (2, 2, 6, 6))).box_iou == pytest.approx(4 / 28)
    assert score(drawn((8, 8), (0, 0, 4, 4)), drawn((8, 8), (4, 0, 8, 4))).box_iou == 0


def test_a_mirror_changes_no_score():
    predicted, truth = blobs(0), blobs(100)
    assert score(predicted[:, ::-1], truth[:, ::-1]) == score(predicted, truth)


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 4), dtype=bool), "predicted mask is float64"),
        (np.zeros((4, 4), dtype=bool), np.zeros((1, 4, 4), dtype=bool), "true mask is bool"),
        (np.zeros((4, 4), dtype=bool), np.zeros((4, 5), dtype=bool), "source grid"),
    ],
)
def test_wrong_masks_are_refused(predicted, truth, message):
    with pytest.raises(DataError, match=message):
        score(predicted, truth)


SAMPLES = [(blobs(seed, hw_px=(40 + seed, 70)), blobs(seed + 50, hw_px=(40 + seed, 70))) for seed in range(5)]
SPACINGS = [None, (0.5, 0.5), (0.7, 0.3), None, (1.0, 1.0)]
BIG_INDEX = 2**53 - 7  # 24 bits of a float32 would not hold it


def feed(metric, numbers):
    predicted, truth = ([torch.from_numpy(SAMPLES[number][part])[None] for number in numbers] for part in range(2))
    spacings = [SPACINGS[number] for number in numbers]
    return metric(predicted, truth, index=[BIG_INDEX + number for number in numbers], spacing_hw_mm=spacings)


def directly():
    rows = (score(*pair, spacing_hw_mm=spacing) for pair, spacing in zip(SAMPLES, SPACINGS, strict=True))
    return {BIG_INDEX + number: row for number, row in enumerate(rows)}


def test_a_metric_collects_batches():
    metric = MaskMetric()
    assert metric.aggregate() == {}
    feed(metric, [3, 4])
    feed(metric, [0, 1, 2])
    feed(metric, [1])
    collected = metric.aggregate()
    assert collected == directly()
    assert list(collected) == sorted(collected)
    assert all(type(row.union_px) is int and type(row.lesions_false) is int for row in collected.values())
    metric.reset()
    assert metric.aggregate() == {}


@pytest.mark.parametrize("shares", [([0, 2, 4], [1, 3]), ([0, 1, 2, 3, 4], []), ([0, 1, 2], [2, 3, 4])])
def test_two_processes_score_as_one(shares):
    """An uneven share, no share at all, and a sample that both hold."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    ranks = [fork.Process(target=score_as_rank, args=(rank, port, shares[rank], answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        assert [answers.get(timeout=60) for _ in ranks] == [directly()] * 2
    finally:
        for process in ranks:
            process.join(timeout=10)
            process.kill()  # where it hangs


def score_as_rank(rank, port, numbers, answers):
    torch.set_num_threads(1)  # threads do not survive a fork
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metric = MaskMetric()
    if numbers:
        feed(metric, numbers)
    answers.put(metric.aggregate())
    torch.distributed.destroy_process_group()
