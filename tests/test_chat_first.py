"""`ChatFIRST`: LangChain's own suites, and what is special about the gateway."""

from __future__ import annotations

import gc

import pytest
from chat_suites import Able
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import SecretStr

from langgraph_hpc_fanout import ChatError, ChatFIRST
from langgraph_hpc_fanout.testing import scripted
from langgraph_hpc_fanout.testing.first import FirstFake, Quotas

FREE = Quotas(requests=None, user_tokens=None, model_tokens=None)


@pytest.fixture(scope="module")
def fake():
    with FirstFake(quotas=FREE, answer=scripted) as fake:
        yield fake


@pytest.fixture(scope="module")
def settings(fake):
    return {"base_url": fake.url, "api_key": SecretStr(fake.token())}


class OverFirst(Able):
    """What both of LangChain's suites are told about the model."""

    @pytest.fixture(autouse=True)
    def _take_settings(self, settings):
        self.settings = settings

    @property
    def chat_model_class(self):
        return ChatFIRST

    @property
    def chat_model_params(self):
        return {"model": "gpt-oss-120b", "clusters": ["sophia"], **self.settings}


class TestUnit(OverFirst, ChatModelUnitTests):
    pass


@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema")
class TestIntegration(OverFirst, ChatModelIntegrationTests):
    pass


def test_it_answers_on_any_cluster(fake, settings):
    model = ChatFIRST(model="gpt-oss-120b", **settings)
    assert model.invoke("hello").text
    assert model._llm_type == "first"


def test_models_with_the_same_settings_share_a_pool_and_its_limits(settings):
    models = [ChatFIRST(model="gpt-oss-120b", temperature=t, **settings) for t in (0.0, 1.0)]
    other = ChatFIRST(model="gpt-oss-20b", **settings)
    assert models[0].pool is models[1].pool is not other.pool
    alive = id(models[0].pool)
    del models[0]
    gc.collect()
    assert id(ChatFIRST(model="gpt-oss-120b", **settings).pool) == alive


def test_the_environment_names_model_gateway_and_token(fake, monkeypatch):
    monkeypatch.setenv("FIRST_API_BASE", fake.base_url("metis"))
    monkeypatch.setenv("FIRST_API_KEY", fake.token())
    monkeypatch.setenv("FIRST_MODEL", "gpt-oss-120b")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    assert ChatFIRST().invoke("hello").text


def test_models_for_another_gateway_have_another_pool(monkeypatch):
    monkeypatch.setenv("FIRST_API_BASE", "https://one.example/resource_server")
    one = ChatFIRST(model="gpt-oss-120b", api_key="x")
    monkeypatch.setenv("FIRST_API_BASE", "https://other.example/resource_server")
    other = ChatFIRST(model="gpt-oss-120b", api_key="x")
    assert one.pool is not other.pool


def test_a_model_is_named(monkeypatch, settings):
    monkeypatch.delenv("FIRST_MODEL", raising=False)
    with pytest.raises(ValueError, match="names no model, and FIRST_MODEL is not set"):
        ChatFIRST(**settings)


def test_clusters_are_several():
    with pytest.raises(ValueError, match="takes clusters="):
        ChatFIRST(model="gpt-oss-120b", cluster="sophia")


@pytest.mark.parametrize("name", ["organization", "default_headers"])
def test_what_does_not_belong_to_the_gateway_is_refused(settings, name):
    value = {"a": "b"} if "headers" in name else "x"
    with pytest.raises(ValueError, match=f"ChatFIRST\\({name}=...\\) belongs to the pool"):
        ChatFIRST(model="gpt-oss-120b", **settings, **{name: value})


def test_no_secret_is_shown(settings):
    secret = settings["api_key"].get_secret_value()
    model = ChatFIRST(model="gpt-oss-120b", **settings)
    assert secret not in repr(model) + str(model.asdict()) + repr(model._identifying_params)


def test_a_token_that_is_refused_is_an_error_that_does_not_show_it(fake):
    model = ChatFIRST(model="gpt-oss-120b", base_url=fake.url, api_key="AgExpired")
    with pytest.raises(ChatError, match="answered 401") as caught:
        model.invoke("hello")
    assert "AgExpired" not in str(caught.value)


def test_another_gateway_in_the_environment_is_another_pool(fake, monkeypatch):
    settings = {"model": "gpt-oss-120b", "api_key": "x"}
    monkeypatch.setenv("FIRST_API_BASE", fake.url)
    here = ChatFIRST(**settings)
    monkeypatch.setenv("FIRST_API_BASE", "http://127.0.0.1:9/resource_server")
    assert ChatFIRST(**settings).pool is not here.pool
