"""Many task embeddings that lie in space as real ones do, from a few thousand real ones."""

import numpy as np

_BLOCK = 50_000
_PARAPHRASE_NOISE = 0.8  # paraphrases of one task then meet at a cosine of about 0.7


class Embeddings:
    """
    Draws unit vectors around real task embeddings, with their spectrum.

    Args:
        path: ``.npy`` of real embeddings, ``[n, D]`` float32, unit norm; None draws the "real"
            ones from a normal distribution with a power-law spectrum in 384 dimensions.
    """

    def __init__(self, path=None, *, dim=384):
        if path:
            real = np.load(path).astype(np.float32)
        else:
            spectrum = np.arange(1, dim + 1) ** -0.5
            real = np.random.default_rng(0).normal(size=(20_000, dim)) * spectrum
            real = (real / np.linalg.norm(real, axis=1, keepdims=True)).astype(np.float32)
        self.real = real
        centred = real - real.mean(axis=0)
        _, values, self._axes = np.linalg.svd(centred[:20_000], full_matrices=False)
        self._spread = (values / np.sqrt(min(len(real), 20_000))).astype(np.float32)

    def blocks(self, count, *, per_task=1, seed=0):
        """Yield *count* vectors in blocks; each *per_task* following ones are of one task."""
        rng = np.random.default_rng(seed)
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            tasks = np.repeat(rng.integers(len(self.real), size=size // per_task + 1), per_task)
            normal = rng.standard_normal((size, len(self._spread)), np.float32)
            noise = (normal * self._spread) @ self._axes
            vectors = self.real[tasks[:size]] + _PARAPHRASE_NOISE * noise
            yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def draw(self, count, **options):
        """All of `blocks` as one ``[count, D]`` float32 matrix."""
        return np.concatenate(list(self.blocks(count, **options)))
