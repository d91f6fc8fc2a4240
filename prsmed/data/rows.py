"""One manifest row: a `Case` to and from its JSON object (schema_version 1), checked strictly."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from prsmed.data.containment import check_relative_path
from prsmed.errors import DataError
from prsmed.types import (
    LATERALITIES,
    MODALITIES,
    QUERY_KINDS,
    QUERY_LENGTHS,
    SCHEMA_VERSION,
    SLICE_AXES,
    SPLITS,
    TARGET_KINDS,
    Case,
    MaskRef,
    Query,
    SliceRef,
    Target,
)

_SELECTOR_KEY = {"png": None, "nifti": "label", "seg": "segment", "rtstruct": "roi"}
_CASE_KEYS = ("schema_version", *Case.__dataclass_fields__)
_TARGET_KEYS = tuple(Target.__dataclass_fields__)
_QUERY_KEYS = tuple(Query.__dataclass_fields__)


def case_to_json(case: Case) -> dict[str, Any]:
    """The JSON object of a case, keys in the schema's order."""
    return {
        "schema_version": SCHEMA_VERSION,
        "id": case.id,
        "root": case.root,
        "image": case.image,
        "dicom_modality": case.dicom_modality,
        "modality": case.modality,
        "dataset": case.dataset,
        "split": case.split,
        "group": case.group,
        "series_uid": case.series_uid,
        "slice": {"axis": case.slice.axis, "index": case.slice.index} if case.slice else None,
        "targets": [
            {
                "id": target.id,
                "name": target.name,
                "kind": target.kind,
                "laterality": target.laterality,
                "masks": [_mask_to_json(mask) for mask in target.masks],
            }
            for target in case.targets
        ],
        "queries": [
            {
                "id": query.id,
                "target_ids": list(query.target_ids),
                "kind": query.kind,
                "length": query.length,
                "question": query.question,
                "answer": query.answer,
                "made_by": query.made_by,
                "review": query.review,
            }
            for query in case.queries
        ],
        "source": case.source,
    }


def case_from_json(row: Any) -> Case:
    """The case of one JSON object; keys that a case has a default for may be left out.

    A null `modality` is a fact ("not one of the six") and a null `split` is not assigned yet.

    Raises:
        DataError: an unknown key, word, mask reference or schema version, a missing key, two targets or queries with
            one id, or a path that is absolute or climbs. The message names the row and the remedy.
    """
    if not isinstance(row, dict):
        raise DataError(f"row: is a {type(row).__name__}; write one JSON object a line")
    who = f"case {row.get('id')!r}"
    version = row.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise DataError(f"{who}: schema_version is {version!r}, expected {SCHEMA_VERSION}; rebuild the manifest")
    _check_keys(row, _CASE_KEYS, who)
    targets = tuple(_target_from_json(item, who) for item in _list(row, "targets", who))
    target_ids = _unique_ids(targets, "target", who)
    queries = tuple(_query_from_json(item, target_ids, who) for item in _list(row, "queries", who))
    _unique_ids(queries, "query", who)
    source = row.get("source", {})
    if not isinstance(source, dict):
        raise DataError(f"{who}: source is {source!r}, expected an object; write {{}} where nothing is known")
    return Case(
        id=_word(row, "id", who),
        image=_path(row, "image", who),
        modality=_optional_word(row, "modality", who, MODALITIES),
        group=_word(row, "group", who),
        split=_optional_word(row, "split", who, SPLITS),
        root=_word(row, "root", who, default="."),
        dataset=_optional_text(row, "dataset", who) or "",
        dicom_modality=_optional_word(row, "dicom_modality", who),
        series_uid=_optional_word(row, "series_uid", who),
        slice=_slice_from_json(row.get("slice"), who),
        targets=targets,
        queries=queries,
        source=source,
    )


def _mask_to_json(mask: MaskRef) -> dict[str, Any]:
    selector_key = _SELECTOR_KEY[mask.kind]
    return {mask.kind: mask.path, **({selector_key: mask.selector} if selector_key else {})}


