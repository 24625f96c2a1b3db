"""Runs of adapters, and adapters of PEFT's, written by hand in a moment."""

import json
from dataclasses import replace

import torch
from helpers import SHAPE, variant
from safetensors.torch import save_file

from gpt import Tokenizer, TrainConfig
from gpt.model.lora import LoRAConfig, new_adapter
from gpt.runs import checkpoint
from gpt.runs.directory import TOKENIZER, write_config
from gpt.runs.integrity import weights_sha256


def save_run(path, config, tensors):
    path.mkdir(parents=True)
    write_config(path, config)
    Tokenizer.utf8_bytes().save(path / TOKENIZER)
    checkpoint.save(path, tensors, {}, {"step": 3, "evaluation": {"loss": 1.0}})
    return path


def save_adapter(path, base, weights, seed=0, **changes):
    """A run as one that trained adapters, with B ≠ 0."""
    torch.manual_seed(seed)
    lora = LoRAConfig(rank=2, alpha=6.0)
    tensors = {}
    for name, layer in new_adapter(variant("gpt2"), lora).layers.items():
        torch.manual_seed(seed + len(tensors))
        tensors[f"{name}.lora_A"] = layer.A
        tensors[f"{name}.lora_B"] = 0.2 * torch.randn(layer.B.shape)
    config = TrainConfig(
        batch_tokens=480, model=SHAPE, lora=lora, init_from=str(base), init_sha256=weights_sha256(weights)
    )
    return save_run(path, replace(config, **changes), tensors)


def save_peft(path, width=32, **config):
    path.mkdir(parents=True)
    basic = {"peft_type": "LORA", "target_modules": ["c_attn"], "layers_to_transform": [1], "r": 2, "lora_alpha": 3}
    (path / "adapter_config.json").write_text(json.dumps(basic | config))
    key = "base_model.model.transformer.h.1.attn.c_attn.lora_"
    torch.manual_seed(7)
    a, b = torch.randn(2, width), torch.randn(96, 2)
    save_file({f"{key}A.weight": a, f"{key}B.weight": b}, path / "adapter_model.safetensors")
    return path


def adapters_of_a_base(home):
    """Below runs/: a base, two runs of adapters for it, one for another base, and one of PEFT's; one more elsewhere."""
    weights = variant("gpt2").state_dict()
    base = save_run(home / "runs" / "base", TrainConfig(batch_tokens=480, model=SHAPE), weights)
    for seed, name in enumerate(("one", "two")):
        save_adapter(home / "runs" / name, base, weights, seed)
    other = weights | {"final_norm.bias": weights["final_norm.bias"] + 1}
    save_adapter(home / "runs" / "another base's", base, other)
    save_peft(home / "runs" / "theirs")
    save_peft(home / "elsewhere")
    return home
