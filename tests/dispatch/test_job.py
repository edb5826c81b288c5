"""Jobs: which ticket a lane may take, and when."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Items, in_virtual_time

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Bundle
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.records import Request


class Shelf:
    """A client that hands out what it is given, and counts how often it is asked."""

    def __init__(self, *tags):
        self.tags = list(tags)
        self.asked = 0

    def feed(self, most):
        self.asked += 1
        tags, self.tags = self.tags[:most], self.tags[most:]
        return [Ticket(tag, Request(str(tag), "m", {})) for tag in tags]

    def unfed(self):
        return len(self.tags)

    def settle(self, ticket, reply, lane, seconds):
        raise AssertionError

    def abort(self, failures):
        raise AssertionError


def job_over(*tags, **options):
    return Job(Shelf(*tags), "m", Retry(), **options)


def take_all(job, lane):
    tags = []
    while (ticket := job.take(lane)) is not None:
        tags.append(ticket.tag)
    return tags


A, B = "lane a", "lane b"


def test_tickets_come_in_order_and_are_in_flight():
    job = job_over(*range(200))
    assert take_all(job, A) == list(range(200))
    assert len(job.in_flight) == 200
    assert repr(job) == "Job('m', 200 in flight, 0 ready, 0 to retry)"


def test_tickets_are_made_only_when_they_are_wanted():
    job = job_over(*range(1000))
    assert job.client.asked == 0
    assert job.may_have_work()
    job.take(A)
    assert job.client.asked == 1
    assert len(job.client.tags) >= 900


def test_a_client_that_had_nothing_is_not_asked_again_before_a_refresh():
    job = job_over()
    assert [job.take(A), job.take(B), job.peek(A)] == [None] * 3
    assert job.client.asked == 1
    assert not job.may_have_work()
    job.client.tags = [1]
    assert job.take(A) is None
    job.refresh()
    assert job.may_have_work()
    assert job.take(A).tag == 1


def test_peek_names_what_take_gives():
    job = job_over(1, 2)
    for lane in (A, B):
        seen = job.peek(lane)
        assert seen is job.peek(lane) is job.take(lane)
    assert job.peek(A) is job.take(A) is None


def test_what_failed_goes_first_but_not_to_where_it_failed():
    job = job_over(1, 2, 3)
    ticket = job.take(A)
    job.put_back(ticket, avoid=A, until=10.0, now=0.0)
    assert ticket not in job.in_flight
    assert job.peek(A).tag == job.take(A).tag == 2
    assert job.peek(B).tag == job.take(B).tag == 1
    assert take_all(job, A) == [3]


def test_what_failed_everywhere_waits():
    job = job_over(1)
    ticket = job.take(A)
    job.put_back(ticket, avoid=A, until=10.0, now=0.0)
    assert job.take(B) is ticket
    job.put_back(ticket, avoid=B, until=20.0, now=1.0)
    assert job.take(A) is job.take(B) is None
    assert job.may_have_work()
    assert job.next_retry() == 10.0


def test_a_backoff_frees_the_ticket_for_its_lane_only():
    job = job_over(1)
    ticket = job.take(A)
    job.put_back(ticket, avoid=A, until=10.0, now=0.0)
    job.take(B)
    job.put_back(ticket, avoid=B, until=20.0, now=1.0)
    assert not job.end_backoffs(9.0)
    assert job.end_backoffs(10.0)
    assert job.take(B) is None
    assert job.next_retry() == 20.0
    assert job.take(A) is ticket
    assert job.next_retry() is None


def test_the_longer_backoff_may_be_the_first():
    """The first lane asked for a minute; the second for a moment, while that minute runs."""
    job = job_over(1)
    ticket = job.take(A)
    job.put_back(ticket, avoid=A, until=60.0, now=0.0)
    assert job.take(B) is ticket
    assert job.next_retry() is None
    job.put_back(ticket, avoid=B, until=5.0, now=4.0)
    assert job.next_retry() == 5.0
    assert job.end_backoffs(5.0)
    assert job.take(A) is None
    assert job.next_retry() == 60.0  # should b be gone by then
    assert job.end_backoffs(60.0)
    assert job.take(A) is ticket


def test_a_backoff_that_ended_in_flight_is_over():
    job = job_over(1)
    ticket = job.take(A)
    job.put_back(ticket, avoid=A, until=10.0, now=0.0)
    assert job.take(B) is ticket
    job.put_back(ticket, avoid=B, until=50.0, now=20.0)
    assert job.take(A) is ticket


def test_freed_tickets_go_before_fresh_ones_to_any_lane():
    job = job_over(*range(5))
    for _ in range(3):
        job.put_back(job.take(A), avoid=A, until=10.0, now=0.0)
    assert job.end_backoffs(10.0)
    assert sorted(take_all(job, A)[:3]) == [0, 1, 2]


def test_many_retries_are_looked_at_in_part_only():
    """A lane that everything failed at looks at some, then takes a fresh one."""
    job = job_over(*range(200))
    for _ in range(100):
        job.put_back(job.take(A), avoid=A, until=10.0, now=0.0)
    assert job.take(A).tag == 100
    assert job.take(B).tag == 0


@pytest.mark.parametrize("where", ["ready", "again", "in flight"])
def test_a_dropped_ticket_is_passed_over(where):
    job = job_over(1, 2)
    ticket = job.take(A)
    if where != "in flight":
        job.put_back(ticket, avoid=A, until=10.0, now=0.0)
    if where == "ready":
        job.end_backoffs(10.0)
    job.drop(ticket)
    assert not ticket.open
    assert ticket not in job.in_flight
    assert job.peek(B).tag == 2
    assert take_all(job, B) == [2]
    assert job.next_retry() is None


@in_virtual_time
async def test_a_closed_job_gives_nothing_and_cancels_its_timers():
    loop = asyncio.get_running_loop()
    job = job_over(*range(100))
    waiting, flying = job.take(A), job.take(A)
    job.put_back(waiting, avoid=A, until=10.0, now=0.0)
    waiting.expiry = loop.call_at(50.0, job.client.abort, [])
    job.close()
    assert take_all(job, B) == []
    assert job.peek(B) is None
    assert not job.may_have_work()
    assert not job.open
    assert not waiting.open
    assert not flying.open
    assert job.next_retry() is None
    job.close()
    await asyncio.sleep(100)


@in_virtual_time
async def test_a_bundle_is_cancelled_when_the_last_of_its_jobs_closes():
    job, other = job_over(*range(500)), job_over(1)
    taken = [(each, each.take(A)) for each in [job, other, *[job] * 249]]
    shared, own = Bundle(A, taken), Bundle(A, [(job, job.take(A)) for _ in range(250)])

    async def send(bundle, closing):
        async with asyncio.timeout(100) as bundle.scope:
            closing.close()
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await send(own, job)
    assert (shared.awaited, own.awaited) == (1, 0)
    with pytest.raises(TimeoutError):
        await send(shared, other)
    assert asyncio.get_running_loop().time() == 0.0


@in_virtual_time
async def test_tickets_of_a_job_that_closes_while_it_is_fed_are_not_given():
    class Ends(Items):
        def feed(self, most):
            job.close()
            return super().feed(most)

    job = Job(Ends(10), "m", Retry())
    assert job.take(A) is None
    assert not job.may_have_work()


def test_no_more_are_in_flight_than_the_job_may_have():
    job = job_over(*range(10), concurrency=3)
    first = [job.take(A) for _ in range(3)]
    assert job.is_full
    assert not job.may_have_work()
    assert job.take(B) is None
    assert job.peek(B) is None
    job.drop(first[1])
    assert job.may_have_work()
    assert [job.peek(B).tag, job.take(B).tag] == [3, 3]
    job.put_back(first[0], avoid=A, until=5.0, now=0.0)
    assert job.take(B) is first[0]
    assert job.is_full


def test_what_is_taken_back_goes_first():
    job = job_over(*range(3))
    ticket = job.take(A)
    ticket.attempts, ticket.first_sent, ticket.deadline = 2, 1.0, 9.0
    job.drop(ticket)
    again = ticket.follow_up("again", Request("again", "m", {}))
    job.push(again)
    assert job.take(B) is again
    assert (again.attempts, again.first_sent, again.deadline) == (2, 1.0, 9.0)
    assert again.open
    assert take_all(job, A) == [1, 2]


def test_a_closed_job_takes_nothing_back():
    job = job_over(1)
    job.close()
    job.push(Ticket("late", Request("late", "m", {})))
    assert job.take(A) is None
