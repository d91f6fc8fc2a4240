"""Requests of clients: what passes is named, everything else is refused."""

import pytest

from bundle.monailabel.asked import (
    AS_STATED,
    WHOLE_VOLUME,
    ask_options,
    ask_request,
    batch_request,
    check_name,
    check_query,
    label_request,
    parse_params,
    train_request,
)
from prsmed.errors import RequestError
from prsmed.types import SliceRef

# what the stock Slicer module of MONAI Label 0.8.5 adds to the options of its table
STOCK = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False, "client_id": "user-xyz"}


def test_the_untouched_options_of_the_stock_module_pass() -> None:
    first = {key: value[0] if isinstance(value, list) else value for key, value in ask_options().items()}
    asked = ask_request({**first, **STOCK})
    assert (asked.modality, asked.position, asked.dtype, asked.compress) == (None, None, "uint16", False)
    assert asked.question == ask_options()["question"]


@pytest.mark.parametrize("question", ["$__import__('os')", "@network", "%file.json", "lesion #2, yes?"])
def test_a_question_stays_as_it_is(question: str) -> None:
    assert ask_request({"question": question}).question == question


@pytest.mark.parametrize(
    ("params", "position"),
    [
        ({"slice": "12"}, SliceRef("axial", 12)),
        ({"slice": 3, "axis": "coronal"}, SliceRef("coronal", 3)),
        ({"slice": WHOLE_VOLUME, "modality": AS_STATED}, None),
        ({"slice": ""}, None),
    ],
)
def test_a_slice_is_an_index_or_the_whole(params: dict, position: SliceRef | None) -> None:
    assert ask_request({"question": "Where?", **params}).position == position


def test_a_client_that_names_no_question_asks_the_one_that_is_shown() -> None:
    assert ask_request({"restore_label_idx": False}).question == ask_options()["question"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"question": ""},
        {"question": "  "},
        {"question": 3},
        {"question": "x" * 1001},
        {"question": "Where?", "modality": "pet"},
        {"question": "Where?", "slice": "-1"},
        {"question": "Where?", "slice": "$1"},
        {"question": "Where?", "slice": True},
        {"question": "Where?", "result_extension": ".pt"},
        {"question": "Where?", "model_filename": "x.pt"},
    ],
)
def test_what_is_no_question_is_refused(params: dict) -> None:
    with pytest.raises(RequestError):
        ask_request(params)


def test_a_refusal_does_not_repeat_a_long_key() -> None:
    with pytest.raises(RequestError) as refusal:
        ask_request({"question": "Where?", "k" * 5000: 1})
    assert len(str(refusal.value)) < 300


def test_training_takes_numbers_only() -> None:
    assert train_request({"max_epochs": "3", "val_split": "0.5"}).max_epochs == 3
    for value in ("$1", "@x", 0, 51, True, 1.5, None, [1]):
        with pytest.raises(RequestError):
            train_request({"max_epochs": value})


def test_a_label_may_say_what_it_answers() -> None:
    said = label_request({"question": "Where?", "answer": None, "modality": "ct", "label_info": [{"name": "a"}]})
    assert (said.question, said.answer, said.modality) == ("Where?", None, "ct")


def test_a_batch_drops_what_the_app_decides_itself() -> None:
    checked = batch_request({"question": "Where?", "max_workers": 64, "device": "cuda", "max_batch_size": 5})
    assert checked == {"question": "Where?", "max_batch_size": 5}
    with pytest.raises(RequestError):
        batch_request({"question": "Where?", "label_tag": "../../x"})


@pytest.mark.parametrize("text", ["[1]", "{'a': 1}", "[" * 60_000, "x" * 70_000])
def test_params_are_one_json_object(text: str) -> None:
    with pytest.raises(RequestError):
        parse_params(text)


@pytest.mark.parametrize("value", ["brain1_image", "a b", "1.2.840.113619.2.55", ""])
def test_an_id_passes(value: str) -> None:
    check_query("image", value)


@pytest.mark.parametrize("value", ["../a", "a/b", "..", ".hidden", "a\\b", "a\0b", "a\nb", "x" * 201])
def test_a_path_is_no_id(value: str) -> None:
    with pytest.raises(RequestError):
        check_query("image", value)
    with pytest.raises(RequestError):
        check_name(value)
