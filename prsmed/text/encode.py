"""The one encoder of questions and answers, for training and for asking.

A sequence is put together from pieces that are tokenised one by one, never from a joined string, so that
encode(question) is always a prefix of encode(question, answer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from prsmed.errors import CheckpointError, RequestError

IMAGE_ID = -200
IGNORE_ID = -100


@dataclass(frozen=True)
class Encoded:
    """One encoded turn.

    Attributes:
        input_ids: int64 (T,), IMAGE_ID where an image token goes.
        prompt_mask: bool (T,), True on exactly encode(question): from the first token to the assistant's header.
        target_ids: int64 (T,), equal to `input_ids` on the answer and its end, IGNORE_ID elsewhere. Aligned with
            `input_ids`: the loss shifts them.
        candidate_at: int64 (n,), the positions that predict the candidate tokens; None for an answer without them.
    """

    input_ids: torch.Tensor
    prompt_mask: torch.Tensor
    target_ids: torch.Tensor
    candidate_at: torch.Tensor | None = None


def candidate_names(count: int) -> tuple[str, ...]:
    """What the first candidate tokens of MediSee are called."""
    return ("[SEG]", "[BBOX]", *(f"[C{number}]" for number in range(3, count + 1)))[:count]


class TextEncoder:
    """Turns a question, and in training its answer, into token ids:

    [BOS] before_image [image tokens] user_header question assistant_header ( candidates answer EOS )

    Candidate tokens (MediSee) are no words: their ids follow the tokenizer's own, so no text can spell them, and
    decoded text does not show them. The chat pieces may hold the tokenizer's special tokens (ChatML, Mistral);
    questions and answers are plain text, so that "<eos>" typed by a user is five characters and nothing else.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        image_tokens: int,
        max_question_chars: int = 2000,
        before_image: str = "",
        user_header: str = "user:",
        assistant_header: str = "\nassistant:",
        candidates: int = 0,
    ) -> None:
        """See the class.

        Args:
            tokenizer: any fast tokenizer with an end token; a tokenizer without a start token gets none.
            image_tokens: how many tokens the image takes.
            max_question_chars: longer questions are refused.
            before_image: text between the start token and the image.
            user_header: text between the image and the question.
            assistant_header: text between the question and the answer.
            candidates: how many candidate tokens the network's vocabulary was extended by.

        Raises:
            CheckpointError: the tokenizer has no end token.
        """
        if tokenizer.eos_token_id is None:
            raise CheckpointError("the tokenizer has no end-of-text token; name it when loading (load_tokenizer)")
        self.tokenizer = tokenizer
        self.image_tokens = image_tokens
        self.max_question_chars = max_question_chars
        start_ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        shared_ids = [*start_ids, *self._ids(before_image, plain=False), *[IMAGE_ID] * image_tokens]
        self.shared_tokens = len(shared_ids)  # what all questions about one image begin with
        self._before_question_ids = [*shared_ids, *self._ids(user_header, plain=False)]
        self._before_answer_ids = self._ids(assistant_header, plain=False)
        self.candidate_ids = list(range(len(tokenizer), len(tokenizer) + candidates))

    @property
    def end_id(self) -> int:
        """The id that ends an answer."""
        return self.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        """The id that fills up a batch."""
        return self.tokenizer.pad_token_id

    @property
    def prefix_ids(self) -> torch.Tensor:
        """The ids (P,) that every sequence starts with, up to the question."""
        return torch.tensor(self._before_question_ids, dtype=torch.long)

    def encode(self, question: str, answer: str | None = None, *, points: bool = False) -> Encoded:
        """Encode a question, with its answer where there is one.

        Args:
            points: the answer begins with the candidate tokens, because what was asked for is there.

        Raises:
            RequestError: the question is empty, too long, or not valid Unicode.
        """
        self._check(question)
        prompt_ids = [*self._before_question_ids, *self._ids(question, plain=True), *self._before_answer_ids]
        answer_ids = [] if answer is None else [*self._ids(answer, plain=True), self.tokenizer.eos_token_id]
        candidate_at = None
        if points:
            answer_ids = [*self.candidate_ids, *answer_ids]
            candidate_at = torch.arange(len(self.candidate_ids)) + len(prompt_ids) - 1
        return Encoded(
            input_ids=torch.tensor(prompt_ids + answer_ids, dtype=torch.long),
            prompt_mask=torch.tensor([True] * len(prompt_ids) + [False] * len(answer_ids)),
            target_ids=torch.tensor([IGNORE_ID] * len(prompt_ids) + answer_ids, dtype=torch.long),
            candidate_at=candidate_at,
        )

    def begin_ids(self, begins: Sequence[str]) -> torch.Tensor:
        """The ids (N, L) that answers begin with, IGNORE_ID behind the shorter ones."""
        rows = [torch.tensor(self._ids(begin, plain=True), dtype=torch.long) for begin in begins]
        return pad_sequence(rows, batch_first=True, padding_value=IGNORE_ID)

    def decode(self, ids: Sequence[int] | torch.Tensor) -> str:
        """The text of (T,) token ids; special, image and candidate tokens and ignored positions are left out."""
        kept = [int(index) for index in ids if 0 <= int(index) < len(self.tokenizer)]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _check(self, question: str) -> None:
        if not question.strip():
            raise RequestError("the question is empty; ask something, for example 'Where is the lesion?'")
        if len(question) > self.max_question_chars:
            raise RequestError(
                f"the question has {len(question)} characters, at most {self.max_question_chars} are read; shorten it"
            )
        try:
            question.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the question is not valid Unicode at character {error.start}; type it again or save it as UTF-8"
            ) from error

    def _ids(self, text: str, *, plain: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]


