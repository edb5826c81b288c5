"""Batches of which nobody tells what has become: nothing of them is asked again."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from batches import GPT, batch_over, is_right, requests_of, send
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import FunctionEndpoint, Journal, Limits, Pool, Prompt
from langgraph_hpc_fanout.endpoints.credentials import CredentialError, TokenServiceError
from langgraph_hpc_fanout.endpoints.first.batches.routes import BatchRoutes
from langgraph_hpc_fanout.endpoints.http import Answer
from langgraph_hpc_fanout.endpoints.protocol import FateUnknownError, Sent
from langgraph_hpc_fanout.testing.first import ColdStart

LONG = ColdStart(queued=1e5, starting=0.0)
TASK = Prompt("Is {smiles} soluble?", max_tokens=64)
EXPIRED = Answer(401, b'{"detail": "Token is either not active or invalid"}', None)
POLICIES = Answer(
    403,
    b'{"error": {"code": "unauthorized", "message": "Permission denied from internal policies"}}',
    None,
)
FORBIDDEN_PAGE = Answer(403, b"<html><title>403 Forbidden</title></html>", None)
NOT_FOUND_PAGE = Answer(404, b"<html><title>404 Not Found</title></html>", None)
NO_ROUTE = Answer(404, b'{"detail": "Not Found"}', None)
NO_BATCH = Answer(
    404, b'{"error": {"code": "batch_not_found", "message": "Batch does not exist"}}', None
)
STRAYS = {
    "401": EXPIRED,
    "403": POLICIES,
    "403 page": FORBIDDEN_PAGE,
    "404 page": NOT_FOUND_PAGE,
    "404 route": NO_ROUTE,
}
stray = pytest.mark.parametrize("answer", STRAYS.values(), ids=STRAYS)


def node(asked, seconds=0.0):
    """A node that answers, and what it was asked."""

    async def answer(request):
        asked.append(prompt := request.body["messages"][-1]["content"])
        await asyncio.sleep(seconds)
        return f"Yes: {prompt}"

    return FunctionEndpoint(answer, models=[GPT], name="node", limits=Limits(concurrency=4))


def answering(monkeypatch, fake, answer, times):
    """Answer the first questions for a batch's status so; only then does the batch end."""
    status, count = BatchRoutes.status, itertools.count()

    async def asked(routes, batch_id):
        if (number := next(count)) < times:
            return answer
        if number == times:
            await asyncio.to_thread(fake.advance, 1.5e5)
        return await status(routes, batch_id)

    monkeypatch.setattr(BatchRoutes, "status", asked)


def cut_short(fake, tmp_path, token, items):
    """A run that ends before its batch."""

    async def run(pool):
        graph = build(pool, task=TASK, journal=Journal(tmp_path / "run"))
        running = asyncio.create_task(graph.ainvoke({"molecules": items}))
        await fake.until(lambda record: record.batches)
        running.cancel()
        await asyncio.wait([running])

    with Pool(batch_over(fake, tmp_path, token=token)) as pool:
        asyncio.run(run(pool))


# A batch under way


@stray
async def test_a_stray_refusal_says_nothing_of_a_batch(gateway, opened_well, monkeypatch, answer):
    fake = gateway(cold_start=LONG)
    endpoint = await opened_well(fake)
    answering(monkeypatch, fake, answer, 1)
    requests = requests_of(5)
    assert all(map(is_right, requests, await send(endpoint, requests)))
    assert len(fake.record().batches) == 1


async def test_a_batch_that_the_gateway_does_not_have_is_asked_again(
    gateway, opened_well, monkeypatch
):
    endpoint = await opened_well(gateway(cold_start=LONG))

    async def gone(*arguments):
        return NO_BATCH

    monkeypatch.setattr(BatchRoutes, "status", gone)
    monkeypatch.setattr(BatchRoutes, "result", gone)
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.failure.kind == "transient"
    assert "does not exist" in reply.failure.message


async def test_a_token_that_is_refused_time_and_again_ends_the_run(
    gateway, opened_well, monkeypatch
):
    fake = gateway(cold_start=LONG)
    endpoint = await opened_well(fake)
    answering(monkeypatch, fake, EXPIRED, 100)
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.failure.kind == "auth"
    assert reply.tries == 1


