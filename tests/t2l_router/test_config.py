from pathlib import Path

import pytest
from click.testing import CliRunner

from t2l_router import config
from t2l_router.cli.main import main
from t2l_router.errors import ConfigError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A working directory and an environment without settings."""
    for name in config.Settings.model_fields:
        monkeypatch.delenv(f"T2L_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults():
    """Without any setting there is a complete set of them."""
    settings = config.load()

    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert set(config.origins().values()) == {"default"}


def test_flag_beats_environment_beats_file(elsewhere, monkeypatch):
    """The nearer a setting is to the command, the stronger it is."""
    (elsewhere / "t2l.toml").write_text("port = 1\nslots = 2\nhost = '::1'\n")
    monkeypatch.setenv("T2L_PORT", "3")
    monkeypatch.setenv("T2L_SLOTS", "4")
    flags = {"port": "5", "device": None}

    settings, origins = config.load(flags), config.origins(flags)

    assert (settings.port, settings.slots, settings.host) == (5, 4, "::1")
    assert (origins["port"], origins["slots"]) == ("--port", "T2L_SLOTS")
    assert origins["host"] == str(elsewhere / "t2l.toml")
    assert origins["device"] == "default"


def test_every_fault_is_named_at_once(elsewhere, monkeypatch):
    """All bad settings come in one error, each with where it was set."""
    (elsewhere / "t2l.toml").write_text("slots = 0\nprot = 1\n")
    monkeypatch.setenv("T2L_MAX_TOKENS", "many")

    with pytest.raises(ConfigError) as caught:
        config.load({"engine": "warp"})

    _, *lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert any(line.startswith("engine, from --engine:") for line in lines)
    assert any(line.startswith("max_tokens, from T2L_MAX_TOKENS:") for line in lines)
    assert any("t2l.toml" in line and line.startswith("slots") for line in lines)
    assert any(line.endswith("no such setting") and line.startswith("prot") for line in lines)


def test_service_address_in_the_environment(monkeypatch):
    """Kubernetes sets T2L_PORT=tcp://... beside a service called t2l: that is a clear error."""
    monkeypatch.setenv("T2L_PORT", "tcp://10.0.0.1:8000")

    with pytest.raises(ConfigError, match=r"port, from T2L_PORT: .*tcp://10\.0\.0\.1:8000"):
        config.load()


def test_lists_in_the_environment(monkeypatch):
    """Names are given with commas; what must be JSON and isn't is named."""
    monkeypatch.setenv("T2L_ALLOWED_HOSTS", "t2l.example, t2l")
    assert config.load().allowed_hosts == ("t2l.example", "t2l")

    monkeypatch.setenv("T2L_UPSTREAMS", "small")
    with pytest.raises(ConfigError, match="T2L_UPSTREAMS is no JSON"):
        config.load()


def test_variables_that_set_nothing(monkeypatch):
    """A misspelt variable is named; those of other parts, and of Kubernetes, are not."""
    for name in ("T2L_DATADIR", "T2L_PORT", "T2L_BASE_URL", "T2L_RESOLVER_KEY"):
        monkeypatch.setenv(name, "1")
    for name in ("T2L_SERVICE_HOST", "T2L_SERVICE_PORT_HTTP", "T2L_PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(name, "1")

    assert config.strangers() == ["T2L_DATADIR"]
    shown = CliRunner().invoke(main, ["config", "--format", "quiet"])
    assert shown.stderr == "Warning: T2L_DATADIR is no setting\n"


def test_broken_file(elsewhere):
    """A file that isn't TOML is named."""
    (elsewhere / "t2l.toml").write_text("port = = 1")

    with pytest.raises(ConfigError, match=r"t2l\.toml is not TOML"):
        config.load()


def test_directories_are_absolute(elsewhere, monkeypatch):
    """Directories don't change their meaning with the working directory."""
    monkeypatch.setenv("T2L_DATA_DIR", "library")
    monkeypatch.setenv("T2L_CACHE_DIR", "~/cache")

    settings = config.load()

    assert settings.data_dir == elsewhere / "library"
    assert settings.cache_dir == Path.home() / "cache"


def test_empty_variable_is_unset(monkeypatch):
    """An empty variable is no setting, as compose files make them."""
    monkeypatch.setenv("T2L_DATA_DIR", "")

    assert config.load().data_dir != Path.cwd()
    assert config.origins()["data_dir"] == "default"


@pytest.mark.parametrize("name", config.Settings.model_fields)
def test_setting_is_explained(name):
    """Every setting says what it does."""
    assert config.Settings.model_fields[name].description
