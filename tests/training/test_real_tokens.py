"""Promise 9 on the real tokenizer: what was trained on is what the server sends."""

import pytest
from transformers import AutoTokenizer

from t2l_router.chat_format import render
from t2l_router.models import LocalModel, load_base
from training.prompts import chat

TEXTS = ["How are you?", "  spaces \n and lines\n\n", "émigré 😀 <|im_end|>", "a" * 300]


@pytest.mark.real
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("where", ["user", "system"])
def test_training_and_serving_tokenizers_agree(smollm2: LocalModel, text: str, where) -> None:
    """The tokenizer that packs are made with and the one the server loads give the same ids."""
    import torch  # noqa: PLC0415

    packing = AutoTokenizer.from_pretrained(smollm2.path, local_files_only=True)
    _, serving = load_base(smollm2, dtype=torch.bfloat16, device="cpu")

    for messages in (chat(text), chat(text, instruction="Say it.", where=where)):
        assert render(packing, messages) == render(serving, messages)
    assert packing.eos_token_id == serving.eos_token_id
