"""A base model from the disk into memory."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from t2l_router.errors import ModelCorrupt, ModelUnavailable
from t2l_router.models.cache import LocalModel, verify

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_base(
    model: LocalModel, *, dtype: "torch.dtype", device: str
) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """
    Load a base model and its tokenizer from the disk alone, every byte verified.

    Args:
        model: What `pull` or `local` gave.
        dtype: Of the weights in memory.
        device: ``cpu`` or ``cuda[:n]``.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        ModelUnavailable: The installed transformers has no such architecture as a language model.
        ModelCorrupt: A file isn't what it was when the model was pulled, or weights are missing.
    """
    import transformers  # noqa: PLC0415 - seconds to import, and `t2l models list` needs none of it

    if model.kind != "base":
        raise ModelUnavailable(f"{model.name} is an encoder, not a language model")
    verify(model)
    auto: Any = transformers.AutoModelForCausalLM
    with no_progress_bars():
        try:
            loaded, info = auto.from_pretrained(
                model.path,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported in `info`; we refuse them below
            )
        except (ValueError, OSError) as error:
            raise ModelUnavailable(f"transformers can't load {model.path}: {error}") from error
    wrong = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if wrong:
        raise ModelCorrupt(
            f"{model.path}: {len(wrong)} of the model's tensors are missing or have another shape "
            f"than its config says, {min(wrong)} is one"
        )
    # tokenizer.json as it is: the model-specific classes rebuild it, which takes seconds for
    # large vocabularies and may differ from what the model was trained with.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
        model.path, local_files_only=True
    )
    return loaded.to(device).eval(), tokenizer


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars on the standard error of a server."""
    import transformers  # noqa: PLC0415

    logging: Any = transformers.utils.logging  # its functions carry no types
    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
