"""``/v1/embeddings``: texts to vectors, by the encoder that embeds task descriptions."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, WithJsonSchema

from t2l_router import wire

MAX_TEXTS = 2_048


def _listed(texts: Any) -> Any:
    if isinstance(texts, list) and any(isinstance(part, int | list) for part in texts):
        raise ValueError("token ids are not supported here; send text")
    return [texts] if isinstance(texts, str) else texts


_TEXTS = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_TEXTS},
        ]
    }
)


class EmbeddingRequest(wire.Incoming):
    """The body of ``POST /v1/embeddings``."""

    model: str
    input: Annotated[
        list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed), _TEXTS
    ] = Field(min_length=1, max_length=MAX_TEXTS)
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


def body_of(request: EmbeddingRequest, rows: NDArray[np.float32], n_tokens: int) -> dict[str, Any]:
    """
    The answer.

    Args:
        request: What was asked.
        rows: ``[N, D]`` float32.
        n_tokens: Tokens of all texts.
    """
    encode = _base64 if request.encoding_format == "base64" else _floats
    return {
        "object": "list",
        "model": request.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(row)}
            for index, row in enumerate(rows)
        ],
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


def _floats(row: NDArray[np.float32]) -> list[float]:
    floats: list[float] = row.tolist()
    return floats


def _base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
