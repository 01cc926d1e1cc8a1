"""``t2l doctor`` over the echo engine; tests/e2e has it over real models."""

import json
import tempfile

import pytest
from click.testing import CliRunner

from t2l_router import policy, storage
from t2l_router.cli.doctor import _hypernet
from t2l_router.cli.main import main
from t2l_router.config import Settings


@pytest.fixture(name="doctor")
def _doctor(tmp_path, monkeypatch):
    """Runs the doctor and gives its exit code and its checks."""
    monkeypatch.setenv("T2L_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("T2L_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("T2L_ENGINE", "echo")

    def run(*args):
        result = CliRunner().invoke(main, ["doctor", "--port", "0", "--format", "json", *args])
        checks = {check["check"]: check for check in json.loads(result.stdout)}
        return result.exit_code, checks

    return run


def test_leaves_nothing(doctor, tmp_path, monkeypatch):
    """The adapter of the last check goes into a library that is gone afterwards."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    code, checks = doctor()

    assert code == 0
    assert "a new adapter in" in checks["answer"]["found"]
    assert checks["library"]["found"].endswith("adapters: 0")
    with storage.open_library(Settings(), actor="test") as store:
        assert store.page(tenant=None, limit=10) == []
        assert store.history(tenant=None) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_library_that_cannot_be_opened(doctor, monkeypatch):
    """It is one failed check among the others, and says why; its password isn't told."""
    url = "postgresql+psycopg://someone:secret@127.0.0.1:1/none"
    monkeypatch.setenv("T2L_LIBRARY_DATABASE", url)

    code, checks = doctor()

    assert code == 1
    assert [name for name, check in checks.items() if not check["ok"]] == ["library"]
    assert "can't be reached" in checks["library"]["found"]
    assert "secret" not in checks["library"]["found"]
    assert "\n" not in checks["library"]["found"]


def test_nothing_is_cut(tmp_path, monkeypatch):
    """People read all that was found in 80 columns, each failure once."""
    data = tmp_path / "a directory whose name is longer than its column" / ("x" * 70)
    monkeypatch.setenv("T2L_DATA_DIR", str(data))
    monkeypatch.setenv("T2L_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("T2L_LIBRARY_DATABASE", "postgresql+psycopg://127.0.0.1:1/none")
    monkeypatch.setenv("T2L_ENGINE", "echo")

    result = CliRunner().invoke(main, ["doctor", "--port", "0", "--format", "human"])

    told = "".join(line[24:] for line in result.stdout.splitlines()).replace(" ", "")
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert str(data).replace(" ", "") in told
    assert result.output.count("can't be") == 1


def test_names_the_hypernetwork():
    """Its id is the one by which adapters know what wrote them."""
    small, both = policy.MEASURED

    told = [_hypernet(Settings(hypernet=name)) for name in ("default-sentences", "default")]

    assert f"default-sentences ({small.hypernet_id}): L for" in told[0]
    assert f"default ({both.hypernet_id}): reads tokens, for" in told[1]
