"""The files of examples/deploy name settings that exist, and let only routers reach vLLM."""

import re
from pathlib import Path

import pytest
import yaml

from integrations.vllm.settings import ResolverSettings
from t2l_router.config import Settings

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
FILES = [DEPLOY / "compose.yaml", *KUBERNETES]


def objects():
    """Every Kubernetes object by kind and name."""
    for path in KUBERNETES:
        for found in yaml.safe_load_all(path.read_text()):
            if found["kind"] != "Kustomization":
                yield (found["kind"], found["metadata"]["name"]), found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_exist(path):
    """Each T2L_ variable is a setting of the router or of the plugin."""
    known = {f"T2L_{name.upper()}" for name in Settings.model_fields}
    known |= {f"T2L_RESOLVER_{name.upper()}" for name in ResolverSettings.model_fields}
    assert set(re.findall(r"\bT2L_[A-Z_]+", path.read_text())) <= known


def test_compose_networks():
    """In the compose file vLLM shares networks with routers and its object store only."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    reached = {"vllm-1", "vllm-2"}
    for name, service in services.items():
        if name not in reached and set(service["networks"]) & {"engines", "objects"}:
            assert name in {"router-1", "router-2", "minio"}
    for name in reached:
        assert "ports" not in services[name]


def test_network_policy():
    """In Kubernetes the only way into vLLM is from routers."""
    found = dict(objects())
    policy = found["NetworkPolicy", "vllm"]["spec"]
    served = found["StatefulSet", "vllm"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= served.items()
    assert [rule["from"] for rule in policy["ingress"]] == [
        [{"podSelector": {"matchLabels": {"app": "router"}}}]
    ]


def test_secrets_are_those_that_are_asked_for():
    """Every key that a pod takes from the secret is in the example of it."""
    found = dict(objects())
    there = set(found["Secret", "t2l"]["stringData"])
    asked = re.findall(
        r"secretKeyRef: \{name: t2l, key: ([a-z-]+)\}", "".join(p.read_text() for p in KUBERNETES)
    )
    assert set(asked) == there


def test_kustomization_names_every_file():
    """No manifest is forgotten."""
    named = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in KUBERNETES} - {"kustomization.yaml", "secrets.example.yaml"}
    assert set(named) == there | {"secrets.yaml"}
