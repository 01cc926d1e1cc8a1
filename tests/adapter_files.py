"""Small, sound adapters and task embeddings for tests; the same seed gives the same bytes."""

import json

import numpy as np
from safetensors.numpy import save

from adapters_store import AdapterFiles, Task

BASE = "b" * 64
ENCODER = "e" * 64
DIM = 16


def make_config(**overrides):
    """The bytes of an ``adapter_config.json`` as PEFT writes it, with fields replaced."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": 2,
        "lora_alpha": 4,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "auto_mapping": None,
        **overrides,
    }
    return json.dumps(config).encode()


def make_tensors(seed=0, *, layers=1, rank=2, d_in=8, d_out=6, dtype=np.float32):
    """Random tensors of q_proj and v_proj under their PEFT names."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for module in ("q_proj", "v_proj"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            a, b = rng.normal(size=(rank, d_in)), rng.normal(size=(d_out, rank))
            tensors[f"{stem}.lora_A.weight"] = a.astype(dtype)
            tensors[f"{stem}.lora_B.weight"] = b.astype(dtype)
    return tensors


def make_files(seed=0, *, config=None, **shape):
    """The two files of a small adapter."""
    overrides = {"r": shape["rank"]} if "rank" in shape else {}
    weights = save(make_tensors(seed, **shape))
    return AdapterFiles(config or make_config(**overrides), weights)


def make_embedding(seed=0, dim=DIM):
    """A random unit vector."""
    vector = np.random.default_rng(seed).normal(size=dim).astype(np.float32)
    return vector / np.linalg.norm(vector)


def make_task(seed=0, text=None, **fields):
    """A task description with the embedding of the same seed."""
    text = text or f"Answer question number {seed}"
    return Task(text, make_embedding(seed), ENCODER, **fields)


def add(store, seed=0, *, tenant="acme", text=None):
    """Put the adapter of a seed into a library."""
    return store.add(make_files(seed), tenant=tenant, base=BASE, task=make_task(seed, text))
