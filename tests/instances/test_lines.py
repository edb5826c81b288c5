"""Lists of instances as launchers write them, one a line."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout import OpenAIEndpoint
from langgraph_hpc_fanout.instances.lines import read_lines

AEGIS = "x4204c0s1b0n0.hsn.cm.aurora.alcf.anl.gov:8000\nx4204c0s1b0n0:8001\n"
SWARM = "# agents\n\nhost1\t8000\tnode=aurora-0001\trole=worker\nhost2:8001 role=critic  # new\n"


def names(reading):
    return [instance.name for instance in reading.instances]


def read(text, *, is_final=True):
    return read_lines(text, "hosts.txt", is_final=is_final)


def test_a_file_of_aegis():
    reading = read(AEGIS)
    assert names(reading) == ["x4204c0s1b0n0.hsn.cm.aurora.alcf.anl.gov:8000", "x4204c0s1b0n0:8001"]
    assert reading.instances[1].url == "http://x4204c0s1b0n0:8001/v1"
    assert not reading.faults
    assert reading.is_complete


def test_a_hostfile_of_aurora_swarm():
    first, second = read(SWARM).instances
    assert (first.name, first.tags) == ("host1:8000", {"node=aurora-0001", "role=worker"})
    assert (second.name, second.tags) == ("host2:8001", {"role=critic"})


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("http://node1:8000", "http://node1:8000/v1"),
        ("http://node1:8000/", "http://node1:8000/v1"),
        ("https://node1:8443/v1/", "https://node1:8443/v1"),
        ("http://node1/llama/v1", "http://node1/llama/v1"),
        ("http://node1:8000/v1/chat/completions", "http://node1:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("::1 8000", "http://[::1]:8000/v1"),
        ("http://[fe80::2]:9000/v1", "http://[fe80::2]:9000/v1"),
        ("[::1] 8000", "http://[::1]:8000/v1"),
        ("node1:8000\r", "http://node1:8000/v1"),
    ],
)
def test_addresses(line, url):
    (instance,) = read(f"{line}\n").instances
    assert instance.url == url
    assert repr(OpenAIEndpoint(instance.url)).startswith(f"OpenAIEndpoint({url!r}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("node1", "'node1' has no port; write host:port, [IPv6]:port or a URL"),
        ("node1:", "'node1:' has no port"),
        (":8000", "':8000' has no port"),
        ("node1:70000", "has no valid port (1 to 65535)"),
        ("node1:0", "has no valid port"),
        ("node1 80x0", "'node1:80x0' has no valid port"),
        ("fe80::1:8000", "leaves open what is the port"),
        ("no/de:8000", "has no valid host"),
        ("ftp://node1:8000", "is no URL of a server"),
        ("http://node1:port", "is no URL of a server"),
        ("node1:8000 role=a up", "'up' after the address means nothing here; write key=value"),
        ("node1:8000 =a", "'=a' after"),
    ],
)
def test_a_line_that_is_none_is_told_and_loses_no_other(line, says):
    reading = read(f"good:1\n{line}\nother:2\n")
    assert names(reading) == ["good:1", "other:2"]
    (fault,) = reading.faults
    assert fault.startswith("hosts.txt, line 2: ")
    assert says in fault


def test_no_fault_and_no_repr_tells_a_password():
    reading = read("http://me:hunter2@node1:bad\nhttp://me:hunter2@node1:80/v1?key=hunter2\n")
    assert "hunter2" not in repr(reading)
    assert "hunter2" in reading.instances[0].url


def test_of_several_lines_for_an_instance_the_last_counts():
    reading = read("a:1 role=x\nb:1\nhttp://a:1/v1 role=y\n")
    assert names(reading) == ["a:1", "b:1"]
    assert reading.instances[0].tags == {"role=y"}


def test_half_a_line_at_the_end_waits_for_its_end():
    reading = read("node1:8000\nnode12:80", is_final=False)
    assert names(reading) == ["node1:8000"]
    assert not reading.faults
    assert not reading.is_complete
    assert names(read("node1:8000\nnode12:80")) == ["node1:8000", "node12:80"]


hosts = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True).filter(
        lambda host: not host.replace(".", "").isdecimal() and ".." not in host
    ),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{ipaddress.ip_address(address).compressed}]"),
)
words = st.text(string.ascii_letters + string.digits + "-_.:", min_size=1, max_size=8)
entries = st.tuples(
    hosts,
    st.integers(1, 65535),
    st.frozensets(st.tuples(words, words).map("=".join), max_size=3),
    st.sampled_from(["{host}:{port}", "{host}\t{port}", "http://{host}:{port}/v1"]),
)


@repeatable
@given(st.lists(entries, max_size=8, unique_by=lambda entry: entry[:2]))
def test_what_is_written_is_read(listed):
    lines = [
        "\t".join([form.format(host=host, port=port), *sorted(tags)])
        for host, port, tags, form in listed
    ]
    reading = read("".join(f"{line}\n" for line in lines))
    assert not reading.faults
    assert [(each.name, each.tags) for each in reading.instances] == [
        (f"{host}:{port}", tags) for host, port, tags, _ in listed
    ]


junk = st.lists(st.text(max_size=30) | st.text("ab:/[]@?#=%. \t19", max_size=16), max_size=6).map(
    "\n".join
)


@repeatable
@given(junk, st.booleans())
def test_junk_raises_nothing_and_what_is_read_is_an_endpoint(text, is_final):
    reading = read(text, is_final=is_final)
    for instance in reading.instances:
        OpenAIEndpoint(instance.url, name=instance.name, tags=instance.tags)
    assert len({instance.name for instance in reading.instances}) == len(reading.instances)


@repeatable
@given(st.integers(0, len(SWARM + AEGIS)))
def test_a_list_that_is_cut_anywhere_lists_nobody_who_is_not_in_it(length):
    whole = set(read(AEGIS + SWARM).instances)
    reading = read((AEGIS + SWARM)[:length], is_final=False)
    assert set(reading.instances) <= whole
    assert not reading.faults
