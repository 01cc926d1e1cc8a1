"""The alert rules and the dashboard ask for what the server tells."""

import json
import re

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from t2l_router.engines.echo import EchoEngine
from t2l_router.metrics import PHASES, Metrics
from t2l_router.readiness import Readiness
from tests.e2e.program import ROOT
from tests.routers import echo_router
from tests.t2l_router.test_observing import exchange

HERE = ROOT / "examples" / "monitoring"
NAME = re.compile(r"\b(?:t2l|process)_[a-z_]+\b")
LABEL = re.compile(r"\b([a-z_]+)\s*=~?\s*\"")
BY = re.compile(r"\bby \(([^)]*)\)")
PROMETHEUS_OWN = {"job", "instance"}


def rules() -> list[dict]:
    document = yaml.safe_load((HERE / "alerts.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads((HERE / "dashboard.json").read_text())["panels"]
    return [
        *(rule["expr"] for rule in rules()),
        *(target["expr"] for panel in panels for target in panel["targets"]),
    ]


@pytest.fixture(scope="module", name="told")
def _told():
    """Every sample's name and its labels, after one answer."""
    readiness = Readiness()
    readiness.finish(echo_router(engine=EchoEngine()))
    metrics = Metrics(readiness, slots=16)
    metrics.observe(exchange())
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_expressions(told, expression):
    """Each expression's brackets close, and its metrics and labels are those of the server."""
    names = NAME.findall(expression)
    labels = {*LABEL.findall(expression)}
    labels |= {name.strip() for by in BY.findall(expression) for name in by.split(",")}

    assert names
    assert {*names} <= told.keys()
    known = set.union(*(told[name] for name in names)) | PROMETHEUS_OWN
    assert labels <= known
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)
    phases = re.findall(r'phase="(\w+)"', expression)
    assert {*phases} <= PHASES


def test_rules_say_what_to_do():
    """Every alert has a name of its own, a severity, a time and a summary."""
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found) >= 8
    for rule in found:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert re.fullmatch(r"\d+m", rule["for"])
