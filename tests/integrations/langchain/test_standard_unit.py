"""LangChain's own suite for chat models, the part without a server."""

import pytest
from langchain_tests.unit_tests import ChatModelUnitTests

from integrations.langchain import ChatT2L


class TestChatT2LUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self):
        return ChatT2L

    @property
    def chat_model_params(self):
        return {"model": "smollm2-135m-instruct"}

    @property
    def init_from_env_params(self):
        return (
            {"T2L_API_KEY": "test", "T2L_BASE_URL": "http://example.test/v1"},
            {"model": "smollm2-135m-instruct"},
            {"api_key": "test", "base_url": "http://example.test/v1"},
        )

    @pytest.mark.xfail(reason="loads nothing but the classes in langchain-core's table")
    def test_serdes(self, model, snapshot):
        """Ours is loaded by naming it, see test_chat.py."""
        super().test_serdes(model, snapshot)
