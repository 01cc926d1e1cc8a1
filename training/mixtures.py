"""
Baselines that answer with many oracle LoRAs at once: their average, and Arrow's routing.

Both act on the target modules' outputs through hooks, whatever adapters those modules hold.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from training.oracle_file import Oracles

Change = Callable[[Tensor], Tensor]


@contextmanager
def average(model: nn.Module, oracles: Oracles) -> Iterator[None]:
    """
    Inside, the model answers with the mean of all oracles' delta-W.

    The mean is taken of the products B A, not of B and A, and applied as a full matrix: exact up
    to the model's dtype, with no rank cut off.
    """
    n, scaling = len(oracles.tasks), oracles.spec.scaling
    device, dtype = _place(model)

    def change(name: str, layer: int) -> Change:
        a = oracles.lora_A[name][:, layer].to(device).float().flatten(0, 1)  # [N * R, d_in]
        b = oracles.lora_B[name][:, layer].to(device).float()
        b = b.transpose(0, 1).flatten(1)  # [d_out, N * R]
        delta = (scaling / n * (b @ a)).to(dtype)
        return lambda x: nn.functional.linear(x, delta)

    with _changed(model, oracles, change):
        yield


@contextmanager
def arrow(
    model: nn.Module, oracles: Oracles, *, top_k: int = 3, temperature: float = 1.0
) -> Iterator[None]:
    """
    Inside, every token of every module is routed to the oracles whose prototype is nearest.

    Semantics:
        s[e] = |x . v[e]|, v[e] the first right singular vector of expert e's delta-W;
        y = base(x) + sum over the *top_k* largest s of softmax(s / temperature)[e] * delta_W[e] x.
        All experts' A are one matrix, the products masked by their coefficients, then all B one
        matrix: no gather of weights per token.

    Args:
        model: Holds the target modules.
        oracles: The experts.
        top_k: Experts a token is sent to.
        temperature: Of the softmax.

    Source:
        Ostapenko et al., Towards Modular LLMs by Building and Reusing a Library of LoRAs, ICML
        2024; the routing of PEFT's ``ArrowLoraLinearLayer``, with exact singular vectors.
    """
    n, rank, scaling = len(oracles.tasks), oracles.spec.rank, oracles.spec.scaling
    top_k = min(top_k, n)
    device, dtype = _place(model)

    def change(name: str, layer: int) -> Change:
        a, b = oracles.lora_A[name][:, layer].to(device), oracles.lora_B[name][:, layer].to(device)
        protos = prototypes(a, b).to(dtype)
        all_a = a.flatten(0, 1).to(dtype)
        all_b = (scaling * b.float()).transpose(0, 1).flatten(1).to(dtype)  # [d_out, N * R]

        def routed(x: Tensor) -> Tensor:
            top, experts = (x @ protos.T).abs().topk(top_k, dim=-1)
            share = torch.zeros(*x.shape[:-1], n, dtype=x.dtype, device=x.device)
            share.scatter_(-1, experts, (top / temperature).softmax(dim=-1))
            z = (x @ all_a.T).unflatten(-1, (n, rank)) * share.unsqueeze(-1)
            return nn.functional.linear(z.flatten(-2), all_b)

        return routed

    with _changed(model, oracles, change):
        yield


def prototypes(lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """
    Give the first right singular vector of each B A, of either sign.

    Args:
        lora_a: ``[N, R, d_in]``.
        lora_b: ``[N, d_out, R]``.

    Returns:
        ``[N, d_in]`` float32, unit L2 norm; a zero product's is arbitrary.
    """
    # A = T^T Q^T with orthonormal Q, so B A = (B T^T) Q^T: only an R x R problem is left.
    q, t = torch.linalg.qr(lora_a.float().mT)
    small = lora_b.float() @ t.mT
    _, vectors = torch.linalg.eigh(small.mT @ small)  # ascending
    first: Tensor = q @ vectors[..., -1:]
    return first.squeeze(-1)


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    parameter = next(model.parameters())
    return parameter.device, parameter.dtype


@contextmanager
def _changed(
    model: nn.Module, oracles: Oracles, change: Callable[[str, int], Change]
) -> Iterator[None]:
    """Inside, each target module's output has its change of the input added."""
    with ExitStack() as hooks:
        for module in oracles.spec.modules:
            for layer in range(oracles.spec.n_layers):
                target = model.get_submodule(module.path.format(layer=layer))
                hooks.callback(
                    target.register_forward_hook(_adding(change(module.name, layer))).remove
                )
        yield


def _adding(change: Change) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    return lambda _module, inputs, output: output + change(inputs[0])
