"""The language backbone: where images enter, and a vocabulary that grows."""

import copy

import pytest
import torch
from torch import nn
from transformers import Cache

from prsmed.models.language import CausalBackbone, new_cache, tiny_llama
from prsmed.text.encode import IMAGE_ID

IDS = torch.tensor([[1, IMAGE_ID, IMAGE_ID, 5, 6, 7], [1, IMAGE_ID, IMAGE_ID, 9, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)


@pytest.fixture
def backbone() -> CausalBackbone:
    torch.manual_seed(0)
    made = tiny_llama(
        vocab_size=20, width=16, layers=2, heads=2, max_positions=64, projector=nn.Identity(), image_tokens=2
    )
    for parameter in made.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
    return made.eval()


def test_images_stand_where_their_ids_stand(backbone):
    images = torch.arange(64.0).reshape(2, 2, 16)
    merged = backbone.merge(IDS, images)
    assert torch.equal(merged[:, 1:3], images)
    table = backbone.model.get_input_embeddings().weight
    assert torch.equal(merged[0, 3:], table[[5, 6, 7]]) and torch.equal(merged[:, 0], table[[1, 1]])
    text_only = torch.tensor([[1, 5, 6]])
    assert torch.equal(backbone.merge(text_only, None), table[text_only])


def test_as_many_embeddings_as_image_tokens(backbone):
    with pytest.raises(AssertionError, match="as many image tokens"):
        backbone.merge(IDS, torch.zeros(2, 3, 16))


def test_the_image_changes_what_follows_it_and_nothing_before(backbone):
    images = torch.randn(2, 2, 16)
    other = images.clone()
    other[0, 1] += 1
    with torch.no_grad():
        first, second = backbone(IDS, images, MASK)[0], backbone(IDS, other, MASK)[0]
    assert torch.equal(first[0, :2], second[0, :2]) and torch.equal(first[1], second[1])
    assert ((first[0, 2:] - second[0, 2:]).abs().amax(dim=1) > 1e-3).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_mask_of_pairs_holds_in_every_kind_of_attention(backbone, attention):
    """Causal, but the last two tokens do not see the two before them: so these may be anything."""
    backbone.model.config._attn_implementation = attention
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()
    allowed[4:, 2:4] = False
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = torch.tensor([[1, 2, 9, 8, 5, 6]])
    with torch.no_grad():
        first, second = (backbone(tokens, None, allowed[None, None])[0][0] for tokens in (ids, other))
        plain = backbone(ids, None, torch.ones_like(ids))[0][0]
    assert torch.equal(first[:2], second[:2]) and torch.allclose(first[4:], second[4:], atol=1e-6)
    assert ((first[2:4] - second[2:4]).abs().amax(dim=1) > 1e-3).all()
    assert torch.allclose(first[:4], plain[:4], atol=1e-5) and (first[4:] - plain[4:]).abs().max() > 1e-3


def test_new_words_keep_the_old_ones(backbone):
    images = torch.randn(2, 2, 16)
    with torch.no_grad():
        before = backbone.logits(backbone(IDS, images, MASK)[0])
        assert backbone.extend_vocab(2) == [20, 21]
        after = backbone.logits(backbone(IDS, images, MASK)[0])
    assert after.shape[-1] == 22 and backbone.model.config.vocab_size == 20
    torch.testing.assert_close(after[..., :20], before, atol=1e-6, rtol=0)
    assert backbone.added_in.requires_grad and backbone.added_out is None, "tied tables have one row per new word"
    with torch.no_grad():
        known, added = (backbone(torch.tensor([[1, word]]), None, torch.ones(1, 2))[0] for word in (19, 21))
    assert added.shape == (1, 2, 16) and not torch.allclose(known[:, 1], added[:, 1], atol=1e-3)


def test_generation_stops_at_the_end_and_fills_up(backbone):
    images = torch.randn(2, 2, 16)
    with torch.no_grad():
        hidden, cache = backbone(IDS, images, MASK, cache=new_cache())
    last = torch.stack([hidden[0, 5], hidden[1, 3]])
    free = backbone.generate(_copy(cache), last, MASK, max_new_tokens=9, end_id=-1)
    assert free.ids.shape == (2, 9) and free.hidden.shape == (2, 9, 16)
    assert torch.equal(backbone.logits(free.hidden).argmax(dim=-1), free.ids)
    end_id = int(free.ids[0, 2])
    stop = free.ids[0].tolist().index(end_id)
    ended = backbone.generate(_copy(cache), last, MASK, max_new_tokens=9, end_id=end_id)
    assert (ended.ids[0, stop:] == end_id).all() and torch.equal(ended.ids[0, :stop], free.ids[0, :stop])
    alone = backbone.generate(_copy(cache), last, MASK, max_new_tokens=1, end_id=end_id)
    assert alone.ids.shape == (2, 1)


def test_texts_read_together_are_as_likely_as_each_alone(backbone):
    images, texts = torch.randn(2, 2, 16), [[3, 8, 4], [3, 8], [11]]
    ids = torch.tensor([text + [-1] * (3 - len(text)) for text in texts])
    with torch.no_grad():
        _, cache = backbone(IDS, images, MASK, cache=new_cache())
        last = torch.tensor([[12], [13]])
        before = [layer.keys.clone() for layer in cache.layers]
        likely = backbone.likelihoods(cache, MASK, last, ids)
        assert likely.shape == (2, 3, 3) and (likely[:, ids < 0] == 0).all()
        assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))
        for row, length in enumerate((6, 4)):
            begun = [*IDS[row, :length].tolist(), int(last[row, 0])]
            for number, text in enumerate(texts):
                whole = torch.tensor([begun + text])
                hidden, _ = backbone(whole, images[row : row + 1], torch.ones_like(whole))
                log_prob = backbone.logits(hidden[0, -len(text) - 1 : -1]).log_softmax(dim=-1)
                expected = torch.stack([log_prob[place, token] for place, token in enumerate(text)])
                torch.testing.assert_close(likely[row, number, : len(text)], expected, atol=1e-4, rtol=0)


def _copy(cache: Cache) -> Cache:
    return copy.deepcopy(cache)
