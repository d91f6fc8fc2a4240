"""What an explanation is about."""

import pytest

from prsmed.text.naming import first_named

NAMES = ("kidney", "left kidney", "aorta", "inferior vena cava")


@pytest.mark.parametrize(
    ("sentence", "named"),
    [
        ("This is the left kidney: it lies beside the aorta.", "left kidney"),
        ("This is the Aorta; the inferior vena cava lies beside it.", "aorta"),
        ("That is the organ.", None),
        ("The aortas are meant.", "aorta"),
        ("The aortal wall is not it.", None),
        ("", None),
    ],
)
def test_the_first_name_counts_and_the_longest_at_its_place(sentence, named):
    assert first_named(sentence, NAMES) == named


def test_without_names_nothing_is_named():
    assert first_named("This is the liver.", ()) is None
