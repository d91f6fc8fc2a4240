"""Every code is one that the DICOM standard lists, with that meaning, in the context group that codes.json cites."""

import csv
import json
import re
from pathlib import Path

import pytest
from pydicom.sr._concepts_dict import concepts

from prsmed.data.codes import CODES_PATH, Code, TargetCodes, read_codes
from prsmed.data.phantoms.folder import TARGET_NAMES
from prsmed.errors import DataError
from prsmed.loaded import UNNAMED

TABLE = read_codes()
ENTRIES = {**TABLE.targets, **TABLE.fallback}


def _groups_of(code: Code) -> set[int]:
    """The context groups (CID) that list a code with its meaning, by the dictionary pydicom makes from PS3.16."""
    return {
        group
        for meanings in concepts[code.scheme].values()
        for value, (meaning, groups) in meanings.items()
        if (value, meaning) == (code.value, code.meaning)
        for group in groups
    }


@pytest.mark.parametrize("name", ENTRIES)
def test_each_code_is_in_a_cited_context_group(name: str) -> None:
    entry = ENTRIES[name]
    cited = {int(number) for number in re.findall(r"CID (\d+)", entry.source)}
    for code in (entry.category, entry.type, entry.region, entry.laterality):
        assert code is None or _groups_of(code) & cited, code


def test_an_invented_code_would_be_found() -> None:
    assert not _groups_of(Code("10200004", "SCT", "Spleen"))
    assert not _groups_of(Code("1", "SCT", "Liver"))


@pytest.mark.parametrize("name", [*TARGET_NAMES.values(), "lungs"])
def test_phantoms_have_codes(name: str) -> None:
    assert name in TABLE.targets


def test_the_shared_data_sets_have_codes(shared_data: Path) -> None:
    with (shared_data / "six_modalities" / "manifest.csv").open(encoding="utf-8") as stream:
        wanted = {(row["target"], row["kind"]) for row in csv.DictReader(stream)}
    mapping = json.loads((shared_data / "sa_med2d" / "SAMed2D_v1_class_mapping_id.json").read_text(encoding="utf-8"))
    wanted |= {(organ, "organ") for organs in mapping.values() for organ in organs}
    assert len(wanted) == 10 + 13
    assert not [name for name, kind in wanted if TABLE.of(name, kind) is TABLE.fallback[kind]]


def test_spelling_does_not_matter_and_the_unknown_falls_back() -> None:
    kidney = TABLE.of("Kidney_Right", "organ")
    assert (kidney.type.meaning, kidney.laterality) == ("Kidney", TABLE.laterality["right"])
    assert TABLE.of("brain  tumor", "lesion") is TABLE.of("brain tumour", "lesion")
    unknown = TABLE.of("hepatic abscess", "lesion")
    assert unknown.type.meaning == "Lesion" and unknown.region is None and unknown.note
    unnamed = TABLE.of(UNNAMED, "lesion")
    assert unnamed.category.meaning == unnamed.type.meaning == "Tissue" and unnamed.note


def test_a_general_code_for_a_special_name_says_why() -> None:
    general = {TABLE.fallback["lesion"].type, Code("29092000", "SCT", "Vein")}
    entries: dict[str, TargetCodes] = {
        name: entry for name, entry in TABLE.targets.items() if entry.type in general and not name.endswith(" lesion")
    }
    assert set(entries) == {"polyp", "portal vein and splenic vein"}
    assert all(entry.note for entry in entries.values())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table["targets"]["liver"].pop("source"), "'liver' needs category, .*; complete it"),
        (lambda table: table["targets"]["liver"].update(type=["1", "MINE", "Liver"]), "is no .*; correct it"),
        (lambda table: table["targets"]["liver"].update(type=None), "'liver' has no category, type or source"),
        (lambda table: table["targets"]["liver"].update(names=["spleen"]), "'spleen' names two targets; keep one"),
        (lambda table: table["targets"]["liver"].update(laterality="up"), "'liver' needs"),
        (lambda table: table.pop("fallback"), "cannot be read as a table of codes .*; restore the file"),
    ],
)
def test_a_damaged_table_is_refused(spoil, message: str, tmp_path: Path) -> None:
    table = json.loads(CODES_PATH.read_text(encoding="utf-8"))
    spoil(table)
    path = tmp_path / "codes.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_codes(path)
