"""
Make a task encoder of any transformer: a folder that `training.prepare --encoder` and serving take.

    python -m training.text_encoder --model smollm2-135m-instruct --pooling lasttoken --out runs/enc
    python -m training.text_encoder --model thenlper/gte-large --pooling cls --out runs/gte

The first reads descriptions with the base model itself, the second with the encoder of the paper's
family and its first token.

Source: Text-to-LoRA, section 4 and appendix on encoders: the first token of gte-large, the last of
the base model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer

from t2l_router.errors import ConfigError, T2LError
from training.base import find_model

POOLINGS = ("cls", "lasttoken", "mean")
# Plain text only: the library would make a chat of it if the tokenizer has a template.
_TEXT: dict[str, Any] = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_TOKENS = "token_embeddings"


def make(model: Path, out: Path, *, pooling: str, max_tokens: int = 256) -> None:
    """
    Write an encoder in sentence-transformers' layout.

    Args:
        model: Directory of a transformer, an encoder or a causal language model.
        out: Folder to write; it holds a copy of the weights.
        pooling: Which hidden state of the last layer is the embedding: the ``cls`` (first) token's,
            the ``lasttoken``'s, or the ``mean`` of all.
        max_tokens: Longer descriptions are cut.

    Raises:
        ConfigError: *out* exists already, or the model's tokenizer can't fill batches up.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another --out")
    if AutoTokenizer.from_pretrained(model, local_files_only=True).pad_token is None:
        raise ConfigError(f"{model}: its tokenizer has no pad token, so it can't read batches")
    transformer = Transformer(
        str(model), max_seq_length=max_tokens, modality_config=_TEXT, module_output_name=_TOKENS
    )
    reader = Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)
    SentenceTransformer(modules=[transformer, reader], device="cpu").save(str(out))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.text_encoder", description="A task encoder of any transformer."
    )
    parser.add_argument("--model", required=True, help="name or directory")
    parser.add_argument("--pooling", choices=POOLINGS, default="lasttoken")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        make(find_model(args.model), args.out, pooling=args.pooling, max_tokens=args.max_tokens)
    except T2LError as error:
        sys.exit(f"training.text_encoder: {error}")
    print(args.out)


if __name__ == "__main__":
    main()
