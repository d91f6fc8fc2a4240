"""What only a GPU can show. Here without one each test is skipped and says so; docs/gpu_checklist.md has the order."""

import pytest
import torch
from torch.optim import AdamW

from bundle.engines import PassInferer, prepare_batch
from prsmed.losses import PRSMedLoss
from prsmed.models.language import new_cache
from prsmed.models.presets import build_network, image_tokens
from tests.unit.small_networks import random_batch

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
SIDE_PX, VOCAB = 128, 64


@pytest.fixture
def batch() -> dict:
    sizes = {"image_tokens": image_tokens("prs_med", "tiny"), "tokens": 32, "prompt_tokens": 24}
    made = random_batch(SIDE_PX, VOCAB, **sizes)
    return {**made, "image": made["image"].pin_memory()}


def test_bf16_needs_no_gradient_scaler_and_comes_near_float32(batch):
    torch.manual_seed(0)
    network = build_network("prs_med", "tiny", vocab_size=VOCAB)
    expected = float(PRSMedLoss({"bce": 1.0, "dice": 1.0, "ce": 1.0})(PassInferer()(batch, network), batch))
    moved, _ = prepare_batch(batch, "cuda", True)
    network = network.cuda()
    optimizer = AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = PRSMedLoss({"bce": 1.0, "dice": 1.0, "ce": 1.0})(PassInferer()(moved, network), moved)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[0] == pytest.approx(expected, rel=0.02), "bf16 has 8 bits of mantissa"
    assert losses[-1] < losses[0]


def test_a_gpu_answers_as_the_cpu(batch):
    torch.manual_seed(0)
    network = build_network("prs_med", "tiny", vocab_size=VOCAB).eval()
    asked = ([(SIDE_PX, SIDE_PX)] * 2, batch["input_ids"][:, :24], batch["attention_mask"][:, :24])
    with torch.no_grad():
        here = network(batch["image"], *asked, batch["prompt_mask"][:, :24]).mask_logits
        there = network.cuda()(
            batch["image"].cuda(), asked[0], asked[1].cuda(), asked[2].cuda(), batch["prompt_mask"][:, :24].cuda()
        ).mask_logits.cpu()
    torch.testing.assert_close(there, here, atol=1e-2, rtol=1e-2)


def test_generation_stays_on_the_gpu(batch):
    network = build_network("prs_med", "tiny", vocab_size=VOCAB).cuda().eval()
    ids, mask = batch["input_ids"][:, :24].cuda(), batch["attention_mask"][:, :24].cuda()
    with torch.no_grad():
        embeds = network.encode_image(batch["image"].cuda(), [(SIDE_PX, SIDE_PX)] * 2).image_embeds
        hidden, cache = network.language(ids, embeds, mask, cache=new_cache())
        told = network.language.generate(cache, hidden[:, -1], mask, max_new_tokens=4, end_id=1)
    assert told.ids.is_cuda and told.ids.shape[0] == 2
