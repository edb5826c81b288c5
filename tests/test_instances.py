"""Whole graphs over pools of instances that a launcher lists, on real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import FanOutError, Limits, Pool, Prompt
from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.testing import FakeFleet

EVERY = 0.05


@pytest.fixture
def pool_from():
    """A factory of pools that follow a list, and are closed when the test ends."""
    pools = []

    def make(source, **settings):
        pools.append(Pool.from_instances(source, every=EVERY, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def addresses(fleet):
    """`host:port` of each endpoint, as Aegis writes them."""
    return [url.removeprefix("http://").removesuffix("/v1") for url in fleet.urls]


def lines(listed):
    return "".join(f"{address}\n" for address in listed)


def replace(path, text):
    """Put a file in the place of another, whole."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def served_by(fleet):
    return [endpoint.served for endpoint in fleet.record().endpoints]


def test_instances_join_and_leave_a_run(pool_from, tmp_path):
    with FakeFleet(endpoints=5, latency=0.05) as fleet:
        every = addresses(fleet)
        hosts = tmp_path / "aegis_endpoints.txt"
        hosts.write_text(lines(every[:2]))
        pool = pool_from(hosts, limits=Limits(concurrency=4))
        graph, items = build(pool), molecules(1_000)
        done = []
        running = threading.Thread(target=lambda: done.append(graph.invoke({"molecules": items})))
        running.start()
        fleet.wait(lambda record: record.served >= 50)
        assert served_by(fleet)[2:] == [0, 0, 0]
        with hosts.open("a") as file:
            file.write(lines(every[2:]))
        fleet.wait(lambda record: all(endpoint.served for endpoint in record.endpoints))
        replace(hosts, lines(every[1:]))
        running.join()
        assert right_answers(done[0]["predictions"], items)
        assert fleet.record().arrived == 1_000, "nothing was cut off, nothing was asked twice"
        assert all(served_by(fleet))
        assert [each.name for each in pool.endpoints] == every[1:]
        assert served_by(fleet)[0] < 0.9 * max(served_by(fleet))


def test_a_run_waits_for_a_launcher_that_is_still_starting(pool_from, tmp_path, caplog):
    hosts = tmp_path / "hosts.txt"
    with FakeFleet() as fleet, ThreadPoolExecutor(1) as launcher:
        pool, items = pool_from(hosts), molecules(20)
        said = threading.Event()
        caplog.handler.addFilter(lambda record: "Waiting" not in record.msg or not said.set())
        launcher.submit(lambda: said.wait(60) and replace(hosts, lines(addresses(fleet))))
        assert right_answers(build(pool).invoke({"molecules": items})["predictions"], items)
        assert f"{hosts} does not exist. Waiting up to 600 s" in caplog.text


def test_nobody_in_time_ends_the_run(pool_from, tmp_path):
    pool = pool_from(tmp_path / "hosts.txt", wait=0.0)
    with pytest.raises(FanOutError, match=r"hosts.txt does not exist. No instance of .*wait="):
        build(pool).invoke({"molecules": molecules(2)})


def test_a_run_that_ends_while_it_waits_looks_no_more(pool_from, tmp_path):
    pool = pool_from(tmp_path / "hosts.txt")
    state = build(pool, deadline=0.2).invoke({"molecules": molecules(2)})
    assert state["report"]["ok"] == 0

    async def watching():
        task = pool._watch._task
        return task is None or await asyncio.wait_for(task, 60) is None

    assert dispatch_loop().wait_for(watching())


def test_a_first_list_with_a_fault_ends_the_run(pool_from, tmp_path):
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("node1:8000\nnode2\n")
    with pytest.raises(FanOutError, match=r"hosts.txt, line 2: 'node2' has no port; write host:"):
        build(pool_from(hosts)).invoke({"molecules": molecules(2)})


def test_attributes_of_a_hostfile_say_who_may_be_asked(pool_from, tmp_path):
    hosts = tmp_path / "agents.tsv"
    with FakeFleet(endpoints=2) as fleet:
        worker, critic = addresses(fleet)
        hosts.write_text(f"{worker}\trole=worker\n{critic}\trole=critic\n")
        pool, items = pool_from(hosts, tags="on-site"), molecules(50)
        graph = build(pool, require=["on-site", "role=critic"])
        assert right_answers(graph.invoke({"molecules": items})["predictions"], items)
        assert served_by(fleet) == [0, 50]


