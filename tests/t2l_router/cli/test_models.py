import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from t2l_router.cli.main import main


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package_index) -> Path:
    """An empty cache, and an index that carries acme/tiny."""
    monkeypatch.setenv("T2L_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def t2l(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ["models", *arguments], input=answer, prog_name="t2l")


def test_pull_list_verify_rm(cache: Path) -> None:
    """A model is pulled, listed, found intact and removed."""
    pulled = t2l("pull", "tiny", "--format", "json")
    assert pulled.exit_code == 0, pulled.output
    facts = json.loads(pulled.stdout)
    assert (facts["name"], facts["source"], facts["state"]) == ("acme/tiny", "packages", "pulled")

    listed = t2l("list")
    assert listed.stdout.splitlines()[0] == "NAME\tKIND\tSTATE\tSIZE\tLICENCE\tSOURCE"
    assert listed.stdout.splitlines()[1].startswith("acme/tiny\tbase\tpulled\t")
    assert t2l("list", "--format", "quiet").stdout == "acme/tiny\n"

    verified = t2l("verify")
    assert verified.exit_code == 0
    assert "acme/tiny\tbase\tok" in verified.stdout

    removed = t2l("rm", "tiny", "-y", "--format", "json")
    assert removed.exit_code == 0
    assert json.loads(removed.stdout)["freed_bytes"] >= facts["size_bytes"]
    assert t2l("list", "--format", "quiet").stdout == ""


def test_show(cache: Path) -> None:
    """A pulled model is described with its source, licence and files."""
    t2l("pull", "tiny")

    facts = json.loads(t2l("show", "ACME/tiny", "--format", "json").stdout)

    assert facts["path"] == str(cache / "models" / "acme--tiny")
    assert (facts["revision"], facts["licence"]) == ("acme-tiny==1.0.0", "mit")
    assert "model.safetensors" in facts["files"]


def test_show_folder(cache: Path, tiny_base) -> None:
    """A folder used in place is described too; it has no source."""
    facts = json.loads(t2l("show", str(tiny_base.path), "--format", "json").stdout)

    assert facts["fingerprint"] == tiny_base.fingerprint
    assert "source" not in facts


@pytest.mark.parametrize("verb", ["show", "verify", "rm"])
def test_model_that_is_not_there(cache: Path, verb: str) -> None:
    """A model that was not pulled exits with 3 and says how to pull it."""
    result = t2l(verb, "tiny")

    assert result.exit_code == 3
    assert result.stderr == (
        "Error: tiny is not on this machine; `t2l models pull tiny` fetches it\n"
    )


def test_pull_what_no_source_has(cache: Path) -> None:
    """An unknown model without a hub exits with 1 in one line."""
    result = t2l("pull", "acme/other")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: acme/other can't be had from the Hugging Face hub")
    assert len(result.stderr.splitlines()) == 1


def test_list_fits_a_terminal(cache: Path) -> None:
    """People read all of a model's state and licence in 80 columns."""
    t2l("pull", "tiny")

    shown = t2l("list", "--format", "human").stdout

    assert "…" not in shown
    assert "packages" not in shown
    assert "packages" in t2l("list").stdout


def test_damaged_model(cache: Path) -> None:
    """Damage is reported for each model, exits with 5, and a pull repairs it."""
    t2l("pull", "tiny")
    (cache / "models" / "acme--tiny" / "config.json").write_text("{}")

    result = t2l("verify", "--format", "json")

    assert result.exit_code == 5
    assert json.loads(result.stdout)[0]["state"] == "damaged"
    assert "config.json has 2 bytes instead of" in result.stderr
    assert t2l("pull", "tiny").exit_code == 0
    assert t2l("verify", "tiny").exit_code == 0


def test_damaged_manifest(cache: Path) -> None:
    """A model with a damaged manifest is listed as damaged and can be removed."""
    t2l("pull", "tiny")
    (cache / "models" / "acme--tiny" / "t2l_manifest.json").write_text("{")

    assert "acme/tiny\t-\tdamaged" in t2l("list").stdout
    assert t2l("verify").exit_code == 5
    assert t2l("show", "tiny").exit_code == 5
    assert t2l("rm", "tiny", "-y").exit_code == 0


def test_rm_dry_run_removes_nothing(cache: Path) -> None:
    """A dry run says what would be freed and removes nothing."""
    t2l("pull", "tiny")

    result = t2l("rm", "tiny", "--dry-run", "--format", "json")

    assert json.loads(result.stdout)["removed"] is False
    assert t2l("verify", "tiny").exit_code == 0


def test_rm_without_a_terminal(cache: Path) -> None:
    """Where nobody can be asked, what to pass instead is said, and nothing is removed."""
    t2l("pull", "tiny")

    result = t2l("rm", "tiny")

    assert result.exit_code == 2
    assert "Remove tiny (" in result.stderr
    assert "Say -y, or look first with --dry-run." in result.stderr
    assert t2l("verify", "tiny").exit_code == 0


def test_rm_asks(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -y the user is asked; no means no."""
    t2l("pull", "tiny")
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True)

    refused = t2l("rm", "tiny", answer="n\n")
    assert refused.exit_code == 1
    assert "Remove tiny (" in refused.stderr
    assert t2l("verify", "tiny").exit_code == 0

    assert t2l("rm", "tiny", answer="y\n").exit_code == 0


def test_rm_of_a_folder_in_place(cache: Path, tiny_base) -> None:
    """A folder of the user's is not removed."""
    result = t2l("rm", str(tiny_base.path), "-y")

    assert result.exit_code == 1
    assert "remove it yourself" in result.stderr
    assert tiny_base.path.exists()


def test_list_imports_no_torch() -> None:
    """Listing models doesn't pay for the model libraries."""
    program = """
import sys
from click.testing import CliRunner
from t2l_router.cli.models import command
assert CliRunner().invoke(command, ["list"]).exit_code == 0
print({"torch", "transformers", "gguf"} & set(sys.modules))
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert printed.stdout == b"set()\n"
