"""Owners: one at a time, whoever races, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from journals import python

from langgraph_hpc_fanout import atomic
from langgraph_hpc_fanout.journal import manifest
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.owner import FILE, Owner, Ownership

NOW = 1_700_000_000.0
ME = Owner.here(NOW)
ELSEWHERE = replace(ME, host="node-7", pid=4711, boot="another", session="theirs")
DEAD = replace(ME, started=ME.started + 1, session="dead")


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def claim(directory, clock=lambda: NOW, *, takeover=False):
    return Ownership.claim(directory, takeover=takeover, clock=clock)


def put(directory, owner, name=FILE):
    (directory / name).write_bytes(owner.to_json())


def told(directory):
    return Owner(**orjson.loads((directory / FILE).read_bytes()))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


# -- who is gone ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "silent", "gone"),
    [
        (ME, 1e6, False),  # alive, however silent
        (DEAD, 0, True),  # its id is another process's now
        (replace(ME, pid=2**22 + 1), 0, True),
        (replace(ME, boot="before"), 0, True),
        (ELSEWHERE, 59, False),
        (ELSEWHERE, 61, True),
        (replace(ME, pid_namespace="another container"), 59, False),
        (replace(ME, pid_namespace="another container"), 61, True),
    ],
)
def test_who_is_gone(owner, silent, gone):
    assert owner.is_gone(ME, NOW + silent) is gone


def test_a_process_that_ended_is_gone_before_its_parent_has_looked():
    child = python("input()")
    status = Path(f"/proc/{child.pid}/stat").read_text()
    started = int(status.rpartition(")")[2].split()[19])
    owner = replace(ME, pid=child.pid, started=started)
    assert not owner.is_gone(ME, NOW)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_gone(ME, NOW)
    child.communicate()
    assert owner.is_gone(ME, NOW)


@pytest.mark.parametrize(("answer", "gone"), [(PermissionError, False), (ProcessLookupError, True)])
def test_a_process_of_which_nothing_can_be_seen(monkeypatch, answer, gone):
    def kill(pid, number):
        raise answer

    monkeypatch.setattr(os, "kill", kill)
    assert replace(ME, pid=2**22 + 1).is_gone(ME, NOW) is gone


# -- becoming the owner -----------------------------------------------------------------------


def test_the_first_becomes_the_owner_and_the_second_is_told_who_is(tmp_path):
    first = claim(tmp_path)
    assert told(tmp_path) == first.owner
    assert first.lost() is None
    says = (
        rf"is being written by process {os.getpid()} on {ME.host} \(since 2023-11-14 22:13:20"
        r"\+00:00\)\. Wait for it, use another directory, or give Journal\(\.\.\., takeover=True\)"
    )
    with pytest.raises(JournalError, match=says) as refused:
        claim(tmp_path)
    assert refused.value.journal == str(tmp_path)
    first.give_up()
    assert names(tmp_path) == []
    assert claim(tmp_path).lost() is None


@pytest.mark.parametrize("owner", [DEAD, replace(ELSEWHERE, heartbeat=int(NOW) - 61)])
def test_an_owner_who_is_gone_is_followed_at_once(tmp_path, owner):
    put(tmp_path, owner)
    mine = claim(tmp_path)
    assert told(tmp_path) == mine.owner
    assert names(tmp_path) == [FILE]


def test_an_owner_who_is_alive_is_followed_when_one_is_told_to(tmp_path):
    before = claim(tmp_path)
    after = claim(tmp_path, takeover=True)
    assert after.lost() is None
    with pytest.raises(JournalError, match=rf"was taken over by process {os.getpid()} on"):
        raise before.lost()
    before.give_up()
    assert told(tmp_path) == after.owner
    assert names(tmp_path) == [FILE]


def test_one_who_was_followed_by_a_process_that_is_done(tmp_path):
    manifest.ensure(tmp_path)
    before = claim(tmp_path)
    claim(tmp_path, takeover=True).give_up()
    assert "was taken over by a process that is done" in str(before.lost())


def test_a_journal_that_is_deleted_is_lost(tmp_path):
    mine = claim(tmp_path)
    (tmp_path / FILE).unlink()
    assert "was deleted while it was in use" in str(mine.lost())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "a"}'])
def test_an_owner_that_cannot_be_read_counts_by_the_age_of_its_file(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    os.utime(tmp_path / FILE, (NOW, NOW))
    with pytest.raises(JournalError, match="written by process 0 on an unknown host"):
        claim(tmp_path, lambda: NOW + 59)
    assert claim(tmp_path, lambda: NOW + 61).lost() is None


# -- dying half way ---------------------------------------------------------------------------


def test_one_who_died_between_its_claim_and_the_change_is_followed(tmp_path):
    put(tmp_path, DEAD)
    put(tmp_path, replace(DEAD, session="heir"), "owner-after-dead.json")
    mine = claim(tmp_path)
    assert told(tmp_path) == mine.owner
    assert names(tmp_path) == [FILE]


def test_one_who_is_about_to_follow_counts_as_the_owner(tmp_path):
    put(tmp_path, DEAD)
    put(tmp_path, replace(ELSEWHERE, session="heir"), "owner-after-dead.json")
    with pytest.raises(JournalError, match="written by process 4711 on node-7"):
        claim(tmp_path)


def test_one_who_died_while_giving_up_is_followed(tmp_path):
    put(tmp_path, DEAD)
    put(tmp_path, replace(DEAD, session="leaving"), "owner-after-dead.json")
    assert claim(tmp_path).lost() is None


def test_one_who_comes_late_to_follow_the_dead_leaves_the_heir_alone(tmp_path, monkeypatch):
    put(tmp_path, DEAD)
    create, heirs = atomic.create, []

    def late(path, data, name):
        if not heirs:
            heirs.append(None)
            heirs[0] = claim(tmp_path)  # another, between our look and our claim
        return create(path, data, name)

    monkeypatch.setattr(atomic, "create", late)
    with pytest.raises(JournalError, match="is being written by"):
        claim(tmp_path)
    assert told(tmp_path) == heirs[0].owner
    assert names(tmp_path) == [FILE]


# -- signs of life ----------------------------------------------------------------------------


def test_a_sign_is_given_every_ten_seconds_at_most(tmp_path, clock):
    mine = claim(tmp_path, clock)
    for seconds, sign in [(9, 0), (10, 10), (19, 10), (100, 100)]:
        clock.now = NOW + seconds
        mine.beat()
        assert told(tmp_path) == replace(mine.owner, heartbeat=int(NOW) + sign)


def test_one_who_was_followed_gives_no_sign(tmp_path, clock):
    before = claim(tmp_path, clock)
    after = claim(tmp_path, clock, takeover=True)
    clock.now += 100
    before.beat()
    assert told(tmp_path) == after.owner


# -- races ------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, DEAD])
def test_of_many_threads_one_becomes_the_owner(tmp_path, before):
    if before is not None:
        put(tmp_path, before)
    barrier, won, refused = threading.Barrier(8), [], []

    def work():
        barrier.wait()
        try:
            won.append(claim(tmp_path))
        except JournalError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    assert told(tmp_path) == won[0].owner
    assert names(tmp_path) == [FILE]


RACE = """
import sys, time
from pathlib import Path
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.owner import Ownership
print("ready", flush=True)
for _ in sys.stdin:
    try:
        mine = Ownership.claim(Path(sys.argv[1]), takeover=False, clock=time.time)
        print("won", flush=True)
    except JournalError as error:
        print("is being written by" in str(error), flush=True)
"""


def test_of_many_processes_one_becomes_the_owner_and_when_it_is_killed_another(tmp_path):
    racers = [python(RACE, tmp_path) for _ in range(4)]
    try:
        assert {racer.stdout.readline() for racer in racers} == {"ready\n"}
        while len(racers) > 1:
            for racer in racers:
                print("go", file=racer.stdin, flush=True)
            said = [racer.stdout.readline().strip() for racer in racers]
            assert sorted(said) == ["True"] * (len(racers) - 1) + ["won"]
            winner = racers.pop(said.index("won"))
            assert told(tmp_path).pid == winner.pid
            winner.kill()
            winner.communicate()
    finally:
        for racer in racers:
            racer.communicate(timeout=30)
    assert names(tmp_path) == [FILE]


def test_taking_over_from_each_other_leaves_one_owner(tmp_path):
    barrier, claims = threading.Barrier(4), []

    def work():
        barrier.wait()
        for _ in range(20):
            mine = claim(tmp_path, takeover=True)
            claims.append(mine)
            if mine.lost() is None:
                mine.give_up()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 80
    assert len({mine.owner.session for mine in claims}) == 80
    assert sum(mine.lost() is None for mine in claims) <= 1
    assert names(tmp_path) in ([], [FILE])
