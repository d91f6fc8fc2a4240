"""Adapters: only where they belong, no change at first, the same outputs once merged."""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from prsmed.models.lora import add_lora, merge_lora

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def _llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def test_new_adapters_change_nothing_and_alone_can_learn():
    model = _llama()
    before = model(IDS).logits
    add_lora(model, rank=4, alpha=4, dropout=0.0)
    assert torch.equal(model(IDS).logits, before)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    # Hu et al.: rank * (inputs + outputs) numbers per adapted layer, here four square layers of width 16 in two blocks.
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 2 * 4 * 4 * 32


def test_merged_adapters_give_the_same_outputs_under_the_old_names():
    model, names = _llama(), set(_llama().state_dict())
    add_lora(model, rank=4, alpha=8, dropout=0.1, targets=["q_proj", "v_proj"])
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    model.eval()
    adapted = model(IDS).logits
    assert not torch.allclose(adapted, _llama()(IDS).logits, atol=1e-3)
    merge_lora(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(IDS).logits, adapted, atol=1e-5, rtol=1e-5)
