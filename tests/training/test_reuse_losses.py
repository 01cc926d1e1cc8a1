import pytest
import torch
from torch.nn.functional import cross_entropy

from t2l_router.chat_format import render
from t2l_router.lora import LoraSpec
from tests.specs import adapter
from training.base import load_frozen
from training.corpus import Example, load_tasks
from training.prompts import chat
from training.reuse_losses import LossMeter, Rivals, compare

EXAMPLES = [Example("a b c", ("yes",)), Example("much longer than the other", ("no, never",))]


@pytest.fixture
def parts(tiny_base):
    from transformers import AutoTokenizer  # noqa: PLC0415

    model = load_frozen(tiny_base.path, device="cpu", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base.path, local_files_only=True)
    return (
        model,
        tokenizer,
        LoraSpec.from_model(model, base_model="t", base_fingerprint="f", rank=4),
    )


def reference(model, tokenizer, example) -> tuple[float, int]:
    prompt = render(tokenizer, chat(example.text))
    answer = tokenizer(example.outputs[0], add_special_tokens=False)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return cross_entropy(logits, torch.tensor(answer), reduction="sum").item(), len(answer)


def test_loss_is_the_answers_alone(parts) -> None:
    """Prompt and padding don't count; every token of an answer weighs the same."""
    model, tokenizer, spec = parts
    sums = [reference(model, tokenizer, example) for example in EXAMPLES]
    meter = LossMeter(model, tokenizer, spec)

    expected = sum(loss for loss, _ in sums) / sum(n for _, n in sums)
    assert meter.loss(None, EXAMPLES) == pytest.approx(expected, rel=1e-4)


def test_compare_takes_the_fresh_adapter_as_the_measure(parts, corpus) -> None:
    """The adapter itself costs nothing more; another one something else; the base is the rest."""
    model, tokenizer, spec = parts
    fresh, other = adapter(spec, 1, size=1.0), adapter(spec, 2, size=1.0)
    meter = LossMeter(model, tokenizer, spec)
    (task, *_) = load_tasks(corpus, ["train"])

    same, far = compare(
        meter, [Rivals(task, fresh, {"paraphrase": fresh, "other task": other})], examples=3
    )

    assert (same.distance, same.excess) == (0, 0)
    assert far.distance > 1
    assert far.excess != 0
    sample = meter.sample(task, 3)
    assert len(sample) == 3
    assert far.base_excess == pytest.approx(meter.loss(None, sample) - meter.loss(fresh, sample))
