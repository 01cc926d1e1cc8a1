"""LangChain's own suite for chat models against a real server with SmolLM2."""

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from integrations.langchain import ChatT2L
from tests.e2e.program import serving

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.external]


@pytest.fixture(scope="module")
def server_url(smollm2, model_cache, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("server")
    with serving(cwd=cwd, T2L_CACHE_DIR=str(model_cache)) as program:
        program.wait_ready()
        yield program.url


@pytest.fixture(scope="module", autouse=True)
def _served(server_url):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2L_BASE_URL", f"{server_url}/v1")
        yield


class TestChatT2LIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatT2L

    @property
    def chat_model_params(self):
        return {
            "model": "smollm2-135m-instruct",
            "seed": 0,
            "timeout": 300,  # a loaded CPU writes a few tokens a second
            # Without it a small model that may only write a string goes round in it for ever.
            "model_kwargs": {"frequency_penalty": 1.0},
        }

    @property
    def model_override_value(self):
        return "t2l:base"

    @property
    def supports_json_mode(self):
        return True
