"""
A GGUF file becomes a model folder in Hugging Face layout, the same bytes on every machine.

We do not let transformers convert: it derives config and tokenizer from the GGUF metadata, which
lack some facts (SmolLM2's digits are split one by one) and change their form with its version, and
with them the fingerprint that every stored adapter carries.
Recipes pin them instead; weights and vocabulary come from the file.
"""

import json
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors import SafetensorError
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from gguf import ReaderTensor
    from numpy.typing import NDArray

_CONTROL, _USER_DEFINED = 3, 4  # GGUF token types
_BLOCK_ROWS = 8192

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_BY_TYPE = {
    "llama": _LAYER | {"ffn_norm": "post_attention_layernorm"},
    "gemma3_text": _LAYER
    | {
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}


def convert_gguf(
    gguf: Path, recipe: str, destination: Path, *, advance: "Callable[[int], None]"
) -> None:
    """
    Fill *destination* with config, tokenizer and bfloat16 safetensors of the model in *gguf*.

    Args:
        gguf: A file whose hash the caller has checked.
        recipe: Name of a file under ``recipes/``, without its ending.
        destination: An existing, empty folder.
        advance: Called with the number of tensors just converted.
    """
    pinned = read_recipe(recipe)
    reader = GGUFReader(gguf)
    tokenizer_config = pinned["tokenizer_config"]
    if "chat_template" not in tokenizer_config:
        tokenizer_config["chat_template"] = _field(reader, "tokenizer.chat_template")
    _write_json(destination / "config.json", pinned["config"])
    _write_json(destination / "generation_config.json", pinned["generation_config"])
    _write_json(destination / "tokenizer_config.json", tokenizer_config)
    _write_json(destination / "tokenizer.json", _tokenizer(reader, pinned["tokenizer"]))
    reader.fields.clear()  # the vocabulary as Python objects, larger than a small model's weights
    tensors: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        tensors[_hf_name(tensor.name, pinned["config"])] = _weights(tensor, pinned["config"])
        advance(1)
    _save(tensors, destination / "model.safetensors")


def read_recipe(recipe: str) -> dict[str, Any]:
    """Read what a recipe pins: config, generation config, tokenizer config and tokenizer."""
    text = resources.files("t2l_router.models").joinpath("recipes", f"{recipe}.json").read_text()
    pinned: dict[str, Any] = json.loads(text)
    return pinned


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library knows the operating system's error only as text.
        if match := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(match[1]), str(error), str(path)) from error
        raise


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _field(reader: GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def _hf_name(name: str, config: dict[str, Any]) -> str:
    if name in _TOP:
        return _TOP[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    assert match is not None, f"{name}: the recipe does not fit this GGUF file"
    layer, part = match.groups()
    return f"model.layers.{layer}.{_LAYER_BY_TYPE[config['model_type']][part]}.weight"


def _weights(tensor: "ReaderTensor", config: dict[str, Any]) -> torch.Tensor:
    """Dequantise one tensor and undo what llama.cpp's converter changed for its own kernels."""
    is_llama = config["model_type"] == "llama"
    if config["model_type"] == "gemma3_text" and tensor.name.endswith("norm.weight"):
        # Stored as 1 + w; transformers adds the 1 itself.
        return _bfloat16(dequantize(tensor.data, tensor.tensor_type) - np.float32(1))
    # In blocks: a large embedding table takes several times its size while it is float32.
    starts = range(0, len(tensor.data), _BLOCK_ROWS)
    blocks = (tensor.data[start : start + _BLOCK_ROWS] for start in starts)
    weights = torch.cat([_bfloat16(dequantize(block, tensor.tensor_type)) for block in blocks])
    if is_llama and ".attn_q." in tensor.name:
        return _unpermute(weights, config["num_attention_heads"])
    if is_llama and ".attn_k." in tensor.name:
        return _unpermute(weights, config["num_key_value_heads"])
    return weights


def _bfloat16(values: "NDArray[np.float32]") -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(torch.bfloat16)


def _unpermute(weights: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Rows from llama.cpp's interleaved rotary pairs to transformers' two halves."""
    rows, columns = weights.shape
    pairs = weights.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns).contiguous()


def _tokenizer(reader: GGUFReader, pipeline: dict[str, Any]) -> dict[str, Any]:
    """``tokenizer.json``: the recipe's pipeline with the vocabulary and merges of the file."""
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    if _field(reader, "tokenizer.ggml.model") == "gpt2":
        merges = [merge.split(" ") for merge in _field(reader, "tokenizer.ggml.merges")]
    else:
        # llama.cpp stores runs of spaces as spaces; the model's own tokenizer has them as "▁".
        tokens = ["▁" * len(t) if set(t) == {" "} else t for t in tokens]
        merges = _merges_in_rank_order(tokens)
    types = _field(reader, "tokenizer.ggml.token_type")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(index, token, special=token_type == _CONTROL)
            for index, (token, token_type) in enumerate(zip(tokens, types, strict=True))
            if token_type == _CONTROL or (token_type == _USER_DEFINED and set(token) != {"▁"})
        ],
        **{key: value for key, value in pipeline.items() if key != "model"},
        "model": {
            **pipeline["model"],
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def _added_token(index: int, content: str, *, special: bool) -> dict[str, Any]:
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _merges_in_rank_order(tokens: list[str]) -> list[list[str]]:
    """Split each token into two tokens in every way; the vocabulary lies in the order of merges."""
    vocab = set(tokens)
    return [
        [token[:cut], token[cut:]]
        for token in tokens
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocab and token[cut:] in vocab
    ]
