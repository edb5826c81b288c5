"""Files and registries that list instances, as they change."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from langgraph_hpc_fanout.instances.sources import FileSource, RegistrySource, source_of


def names(reading):
    return [instance.name for instance in reading.instances]


@pytest.fixture
def hosts(tmp_path):
    return tmp_path / "hosts.txt"


def write(path, text, *, at):
    """Write a file that was changed at a time, in ns, for the file system's clock is coarse."""
    path.write_text(text)
    os.utime(path, ns=(at, at))


# Files


async def test_a_file_is_complete_when_it_stays_as_it_is(hosts):
    write(hosts, "a:1\nb:2\n", at=1)
    source = FileSource(hosts)
    looks = [await source.look() for _ in range(3)]
    assert [names(look) for look in looks] == [["a:1", "b:2"]] * 3
    assert [look.is_complete for look in looks] == [False, True, True]
    assert looks[1] is looks[2], "nothing is read again"


async def test_a_file_that_is_appended_to_or_replaced_is_read_again(hosts, tmp_path):
    write(hosts, "a:1\n", at=1)
    source = FileSource(hosts)
    await source.look()
    await source.look()
    write(hosts, "a:1\nb:2\n", at=2)
    appended = await source.look()
    assert (names(appended), appended.is_complete) == (["a:1", "b:2"], False)
    other = tmp_path / "other.txt"
    write(other, "c:1\nd:2\n", at=2)  # as long, and as old
    other.replace(hosts)
    replaced = await source.look()
    assert (names(replaced), replaced.is_complete) == (["c:1", "d:2"], False)
    assert (await source.look()).is_complete


async def test_half_a_line_counts_when_it_stays_so(hosts):
    write(hosts, "a:1\nb:20", at=1)
    source = FileSource(hosts)
    assert names(await source.look()) == ["a:1"]
    assert names(await source.look()) == ["a:1", "b:20"]


async def test_a_change_within_a_tick_is_seen(hosts):
    write(hosts, "a:1\n", at=1)
    source = FileSource(hosts)
    await source.look()
    write(hosts, "b:1\n", at=1)
    assert names(await source.look()) == ["b:1"]


async def test_a_file_that_is_away(hosts):
    source = FileSource(hosts)
    away = await source.look()
    assert away.absent == f"{hosts} does not exist"
    assert not away.is_complete
    write(hosts, "a:1\n", at=1)
    assert names(await source.look()) == ["a:1"]
    hosts.unlink()
    assert (await source.look()).absent
    write(hosts, "a:1\n", at=1)
    assert not (await source.look()).is_complete


async def test_what_is_no_file_is_a_fault(tmp_path):
    (fault,) = (await FileSource(tmp_path).look()).faults
    assert fault.startswith(f"{tmp_path} cannot be read (Is a directory)")


async def test_bytes_that_are_no_text_are_a_fault(hosts):
    hosts.write_bytes(b"\xef\xbb\xbfa:1\n\xff\xfe\x00\n")
    reading = await FileSource(hosts).look()
    assert names(reading) == ["a:1"]
    assert "line 2" in reading.faults[0]


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = FileSource(Path("hosts.txt"))
    monkeypatch.chdir("/")
    assert source.name == str(tmp_path / "hosts.txt")


# Registries


@asynccontextmanager
async def registry(answers):
    """A registry on loopback that answers by path: a status and a body."""
    asked = []

    async def answer(request):
        asked.append(request.path_qs)
        status, body = answers.get(request.path, (404, "{}"))
        return web.Response(status=status, text=body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


LISTED = (200, '[{"host": "node1", "port": 8000, "status": "healthy"}]')


async def test_a_registry_is_asked_where_it_lists_services():
    async with registry({"/services/healthy": LISTED}) as (url, asked):
        source = RegistrySource(url)
        assert names(await source.look()) == ["node1:8000"]
        assert (await source.look()).is_complete
    assert asked == ["/services", "/services/healthy", "/services/healthy"]


async def test_a_registry_with_a_path_is_asked_there_only():
    async with registry({"/v2/mine": LISTED}) as (url, asked):
        assert names(await RegistrySource(f"{url}/v2/mine?type=vllm").look()) == ["node1:8000"]
    assert asked == ["/v2/mine?type=vllm"]


async def test_a_registry_that_lists_nothing_of_the_kind_is_a_fault():
    async with registry({}) as (url, _):
        (fault,) = (await RegistrySource(url).look()).faults
        assert fault.startswith(f"{url} lists no services (/services: 404, /services/healthy: 404")
    async with registry({"/services": (200, "{}oops")}) as (url, _):
        (fault,) = (await RegistrySource(url).look()).faults
        assert "does not answer with a list of services in JSON" in fault


async def test_a_registry_that_is_not_there_yet_is_absent():
    async with registry({"/services": (503, "")}) as (url, _):
        assert (await RegistrySource(url).look()).absent == f"{url} answers 503"
    gone = await RegistrySource(url).look()
    assert gone.absent == f"{url} does not answer (Connection refused)"
    assert not gone.is_complete


def test_no_name_tells_a_password():
    assert RegistrySource("http://me:secret@node1:8471?key=secret").name == "http://node1:8471"


# Either


def test_what_is_given_tells_what_it_is(tmp_path):
    assert isinstance(source_of("http://node1:8471"), RegistrySource)
    assert isinstance(source_of("hosts.txt"), FileSource)
    assert isinstance(source_of(tmp_path / "hosts.txt"), FileSource)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("", ValueError, "path of the file that lists instances is empty"),
        (["http://node1:8000/v1"], TypeError, r"Pool\(\[...\]\) takes URLs of servers"),
        ("http://", ValueError, "is no URL of a registry"),
    ],
)
def test_what_is_no_source_is_refused(given, error, says):
    with pytest.raises(error, match=says):
        source_of(given)
