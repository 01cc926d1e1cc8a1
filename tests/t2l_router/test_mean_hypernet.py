"""Hypernetworks that write adapters together: whose say it is, and what doesn't go together."""

import dataclasses

import pytest
import torch

from t2l_router import checkpoint, policy
from t2l_router.context import ANSWER, DESCRIPTION, FILLER, Reading
from t2l_router.context_hypernet import ContextHypernet
from t2l_router.errors import ConfigError
from t2l_router.generator import AdapterGenerator
from t2l_router.hypernet import Hypernet
from t2l_router.lora import ModuleShape
from t2l_router.mean_hypernet import SENTENCE_MOST, MeanHypernet
from t2l_router.reader import ReaderConfig
from tests.specs import config, spec

READER = ReaderConfig((0, 2), hidden=8, width=16, n_heads=4, n_blocks=1)
O_PROJ = ModuleShape("o_proj", "model.layers.{layer}.self_attn.o_proj", 64, 32)


def embedding_net(seed: int, **changes) -> Hypernet:
    torch.manual_seed(seed)
    net = Hypernet(dataclasses.replace(config("L"), **changes))
    for head in net.heads.values():
        torch.nn.init.normal_(head.weight, std=0.1)
    for mean in net.affine_B.values():
        torch.nn.init.normal_(mean.mean, std=0.1)
    return net.eval()


def reading_net(seed: int = 0, reader: ReaderConfig = READER) -> ContextHypernet:
    """One that reads tokens, of lower rank, which adapts `O_PROJ` too."""
    torch.manual_seed(seed)
    lora = dataclasses.replace(spec(rank=2), modules=(O_PROJ, *spec().modules))
    net = ContextHypernet(dataclasses.replace(config("L"), lora=lora, reader=reader))
    for head in (*net.head_A.values(), *net.head_B.values()):
        torch.nn.init.normal_(head.weight)
    return net.eval()


def known() -> Reading:
    """Three tasks: a description, a description with an example, an example alone."""
    torch.manual_seed(1)
    embeddings = torch.nn.functional.normalize(torch.randn(3, 24), dim=1)
    embeddings[2] = 0
    kinds = torch.tensor([[DESCRIPTION] * 2, [DESCRIPTION, ANSWER], [ANSWER] * 2])
    return Reading(embeddings, torch.randn(3, 2, READER.raw), kinds)


@torch.no_grad()
def deltas(net, read) -> dict[str, torch.Tensor]:
    """Module name -> scaled delta-W, ``[B, L, d_out, d_in]``."""
    scaling = net.config.lora.scaling
    return {name: scaling * pair.lora_B @ pair.lora_A for name, pair in net(read).items()}


def test_mean_of_what_they_write() -> None:
    """Delta-W is the members' mean, whatever their ranks; the rank is their sum."""
    members = [embedding_net(0), embedding_net(1, lora=spec(rank=2)), embedding_net(2)]
    together = MeanHypernet(members)
    rows = known().embeddings[:2]

    assert together.config.lora.rank == 10
    each = [deltas(member, rows) for member in members]
    for name, delta in deltas(together, rows).items():
        torch.testing.assert_close(delta, sum(one[name] for one in each) / 3)


def test_who_cannot_take_all_of_it_has_no_say() -> None:
    """Where there are examples, or no description, those that read tokens write alone."""
    sentence, reader = embedding_net(0), reading_net()
    read = known()
    written = deltas(MeanHypernet([sentence, reader]), read)

    one, other = deltas(sentence, read.embeddings), deltas(reader, read)
    for name in one:
        torch.testing.assert_close(written[name][0], (one[name] + other[name])[0] / 2)
        torch.testing.assert_close(written[name][1:], other[name][1:])
    torch.testing.assert_close(written["o_proj"][0], other["o_proj"][0] / 2)
    torch.testing.assert_close(written["o_proj"][1:], other["o_proj"][1:])


def test_instructions_are_left_to_those_who_read_them() -> None:
    """An embedding holds a sentence; of longer texts those that read tokens write alone."""
    sentence, reader = embedding_net(0), reading_net()
    embeddings = known().embeddings[:1].expand(2, -1)
    kinds = torch.full((2, SENTENCE_MOST + 1), DESCRIPTION)
    kinds[0, -1] = FILLER  # one as long as may be, one longer
    read = Reading(embeddings, torch.randn(2, SENTENCE_MOST + 1, READER.raw), kinds)
    written = deltas(MeanHypernet([sentence, reader]), read)

    one, other = deltas(sentence, embeddings), deltas(reader, read)
    for name in one:
        torch.testing.assert_close(written[name][0], (one[name] + other[name])[0] / 2)
        torch.testing.assert_close(written[name][1], other[name][1])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: embedding_net(1, lora=spec(base="other")),
            r"for tiny \(2 layers, f{12}\) and other \(2 layers",
        ),
        (lambda: embedding_net(1, lora=spec(n_layers=3)), r"and tiny \(3 layers"),
        (lambda: embedding_net(1, encoder_fingerprint="d" * 64), "embeddings of encoder"),
        (lambda: reading_net(1, dataclasses.replace(READER, depths=(0, 1))), "different layers"),
    ],
)
def test_what_does_not_go_together(other, message: str) -> None:
    """Another base model, another encoder, other layers to read: refused, and named."""
    with pytest.raises(ConfigError, match=message):
        MeanHypernet([embedding_net(0), reading_net(), other()])


def test_checkpoints_joined_by_a_plus(tmp_path) -> None:
    """They write as one network does: with an id of their own, and within limits."""
    for name, net in (
        ("one", embedding_net(0, max_delta_norm=50.0)),
        ("two", embedding_net(1, max_delta_norm=60.0)),
    ):
        checkpoint.save_pretrained(net, tmp_path / name, card="")
    names = [str(tmp_path / "one"), str(tmp_path / "two")]
    joined = "+".join(names)

    generator = AdapterGenerator.load(joined, base=spec())
    (adapter,) = generator.generate(known().embeddings[:1].numpy())

    assert adapter.spec.rank == 8
    assert checkpoint.from_pretrained(joined).config.max_delta_norm == 60
    assert checkpoint.encoder_lora(joined) is None
    ids = {checkpoint.hypernet_id(name) for name in (*names, joined)}
    assert generator.hypernet_id in ids
    assert len(ids) == 3


@pytest.mark.parametrize("name", ["default+", "+default", "default++default-examples", ""])
def test_a_name_that_is_missing(name: str) -> None:
    """A plus joins two names; the error says so."""
    with pytest.raises(ConfigError, match="name is missing"):
        checkpoint.from_pretrained(name)


def test_a_directory_may_have_a_plus_in_its_name(tmp_path) -> None:
    """Then it is one checkpoint."""
    checkpoint.save_pretrained(embedding_net(0), tmp_path / "q+v", card="")

    assert checkpoint.from_pretrained(tmp_path / "q+v").config.lora.rank == 4


def test_what_ships_goes_together() -> None:
    """The two checkpoints of the package, together; naming one again changes nothing."""
    name = "default"
    net = checkpoint.from_pretrained(name)

    assert net.config.lora.rank == 16
    assert [module.name for module in net.config.lora.modules] == ["o_proj", "q_proj", "v_proj"]
    assert net.config.reader is not None
    assert checkpoint.hypernet_id(f"{name}+{checkpoint.EXAMPLES}") == checkpoint.hypernet_id(name)
    measured = policy.thresholds_for(net.config.encoder_fingerprint, checkpoint.hypernet_id(name))
    assert measured is not policy.UNCALIBRATED
