"""tokenizer.model as tokenizer.json: the ids of sentencepiece itself are the oracle."""

import pytest

from prsmed.errors import CheckpointError
from prsmed.models.llava import CHATS
from prsmed.text.encode import IMAGE_ID, TextEncoder, load_tokenizer
from prsmed.text.sentencepiece_files import convert_sentencepiece

sentencepiece = pytest.importorskip(
    "sentencepiece", reason="sentencepiece is not installed; it comes with prsmed[llava]"
)
SENTENCES = [
    "Where is the lesion in this image?",
    "The polyp lies in the top-left of the picture.",
    "[INST] Is a nodule visible? [/INST] No nodule is visible.",
    "A chat between a curious user and an assistant. USER: ASSISTANT:",
    "The lesion lies near the center, below the middle of the image.",
]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A small model of the kind of Llama's and Mistral's: BPE with byte fallback."""
    folder = tmp_path_factory.mktemp("spm")
    (folder / "text.txt").write_text("\n".join(SENTENCES * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer(model_file):
    convert_sentencepiece(model_file).save(str(model_file.with_name("tokenizer.json")))
    return load_tokenizer(model_file.with_name("tokenizer.json"), bos="<s>", eos="</s>", pad="<unk>")


@pytest.mark.parametrize(
    "text", [*SENTENCES, "\n", "  two  spaces", "naïve µm", "日本 🙂", "</s> typed by a user", "xxxxxxxx"]
)
def test_ids_are_those_of_sentencepiece(model_file, tokenizer, text):
    expected = sentencepiece.SentencePieceProcessor(model_file=str(model_file)).encode(text)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ids == expected
    assert tokenizer.decode(ids) == text


def test_a_mistral_chat_is_put_together_from_its_pieces(model_file, tokenizer):
    """LLaVA-Med: <s>[INST] <image>\\nquestion [/INST] answer</s>; only the question's first piece has a space more."""
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    text = TextEncoder(tokenizer, image_tokens=3, **CHATS["mistral"])
    ids = text.encode(SENTENCES[0], SENTENCES[1]).input_ids.tolist()
    expected = [1, *oracle.encode("[INST] "), *[IMAGE_ID] * 3, *oracle.encode("\n"), *oracle.encode(SENTENCES[0])]
    assert ids == [*expected, *oracle.encode("[/INST]"), *oracle.encode(SENTENCES[1]), 2]
    joined = oracle.encode(f"{SENTENCES[0]} [/INST] {SENTENCES[1]}")
    assert joined == [*oracle.encode(SENTENCES[0]), *oracle.encode("[/INST]"), *oracle.encode(SENTENCES[1])]


def test_another_file_is_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        convert_sentencepiece(tmp_path / "tokenizer.model")