@stray
def test_a_resumed_batch_outlives_a_stray_refusal(gateway, tmp_path, monkeypatch, answer):
    fake, items, asked = gateway(cold_start=LONG), molecules(20), []
    token = fake.token()
    cut_short(fake, tmp_path, token, items)
    answering(monkeypatch, fake, answer, 1)
    with Pool([batch_over(fake, tmp_path, token=token), node(asked)]) as pool:
        graph = build(pool, task=TASK, journal=Journal(tmp_path / "run"))
        state = graph.invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    assert not asked
    assert len(fake.record().batches) == 1


def test_a_resumed_batch_is_not_paid_again_when_the_token_is_refused(
    gateway, tmp_path, monkeypatch
):
    fake, items, asked = gateway(cold_start=LONG), molecules(20), []
    token = fake.token()
    cut_short(fake, tmp_path, token, items)
    answering(monkeypatch, fake, EXPIRED, 3)
    for is_second in (False, True):
        with Pool([batch_over(fake, tmp_path, token=token), node(asked)]) as pool:
            graph = build(pool, task=TASK, journal=Journal(tmp_path / "run"))
            state = graph.invoke({"molecules": items})
        if not is_second:
            assert {each["error"]["kind"] for each in state["failures"]} == {"transient"}
            message = state["failures"][0]["error"]["message"]
            assert "what has become of batch" in message
            assert "not active" in message
    assert right_answers(state["predictions"], items)
    assert not asked
    assert len(fake.record().batches) == 1


async def noted(fake, endpoint, prefix="item"):
    """What is noted of a batch that is under way, whose sender is gone."""
    sent: list[Sent] = []
    end = endpoint.listen(sent.extend)
    before = len(fake.record().batches)
    sending = asyncio.create_task(send(endpoint, requests_of(5, prefix)))
    await fake.until(lambda record: len(record.batches) > before)
    sending.cancel()
    await asyncio.wait([sending])
    end()
    return sent


async def fetched(endpoint, sent):
    return {key: reply async for key, reply in endpoint.reattach(sent)}


async def test_a_resumed_batch_whose_endpoint_is_removed_is_of_unknown_fate(gateway, opened_well):
    fake = gateway(cold_start=LONG)
    endpoint = await opened_well(fake, poll=600.0)
    fetching = asyncio.create_task(fetched(endpoint, await noted(fake, endpoint)))
    await asyncio.sleep(0.2)
    await endpoint.close()
    with pytest.raises(FateUnknownError, match="it was closed"):
        await fetching


async def test_resumed_results_that_cannot_be_read_do_not_keep_others(
    gateway, opened_well, tmp_path
):
    fake = gateway(cold_start=ColdStart(queued=4e4, starting=0.0))
    endpoint = await opened_well(fake)
    sent = await noted(fake, endpoint)
    await asyncio.to_thread(fake.advance, 5e4)
    while not (await endpoint.probe()).ok:
        await asyncio.sleep(0.01)
    for path in tmp_path.glob("*.results.jsonl"):
        path.unlink()
    sent += await noted(fake, endpoint, "other")
    await asyncio.to_thread(fake.advance, 5e4)
    fetching = endpoint.reattach(sent)
    keys = [(await anext(fetching))[0] for _ in range(5)]
    assert keys == [f"other-{number}" for number in range(5)]
    with pytest.raises(FateUnknownError, match="completed and paid for"):
        await anext(fetching)


async def test_a_resumed_batch_that_has_failed_may_be_asked_again(
    gateway, opened_well, monkeypatch
):
    fake = gateway(cold_start=LONG)
    endpoint = await opened_well(fake)
    sent = await noted(fake, endpoint)

    async def failed(*arguments):
        return Answer(200, b'"failed"', None)

    async def why(*arguments):
        return Answer(400, b'{"error": {"code": "batch_failed", "message": "lost"}}', None)

    monkeypatch.setattr(BatchRoutes, "status", failed)
    monkeypatch.setattr(BatchRoutes, "result", why)
    assert await fetched(endpoint, sent) == {}


# A submit without an answer


