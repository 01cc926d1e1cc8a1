"""A local engine over a random tiny model, and adapters for it."""

import json

import torch

from t2l_router import wire
from t2l_router.engines.base import AdapterRef
from t2l_router.engines.local import EngineLimits, LocalEngine
from t2l_router.lora import LoraSpec, LoraWeights
from t2l_router.models import LocalModel, load_base


def tiny_engine(base: LocalModel, **limits) -> tuple[LocalEngine, LoraSpec]:
    """An engine in float32, and the spec of its adapters."""
    model, tokenizer = load_base(base, dtype=torch.float32, device="cpu")
    spec = LoraSpec.from_model(model, base_model=base.name, base_fingerprint=base.fingerprint)
    return LocalEngine(model, tokenizer, spec=spec, limits=EngineLimits(**limits)), spec


def tiny_adapter(spec: LoraSpec, seed: int, *, scale: float = 0.5) -> AdapterRef:
    """A random adapter that is strong enough to change answers."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=random)

    weights = LoraWeights(
        spec,
        {m.name: draw(spec.n_layers, spec.rank, m.d_in) for m in spec.modules},
        {m.name: draw(spec.n_layers, m.d_out, spec.rank) for m in spec.modules},
    )
    return AdapterRef(weights.adapter_id, weights)


def request(text: str = "hello", **fields) -> wire.ChatRequest:
    """A greedy request for a few tokens."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
    }
    return wire.parse_chat(json.dumps(body | fields).encode())


async def collect(engine, request, adapter=None):
    """The whole text and the last delta of an answer."""
    deltas = [delta async for delta in engine.stream_chat(request, adapter)]
    return "".join(delta.text for delta in deltas), deltas[-1]
