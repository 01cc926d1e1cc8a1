"""``t2l adapters``: what each verb prints, and with which code it ends."""

import json
import re

import click.testing
import pytest

from adapters_store import AdapterStore, StoreConfig
from t2l_router.cli import adapters as noun
from t2l_router.cli.main import Program
from tests.adapter_files import BASE, make_files, make_task


@pytest.fixture(name="data_dir")
def _data_dir(tmp_path, monkeypatch):
    """The data directory that the settings name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2L_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(name="store")
def _store(data_dir):
    """The library that the commands use."""
    with AdapterStore.open(StoreConfig.in_directory(data_dir / "library")) as store:
        yield store


def t2l(*args, code=0, **options):
    """Run ``t2l adapters ARGS`` and return its result, having checked the exit code."""
    program = Program("t2l", context_settings={"help_option_names": ["-h", "--help"]})
    program.get_command = lambda _, name: noun.command if name == "adapters" else None
    result = click.testing.CliRunner().invoke(program, ["adapters", *args], **options)
    assert (result.exit_code, result.exception is None or result.exit_code != 1) == (code, True), (
        result.output
    )
    return result


def add(store, seed=1, text="Summarise an email in one sentence", tenant="local"):
    return store.add(make_files(seed), tenant=tenant, base=BASE, task=make_task(seed, text))


def ageless(text):
    """The text with ages, which depend on the clock, made equal."""
    return re.sub(r"\b\d+s\b", "0s", text)


HELP = """\
Usage: t2l adapters [OPTIONS] COMMAND [ARGS]...

  See, name, move and retire adapters.

  REF is an adapter's id, the start of it (t2l- and 4 digits or more), or an
  alias.

Options:
  -h, --help  Show this message and exit.

Commands:
  list      List adapters, the newest first.
  show      Show everything about one adapter.
  stats     Count adapters, descriptions and hits.
  df        Show what each tenant's adapters take on the disk.
  history   Show who did what, the newest first.
  create    Write an adapter for a task and keep it.
  search    Find the adapters whose descriptions are nearest to TEXT.
  import    Take in a PEFT directory or zip file (safetensors only).
  pull      Take in an adapter from a URL.
  rm        Take adapters out of service and end their aliases.
  undelete  Bring a removed adapter back; its aliases stay ended.
  alias     Give adapters names that may move to another adapter later.
  tag       Add tags to an adapter.
  pin       Protect an adapter from every kind of removal.
  unpin     End an adapter's protection.
  judge     Approve an adapter, put it into quarantine, or take that back.
  promote   Give an adapter of the tenant to every tenant (tenant "shared").
  quota     Show or set how much a tenant may keep and generate.
  export    Write an adapter as PEFT, vLLM and import read it.
  push      Write an adapter below a URL.
  verify    Re-hash everything and name what belongs to no adapter.
  prune     Free the space of adapters that were deleted long ago.
  dedupe    Find adapters that do the same, and merge them.
