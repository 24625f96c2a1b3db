"""An adapter of ours against PEFT's own code, on the model that is exported; where peft is installed."""

import pytest
import torch
from helpers import variant

from gpt.interop.huggingface import export
from gpt.model.lora import Adapter, LayerAdapter, LoRAConfig, add_adapter, new_adapter

THEIRS = {"attention.qkv": "attn.c_attn", "attention.out_proj": "attn.c_proj"}
THEIRS |= {"mlp.fc_in": "mlp.c_fc", "mlp.fc_out": "mlp.c_proj"}


def test_peft_computes_what_ours_does(dataset, tmp_path):
    """B is not zero, and attn.c_proj is square, so that a matrix the wrong way round would fit as well."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    model = variant("gpt2")
    export(model, dataset.tokenizer, tmp_path / "exported")
    drawn = new_adapter(model, LoRAConfig(rank=3, alpha=6.0)).layers
    layers = {name: LayerAdapter(each.A, 0.2 * torch.randn_like(each.B), each.scale) for name, each in drawn.items()}
    add_adapter(model, Adapter(layers))
    config = peft.LoraConfig(
        r=3, lora_alpha=6, lora_dropout=0.0, target_modules=list(THEIRS.values()), fan_in_fan_out=True
    )
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "exported"), config)
    tensors = {}
    for name, layer in layers.items():
        _, number, own = name.split(".", 2)
        prefix = f"base_model.model.transformer.h.{number}.{THEIRS[own]}"
        tensors |= {f"{prefix}.lora_A.weight": layer.A, f"{prefix}.lora_B.weight": layer.B}
    loaded = peft.set_peft_model_state_dict(theirs, tensors)
    assert not loaded.unexpected_keys
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model(ids), rtol=0, atol=1e-5)
