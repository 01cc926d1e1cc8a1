"""LangChain's own suite for chat models: over SmolLM2, and over an engine that obeys."""

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from integrations.langchain import ChatT2L
from tests.e2e.conftest import serve
from tests.e2e.program import serving
from tests.integrations.langchain.obedient import ObedientEngine
from tests.routers import MODEL


class TestObedient(ChatModelIntegrationTests):
    """Everything in the suite, with answers that depend on the request alone."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _served(cls):
        with serve(ObedientEngine()) as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("T2L_BASE_URL", f"{server.url}/v1")
            yield

    @property
    def chat_model_class(self):
        return ChatT2L

    @property
    def chat_model_params(self):
        return {"model": MODEL}

    @property
    def model_override_value(self):
        return "t2l:base"

    @property
    def supports_json_mode(self):
        return True


def _left_out(why):
    return pytest.mark.xfail(reason=f"135 M parameters: {why}; TestObedient has it", run=False)


@pytest.mark.real
@pytest.mark.slow
class TestSmolLM2(ChatModelIntegrationTests):
    """What doesn't depend on the model's wits, with a model."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _served(cls, smollm2, model_cache, tmp_path_factory):
        cwd = tmp_path_factory.mktemp("server")
        with (
            serving(cwd=cwd, T2L_CACHE_DIR=str(model_cache)) as program,
            pytest.MonkeyPatch.context() as patch,
        ):
            program.wait_ready()
            patch.setenv("T2L_BASE_URL", f"{program.url}/v1")
            yield

    @property
    def chat_model_class(self):
        return ChatT2L

    @property
    def chat_model_params(self):
        # Patience: a loaded CPU writes a few tokens a second.
        return {"model": "smollm2-135m-instruct", "seed": 0, "timeout": 300}

    @property
    def model_override_value(self):
        return "t2l:base"

    @property
    def supports_json_mode(self):
        return True

    @_left_out("asked for keys in words, it makes up its own")
    def test_json_mode(self, model):
        """As the suite has it."""

    @_left_out("left to choose, it calls no tool")
    def test_agent_loop(self, model):
        """As the suite has it."""

    @_left_out("it may fill a string until the answer's limit")
    def test_structured_output_optional_param(self, model):
        """As the suite has it."""

    @_left_out("it may fill a string until the answer's limit")
    def test_unicode_tool_call_integration(self, model):
        """As the suite has it."""
