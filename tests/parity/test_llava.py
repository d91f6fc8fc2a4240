"""LLaVA-Med's original layout through converter and backbone, against the original code's own numbers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from prsmed.errors import CheckpointError
from prsmed.models.language import new_cache
from prsmed.models.llava import LlavaBackbone, load_llava
from prsmed.models.llava_conversion import convert_llava, original_config
from prsmed.text.encode import IMAGE_ID
from tests.parity.llava_files import tiny_configs, write_clip, write_original
from tests.parity.rule import PARITY, difference, listed, numbers, rule_image, rule_weights

TOWER = "model.vision_tower.vision_tower."


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return rule_weights(listed("llava_med_tiny"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    if not PARITY.is_dir():
        pytest.skip(f"the original networks' numbers are not on this machine: {PARITY} is absent")
    return write_clip(tmp_path_factory.mktemp("clip") / "tower", tiny_configs()[1], {})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, tensors, clip) -> LlavaBackbone:
    folder = tmp_path_factory.mktemp("llava")
    convert_llava(write_original(folder / "original", tensors, tiny_configs()[0]), folder / "converted", clip=clip)
    return load_llava(folder / "converted", dtype=torch.float32).eval()


def test_hidden_states_and_logits(backbone):
    expected = numbers("llava_med_tiny")
    ids = torch.tensor([[1, 5, 9, *[IMAGE_ID] * backbone.image_tokens, 17, 23, 42]])
    with torch.no_grad():
        image = rule_image(28)
        assert difference(backbone.tower(image), expected, "vision_features") < 1e-5
        embeds = backbone.embed_image(image)
        assert difference(embeds, expected, "projected_features") < 1e-5
        assert difference(backbone.merge(ids, embeds), expected, "inputs_embeds") < 1e-5
        hidden, _ = backbone(ids, embeds, torch.ones_like(ids))
        assert difference(hidden, expected, "last_hidden_state") < 1e-4
        assert difference(backbone.logits(hidden), expected, "logits") < 1e-4
        text = torch.tensor([[1, 5, 9, 17, 23, 42]])
        hidden, _ = backbone(text, None, torch.ones_like(text))
        assert difference(backbone.logits(hidden), expected, "text_only.logits") < 1e-4


def test_it_continues_from_its_cache_as_from_a_second_pass(backbone):
    ids = torch.tensor([[1, *[IMAGE_ID] * backbone.image_tokens, 17, 23]])
    with torch.no_grad():
        embeds = backbone.embed_image(rule_image(28))
        hidden, cache = backbone(ids, embeds, torch.ones_like(ids), cache=new_cache())
        told = backbone.generate(cache, hidden[:, -1], torch.ones_like(ids), max_new_tokens=3, end_id=2)
        again, _ = backbone(torch.cat([ids, told.ids], dim=1), embeds, torch.ones(1, ids.shape[1] + told.ids.shape[1]))
    torch.testing.assert_close(told.hidden[0], again[0, ids.shape[1] - 1 : -1], atol=1e-5, rtol=1e-5)


def test_a_checkpoint_without_its_tower_takes_it_from_a_clip_folder(tmp_path, tensors):
    """LLaVA-1.5's layout; a CLIP folder also holds the half that reads text."""
    expected = numbers("llava_med_tiny")
    config, vision = tiny_configs()
    tower = {name.removeprefix(TOWER): value for name, value in tensors.items() if name.startswith(TOWER)}
    tower |= {"text_model.embeddings.token_embedding.weight": torch.zeros(3, 2), "logit_scale": torch.zeros(())}
    rest = {name: value for name, value in tensors.items() if not name.startswith(TOWER)}
    source = write_original(tmp_path / "llava", rest, config, shards=2)
    with pytest.raises(CheckpointError, match="--clip"):
        convert_llava(source, tmp_path / "out", clip=write_clip(tmp_path / "empty", vision, {}))
    convert_llava(source, tmp_path / "out", clip=write_clip(tmp_path / "clip", vision, tower))
    with torch.no_grad():
        features = load_llava(tmp_path / "out", dtype=torch.float32).tower(rule_image(28))
    assert difference(features, expected, "vision_features") < 1e-5


@pytest.mark.parametrize("change", ["missing", "extra", "other shape"])
def test_a_wrong_checkpoint_is_refused_by_name(tmp_path, tensors, clip, change):
    name = "model.layers.1.mlp.up_proj.weight"
    wrong = dict(tensors)
    if change == "missing":
        del wrong[name]
    elif change == "extra":
        wrong["model.layers.2.mlp.up_proj.weight"] = wrong[name].clone()
    else:
        wrong[name] = wrong[name][:5].clone()
    with pytest.raises(CheckpointError, match=rf"{change} \['model\.language_model\.layers\.[12]\.mlp\.up_proj"):
        convert_llava(write_original(tmp_path / "in", wrong, tiny_configs()[0]), tmp_path / "out", clip=clip)
    assert not (tmp_path / "out").exists()


def test_llava_next_sees_the_whole_and_four_tiles_as_transformers_does(tmp_path, tensors, clip):
    """For a square picture of two views' width, which transformers neither pads nor cuts."""
    config = {**tiny_configs()[0], "mm_patch_merge_type": "spatial_unpad"}
    newline = torch.linspace(-1, 1, config["hidden_size"])
    source = write_original(tmp_path / "in", {**tensors, "model.image_newline": newline}, config)
    convert_llava(source, tmp_path / "out", clip=clip)
    ours = load_llava(tmp_path / "out", dtype=torch.float32).eval()
    theirs = LlavaNextForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert isinstance(theirs.config, LlavaNextConfig)
    theirs.config.image_grid_pinpoints = [[56, 56]]
    frame = rule_image(56)
    whole = torch.nn.functional.interpolate(frame, size=28, mode="bilinear", antialias=True)
    tiles = [frame[..., y : y + 28, x : x + 28] for y in (0, 28) for x in (0, 28)]
    with torch.no_grad():
        mine = ours.embed_image(frame)
        views = torch.stack([whole, *tiles], dim=1)
        expected = theirs.model.get_image_features(views, torch.tensor([[56, 56]])).pooler_output[0]
    assert ours.image_tokens == mine.shape[1] == 4 + 4 * 5
    torch.testing.assert_close(mine[0], expected, atol=1e-5, rtol=1e-5)


def test_every_name_of_the_full_size_layout_has_its_place(tmp_path):
    """LLaVA-Med v1.5 at full size: all names and shapes, on the meta device."""
    from transformers import LlavaForConditionalGeneration

    from prsmed.models.llava_conversion import ORIGINAL_NAMES
    from prsmed.models.pretrained import load_strictly

    rows = listed("llava_med_7b")
    sizes = {
        "model_type": "llava_mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(original_config(tmp_path))
    tensors = {name: torch.empty(shape, device="meta") for name, shape, *_ in rows}
    load_strictly(network, tensors, source="llava_med_7b", renames=ORIGINAL_NAMES)
