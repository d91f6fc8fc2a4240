"""Phantoms: the same seed gives the same data, masks fit, lesions are spread, and a killed write leaves no data set.

Expected shares are those of the issue that ordered the phantoms (15 % negatives, 65 % single, 15 % two, 5 % three;
every zone at least 10 % overall and 5 % per modality); tolerances are three standard errors of the sample drawn here.
"""

import hashlib
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
from PIL import Image

from prsmed.data.manifest import read_manifest
from prsmed.data.phantoms import make_picture, make_volume, write_phantoms
from prsmed.errors import DataError, RequestError
from prsmed.types import MODALITIES, ZONES

EIGHT_CONNECTED = np.ones((3, 3))
PER_MODALITY = 40


@pytest.fixture(scope="module")
def pictures():
    """(modality, image, lesions, organ) of a small data set, 40 of each modality."""
    count = PER_MODALITY * len(MODALITIES)
    return [(MODALITIES[i % 6], *make_picture(MODALITIES[i % 6], 0, i)) for i in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "set", pictures=18, volumes=4, seed=3)


def zone_of(mask_HW):
    """The `posmed` rule, written out: centre within 0.2 of the short side of the box centre, else a quadrant."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    height, width = mask_HW.shape
    dy, dx = (rows[0] + rows[-1] + 1 - height) / 2, (columns[0] + columns[-1] + 1 - width) / 2
    if np.hypot(dy, dx) < 0.2 * min(height, width):
        return "center"
    return f"{'top' if dy < 0 else 'bottom'}-{'left' if dx < 0 else 'right'}"


def digests(folder: Path):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(folder, tmp_path):
    again = write_phantoms(tmp_path / "again", pictures=18, volumes=4, seed=3)
    other = write_phantoms(tmp_path / "other", pictures=6, volumes=2, seed=4)
    assert digests(again) == digests(folder)
    common = [name for name in digests(other) if name.startswith("images/")]
    assert len(common) == 6
    assert all(digests(other)[name] != digests(folder)[name] for name in common)


def test_a_picture_does_not_depend_on_those_before_it(folder):
    image, lesions, lungs = make_picture("x-ray", 3, 14)
    assert np.array_equal(image, np.asarray(Image.open(folder / "images/x-ray_00014.png")))
    assert np.array_equal(lesions * 255, np.asarray(Image.open(folder / "masks/x-ray_00014.png")))
    assert np.array_equal(lungs * 255, np.asarray(Image.open(folder / "masks/x-ray_00014_lungs.png")))


def test_a_longer_data_set_begins_with_the_shorter_one(folder, tmp_path):
    shorter = read_manifest(write_phantoms(tmp_path / "shorter", pictures=7, volumes=0, seed=3))
    assert shorter.cases == read_manifest(folder).cases[:7]


@pytest.mark.parametrize("modality", MODALITIES)
def test_sizes_and_types(pictures, modality):
    shapes = set()
    for _, image, lesions, organ in [item for item in pictures if item[0] == modality]:
        shapes.add(lesions.shape)
        assert image.dtype == np.uint8
        assert image.shape == lesions.shape + ((3,) if modality in ("endoscopy", "dermoscopy") else ())
        assert lesions.dtype == bool
        assert min(lesions.shape) >= 112 and max(lesions.shape) <= 192
        assert image.std() > 10
        assert (organ is not None) == (modality == "x-ray")
    assert len(shapes) > PER_MODALITY / 2
    assert sum(height != width for height, width in shapes) > len(shapes) / 2


def test_lesion_counts_have_the_ordered_shares(pictures):
    counts = Counter(ndi.label(lesions, EIGHT_CONNECTED)[1] for _, _, lesions, _ in pictures)
    for count, share in enumerate((0.15, 0.65, 0.15, 0.05)):
        tolerance = 3 * np.sqrt(share * (1 - share) / len(pictures))
        assert abs(counts[count] / len(pictures) - share) < tolerance, counts
    assert set(counts) <= {0, 1, 2, 3}


def test_lesions_reach_every_zone(pictures):
    zones = {modality: Counter() for modality in MODALITIES}
    for modality, _, lesions, _ in pictures:
        if ndi.label(lesions, EIGHT_CONNECTED)[1] == 1:
            zones[modality][zone_of(lesions)] += 1
    overall = sum(zones.values(), Counter())
    assert min(overall[zone] for zone in ZONES) >= 0.1 * overall.total(), overall
    for modality, found in zones.items():
        assert min(found[zone] for zone in ZONES) >= 0.05 * found.total(), (modality, found)


def test_lesions_are_large_enough_and_apart(pictures):
    for modality, _, lesions, _ in pictures:
        pieces, count = ndi.label(lesions, EIGHT_CONNECTED)
        areas_px = np.bincount(pieces.ravel())[1:] * (128 / max(lesions.shape)) ** 2
        assert (areas_px >= 40).all(), (modality, areas_px)
        for piece in range(1, count + 1):
            gap_px = ndi.distance_transform_edt(pieces != piece)
            others = lesions & (pieces != piece)
            assert not others.any() or gap_px[others].min() > 3, modality


def test_every_lesion_can_be_seen(pictures):
    """Some channel differs on average between a lesion and its surround, or inside the lesion (a ring)."""
    for modality, image, lesions, _ in pictures:
        channels = image.reshape(*lesions.shape, -1).astype(float)
        pieces, count = ndi.label(lesions, EIGHT_CONNECTED)
        for piece in range(1, count + 1):
            lesion = pieces == piece
            surround = ndi.binary_dilation(lesion, iterations=4) & ~lesions
            contrast = np.abs(channels[lesion].mean(axis=0) - channels[surround].mean(axis=0)).max()
            assert max(contrast, channels[lesion].std(axis=0).max()) > 12, modality


def test_opacities_lie_in_the_two_lungs(pictures):
    for modality, _, lesions, organ in pictures:
        if modality == "x-ray":
            assert ndi.label(organ)[1] == 2
            assert not (lesions & ~organ).any()


def test_unknown_modalities_are_refused():
    with pytest.raises(RequestError, match="'pet'"):
        make_picture("pet", 0, 0)
    with pytest.raises(RequestError, match="make_picture"):
        make_volume("x-ray", 0, 0)


def test_volumes_are_stored_in_several_orientations_and_scales():
    volumes = [(modality, *make_volume(modality, 0, index)) for index in range(0, 8, 2) for modality in ("ct", "mri")]
    assert {"".join(nib.aff2axcodes(affine)) for *_, affine in volumes} == {"RAS", "LPS", "LAS", "ASR"}
    for modality, array, mask, affine in volumes:
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        assert array.dtype == np.int16 and mask.dtype == np.uint8 and array.shape == mask.shape
        assert spacing_mm.max() > 1.2 * spacing_mm.min()
        if modality == "ct":
            assert abs(float(np.quantile(array, 0.1)) + 1000) < 60  # the air around the body
            assert array.max() > 200
    assert len({int(array.max()) for modality, array, *_ in volumes if modality == "mri"}) == 4


def test_volume_lesions_lie_inside_the_body_and_span_slices():
    negatives = Counter()
    for index in range(24):
        modality = ("ct", "mri")[index % 2]
        array, mask, affine = make_volume(modality, 1, index)
        pieces, count = ndi.label(mask)
        negatives[modality] += count == 0
        assert count <= 2
        axial = int(np.argmax(np.abs(affine[2, :3])))
        body = array > (-300 if modality == "ct" else 0.15 * np.quantile(array, 0.99))
        for piece in range(1, count + 1):
            lesion = np.moveaxis(pieces == piece, axial, 0)
            assert lesion.any(axis=(1, 2)).sum() >= 3
            for body_slice, lesion_slice in zip(np.moveaxis(body, axial, 0), lesion, strict=True):
                outline = ndi.binary_fill_holes(ndi.binary_closing(body_slice, iterations=2))
                assert not (lesion_slice & ~outline).any()
    assert negatives == {"ct": 1, "mri": 2}  # one in eight


def test_the_folder_reads_back_as_a_manifest(folder):
    manifest = read_manifest(folder)
    assert not manifest.refusals
    assert len(manifest.cases) == 22
    assert Counter(case.split for case in manifest.cases[:18]) == {"train": 6, "val": 6, "test": 6}
    for case in manifest.cases:
        image = manifest.resolve(case, case.image)
        assert hashlib.sha256(image.read_bytes()).hexdigest() == case.source["sha256"]
        assert case.group == case.id and case.slice is None
        assert [target.name for target in case.targets][1:] == (["lungs"] if case.modality == "x-ray" else [])
        for mask in (mask for target in case.targets for mask in target.masks):
            path = manifest.resolve(case, mask.path)
            if mask.kind == "png":
                assert set(np.unique(np.asarray(Image.open(path)))) <= {0, 255}
                assert Image.open(path).size == Image.open(image).size
            else:
                volume, truth = nib.load(image), nib.load(path)
                assert np.allclose(volume.affine, truth.affine)
                assert volume.header["qform_code"] == volume.header["sform_code"] == 1
                assert set(np.unique(np.asarray(truth.dataobj))) <= {0, mask.selector}
                assert volume.get_data_dtype() == np.int16


def test_splits_have_the_ordered_shares_in_every_modality(tmp_path, monkeypatch):
    """Over twelve of a modality: 9 train, 1 val, 2 test (75, 8, 17 %)."""
    blank = (np.zeros((112, 112), np.uint8), np.zeros((112, 112), bool), None)
    monkeypatch.setattr("prsmed.data.phantoms.folder.make_picture", lambda modality, seed, index: blank)
    cases = read_manifest(write_phantoms(tmp_path / "set", pictures=72, volumes=0)).cases
    for modality in MODALITIES:
        found = Counter(case.split for case in cases if case.modality == modality)
        assert found == {"train": 9, "val": 1, "test": 2}


def test_a_killed_write_leaves_nothing_that_reads_as_data(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from prsmed.data.phantoms import write_phantoms\n"
        "def die(done, total):\n"
        "    if done == total:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_phantoms(sys.argv[1], pictures=3, volumes=1, progress=die)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    for leftover in tmp_path.iterdir():
        with pytest.raises(DataError):
            read_manifest(leftover)
    assert len(read_manifest(write_phantoms(tmp_path / "set", pictures=3, volumes=0)).cases) == 3


def test_an_interrupted_write_cleans_up_and_a_full_folder_is_left_alone(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "set", pictures=3, volumes=0, progress=stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="holds data already"):
        write_phantoms(tmp_path, pictures=3, volumes=0)
    assert (tmp_path / "note.txt").read_text() == "mine"
