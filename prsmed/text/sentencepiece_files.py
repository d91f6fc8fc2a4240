"""A `tokenizer.model` of sentencepiece as the `tokenizer.json` that `load_tokenizer` reads."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from prsmed.errors import CheckpointError, RequestError

_SPACE = "\u2581"


def convert_sentencepiece(path: Path) -> Tokenizer:
    """The same ids as sentencepiece gives, text by text: each text gets a space in front, unknown letters are bytes.

    Raises:
        RequestError: sentencepiece is not installed.
        CheckpointError: the file is not a sentencepiece model with byte fallback, as Llama's and Mistral's are.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise RequestError("reading tokenizer.model needs sentencepiece; pip install 'prsmed[llava]'") from error
    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a sentencepiece model ({error}); get the file again") from error
    pieces = [model.id_to_piece(index) for index in range(len(model))]
    if not any(model.is_byte(index) for index in range(len(model))):
        raise CheckpointError(f"{path}: has no byte pieces; only Llama's and Mistral's kind of tokenizer is known")
    ids = {piece: index for index, piece in enumerate(pieces)}
    special = [index for index in range(len(model)) if model.is_control(index) or model.is_unknown(index)]
    skipped = {index for index in range(len(model)) if index in special or model.is_byte(index)}
    tokenizer = Tokenizer(
        BPE(
            vocab=ids,
            merges=_merges(ids, {piece: model.get_score(index) for piece, index in ids.items()}, skipped),
            unk_token=pieces[model.unk_id()],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(pieces[index], normalized=False, special=True) for index in special])
    return tokenizer


def _merges(ids: dict[str, int], score: dict[str, float], skipped: set[int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, best-scored piece first, as sentencepiece merges."""
    found = []
    for piece, index in ids.items():
        if index not in skipped:
            cuts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
            pairs = [pair for pair in cuts if pair[0] in ids and pair[1] in ids]
            found += [(-score[piece], ids[left], ids[right], left, right) for left, right in pairs]
    return [(left, right) for *_, left, right in sorted(found)]
