"""The server's routes over the real encoder, hypernetwork and library; an engine that echoes."""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from t2l_router import config
from t2l_router.bootstrap import build_explainer
from t2l_router.gate import Gate
from t2l_router.readiness import Readiness
from t2l_router.server import create_app
from tests.bench.bench_router import NEAR
from tests.e2e.program import HYPERNET


def main() -> None:
    """Serve; whatever is near an adapter is reused without a comparison."""
    port, directory = sys.argv[1:]
    settings = config.load(
        {"data_dir": directory, "hypernet": HYPERNET, "generations_per_hour": 1_000_000}
    )
    router = build_explainer(settings)
    router._library._thresholds["local"] = (time.monotonic() + 1e6, NEAR)
    readiness = Readiness()
    readiness.finish(router)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await router.close()

    app = create_app(
        readiness,
        max_body_bytes=settings.max_body_bytes,
        keep_alive_s=settings.keep_alive_s,
        gate=Gate(None),
        lifespan=lifespan,
    )
    uvicorn.run(app, port=int(port), log_config=None, ws="none")


if __name__ == "__main__":
    main()
