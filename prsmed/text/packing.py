"""Several questions about one image in one sequence: the image once, then the questions, blind to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from prsmed.text.encode import IGNORE_ID, Encoded, TextEncoder


def pack_batch(turns: Sequence[Sequence[Encoded]], text: TextEncoder) -> dict[str, torch.Tensor]:
    """One row per image, padded on the right.

    A turn sees what all turns share and itself, and its positions follow the shared part directly: every state is the
    one that the turn alone would have. A prediction never crosses from one turn to the next, because a turn begins
    with its question, which is no target.

    Args:
        turns: for each image its turns, encoded by `text`.

    Returns:
        input_ids, position_ids, target_ids int64 (B, T); attention_mask bool (B, 1, T, T), True where a row's token
        may look. For the O turns that hold candidates, in order: candidate_at int64 (O, n), turn_image int64 (O,).
    """
    rows = [_row(image_turns, text.shared_tokens) for image_turns in turns]
    nothing = torch.empty(0, len(text.candidate_ids), dtype=torch.long)
    segments_BT = pad_sequence([row["segment"] for row in rows], batch_first=True, padding_value=-1)
    at = [torch.stack(row["candidate_at"]) if row["candidate_at"] else nothing for row in rows]
    return {
        "input_ids": pad_sequence([row["input_ids"] for row in rows], batch_first=True, padding_value=text.pad_id),
        "position_ids": pad_sequence([row["position_ids"] for row in rows], batch_first=True),
        "target_ids": pad_sequence([row["target_ids"] for row in rows], batch_first=True, padding_value=IGNORE_ID),
        "attention_mask": _visible(segments_BT)[:, None],
        "candidate_at": torch.cat(at),
        "turn_image": torch.repeat_interleave(torch.arange(len(at)), torch.tensor([len(one) for one in at])),
    }


def _row(turns: Sequence[Encoded], shared: int) -> dict[str, Any]:
    """One image's turns as one sequence; `segment` is 0 for the shared part, then 1, 2, ... for the turns."""
    own = [len(turn.input_ids) - shared for turn in turns]
    starts = [shared + sum(own[:index]) for index in range(len(turns))]
    pieces = [torch.full((shared,), 0), *(torch.full((length,), 1 + index) for index, length in enumerate(own))]
    at = [
        turn.candidate_at - shared + start
        for turn, start in zip(turns, starts, strict=True)
        if turn.candidate_at is not None
    ]
    return {
        "input_ids": torch.cat([turns[0].input_ids[:shared], *(turn.input_ids[shared:] for turn in turns)]),
        "target_ids": torch.cat([turns[0].target_ids[:shared], *(turn.target_ids[shared:] for turn in turns)]),
        "position_ids": torch.cat([torch.arange(shared), *(shared + torch.arange(length) for length in own)]),
        "segment": torch.cat(pieces),
        "candidate_at": at,
    }


def _visible(segments_BT: torch.Tensor) -> torch.Tensor:
    """bool (B, T, T): earlier, and of the shared part or of the same turn. Padding sees itself alone."""
    length = segments_BT.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    key, query = segments_BT[:, None, :], segments_BT[:, :, None]
    related = (key == query) | ((key == 0) & (query >= 0))
    padding = (query < 0) & ~torch.eye(length, dtype=torch.bool)
    return earlier & related & ~padding
