"""LangChain's own suite for chat models against a real server with SmolLM2."""

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from integrations.langchain import ChatT2L
from tests.e2e.program import serving

pytestmark = [pytest.mark.real, pytest.mark.slow]


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
        # Patience: a loaded CPU writes a few tokens a second.
        return {"model": "smollm2-135m-instruct", "seed": 0, "timeout": 300}

    @property
    def model_override_value(self):
        return "t2l:base"

    @property
    def supports_json_mode(self):
        return True

    # Not strict: what a model writes may differ with the machine's arithmetic.
    @pytest.mark.xfail(reason="135 M parameters: left to choose, it calls no tool", strict=False)
    def test_agent_loop(self, model):
        """As the suite has it; test_tool_choice shows that calls themselves work."""
        super().test_agent_loop(model)

    @pytest.mark.xfail(
        reason="135 M parameters: it may fill a string until the answer's limit", strict=False
    )
    def test_structured_output_optional_param(self, model):
        """As the suite has it, with short answers; unpunished, the model goes round in a string."""
        fields = {"max_tokens": 200, "model_kwargs": {"frequency_penalty": 1.0}}
        super().test_structured_output_optional_param(model.model_copy(update=fields))

    @pytest.mark.xfail(
        reason="135 M parameters: it may fill a string until the answer's limit", strict=False
    )
    def test_unicode_tool_call_integration(self, model):
        """As the suite has it, with short answers; the wire's own tests cover characters."""
        super().test_unicode_tool_call_integration(model.model_copy(update={"max_tokens": 200}))

    @pytest.mark.xfail(
        reason="135 M parameters: JSON mode gives an object, but its keys are the model's own",
        strict=False,
    )
    def test_json_mode(self, model):
        """As the suite has it, with short answers; with a schema the keys are sure."""
        super().test_json_mode(model.model_copy(update={"max_tokens": 200}))
