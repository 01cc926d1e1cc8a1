import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2l_router.errors import CheckpointMismatch, InvalidAdapter
from t2l_router.lora import LoraSpec, LoraWeights
from tests.specs import adapter, spec


def dense(weights: LoraWeights) -> torch.Tensor:
    """All scaled delta-W as one vector, the slow way."""
    return torch.cat(
        [
            (
                weights.spec.scaling * weights.lora_B[name].float() @ weights.lora_A[name].float()
            ).flatten()
            for name in sorted(weights.lora_A)
        ]
    )


def changed(weights: LoraWeights, **changes: object) -> LoraWeights:
    return dataclasses.replace(weights, **changes)


def test_peft_round_trip(tmp_path) -> None:
    """What is written is read back to the bit, under the same id."""
    weights = adapter(spec())
    weights.save_peft(tmp_path / "a")

    back = LoraWeights.load_peft(tmp_path / "a", spec())

    assert back.adapter_id == weights.adapter_id
    assert torch.equal(back.lora_B["v_proj"], weights.lora_B["v_proj"])
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_save_refuses_to_overwrite(tmp_path) -> None:
    """A directory with something in it is never replaced."""
    (tmp_path / "mine.txt").write_text("x")

    with pytest.raises(FileExistsError, match="not empty"):
        adapter(spec()).save_peft(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "x"


def test_id_depends_on_everything_that_acts() -> None:
    """Other tensors, base model or scaling give another id; the same give the same."""
    one = adapter(spec())

    assert adapter(spec()).adapter_id == one.adapter_id
    others = [
        adapter(spec(), seed=1),
        changed(one, spec=dataclasses.replace(one.spec, alpha=8.0)),
        changed(one, spec=dataclasses.replace(one.spec, rslora=False)),
        changed(one, spec=dataclasses.replace(one.spec, base_fingerprint="0" * 64)),
    ]
    assert len({one.adapter_id, *(other.adapter_id for other in others)}) == 5


def test_delta_distance_agrees_with_dense_matrices() -> None:
    """The rank x rank shortcut gives the norm of the difference of the full matrices."""
    one, two = adapter(spec(), 1), adapter(spec(rank=2), 2)
    expected = (dense(one) - dense(two)).norm() / math.sqrt(
        (dense(one).norm() ** 2 + dense(two).norm() ** 2) / 2
    )

    assert one.delta_distance(two) == pytest.approx(expected.item(), rel=1e-4)
    assert one.delta_distance(one) == pytest.approx(0, abs=1e-3)
    opposite = changed(one, lora_B={name: -b for name, b in one.lora_B.items()})
    assert one.delta_distance(opposite) == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda w: changed(w, lora_A={"q_proj": w.lora_A["q_proj"]}), "has modules"),
        (
            lambda w: changed(w, lora_A={n: a[:, :, :-1] for n, a in w.lora_A.items()}),
            r"q_proj: lora_A \(2, 4, 31\)",
        ),
        (
            lambda w: changed(w, lora_B={n: b * float("nan") for n, b in w.lora_B.items()}),
            "NaN or infinity",
        ),
        (
            lambda w: changed(w, lora_B={n: b * 1e4 for n, b in w.lora_B.items()}),
            "above the limit of 1e",
        ),
    ],
)
def test_validate_names_what_is_wrong(broken, message: str) -> None:
    """Each defect is refused with the module and the numbers."""
    weights = adapter(spec())
    weights.validate(max_delta_norm=1000)

    with pytest.raises(InvalidAdapter, match=message):
        broken(weights).validate(max_delta_norm=1000)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"r": "eight"}, "not a LoRA adapter_config"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"target_modules": ["gate_proj"]}, "gate_proj"),
        ({"target_modules": ["q_proj"]}, "unexpected tensor"),
        ({"r": 8}, "should be"),
    ],
)
def test_load_refuses_configs_it_cannot_honour(tmp_path, edit: dict, message: str) -> None:
    """A config that would change the adapter's meaning is refused, not ignored."""
    adapter(spec()).save_peft(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))

    with pytest.raises(InvalidAdapter, match=message):
        LoraWeights.load_peft(tmp_path / "a", spec())


def test_load_refuses_missing_and_torn_files(tmp_path) -> None:
    """Missing tensors and truncated files are named."""
    adapter(spec()).save_peft(tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop("base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight")
    save_file(tensors, file)
    with pytest.raises(InvalidAdapter, match=r"v_proj.lora_B.weight' is missing"):
        LoraWeights.load_peft(tmp_path / "a", spec())

    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InvalidAdapter, match="can't read"):
        LoraWeights.load_peft(tmp_path / "a", spec())


def test_spec_refuses_targets_that_are_no_linear_modules() -> None:
    """A target that isn't in every layer is named."""
    from transformers import LlamaConfig  # noqa: PLC0415

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    with pytest.raises(CheckpointMismatch, match="'lm_head'"):
        LoraSpec.from_config(
            config, base_model="x", base_fingerprint="y", targets=["q_proj", "lm_head"]
        )
