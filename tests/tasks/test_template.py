"""Templates: which fields they want, and what becomes of an item."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.prompts import (
    ChatPromptTemplate,
    FewShotPromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
)
from properties import repeatable
from pydantic import BaseModel

from langgraph_hpc_fanout.tasks.template import MissingFieldError, Template, field_of


@dataclasses.dataclass
class Molecule:
    smiles: str
    mass: float = 46.07

    @property
    def formula(self):
        return self.smiles * 2


class Paper(BaseModel):
    title: str
    year: int = 2024


def user(text):
    return [{"role": "user", "content": text}]


# -- fields -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "name", "value"),
    [
        ({"smiles": "CCO"}, "smiles", "CCO"),
        ({"smiles": None}, "smiles", None),
        ({"item": "x"}, "item", "x"),
        (Molecule("CCO"), "mass", 46.07),
        (Molecule("CCO"), "formula", "CCOCCO"),
        (Paper(title="On maps"), "year", 2024),
        ("CCO", "item", "CCO"),
        (7, "item", 7),
        (0, "item", 0),
        (1.5, "item", 1.5),
        (False, "item", False),
        ("", "item", ""),
    ],
)
def test_fields_of_every_kind_of_item(item, name, value):
    assert field_of(item, name, "absent") == value


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"smiles": "CCO"}, "item"),
        ({}, "smiles"),
        (Molecule("CCO"), "item"),
        (Paper(title="On maps"), "abstract"),
        ("CCO", "smiles"),
        ("CCO", "upper"),
        (7, "real"),
        (None, "item"),
        (None, "smiles"),
    ],
)
def test_fields_that_an_item_does_not_have(item, name):
    assert field_of(item, name, "absent") == "absent"
    assert field_of(item, name) is None


@pytest.mark.parametrize("item", [[1], ("a",), {1, 2}, b"CCO", object()])
def test_items_that_have_no_fields(item):
    says = rf"it is a {type(item).__name__}; a prompt takes mappings, dataclasses, pydantic"
    with pytest.raises(TypeError, match=says):
        field_of(item, "item")


@pytest.mark.parametrize("name", ["copy", "model_dump", "__class__"])
def test_a_method_is_no_field(name):
    assert field_of(Paper(title="On maps"), name, "absent") == "absent"


names = st.sampled_from(["a", "b", "c", "d", "e"])


@repeatable
@given(
    st.sets(names),
    st.lists(st.dictionaries(names, st.integers()), max_size=4),
    st.dictionaries(names, st.integers()),
)
def test_missing_are_the_fields_that_nobody_has(wanted, items, shared):
    template = Template(" ".join(f"{{{name}}}" for name in wanted), None)
    there = set(shared).union(*items)
    assert template.missing(iter(items), shared) == sorted(wanted - there)
    for item in items:
        absent = wanted - set(shared) - set(item)
        if absent:
            with pytest.raises(MissingFieldError):
                template.render(item, shared)
        else:
            values = {**shared, **item}
            text = " ".join(str(values[name]) for name in wanted)
            assert template.render(item, shared) == user(text)


def test_missing_stops_reading_once_every_field_was_seen():
    read = []

    def items():
        for number in range(1000):
            read.append(number)
            yield {"a": 1} if number else {"b": 2}

    assert Template("{a} {b}", None).missing(items(), {}) == []
    assert len(read) == 2


def test_all_fields_are_missing_where_there_are_no_items():
    assert Template("{a} {b}", "{c}").missing([], {"b": 1}) == ["a", "c"]
    assert Template("plain", None).missing([], {}) == []


def test_an_item_without_fields_is_not_the_run_s_fault():
    template = Template("{a}", None)
    assert template.missing([{"a": 1}, object()], {}) == []
    assert template.missing([object(), {"a": 1}], {}) == []


# -- texts ------------------------------------------------------------------------------------


def test_the_item_goes_before_what_is_shared():
    template = Template("{question} {smiles}", None)
    shared = {"question": "Soluble?", "smiles": "none"}
    assert template.render({"smiles": "CCO"}, shared) == user("Soluble? CCO")
    assert template.render({"smiles": "CCO", "question": "Toxic?"}, shared) == user("Toxic? CCO")


def test_a_scalar_is_the_item_and_may_stand_beside_shared_fields():
    template = Template("{question} {item}", None)
    assert template.render("CCO", {"question": "Soluble?"}) == user("Soluble? CCO")
    assert template.render(7, {"question": "Prime?"}) == user("Prime? 7")


def test_system_text_comes_first_and_has_fields_too():
    template = Template("{smiles}", "You know {subject}.")
    assert template.fields == ("smiles", "subject")
    assert template.render({"smiles": "CCO", "subject": "chemistry"}, {}) == [
        {"role": "system", "content": "You know chemistry."},
        {"role": "user", "content": "CCO"},
    ]


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ('{{"smiles": "{a}"}}', '{"smiles": "0.5"}'),
        ("{a:.3f}", "0.500"),
        ("{a!r:>6}", "   0.5"),
        ("{a} and {a}", "0.5 and 0.5"),
        ("no fields", "no fields"),
        ("", ""),
    ],
)
def test_braces_and_formats(text, rendered):
    assert Template(text, None).render({"a": 0.5}, {}) == user(rendered)


@repeatable
@given(st.text(max_size=30))
def test_what_stands_in_a_field_is_taken_literally(text):
    template = Template("<{a}>", None)
    assert template.render({"a": text}, {}) == user(f"<{text}>")


@repeatable
@given(st.text(max_size=30))
def test_a_text_with_doubled_braces_is_sent_as_it_is(text):
    escaped = text.replace("{", "{{").replace("}", "}}")
    assert Template(escaped, escaped).render({}, {}) == [
        {"role": "system", "content": text},
        {"role": "user", "content": text},
    ]


@pytest.mark.parametrize(
    "text", ["{", "}", "{a", "a}", "{a}}", "{a.b}", "{a[0]}", "{0}", "{a:{b}}", '{"a": {b}}']
)
@pytest.mark.parametrize("where", ["text", "system"])
def test_what_is_no_template_is_refused_at_once(text, where):
    arguments = (text, None) if where == "text" else ("{a}", text)
    with pytest.raises(ValueError, match=r"is no template: .*braces that are meant\s+literally"):
        Template(*arguments)


def test_an_empty_field_is_one_that_nobody_has():
    assert Template("{}", None).missing([{"a": 1}], {}) == [""]


def test_an_unknown_conversion_is_refused_at_once():
    with pytest.raises(ValueError, match="is no template"):
        Template("{a!z}", None)


@pytest.mark.parametrize("template", [None, 7, b"{a}", ["{a}"], lambda item: "text"])
def test_a_prompt_is_a_text_or_a_template(template):
    with pytest.raises(TypeError, match="a text or a langchain-core template, not "):
        Template(template, None)


def test_a_field_that_is_missing_is_named():
    with pytest.raises(MissingFieldError, match="has no field 'smiles'"):
        Template("{smiles}", None).render({"name": "ethanol"}, {})


# -- langchain-core's templates ---------------------------------------------------------------


def test_a_prompt_template():
    template = Template(PromptTemplate.from_template("Is {smiles} {what}?"), None)
    assert template.fields == ("smiles", "what")
    assert template.render({"smiles": "CCO"}, {"what": "soluble"}) == user("Is CCO soluble?")


def test_a_chat_prompt_template():
    chat = ChatPromptTemplate.from_messages(
        [("system", "You know {subject}."), ("ai", "Ask me."), ("human", "{smiles}?")]
    )
    template = Template(chat, None)
    assert template.fields == ("smiles", "subject")
    assert template.render({"smiles": "CCO"}, {"subject": "chemistry"}) == [
        {"role": "system", "content": "You know chemistry."},
        {"role": "assistant", "content": "Ask me."},
        {"role": "user", "content": "CCO?"},
    ]


def test_partial_variables_are_not_asked_of_the_item():
    chat = ChatPromptTemplate.from_messages([("human", "{a} {b}")]).partial(b="given")
    template = Template(chat, None)
    assert template.fields == ("a",)
    assert template.render({"a": 1}, {}) == user("1 given")


def test_a_mustache_template():
    mustache = PromptTemplate.from_template("Is {{smiles}} {x}?", template_format="mustache")
    assert Template(mustache, None).render({"smiles": "CCO"}, {}) == user("Is CCO {x}?")


def test_content_parts_survive():
    image = {"type": "image_url", "image_url": {"url": "{address}"}}
    chat = ChatPromptTemplate.from_messages([("human", [{"type": "text", "text": "{a}"}, image])])
    (message,) = Template(chat, None).render({"a": "What is it?", "address": "http://x/y.png"}, {})
    assert message["role"] == "user"
    assert message["content"][0] == {"type": "text", "text": "What is it?"}
    assert message["content"][1]["image_url"]["url"] == "http://x/y.png"


def test_a_placeholder_takes_messages():
    chat = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{a}")])
    template = Template(chat, None)
    assert template.fields == ("a", "history")
    item = {"a": "And now?", "history": [("human", "Hello"), ("ai", "Hi")]}
    assert template.render(item, {}) == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "And now?"},
    ]


def test_few_shots():
    few = FewShotPromptTemplate(
        examples=[{"q": "1+1", "r": "2"}],
        example_prompt=PromptTemplate.from_template("{q}={r}"),
        suffix="{item}=",
        input_variables=["item"],
    )
    assert Template(few, None).render("2+2", {}) == user("1+1=2\n\n2+2=")


def test_system_text_belongs_into_the_template():
    with pytest.raises(TypeError, match=r"into the langchain-core template, not in system="):
        Template(ChatPromptTemplate.from_messages([("human", "{a}")]), "You know it.")
