"""How a model stands, from the gateway's list of jobs."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import jsons, repeatable

from langgraph_hpc_fanout.endpoints.first.catalogue import Served
from langgraph_hpc_fanout.endpoints.first.jobs import Standing, standing_of

SERVED = Served("sophia", "vllm", "a/b")


def job(**about):
    return {"Models": "x/y, a/b", "Framework": "vllm", "Cluster": "sophia", **about}


def jobs(**sections):
    empty = {"running": [], "queued": [], "stopped": [], "others": []}
    return orjson.dumps({**empty, **sections, "cluster_status": {"free_nodes": -1}})


@pytest.mark.parametrize(
    ("raw", "phase"),
    [
        (jobs(running=[job(**{"Model Status": "running"})]), "running"),
        (jobs(running=[job(**{"Model Status": "starting"})]), "starting"),
        (jobs(running=[job(**{"Model Status": "disconnected"})]), "starting"),
        (jobs(queued=[job(**{"Model Status": "queued"})]), "queued"),
        (jobs(stopped=[job()]), "absent"),
        (jobs(running=[{**job(), "Models": "x/y"}]), "absent"),
        (jobs(), "absent"),
    ],
)
def test_where_its_job_is(raw, phase):
    assert standing_of(raw, SERVED).phase == phase


def test_the_best_of_its_jobs_counts():
    queued, running = job(), job(**{"Model Status": "running"})
    starting = job(**{"Model Status": "starting", "Job ID": "7.pbs"})
    assert (
        standing_of(jobs(queued=[queued], running=[starting, running]), SERVED).phase == "running"
    )
    assert standing_of(jobs(queued=[queued], running=[starting]), SERVED).phase == "starting"


def test_in_words():
    queued = job(**{"Job ID": "7.pbs", "Estimated Start Time": "Thu Nov 26 14:05:00 2026"})
    words = standing_of(jobs(queued=[queued]), SERVED).words(SERVED)
    assert words == "a/b on sophia is queued (job 7.pbs), starts about Thu Nov 26 14:05:00 2026."
    assert Standing("starting").words(SERVED) == "a/b on sophia is starting."
    assert Standing("absent").words(SERVED) == "a/b on sophia is not loaded."


@repeatable
@given(st.binary() | jsons.map(orjson.dumps))
def test_a_cluster_without_jobs_is_taken_to_run(raw):
    assert standing_of(raw, SERVED) == Standing("running")


@repeatable
@given(st.lists(st.none() | st.integers(0, 9) | st.dictionaries(st.text(), st.none() | st.text())))
def test_entries_of_any_form_are_passed_over(entries):
    assert standing_of(jobs(running=entries, queued=entries), SERVED).phase == "absent"
