"""The library against a model of dicts: whatever is done in whatever order, they agree."""

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from adapters_store import AdapterStore, StoreConfig
from adapters_store.errors import AdapterNotFound, AdapterPinned, AliasNotFound, Conflict
from adapters_store.maintenance import PrunePolicy
from tests.adapter_files import BASE, ENCODER, make_embedding, make_files, make_task

SEEDS = st.integers(0, 5)
TENANTS = st.sampled_from(["acme", "rival"])
NAMES = st.sampled_from(["mail", "code"])
IDS = {seed: make_files(seed).canonical().adapter_id(BASE) for seed in range(6)}


class Library(RuleBasedStateMachine):
    """
    Rows by (tenant, seed), aliases by (tenant, name).

    A row is a dict with ``state``, ``deleted``, ``pinned`` and ``texts``, the seeds of its
    descriptions.
    """

    @initialize()
    def open(self):
        self.directory = Path(tempfile.mkdtemp())
        self.store = AdapterStore.open(StoreConfig.in_directory(self.directory))
        self.rows = {}
        self.aliases = {}

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.directory)

    def living(self, tenant, seed):
        row = self.rows.get((tenant, seed))
        return row if row is not None and not row["deleted"] else None

    def visible(self, tenant, seed):
        return self.living(tenant, seed) or self.living("shared", seed)

    @rule(seed=SEEDS, tenant=TENANTS, text=SEEDS)
    def add(self, seed, tenant, text):
        record = self.store.add(make_files(seed), tenant=tenant, base=BASE, task=make_task(text))
        row = self.rows.setdefault(
            (tenant, seed),
            {"state": "generated", "deleted": False, "pinned": False, "texts": set()},
        )
        row["deleted"] = False
        row["texts"].add(text)
        assert record.id == IDS[seed]

    @rule(seed=SEEDS, tenant=TENANTS)
    def delete(self, seed, tenant):
        row = self.living(tenant, seed)
        try:
            self.store.delete(IDS[seed], tenant=tenant)
        except AdapterNotFound:
            assert row is None
        except AdapterPinned:
            assert row["pinned"]
        else:
            row["deleted"] = True
            self.aliases = {
                (owner, name): target
                for (owner, name), target in self.aliases.items()
                if (owner, target) != (tenant, seed) or self.living("shared", seed)
            }

    @rule(seed=SEEDS, tenant=TENANTS)
    def undelete(self, seed, tenant):
        row = self.rows.get((tenant, seed))
        try:
            self.store.undelete(IDS[seed], tenant=tenant)
        except AdapterNotFound:
            assert row is None or not row["deleted"]
        else:
            row["deleted"] = False

    @rule(seed=SEEDS, tenant=TENANTS, pinned=st.booleans())
    def pin(self, seed, tenant, pinned):
        if row := self.living(tenant, seed):
            self.store.pin(IDS[seed], tenant=tenant, pinned=pinned)
            row["pinned"] = pinned

    @rule(seed=SEEDS, tenant=TENANTS, state=st.sampled_from(["approved", "quarantined"]))
    def judge(self, seed, tenant, state):
        if row := self.living(tenant, seed):
            self.store.set_state(IDS[seed], state, tenant=tenant)
            row["state"] = state

    @rule(seed=SEEDS, tenant=TENANTS)
    def promote(self, seed, tenant):
        row = self.living(tenant, seed)
        try:
            self.store.promote(IDS[seed], tenant=tenant)
        except AdapterNotFound:
            assert self.visible(tenant, seed) is None
        except Conflict:
            assert row["state"] == "quarantined"
        else:
            if row is not None and ("shared", seed) not in self.rows:
                copied = {"state": "approved", "pinned": False, "texts": set(row["texts"])}
                self.rows["shared", seed] = row | copied

    @rule(seed=SEEDS, tenant=TENANTS, name=NAMES)
    def set_alias(self, seed, tenant, name):
        try:
            self.store.aliases.set(name, IDS[seed], tenant=tenant, move=True)
        except AdapterNotFound:
            assert self.visible(tenant, seed) is None
        else:
            self.aliases[tenant, name] = seed

    @rule(tenant=TENANTS, name=NAMES)
    def remove_alias(self, tenant, name):
        try:
            self.store.aliases.remove(name, tenant=tenant)
        except AliasNotFound:
            assert (tenant, name) not in self.aliases
        else:
            del self.aliases[tenant, name]

    @rule()
    def prune(self):
        policy = PrunePolicy(purge_after=timedelta(0), stray_after=timedelta(0))
        self.store.maintenance.apply(self.store.maintenance.plan(policy))
        self.rows = {key: row for key, row in self.rows.items() if not row["deleted"]}

    @rule()
    def reopen(self):
        self.store.close()
        self.store = AdapterStore.open(StoreConfig.in_directory(self.directory))

    @rule(text=SEEDS, tenant=TENANTS)
    def search(self, text, tenant):
        hits = (
            self.store.search(make_embedding(text), tenant=tenant, base=BASE, encoder=ENCODER, k=6)
            if self.rows
            else []
        )
        expected = {}
        for (owner, seed), row in self.rows.items():
            if owner in (tenant, "shared") and not row["deleted"] and row["state"] != "quarantined":
                score = max(float(make_embedding(t) @ make_embedding(text)) for t in row["texts"])
                expected[IDS[seed]] = max(score, expected.get(IDS[seed], -1))
        assert {hit.adapter.id for hit in hits} == set(expected)
        np.testing.assert_allclose(
            [hit.score for hit in hits], sorted(expected.values(), reverse=True), atol=1e-5
        )

    @invariant()
    def same_rows(self):
        if not hasattr(self, "store"):
            return
        seen = {
            (record.tenant, record.id): (record.state, record.pinned, record.n_descriptions)
            for record in self.store.page(limit=None)
        }
        assert seen == {
            (tenant, IDS[seed]): (row["state"], row["pinned"], len(row["texts"]))
            for (tenant, seed), row in self.rows.items()
            if not row["deleted"]
        }
        current = {(s.tenant, s.name): s.adapter_id for s in self.store.aliases.current()}
        assert current == {key: IDS[seed] for key, seed in self.aliases.items()}

    @rule()
    def verify(self):
        assert self.store.maintenance.verify().problems == ()


TestLibrary = Library.TestCase
TestLibrary.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
