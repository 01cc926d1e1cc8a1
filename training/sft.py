"""
Train a hypernetwork, the multi-task baseline or oracle LoRAs through a frozen base model.

    python -m training.sft --pack runs/pack.safetensors --base DIR --out runs/first --steps 2000

Writes OUT/checkpoint (hub layout; an adapter directory for the multi-task baseline, one file
OUT/oracles.safetensors for the oracle LoRAs of all tasks), OUT/metrics.json and
OUT/state.safetensors; the same command again goes on where a killed run stopped.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from transformers import AutoTokenizer

from t2l_router.context_hypernet import ContextHypernet
from t2l_router.hypernet import Hypernet, HypernetConfig
from t2l_router.lora import LoraSpec, LoraWeights
from t2l_router.reader import ReaderConfig
from training.base import AdaptedBase, find_model, load_frozen
from training.baselines import SharedAdapter, start_from
from training.context_sampler import Shares
from training.context_trainer import ContextTrainer
from training.data import Pack
from training.oracles import OracleTrainer, TaskAdapters
from training.recipe import Recipe
from training.saving import save
from training.trainer import Trainer
from training.tuning import TunedHypernet, TunedTrainer
from training.views import one_hot, take

SAVE_EVERY_S = 120


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = _parse(argv)
    pack = take(Pack.load(args.pack), tasks=args.tasks, descriptions=args.descriptions)
    described = pack
    if args.embeddings == "one-hot" or args.system == "oracles":
        if args.validation:
            sys.exit("training.sft: one-hot embeddings know no other tasks; drop --validation")
        pack = one_hot(pack)
    _refuse_what_does_not_go_together(args)
    validation = Pack.load(args.validation) if args.validation else None
    recipe = Recipe(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe)})
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = load_frozen(
        find_model(args.base or pack.facts["base_model"]), device=device, dtype=dtype
    )
    if args.attention:
        model.set_attn_implementation(args.attention)
    spec = LoraSpec.from_model(
        model,
        base_model=pack.facts["base_model"],
        base_fingerprint=pack.facts["base_fingerprint"],
        targets=args.targets.split(","),
        rank=args.rank,
    )
    torch.manual_seed(recipe.seed)
    source = _source(args, spec, pack, model.config.hidden_size).to(device)
    base = AdaptedBase(model, spec, dropout=recipe.dropout)
    if args.compile:
        for layer in model.get_decoder().layers:
            layer.compile()
    if args.read:
        trainer: Trainer = _reading_trainer(args, base, source, pack, recipe)
    else:
        kinds = {TaskAdapters: OracleTrainer, TunedHypernet: TunedTrainer}
        trainer = kinds.get(type(source), Trainer)(
            base, source, pack, recipe, validation=validation
        )
    args.out.mkdir(parents=True, exist_ok=True)
    state = args.out / "state.safetensors"
    if state.exists():
        trainer.load_state(state)
        print(f"going on from step {trainer.step}", file=sys.stderr)
    command = "python -m training.sft " + " ".join(args.argv)
    started = time.monotonic()
    for part in range(1, args.snapshots + 1):
        _run(trainer, state, until=part * recipe.steps // args.snapshots)
        seconds = time.monotonic() - started
        save(trainer, args.out, described, command=command, seconds=seconds)


def _refuse_what_does_not_go_together(args: argparse.Namespace) -> None:
    if args.encoder_rank and (args.validation or args.mix or args.system != "t2l"):
        sys.exit("training.sft: --encoder-rank goes with t2l only, without --validation and --mix")
    if args.read and (args.validation or args.encoder_rank or args.offset or args.system != "t2l"):
        sys.exit("training.sft: --read goes with t2l only, without --validation and --offset")


def _source(args: argparse.Namespace, spec: LoraSpec, pack: Pack, hidden: int) -> nn.Module:
    if args.system == "multi-task":
        return SharedAdapter(spec)
    if args.system == "oracles":
        return TaskAdapters(spec, len(pack.facts["tasks"]))
    config = HypernetConfig(
        lora=spec,
        embedding_dim=pack.embeddings.shape[1],
        encoder=pack.facts["encoder"],
        encoder_fingerprint=pack.facts["encoder_fingerprint"],
        variant=args.variant,
        latent_size=args.latent_size,
        dropout=args.hypernet_dropout,
    )
    if args.read:
        depths = tuple(map(int, args.read.split(",")))
        shape = {"width": args.width, "n_blocks": args.blocks, "copies": not args.no_copy}
        reader = ReaderConfig(depths=depths, hidden=hidden, **shape)
        return ContextHypernet(dataclasses.replace(config, reader=reader))
    hypernet = Hypernet(config)
    if args.offset:
        start_from(hypernet, LoraWeights.load_peft(args.offset, spec))
    if not args.encoder_rank:
        return hypernet
    encoder = find_model(args.encoder or pack.facts["encoder"])
    return TunedHypernet.load(hypernet, encoder, rank=args.encoder_rank, alpha=args.encoder_alpha)


def _reading_trainer(
    args: argparse.Namespace, base: AdaptedBase, source: nn.Module, pack: Pack, recipe: Recipe
) -> ContextTrainer:
    directory = find_model(args.base or pack.facts["base_model"])
    device = str(next(source.parameters()).device)
    return ContextTrainer(
        base,
        source,
        pack,
        recipe,
        model=load_frozen(directory, device=device, dtype=base.model.dtype),
        tokenizer=AutoTokenizer.from_pretrained(directory, local_files_only=True),
        shares=Shares(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Shares)}),
        workers=args.workers,
    )


def _run(trainer: Trainer, state: Path, *, until: int) -> None:
    """Train with a progress bar on a terminal, else a line now and then; save as it goes."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tokens/s"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    bar_id = bar.add_task("", total=trainer.recipe.steps, loss=float("nan"), rate=0.0)
    began, from_tokens = time.monotonic(), trainer.tokens
    saved = began

    def show(trainer: Trainer, loss: float) -> None:
        nonlocal saved
        now = time.monotonic()
        rate = (trainer.tokens - from_tokens) / (now - began)
        bar.update(bar_id, completed=trainer.step, loss=loss, rate=rate)
        if not console.is_terminal and trainer.step % 250 == 0:
            print(f"step {trainer.step} loss {loss:.4f} {rate:,.0f} tokens/s", flush=True)
        if now - saved > SAVE_EVERY_S:
            saved = now
            _save(trainer, state)

    with bar:
        trainer.run(until=until, on_step=show)
    _save(trainer, state)


