"""`pool.chat_model()`: LangChain's own suites, and what is special about a pool."""

import asyncio
import copy

import pytest
from chat_suites import Able
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.runnables import ConfigurableField
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel

from langgraph_hpc_fanout import ChatError, Pool, Retry
from langgraph_hpc_fanout.chat_models import PoolChatModel
from langgraph_hpc_fanout.testing import FakeFleet, scripted
from langgraph_hpc_fanout.testing.fleet import Fault


@pytest.fixture(scope="module")
def fleet():
    with FakeFleet(answer=scripted, models=("tiny", "other")) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def shared_pool(fleet):
    with Pool(fleet.urls) as pool:
        yield pool


class OverAPool(Able):
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


class Answer(BaseModel):
    level: int


def test_a_cache_does_not_take_one_pools_answer_for_anothers(fake_fleet, pool_over):
    set_llm_cache(InMemoryCache())
    try:
        for answer in ("one", "two"):
            model = pool_over(fake_fleet(answer=answer).urls).chat_model()
            assert [model.invoke("same").text for _ in range(2)] == [answer] * 2
    finally:
        set_llm_cache(None)


def test_settings_may_be_configurable(fake_fleet, pool_over):
    bodies = []
    fleet = fake_fleet(answer=lambda body: str(bodies.append(body)))
    model = (
        pool_over(fleet.urls)
        .chat_model(temperature=0)
        .configurable_fields(temperature=ConfigurableField(id="warmth"))
    )
    model.invoke("hello", {"configurable": {"warmth": 0.5}})
    assert bodies[0]["temperature"] == 0.5


@pytest.mark.parametrize("name", ["base_url", "organization", "default_headers"])
def test_what_belongs_to_the_endpoints_is_refused(shared_pool, name):
    with pytest.raises(ValueError, match=f"{name}=...\\) belongs to the pool"):
        shared_pool.chat_model(**{name: {"a": "b"} if "headers" in name else "http://127.0.0.1:9"})


def test_a_timeout_is_a_number(shared_pool):
    with pytest.raises(ValueError, match="takes seconds, one number"):
        shared_pool.chat_model(timeout=(1.0, 2.0))
    assert shared_pool.chat_model(timeout=3, max_retries=0).retry == Retry(attempts=1, timeout=3.0)


@pytest.mark.parametrize("include_raw", [False, True])
def test_a_misfit_is_the_parsers_to_tell(fake_fleet, pool_over, include_raw):
    model = pool_over(fake_fleet(answer="no JSON").urls).chat_model()
    asking = model.with_structured_output(Answer, include_raw=include_raw)
    if include_raw:
        result = asking.invoke("hello")
        assert result["raw"].text == "no JSON"
        assert result["parsed"] is None
        assert result["parsing_error"] is not None
    else:
        with pytest.raises(ValueError, match="no JSON"):
            asking.invoke("hello")


def test_strictness_is_passed_on(fake_fleet, pool_over):
    bodies = []

    def answer(body):
        bodies.append(body)
        return '{"level": 3}'

    model = pool_over(fake_fleet(answer=answer).urls).chat_model()
    assert model.with_structured_output(Answer).invoke("hello") == Answer(level=3)
    model.with_structured_output(Answer, strict=True).invoke("hello")
    found = [body["response_format"]["json_schema"].get("strict") for body in bodies]
    assert found == [None, True]


def test_a_copy_shares_the_pool(shared_pool):
    model = shared_pool.chat_model()
    assert copy.deepcopy(model).pool is copy.copy(model).pool is shared_pool


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_failure_is_a_chat_error(fake_fleet, pool_over, is_async):
    fleet = fake_fleet(faults=(Fault("http_400"),))
    model = pool_over(fleet.urls).chat_model()
    with pytest.raises(ChatError) as caught:
        await model.ainvoke("hello") if is_async else await asyncio.to_thread(model.invoke, "hello")
    assert caught.value.failure.kind == "permanent"
    assert caught.value.failure.status == 400


def test_an_estimate_of_tokens(shared_pool):
    model = shared_pool.chat_model()
    assert model.get_num_tokens("x" * 40) == 10
    assert model.get_num_tokens_from_messages([("user", "hello")]) > 0
    with pytest.raises(NotImplementedError):
        model.get_token_ids("hello")


async def test_a_model_that_nobody_serves(shared_pool):
    with pytest.raises(ChatError, match="No endpoint serves model 'huge'"):
        await shared_pool.chat_model("huge").ainvoke("hello")
    with pytest.raises(ChatError, match="say which one is meant with model="):
        await shared_pool.chat_model().ainvoke("hello")