def test_settings_hold_for_each_instance(pool_from, tmp_path):
    hosts = tmp_path / "hosts.txt"
    with FakeFleet(api_key="sk-secret", models=("llama",), latency=0.01) as fleet:
        hosts.write_text(lines(addresses(fleet)))
        pool = pool_from(
            hosts, api_key="sk-secret", models={"our-name": "llama"}, limits=Limits(concurrency=3)
        )
        items = molecules(30)
        graph = build(pool, task=Prompt("Is {smiles} soluble?", model="our-name"))
        assert right_answers(graph.invoke({"molecules": items})["predictions"], items)
        assert fleet.record().peak_in_flight <= 3
        assert "sk-secret" not in f"{pool!r} {pool.endpoints!r}"


class Registry(ThreadingHTTPServer):
    """A registry on loopback, as Aegis has one; what it lists may change."""

    def __init__(self, listed):
        super().__init__(("127.0.0.1", 0), Answer)
        self.listed = listed


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        services = [
            {"host": host, "port": int(port), "status": "healthy"}
            for host, port in (address.split(":") for address in self.server.listed)
        ]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"services": services}).encode())

    def log_message(self, *_):
        pass


def test_instances_of_a_registry(tmp_path):
    with FakeFleet(endpoints=3, latency=0.05) as fleet, Registry([]) as registry:
        serving = threading.Thread(target=registry.serve_forever)
        serving.start()
        every = addresses(fleet)
        registry.listed = every[:1]
        url = f"http://127.0.0.1:{registry.server_address[1]}"
        with Pool.from_aegis(url, every=EVERY, limits=Limits(concurrency=4)) as pool:
            graph, items = build(pool), molecules(600)
            done = []
            running = threading.Thread(
                target=lambda: done.append(graph.invoke({"molecules": items}))
            )
            running.start()
            fleet.wait(lambda record: record.served >= 20)
            registry.listed = every[1:]
            running.join()
            assert right_answers(done[0]["predictions"], items)
            assert fleet.record().arrived == 600
            assert all(served_by(fleet))
        registry.shutdown()
        serving.join()


def test_a_forked_process_follows_the_list_on_its_own(pool_from, tmp_path):
    hosts = tmp_path / "hosts.txt"
    with FakeFleet(endpoints=2, processes=1) as fleet:
        hosts.write_text(lines(addresses(fleet)[:1]))
        pool, items = pool_from(hosts), molecules(20)
        assert right_answers(build(pool).invoke({"molecules": items})["predictions"], items)
        replace(hosts, lines(addresses(fleet)[1:]))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                more = molecules(40)
                right = right_answers(build(pool).invoke({"molecules": more})["predictions"], more)
                status = 0 if right else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert fleet.record().endpoints[1].served > 0
        assert right_answers(build(pool).invoke({"molecules": items})["predictions"], items)


def test_no_watch_is_left_when_a_pool_is_closed(tmp_path):
    hosts = tmp_path / "hosts.txt"
    with FakeFleet() as fleet:
        hosts.write_text(lines(addresses(fleet)))
        with Pool.from_aegis(hosts, every=3600.0) as pool:
            build(pool).invoke({"molecules": molecules(5)})
            assert "watch instances" in _tasks()
        assert "watch instances" not in _tasks()


def _tasks():
    async def names():
        return {task.get_name() for task in asyncio.all_tasks()}

    return dispatch_loop().wait_for(names())


def test_two_hundred_instances(pool_from, tmp_path):
    hosts = tmp_path / "hosts.txt"
    with FakeFleet(endpoints=200, processes=1, record="counts") as fleet:
        hosts.write_text(lines(addresses(fleet)))
        pool, items = pool_from(hosts, limits=Limits(concurrency=4)), molecules(4_000)
        assert right_answers(build(pool).invoke({"molecules": items})["predictions"], items)
        assert all(served_by(fleet))