def pad_batch(encoded: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Turns of different lengths as one batch, padded on the right.

    Returns:
        `input_ids` and `target_ids` int64 (B, T), `attention_mask` and `prompt_mask` bool (B, T); padding holds
        `pad_id`, IGNORE_ID, False and False.
    """
    real = [torch.ones_like(turn.prompt_mask) for turn in encoded]
    return {
        "input_ids": pad_sequence([turn.input_ids for turn in encoded], batch_first=True, padding_value=pad_id),
        "attention_mask": pad_sequence(real, batch_first=True),
        "prompt_mask": pad_sequence([turn.prompt_mask for turn in encoded], batch_first=True),
        "target_ids": pad_sequence([turn.target_ids for turn in encoded], batch_first=True, padding_value=IGNORE_ID),
    }


def word_ids(words: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Token ids (K, W) of words as they stand within a sentence; IGNORE_ID behind the shorter ones, and for ""."""
    ids = torch.full((len(words), 1), IGNORE_ID)
    if words:
        # A word that looks like a special token is a word all the same.
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        rows = [torch.tensor(tokenizer(f" {word}", **plain)["input_ids"] if word else [IGNORE_ID]) for word in words]
        ids = pad_sequence(rows, batch_first=True, padding_value=IGNORE_ID)
    return ids


def load_tokenizer(
    path: Path, *, bos: str = "<bos>", eos: str = "<eos>", pad: str = "<pad>"
) -> PreTrainedTokenizerFast:
    """A tokenizer from its tokenizer.json alone: no network, no code from elsewhere.

    Args:
        path: the tokenizer.json file.
        bos: the start token, which the file must know; so for the end token `eos` and the padding token `pad`.

    Raises:
        CheckpointError: the file is missing or damaged, or does not know one of the three tokens.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such tokenizer file; expected a tokenizer.json beside the weights")
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{path}: not a tokenizer.json ({error}); restore the file of the model") from error
    vocabulary = tokenizer.get_vocab()
    for token in (bos, eos, pad):
        if token not in vocabulary:
            raise CheckpointError(f"{path}: has no token {token!r}; name the model's own start, end and padding tokens")
    tokenizer.add_special_tokens({"bos_token": bos, "eos_token": eos, "pad_token": pad})
    return tokenizer
