"""Engines with tiny random models."""

import asyncio

import pytest

from tests.tiny_engine import tiny_engine


@pytest.fixture
async def engine(tiny_base):
    subject, _ = tiny_engine(tiny_base, slots=2, max_running=2)
    yield subject
    await subject.close()


@pytest.fixture(scope="session")
def spec(tiny_base):
    engine, spec = tiny_engine(tiny_base)
    asyncio.run(engine.close())
    return spec


@pytest.fixture
def request_fixture(request):
    return request.getfixturevalue
