"""Who joins and who leaves with each look at a list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from listed import of
from properties import repeatable

from langgraph_hpc_fanout.instances.instance import Reading
from langgraph_hpc_fanout.instances.listing import Change, Listing


def test_who_appears_joins_and_who_vanishes_leaves():
    listing = Listing()
    assert listing.take(of("a", "b")) == Change((), of("a", "b").instances)
    assert not listing.take(of("b", "a"))
    assert listing.take(of("b", "c")) == Change(("a",), of("c").instances)
    assert len(listing) == 2


def test_nobody_leaves_while_a_list_is_written_empty_or_away():
    listing = Listing()
    listing.take(of("a", "b"))
    assert listing.take(of("c", is_complete=False)) == Change((), of("c").instances)
    assert not listing.take(of())
    assert not listing.take(of(absent="it is away", is_complete=False))
    assert listing.take(of("c")) == Change(("a", "b"), ())


def test_an_instance_with_other_tags_comes_anew():
    listing = Listing()
    listing.take(of("a", "b"))
    changed = of("a", tags=["role=x"]).instances
    assert not listing.take(Reading((*changed, *of("b").instances), is_complete=False))
    assert listing.take(Reading((*changed, *of("b").instances))) == Change(("a",), changed)


readings = st.builds(
    lambda names, tags, is_complete: of(*sorted(names), tags=tags, is_complete=is_complete),
    st.sets(st.sampled_from("abcdef")),
    st.sets(st.sampled_from("xy"), max_size=1),
    st.booleans(),
)


@repeatable
@given(st.lists(readings))
def test_changes_add_up_to_the_last_complete_list(looks):
    listing, present, changes = Listing(), {}, 0
    for look in looks:
        change = listing.take(look)
        for name in change.left:
            del present[name]  # it was there
        for instance in change.joined:
            assert instance.name not in present
            present[instance.name] = instance
        changes += bool(change)
        assert {each.name for each in look.instances} <= present.keys()
        if look.is_complete and look.instances:
            assert set(present.values()) == set(look.instances)
        assert len(listing) == len(present)
