"""
Our own OpenAPI against the running server, by schemathesis.

    python tests/conformance/api.py [--examples N] [--out tests/bench/results]

Schemathesis lives in an environment of its own, made on first use.
Every operation gets generated requests, sound and unsound ones; no answer may be a server error,
and each must have a status, type and body that the document allows. Further options are
schemathesis's own: ``--max-time 3600`` goes on for an hour.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.report import publish  # noqa: E402 - found by the line above
from tests.conformance.tools import program  # noqa: E402
from tests.e2e.program import serving, t2l  # noqa: E402

REQUIREMENT = "schemathesis>=4.32,<5"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,negative_data_rejection,ignored_auth,unsupported_method"
)


def run(examples: int, *more: str, out: Path | None = None) -> int:
    """Test a server of our own; the exit code."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        cwd = Path(directory)
        made = t2l(
            "keys", "create", "local", "--scope", "chat", "--scope", "admin",
            "--format", "json", cwd=cwd,
        )  # fmt: skip
        key = json.loads(made.stdout)["key"]
        with serving("--engine", "echo", cwd=cwd, T2L_LOG_LEVEL="error") as server:
            server.wait_ready()
            report = cwd / "report.json"
            code = subprocess.run(
                [
                    program("schemathesis", REQUIREMENT), "run", f"{server.url}/openapi.json",
                    "--header", f"Authorization: Bearer {key}",
                    "--checks", CHECKS,
                    "--max-examples", str(examples),
                    "--request-timeout", "20",
                    "--seed", "1",
                    # These would end the key that is in use, or leave its tenant no requests;
                    # and no zip files are generated.
                    "--exclude-operation-id-regex", "^(revoke_key|set_limits|set_quota|import)_",
                    "--no-color",
                    "--report-json-path", report,
                    *more,
                ],
                check=False,
            ).returncode  # fmt: skip
            told = json.loads(report.read_text())
    if out is not None:
        cases = told["test_cases"]
        metrics = {
            "operations": told["operations"]["tested"],
            "cases": cases["generated"],
            "failed": cases["with_failures"] + cases["errored"],
        }
        publish(
            "conformance", metrics, began=began, out=out,
            module="tests.conformance.api",
            schemathesis=told["schemathesis_version"], checks=CHECKS.split(","), more=list(more),
        )  # fmt: skip
    return code


def main() -> None:
    """Run, and exit as schemathesis does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20, help="requests per operation and kind")
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments, more = parser.parse_known_args()
    sys.exit(run(arguments.examples, *more, out=arguments.out))


if __name__ == "__main__":
    main()