def without_list(monkeypatch, times):
    """Lose the answers of submits, and the next so many lists."""
    submit, listed, lost = BatchRoutes.submit, BatchRoutes.listed, []

    async def without_answer(routes, *arguments):
        await submit(routes, *arguments)
        lost[:] = [None] * times
        raise TimeoutError

    async def may_be_told(routes):
        if lost:
            lost.pop()
            return Answer(502, b"", None)
        return await listed(routes)

    monkeypatch.setattr(BatchRoutes, "submit", without_answer)
    monkeypatch.setattr(BatchRoutes, "listed", may_be_told)


async def test_a_submit_without_an_answer_is_followed_once_the_list_is_there(
    gateway, opened_well, monkeypatch
):
    fake = gateway()
    endpoint = await opened_well(fake)
    without_list(monkeypatch, 5)
    requests = requests_of(5)
    assert all(map(is_right, requests, await send(endpoint, requests)))
    assert len(fake.record().batches) == 1


def test_a_submit_of_unknown_fate_is_not_made_again_and_its_items_go_nowhere_else(
    gateway, tmp_path, monkeypatch
):
    fake, items, asked = gateway(cold_start=LONG), molecules(200), []
    token, submit, listed = fake.token(), BatchRoutes.submit, BatchRoutes.listed
    without_list(monkeypatch, 1_000)

    def run():
        batch = batch_over(fake, tmp_path, token=token, least=20)
        with Pool([batch, node(asked, seconds=0.05)]) as pool:
            graph = build(pool, task=TASK, journal=Journal(tmp_path / "run"))
            return graph.invoke({"molecules": items})

    state = run()
    (batch,) = fake.record().batches
    errors = [each["error"] for each in state["failures"]]
    assert {each["kind"] for each in errors} == {"permanent"}
    assert all(each["retryable"] for each in errors)
    assert "was submitted is unknown" in errors[0]["message"]
    assert len(asked) + len(errors) == 200
    assert list(tmp_path.glob(batch.input_file.rpartition("/")[2])), "it may be read still"

    monkeypatch.setattr(BatchRoutes, "submit", submit)
    monkeypatch.setattr(BatchRoutes, "listed", listed)
    fake.advance(1.5e5)
    state = run()
    assert right_answers(state["predictions"], items)
    (batch,) = fake.record().batches
    assert len(asked) + batch.lines == 200, "nothing was paid twice"


async def test_while_a_submit_is_in_doubt_nothing_more_is_submitted(
    gateway, opened_well, monkeypatch
):
    fake = gateway()
    endpoint = await opened_well(fake)
    without_list(monkeypatch, 20)
    (reply,) = await send(endpoint, requests_of(1))
    assert (reply.failure.kind, reply.tries) == ("permanent", 1)
    (reply,) = await send(endpoint, requests_of(1, "other"))
    assert (reply.failure.kind, reply.tries) == ("cold", 0)
    while not (await endpoint.probe()).ok:
        await asyncio.sleep(0.01)
    requests = requests_of(1, "other")
    monkeypatch.undo()
    assert all(map(is_right, requests, await send(endpoint, requests)))
    assert len(fake.record().batches) == 2


async def test_a_last_refusal_does_not_make_an_earlier_try_free(gateway, opened_well, monkeypatch):
    answers = iter([Answer(502, b"", None)])
    full = b'{"error": {"code": "quota_exceeded", "message": "Quota of 1 exceeded."}}'
    endpoint = await opened_well(gateway())

    async def submit(*arguments):
        return next(answers, Answer(400, full, None))

    monkeypatch.setattr(BatchRoutes, "submit", submit)
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.failure.kind == "cold"
    assert (reply.tries, reply.may_cost) == (1, True)


@pytest.mark.parametrize("error", [TokenServiceError("down"), CredentialError("no token")])
async def test_without_a_token_nothing_was_submitted(gateway, opened_well, monkeypatch, error):
    endpoint = await opened_well(gateway())

    async def submit(*arguments):
        raise error

    async def listed(*arguments):
        raise error

    monkeypatch.setattr(BatchRoutes, "submit", submit)
    monkeypatch.setattr(BatchRoutes, "listed", listed)
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.failure.kind in ("transient", "auth")
    assert reply.tries == 0
