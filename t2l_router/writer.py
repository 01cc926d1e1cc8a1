"""From a task to its adapter, step by step; every program that writes one goes this way."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from t2l_router.describe import TaskDescription
from t2l_router.engines.base import Weights
from t2l_router.errors import InvalidRequest
from t2l_router.examples import Pair


class Encoder(Protocol):
    """Turns task descriptions into task embeddings."""

    @property
    def fingerprint(self) -> str:
        """Its identity; embeddings of different ones can't be compared."""

    @property
    def dim(self) -> int:
        """D, of embeddings."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as ``[N, D]`` float32 of unit L2 norm."""

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that `embed` reads of them."""


class Reader(Protocol):
    """Reads tasks token by token."""

    def read(
        self,
        embeddings: NDArray[np.float32],
        texts: Sequence[str],
        sets: Sequence[Sequence[Pair]],
    ) -> Any:
        """Read N tasks; see `t2l_router.context.ContextReader.read`."""

    def n_fitting(self, pairs: Sequence[Pair]) -> int:
        """How many of a task's examples `read` has room for."""


W_co = TypeVar("W_co", bound=Weights, covariant=True)
W = TypeVar("W", bound=Weights)


class Generator(Protocol[W_co]):
    """Turns what is known of tasks into adapters."""

    @property
    def hypernet_id(self) -> str:
        """The hypernetwork's identity."""

    def generate(self, known: Any) -> Sequence[W_co]:
        """Write one adapter per row of ``[N, D]``, or of what a `Reader` read."""


class Known(NamedTuple):
    """
    What a generator is to know of a task.

    Args:
        read: In the generator's own form.
        n_left_out: Examples that there was no room for.
    """

    read: Any
    n_left_out: int = 0


class Writer(Generic[W]):
    """
    Writes adapters, one at a time.

    Args:
        encoder: Embeds descriptions.
        generator: Writes adapters.
        reader: Reads tasks for the generator; None where that takes embeddings alone.
    """

    def __init__(
        self, encoder: Encoder, generator: Generator[W], reader: Reader | None = None
    ) -> None:
        self.encoder = encoder
        self._generator = generator
        self.reader = reader

    def check(self, task: TaskDescription) -> None:
        """
        Refuse a task that can't be read.

        Raises:
            InvalidRequest: It brings examples, and the hypernetwork takes embeddings alone.
        """
        if task.examples and self.reader is None:
            raise InvalidRequest(
                "the hypernetwork that is loaded reads no examples; one that does is default "
                "(--hypernet default, of the server where one answers)",
                param="t2l_examples",
            )

    def embed(self, task: TaskDescription) -> NDArray[np.float32]:
        """Give the embedding ``[D]`` of a task's description; zeros where it has none."""
        if not task.text:
            return np.zeros(self.encoder.dim, np.float32)
        first: NDArray[np.float32] = self.encoder.embed([task.text])[0]
        return first

    def read(self, task: TaskDescription, embedding: NDArray[np.float32]) -> Known:
        """Read a task, as far as the generator reads."""
        if self.reader is None:
            return Known(embedding[None])
        read = self.reader.read(embedding[None], [task.text], [task.examples])
        return Known(read, len(task.examples) - self.reader.n_fitting(task.examples))

    def generate(self, known: Known) -> W:
        """
        Write the adapter of what is known of a task.

        Raises:
            GenerationFailed: It is unusable.
        """
        (weights,) = self._generator.generate(known.read)
        return weights

    def write(self, task: TaskDescription) -> W:
        """Write a task's adapter; see `check` and `generate`."""
        self.check(task)
        return self.generate(self.read(task, self.embed(task)))
