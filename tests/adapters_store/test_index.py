"""FAISS's index: a cache that may be lost, stale, damaged or foreign at any time."""

import json

import numpy as np
import pytest

from adapters_store.index import ExactIndex
from adapters_store.index_faiss import FaissIndex

DIM = 64


class Vectors:
    """A source of embeddings that grows."""

    def __init__(self, count):
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(40, DIM))
        noise = rng.normal(size=(10_000, DIM))
        vectors = centres[rng.integers(40, size=10_000)] + 0.5 * noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors = vectors.astype(np.float32)
        self.count = count
        self.asked = 0

    def since(self, partition, seq):
        self.asked += 1
        for start in range(seq, self.count, 1000):
            end = min(start + 1000, self.count)
            yield np.arange(start + 1, end + 1), self.vectors[start:end]


@pytest.fixture(name="vectors")
def _vectors():
    return Vectors(3000)


def faiss_index(vectors, path, library="library"):
    return FaissIndex(vectors, cache_dir=path, library=library, flat_below=2000)


def recall(index, vectors):
    """The share of the exact ten nearest among the forty that the store asks an index for."""
    exact = ExactIndex(vectors)
    found = 0
    for query in vectors.vectors[-100:]:
        truth = {hit.seq for hit in exact.search({1: vectors.count}, query, 10)}
        found += len(truth & {hit.seq for hit in index.search({1: vectors.count}, query, 40)})
    return found / 1000


def test_flat_is_exact(tmp_path):
    """A small partition gives exactly what a plain comparison gives."""
    vectors = Vectors(1500)

    assert recall(faiss_index(vectors, tmp_path), vectors) == 1
    assert list(tmp_path.iterdir()) == []


def test_grows_into_lists(tmp_path, vectors):
    """A partition that grows gets inverted lists, and goes on finding what is added."""
    index = faiss_index(vectors, tmp_path)
    index.search({1: vectors.count}, vectors.vectors[0], 10)
    index.wait()

    assert index.refresh(1).kind == "ivf"
    vectors.count = 5000
    assert index.refresh(1).vectors == 5000
    assert recall(index, vectors) > 0.95


def test_next_process_loads(tmp_path, vectors):
    """The cache file is loaded, and what was added since is pulled."""
    index = faiss_index(vectors, tmp_path)
    index.rebuild(1)
    index.close()
    vectors.count = 3100

    again = faiss_index(vectors, tmp_path)

    assert again.refresh(1) == index.refresh(1)
    assert recall(again, vectors) > 0.95


def damage_body(path):
    path.write_bytes(path.read_bytes()[:-10] + b"!" * 10)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


def empty(path):
    path.write_bytes(b"")


def other_partition(path):
    header, body = path.read_bytes().split(b"\n", 1)
    path.write_bytes(json.dumps(json.loads(header) | {"partition": 2}).encode() + b"\n" + body)


@pytest.mark.parametrize("damage", [damage_body, cut_short, empty, other_partition])
def test_damaged_file(tmp_path, vectors, damage):
    """A damaged or foreign cache file costs time, never an answer."""
    faiss_index(vectors, tmp_path).rebuild(1)
    (path,) = tmp_path.iterdir()
    damage(path)

    index = faiss_index(vectors, tmp_path)

    assert index.refresh(1).vectors == 3000
    assert recall(index, vectors) > 0.95
    index.wait()


def test_file_of_another_library(tmp_path, vectors):
    """The file of a library that was replaced by a backup is not used."""
    faiss_index(vectors, tmp_path).rebuild(1)
    vectors.count = 10

    assert faiss_index(vectors, tmp_path, "restored").refresh(1).vectors == 10


def test_unwritable_cache(tmp_path, vectors):
    """A cache directory that can't be written is no failure."""
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")

    assert faiss_index(vectors, blocked).rebuild(1).vectors == 3000
