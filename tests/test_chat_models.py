"""`pool.chat_model()`: LangChain's own suites, and what is special about a pool."""

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langgraph_hpc_fanout import Pool
from langgraph_hpc_fanout.chat_models import PoolChatModel
from langgraph_hpc_fanout.testing import FakeFleet, scripted


@pytest.fixture(scope="module")
def fleet():
    with FakeFleet(answer=scripted, models=("tiny", "other")) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def shared_pool(fleet):
    with Pool(fleet.urls) as pool:
        yield pool


class OverAPool:
    """What both of LangChain's suites are told about the model."""

    @pytest.fixture(autouse=True)
    def _take_pool(self, shared_pool):
        self.pool = shared_pool

    @property
    def chat_model_class(self):
        return PoolChatModel

    @property
    def chat_model_params(self):
        return {"model": "tiny", "pool": self.pool}

    @property
    def has_tool_calling(self):
        return True

    @property
    def has_tool_choice(self):
        return True

    @property
    def has_structured_output(self):
        return True

    @property
    def supports_json_mode(self):
        return True

    @property
    def returns_usage_metadata(self):
        return True

    @property
    def model_override_value(self):
        return "other"


class TestUnit(OverAPool, ChatModelUnitTests):
    pass


@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema")
class TestIntegration(OverAPool, ChatModelIntegrationTests):
    pass


@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema")
class TestIntegrationWithFunctionCalling(OverAPool, ChatModelIntegrationTests):
    @property
    def structured_output_kwargs(self):
        return {"method": "function_calling"}