"""


def test_help():
    """The verbs and what they do."""
    assert t2l("--help").stdout == HELP


def test_list_table(store):
    """The table fits 80 columns; long descriptions are cut, ids are not."""
    one = add(store, 1)
    two = add(store, 2, "Translate whatever the user writes into formal French", "acme")

    table = ageless(t2l("list", "--format", "human").stdout)

    assert table.splitlines() == [
        "ID            DESCRIPTION              TENANT  STATE      HITS     SIZE  AGE",
        f"{two.id[:12]}  Translate whatever the…  acme    generated     0  1.0 KiB   0s",
        f"{one.id[:12]}  Summarise an email in …  local   generated     0  1.0 KiB   0s",
    ]


def test_list_for_scripts(store):
    """Off a terminal every value is whole, one adapter a line, separated by tabs."""
    record = add(store, text="Two\nlines that are\ttoo long for any table in eighty columns")

    lines = t2l("list").stdout.splitlines()

    assert lines[0].split("\t") == ["ID", "DESCRIPTION", "TENANT", "STATE", "HITS", "SIZE", "AGE"]
    assert lines[1].split("\t")[:2] == [
        record.id,
        "Two lines that are too long for any table in eighty columns",
    ]


def test_quiet_feeds_rm(store):
    """The ids of ``list --format quiet`` are what ``rm`` takes."""
    records = [add(store, seed) for seed in range(3)]
    store.tag(records[0].id, tenant="local", add=["keep"])
    store.tag(records[1].id, tenant="local", add=["old"])

    ids = t2l("list", "-f", "tag=old", "--format", "quiet").stdout.split()
    t2l("rm", *ids)

    assert ids == [records[1].id]
    assert len(store.page()) == 2


def test_show_json(store):
    """JSON has every field of the adapter."""
    record = add(store)
    store.aliases.set("mailer", record.id, tenant="local")

    shown = json.loads(t2l("show", "mailer", "--format", "json").stdout)

    assert next(iter(shown)) == "id"
    assert (shown["id"], shown["aliases"]) == (record.id, ["mailer"])
    assert shown["descriptions"] == ["Summarise an email in one sentence"]
    assert set(shown) == {
        "id", "key", "tenant", "state", "base", "base_model", "rank", "alpha", "rslora",
        "target_modules", "size_bytes", "delta_norm", "pinned", "hits", "created_at",
        "last_used_at", "deleted_at", "description", "n_descriptions", "tags", "aliases",
        "origin", "source", "hypernet_id", "descriptions",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["show", "t2l-00000000"], 3, "no adapter 't2l-00000000'"),
        (["show", "nobody"], 3, "no adapter 'nobody'"),
        (["list", "-f", "colour=red"], 2, "filter 'colour=red'"),
        (["list", "-f", "size>big"], 2, "size 'big'"),
        (["list", "--limit", "0"], 2, "0 is not in the range"),
        (["alias", "rm", "nobody"], 3, "no alias 'nobody'"),
        (["alias", "set", "../etc", "mailer"], 2, "alias '../etc'"),
        (["rm", "pinned"], 4, "is pinned"),
        (["alias", "set", "mailer", "pinned"], 4, "--move"),
        (["tag", "mailer", "two words"], 2, "tag 'two words'"),
        (["prune", "--purge-after", "soon"], 2, "age 'soon'"),
        (["export", "mailer", "-o", "."], 4, "exists"),
        (["undelete", "mailer"], 3, "t2l adapters list -f state=deleted"),
        (["quota", "--max-adapters", "-5"], 2, "'--max-adapters': '-5' is no whole number"),
        (["import", "nowhere.zip"], 2, "'nowhere.zip' does not exist"),
        (["pull", "bogus://a"], 2, "bogus://a: Protocol not known"),
    ],
)
def test_exit_codes(store, args, code, message):
    """A mistake is one line on stderr that says what is wrong, with its exit code."""
    for seed, name in enumerate(("mailer", "pinned")):
        record = add(store, seed)
        store.aliases.set(name, record.id, tenant="local")
    store.pin("pinned", tenant="local")
    before = store.page()

    result = t2l(*args, code=code)

    assert message in result.stderr
    assert result.stdout == ""
    assert before == store.page()


def test_rm_dry_run(store):
    """A dry run prints what would go, and everything stays."""
    record = add(store)

    result = t2l("rm", record.id, "--dry-run", "--format", "quiet")

    assert result.stdout == f"{record.id}\n"
    assert store.get(record.id, tenant="local") == record


def test_rm_is_all_or_nothing(store):
    """One wrong name among several removes nothing."""
    record = add(store)

    t2l("rm", record.id, "t2l-00000000", code=3)

    assert store.get(record.id, tenant="local") == record
    t2l("rm", record.id, "t2l-00000000", "--ignore-missing")
    t2l("undelete", record.id)
    assert store.get(record.id, tenant="local").state == "generated"


def test_alias_life(store):
    """An alias is set, moved when told to, looked up in the past, and ended."""
    one, two = add(store, 1), add(store, 2)

    t2l("alias", "set", "mailer", one.id)
    t2l("alias", "set", "mailer", two.id, "--move")

    history = json.loads(t2l("alias", "history", "mailer", "--format", "json").stdout)
    assert [span["adapter_id"] for span in history] == [two.id, one.id]
    assert t2l("alias", "list", "--format", "quiet").stdout == "mailer\n"
    t2l("alias", "history", "mailer", "--at", "2001-01-01", code=3)
    t2l("alias", "rm", "mailer", "--dry-run")
    assert two.id == store.get("mailer", tenant="local").id
    t2l("alias", "rm", "mailer")
    assert store.aliases.current() == []


def test_state_tags_pins(store):
    """Judging, tagging, pinning and promoting change what they say."""
    record = add(store)

    for args in (["judge", record.id, "approved"], ["tag", record.id, "mail"], ["pin", record.id]):
        t2l(*args)
    changed = store.get(record.id, tenant="local")
    assert (changed.state, changed.tags, changed.pinned) == ("approved", ("mail",), True)
    t2l("tag", record.id, "mail", "--remove")
    t2l("unpin", record.id)
    t2l("promote", record.id)
    changed = store.get(record.id, tenant="local")
    assert (changed.tags, changed.pinned) == ((), False)
    assert store.get(record.id, tenant="another").state == "approved"


def test_changes_are_told_in_a_line(store):
    """Verbs that change one adapter say what it is now; its fields are for programs."""
    record = add(store)
    changes = {
        ("pin", record.id): "is pinned.",
        ("unpin", record.id): "is no longer pinned.",
        ("tag", record.id, "mail", "new"): "has the tags: mail, new.",
        ("tag", record.id, "mail", "new", "--remove"): "has the tags: none.",
        ("judge", record.id, "approved"): "is approved.",
        ("promote", record.id): "is every tenant's.",
        ("undelete", record.id): "is back, as approved.",
    }
    for args, told in changes.items():
        if args[0] == "undelete":
            t2l("rm", record.id)
        assert t2l(*args).stdout == f"{record.id} {told}\n"

    assert t2l("pin", record.id, "--format", "quiet").stdout == f"{record.id}\n"
    whole = json.loads(t2l("pin", record.id, "--format", "json").stdout)
    shown = json.loads(t2l("show", record.id, "--format", "json").stdout)
    assert (shown | whole, whole["pinned"]) == (shown, True)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["list"], "t2l adapters create"),
        (["list", "-f", "tag=mail"], "No adapter fits."),
        (["df"], "t2l adapters create"),
        (["history"], "Nothing has been changed yet."),
        (["alias", "list"], "t2l adapters alias set NAME REF"),
    ],
)
def test_empty_library(store, args, told):
    """Where there is nothing to list, what makes something is said."""
    result = t2l(*args, "--format", "human")

    assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
    assert told in result.stderr
    assert t2l(*args, "--format", "json").output == "[]\n"


def test_dedupe_without_duplicates(store):
    """Where there is nothing to merge, nothing is offered."""
    add(store)

    for args in (["dedupe"], ["dedupe", "--apply"]):
        assert t2l(*args).stderr == "No adapters do the same.\n"


def test_export(store, tmp_path):
    """An export is a whole PEFT directory or zip file; a dry name takes the id."""
    record = add(store)

    t2l("export", record.id)
    t2l("export", record.id, "-o", "out.zip")

    files = {path.name for path in (tmp_path / record.id).iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "t2l.json", "README.md"}
    assert (tmp_path / "out.zip").is_file()
    assert ["data", "out.zip", record.id] == sorted(path.name for path in tmp_path.iterdir())


def test_verify(store):
    """Verify is quiet about a sound library and ends with 5 about a damaged one."""
    record = add(store)
    assert "Checked 1 adapters (1.0 KiB) and 1 audit entries: 0 problems." in t2l("verify").stderr

    weights = store.directory(record.id, tenant="local") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")

    assert "…" not in t2l("verify", "--format", "human", code=5).stdout
    result = t2l("verify", "--format", "json", code=5)
    assert [(p["subject"], p["kind"]) for p in json.loads(result.stdout)] == [
        (record.id, "corrupt")
    ]


def test_prune(store):
    """Prune shows its plan, wants a yes, and then frees what was deleted."""
    record, kept = add(store, 1), add(store, 2)
    store.delete(record.id, tenant="local")
    assert t2l("prune", "--format", "quiet").stdout == ""

    plan = t2l("prune", "--purge-after", "0s", "--dry-run", "--format", "quiet").stdout
    assert plan == f"{record.id}\n"
    shown = t2l("prune", "--purge-after", "0s", "--dry-run", "--format", "human").stdout
    assert "…" not in shown
    assert "Say -y" in t2l("prune", "--purge-after", "0s", code=2).stderr
    assert "Freed 1.0 KiB in 1 steps." in t2l("prune", "--purge-after", "0s", "-y").stderr

    t2l("undelete", record.id, code=3)
    assert [kept.id] == [blob.name for blob in store.ledger.blobs.published()]


def test_figures(store):
    """stats, df and history count what is there."""
    record = add(store)
    store.record_uses({record.id: 2}, tenant="local")

    stats = json.loads(t2l("stats", "--format", "json").stdout)
    assert (stats["adapters"], stats["hits"], stats["unused"]) == (1, 2, 0)
    assert stats["top"] == [f"{record.id} (2)"]
    space = json.loads(t2l("df", "--format", "json").stdout)
    assert [(row["tenant"], row["size_bytes"]) for row in space] == [("local", record.size_bytes)]
    actions = json.loads(t2l("history", "--format", "json").stdout)
    assert [entry["action"] for entry in actions] == ["add.generated"]


def test_quota(store):
    """A quota is set, shown with what is used of it, and lifted."""
    record = add(store)

    args = ["quota", "--max-size", "1MB", "--max-adapters", "1", "--format", "json"]
    shown = json.loads(t2l(*args).stdout)

    assert (shown["max_bytes"], shown["max_adapters"]) == (10**6, 1)
    assert (shown["used_adapters"], shown["used_size_bytes"]) == (1, record.size_bytes)
    t2l("quota", "--max-adapters", "none")
    limits = store.quotas.get("local")
    assert (limits.max_bytes, limits.max_adapters) == (10**6, None)
    t2l("quota", "--max-adapters", "many", code=2)
