"""The two transports."""

import pytest

from integrations.langchain import ChatT2L


@pytest.fixture(params=["http", "in_process"])
def llm(request, echo, router):
    if request.param == "in_process":
        yield ChatT2L(router=router)
        return
    llm = ChatT2L(base_url=echo.url)
    yield llm
    llm.client.close()
