"""The strict parser on sentences written by hand: what it reads, and what it must refuse to guess."""

import pytest

from prsmed.text.parse import ParsedAnswer, parse_position, zones_match

READ = {
    "top left": ("top-left",),
    "upper left": ("top-left",),
    "left upper": ("top-left",),
    "Left-lower corner": ("bottom-left",),
    "The polyp is in the Upper-Left quadrant.": ("top-left",),
    "TOP\u2011LEFT!": ("top-left",),  # non-breaking hyphen
    "the central region": ("center",),
    "In the centre of this CT scan": ("center",),
    "The middle of the image holds the lungs.": ("center",),
    "at the lower right-hand side": ("bottom-right",),
    "one in the top left and one in the bottom right": ("top-left", "bottom-right"),
    "one in the top left and another in the top left": ("top-left", "top-left"),
    "one in the center, one in the top left and another in the lower right": ("center", "top-left", "bottom-right"),
    "One is in the top left. The other is in the bottom right.": ("top-left", "bottom-right"),
    "There are five polyps; the largest is in the top right of the image.": ("top-right",),
    "It is not in the top left but in the bottom right.": ("bottom-right",),
    "It's in the bottom right, not in the top left.": ("bottom-right",),
    "It isn\u2019t in the top left. It is in the center.": ("center",),
    "in the top left near the center of the image": ("top-left",),
    "the top left region and near the center": ("top-left",),
    "the bottom left, near the center, and another in the bottom right, close to the center": (
        "bottom-left",
        "bottom-right",
    ),
    # what `rule_text` adds about the patient is no position of the picture
    "The mass is in the top left of the image: the patient's right, anterior, about 23 x 18 mm.": ("top-left",),
    "The mass is in the top left of the image: the patient\u2019s right lower zone.": ("top-left",),
    "in the center of the image: in the middle between the patient's left and right, superior": ("center",),
    "in the bottom right of the image: the patient's left, in the upper third of the scanned volume": ("bottom-right",),
    "In the top left of the image. Patient side unknown: the file does not state it.": ("top-left",),
    "There are two masses: one in the top left (the patient's right, about 5 x 5 mm) and another in the bottom right "
    "(the patient's left) of the image. The slice is nearly axial, 20 degrees off the patient's axes.": (
        "top-left",
        "bottom-right",
    ),
}

NONE = [
    "No polyp is visible in this image.",
    "There are no lungs in this image.",
    "There is no polyp.",
    "This image shows no brain tumour.",
    "No lungs can be seen in this image.",
    "The polyp is not visible in this image.",
    "The lungs aren't visible.",
    "I can't see any polyp.",
    "No, no polyp is visible.",
    "There is no evidence of a polyp.",
    "The polyp is absent.",
    "NO POLYP IS VISIBLE",
]

UNREADABLE = [
    "",
    "   ",
    "I do not know.",
    "No idea.",
    "No.",
    "\u5de6\u4e0a",
    "left",
    "in the left half of the image",
    "top",
    "upper left and right",
    "top and bottom left",
    "top bottom",
    "top-left-right",
    "superior left",
    "slightly right of center",
    "top center",
    "top left or bottom right",
    "top left/bottom right",
    "either in the top left or nowhere",
    "maybe in the top left",
    "is it in the top left?",
    "top left bottom right",
    "top left (upper left)",
    "in the top left but in the bottom right",
    "It is in the top left. It is in the bottom right.",
    "not in the top left",
    "not in the top left and bottom right",
    "not in the top left but in the top left",
    "neither in the top left nor in the center",
    "The polyp in the top left is not visible.",
    "No polyp is visible in the top left.",
    "No polyp is visible in the upper half.",
    "The polyp is in the top left. No polyp is visible.",
    "No polyp is visible. The polyp is in the top left.",
    "The polyp is in the top left. This is not true.",
    "No doubt it is in the top left.",
    "There is no doubt a polyp is visible.",
    "No other polyp is visible.",
    "It is not true that no polyp is visible.",
    "The polyp is not clearly visible.",
    "There is no polyp larger than a pea.",
    "near the center",
    "near the top left",
    "below the center",
    "in the left upper lobe",
    "in the upper left lobe of the image",
    "the middle lobe",
    "the upper left quadrant of the abdomen",
    "The center of the polyp is in the top left.",
    "the center of the lung on this image",
    "The left kidney is in the top left.",
    "The mass is on the patient's right.",
    "It is in the patient's upper left.",
    "It is in the patient\u2019s bottom right of the image.",
    "It is in the center of the patient's right lung.",
    "in the patient's middle",
    "in the top left of the patient's right lung",
    "in the top left of the image: the patient's left upper lobe",
    "in the top, the patient's left",
    "in the top the patient's right left",
    "the patient's right lower left",
    "in the upper third of the scan",
    "in the upper third of the scanned volume",
    "the upper zone",
    "Patient side unknown: the file does not state it.",
]


@pytest.mark.parametrize(("text", "zones"), READ.items())
def test_reads(text, zones):
    assert parse_position(text) == ParsedAnswer("positions", zones)


@pytest.mark.parametrize("text", NONE)
def test_reads_absence(text):
    assert parse_position(text) == ParsedAnswer("none")


@pytest.mark.parametrize("text", UNREADABLE)
def test_never_guesses(text):
    assert parse_position(text) == ParsedAnswer("unreadable")


def test_a_target_with_direction_words_is_set_aside():
    text = "The left kidney is in the top right of the image."
    assert parse_position(text, target="left kidney") == ParsedAnswer("positions", ("top-right",))
    assert parse_position("No left kidney is visible.", target="left kidney").kind == "none"
    several = "There are two right lung opacities: one in the top left and another in the center of the image."
    assert parse_position(several, target="right lung opacity").zones == ("top-left", "center")


def test_zones_match_as_multisets():
    two = parse_position("one in the center and one in the top left")
    assert zones_match(two, ("top-left", "center"))
    assert not zones_match(two, ("top-left",))
    assert not zones_match(parse_position("one in the center and one in the center"), ("center",))
    assert zones_match(parse_position("No polyp is visible."), ())
    assert not zones_match(parse_position("gibberish"), ())


@pytest.mark.parametrize("text", ["no " * 7000, "a" * 20000, "top left and " * 2000, "no " + "x " * 9000 + "visible"])
def test_long_texts_are_read_in_no_time(text):
    parse_position(text)