def _save(trainer: Trainer, state: Path) -> None:
    validation = trainer.validate()
    trainer.save_state(state)
    told = "" if validation is None else f" validation loss {validation:.4f}"
    print(f"step {trainer.step}{told}", flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--validation", type=Path, help="pack of tasks whose loss is reported")
    parser.add_argument("--base", default="", help="directory; default: the pack's base model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--system", choices=["t2l", "multi-task", "oracles"], default="t2l")
    parser.add_argument("--embeddings", choices=["descriptions", "one-hot"], default="descriptions")
    parser.add_argument("--tasks", type=int, default=0, help="so many, at random; 0: all")
    parser.add_argument("--descriptions", type=int, default=0, help="a task; 0: all")
    parser.add_argument("--variant", choices=["L", "M", "S"], default="L")
    parser.add_argument("--latent-size", type=int, default=128, help="of the hypernetwork")
    parser.add_argument("--hypernet-dropout", type=float, default=0.05)
    parser.add_argument("--snapshots", type=int, default=1, help="checkpoints, evenly spaced")
    parser.add_argument("--targets", default="q_proj,v_proj")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--offset", type=Path, help="adapter directory to start from: multi-task")
    parser.add_argument("--encoder-rank", type=int, default=0, help="train the encoder's LoRA too")
    parser.add_argument("--encoder-alpha", type=float, default=32.0)
    parser.add_argument("--encoder", default="", help="directory; default: the pack's encoder")
    parser.add_argument("--read", default="", help="read tokens, at these depths: 0,10,20,30")
    parser.add_argument("--width", type=int, default=384, help="of what reads tokens")
    parser.add_argument("--blocks", type=int, default=2, help="of what reads tokens")
    parser.add_argument("--no-copy", action="store_true", help="copy no tokens into adapters")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw, with --read")
    parser.add_argument("--device", default="")
    parser.add_argument("--attention", default="", help="e.g. flex_attention; default: the model's")
    parser.add_argument("--compile", action="store_true", help="compile the decoder layers")
    for field in (*dataclasses.fields(Recipe), *dataclasses.fields(Shares)):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    args = parser.parse_args(argv)
    args.argv = list(argv if argv is not None else sys.argv[1:])
    return args


if __name__ == "__main__":
    main()
