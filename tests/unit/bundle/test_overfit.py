"""MediSee learns eight pictures by heart, and answers about them by itself: the whole path, in miniature."""

import torch
from monai.data.box_utils import box_iou

from bundle.query_data import Draw, QueryDataset, build_query_loader
from bundle.seeing import PackedInferer
from prsmed.answers import answer_batch
from prsmed.data.preprocessing import Preprocessing
from prsmed.losses import MediSeeLoss
from prsmed.models.medisee import MediSee
from prsmed.models.presets import build_network
from prsmed.query_samples import collate_packed, query_items
from prsmed.samples import collate, load_item, own_words
from tests.unit.queries_set import write_shapes
from tests.unit.small_medisee import small_preset, small_text

STEPS = 300  # with fewer the last box depends on how many threads add up the sums
WEIGHTS = {"ce": 1.0, "bce": 2.0, "dice": 0.5, "l1": 1.0, "giou": 1.0}


def _learned(dataset: QueryDataset, text) -> MediSee:
    torch.manual_seed(0)
    with small_preset(router_width=64, box_width=64):
        network = build_network("medisee", "miniature", vocab_size=len(text.tokenizer)).train()
    loader = build_query_loader(dataset, batch_size=8, text=text, mixture={"naming": 1})
    loss_function, inferer = MediSeeLoss(WEIGHTS), PackedInferer()
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=6e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        dataset.set_epoch(step)
        for batch in loader:
            optimizer.zero_grad()
            loss_function(inferer(batch, network), batch).backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            schedule.step()
    assert isinstance(network, MediSee)
    return network.eval()


def test_eight_pictures_are_learned_by_heart(tmp_path, preprocessing: Preprocessing) -> None:
    manifest, text = write_shapes(tmp_path / "shapes", side=32), small_text()
    items = query_items(manifest, "train", slices={"axis": "axial", "with_target": 1, "without_target": 0})
    dataset = QueryDataset(items, manifest=manifest, preprocessing=preprocessing, text=text)
    network = _learned(dataset, text)
    samples = [load_item(manifest, item, preprocessing) for item in items]
    drawn = [dataset[Draw(index, "naming", index)] for index in range(len(dataset))]
    truth = collate_packed(drawn, text=text)["boxes_xyxy_norm"]
    asked = [
        {**sample, **own_words(sample, sample["query"], sample["label"], text=text, answers=False)}
        for sample in samples
    ]
    batch = collate(asked, pad_id=text.pad_id)
    raw = {}
    for mode in ("forced", "free"):
        network.mode = mode
        raw[mode] = answer_batch(network, batch, text)
    mask, label = raw["free"].mask_prob > 0.5, batch["label"] > 0.5
    dice = 2 * (mask & label).sum(dim=(1, 2, 3)) / (mask.sum(dim=(1, 2, 3)) + label.sum(dim=(1, 2, 3)))
    iou = box_iou(raw["free"].boxes_xyxy_norm, truth).diag()
    assert float(dice.mean()) > 0.9
    assert float((iou > 0.5).float().mean()) > 0.9
    # Where the model points by itself, being made to point changes nothing.
    assert (raw["free"].presence_prob >= 0.5).all()
    torch.testing.assert_close(raw["free"].mask_prob, raw["forced"].mask_prob, atol=1e-4, rtol=0)
    assert raw["free"].texts == raw["forced"].texts == ["This is the liver."] * 8