def _mask_from_json(record: Any, who: str) -> MaskRef:
    kinds = [kind for kind in _SELECTOR_KEY if isinstance(record, dict) and kind in record]
    if len(kinds) != 1:
        raise DataError(f"{who}: mask is {record!r}; write exactly one of the keys {', '.join(_SELECTOR_KEY)}")
    kind = kinds[0]
    selector_key = _SELECTOR_KEY[kind]
    _check_keys(record, [key for key in (kind, selector_key) if key], who)
    path = _path(record, kind, who)
    if selector_key is None:
        return MaskRef(kind, path)
    selector = record.get(selector_key)
    if kind == "rtstruct":
        return MaskRef(kind, path, _word(record, selector_key, who))
    if type(selector) is not int or selector < 1:
        raise DataError(f"{who}: {selector_key} of {path} is {selector!r}; write a whole number from 1")
    return MaskRef(kind, path, selector)


def _target_from_json(record: Any, who: str) -> Target:
    _check_object(record, "target", who)
    who = f"{who}, target {record.get('id')!r}"
    _check_keys(record, _TARGET_KEYS, who)
    return Target(
        id=_word(record, "id", who),
        name=_word(record, "name", who),
        kind=_word(record, "kind", who, TARGET_KINDS),
        laterality=_optional_word(record, "laterality", who, LATERALITIES),
        masks=tuple(_mask_from_json(mask, who) for mask in _list(record, "masks", who)),
    )


def _query_from_json(record: Any, known_target_ids: Collection[str], who: str) -> Query:
    _check_object(record, "query", who)
    who = f"{who}, query {record.get('id')!r}"
    _check_keys(record, _QUERY_KEYS, who)
    target_ids = _list(record, "target_ids", who)
    unknown = [target_id for target_id in target_ids if target_id not in known_target_ids]
    if unknown:
        raise DataError(
            f"{who}: target_ids {unknown} are not among the targets {sorted(known_target_ids)}; correct them"
        )
    return Query(
        id=_word(record, "id", who),
        target_ids=tuple(target_ids),
        kind=_word(record, "kind", who, QUERY_KINDS),
        question=_word(record, "question", who),
        length=_word(record, "length", who, QUERY_LENGTHS, default="short"),
        answer=_optional_text(record, "answer", who),
        made_by=_optional_text(record, "made_by", who),
        review=record.get("review"),
    )


def _slice_from_json(record: Any, who: str) -> SliceRef | None:
    if record is None:
        return None
    _check_object(record, "slice", who)
    _check_keys(record, ["axis", "index"], who)
    index = record.get("index")
    if type(index) is not int or index < 0:
        raise DataError(f"{who}: slice index is {index!r}; write a whole number from 0")
    return SliceRef(_word(record, "axis", who, SLICE_AXES), index)


def _check_object(record: Any, noun: str, who: str) -> None:
    if not isinstance(record, dict):
        raise DataError(f"{who}: {noun} is {record!r}; write a JSON object")


def _check_keys(record: dict[str, Any], known: Sequence[str], who: str) -> None:
    unknown = sorted(set(record) - set(known))
    if unknown:
        raise DataError(f"{who}: unknown keys {unknown}; use {', '.join(known)}")


def _unique_ids(items: Sequence[Target | Query], noun: str, who: str) -> set[str]:
    ids = {item.id for item in items}
    if len(ids) < len(items):
        raise DataError(f"{who}: two of its {noun} ids are equal ({[item.id for item in items]}); give each its own")
    return ids


def _list(record: dict[str, Any], key: str, who: str) -> list[Any]:
    value = record.get(key, [])
    if not isinstance(value, list):
        raise DataError(f"{who}: {key} is {value!r}; write a JSON list")
    return value


def _word(
    record: dict[str, Any], key: str, who: str, allowed: Collection[str] | None = None, default: str | None = None
) -> str:
    value = record.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{who}: {key} is {value!r}; write {'one of ' + ', '.join(allowed) if allowed else 'a text'}")
    if allowed and value not in allowed:
        raise DataError(f"{who}: {key} is {value!r}; use one of {', '.join(allowed)}")
    return value


def _optional_word(record: dict[str, Any], key: str, who: str, allowed: Collection[str] | None = None) -> str | None:
    return None if record.get(key) is None else _word(record, key, who, allowed)


def _optional_text(record: dict[str, Any], key: str, who: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{who}: {key} is {value!r}; write a text or null")
    return value


def _path(record: dict[str, Any], key: str, who: str) -> str:
    path = _word(record, key, who)
    check_relative_path(path, who)
    return path
