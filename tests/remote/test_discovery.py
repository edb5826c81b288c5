"""Rules for servers: what they stand for, whatever the file, the variable or the range holds."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.remote.bundle import BundleError
from langgraph_hpc_fanout.remote.discovery import (
    as_url,
    discover,
    is_fixed,
    is_range,
    is_this_node,
    on_this_node,
    urls_in,
    urls_of_lines,
    urls_of_range,
)

HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?(\.[a-z]{2,5})?", fullmatch=True)
PORTS = st.integers(1, 65535)
SERVERS = st.lists(st.tuples(HOSTS, PORTS), max_size=8)


def url(host, port):
    return f"http://{host}:{port}/v1"


@given(SERVERS, st.sampled_from([", ", ",", " ", "\n", " ,\t"]), st.booleans())
def test_urls_with_anything_between_them(servers, between, whole):
    urls = [url(*each) for each in servers]
    text = between.join(urls if whole else [f"{host}:{port}" for host, port in servers])
    assert urls_in(text) == urls


@given(st.lists(st.tuples(HOSTS, PORTS, st.sampled_from("ATUC-")), max_size=10))
def test_lines_of_files_as_launchers_write_them(lines):
    forms = {
        "A": "{0}:{1}",  # Aegis
        "T": "{0}\t{1}\tmodel=tiny gpus=4",  # Aurora-Swarm
        "U": "  http://{0}:{1}/v1  ",
        "C": "{0}:{1}  # the first {0}:1",
        "-": "# {0}:{1}\n\n   ",
    }
    text = "\n".join(forms[form].format(host, port) for host, port, form in lines)
    assert urls_of_lines(text) == [url(host, port) for host, port, form in lines if form != "-"]


@given(st.text())
def test_no_file_is_a_mistake(text):
    assert all(each.startswith(("http", "HTTP")) for each in urls_of_lines(text) + urls_in(text))


@given(st.integers(1, 65535), st.integers(0, 1023))
def test_ranges_of_ports(first, more):
    last = min(first + more, 65535)
    urls = urls_of_range(f"https://10.0.0.1:{first}-{last}/v1")
    assert urls == [f"https://10.0.0.1:{port}/v1" for port in range(first, last + 1)]
    rule = f"ports:{first}-{last}"
    assert discover([rule]) == [f"http://127.0.0.1:{port}/v1" for port in range(first, last + 1)]
    assert is_range(rule)
    assert is_fixed([rule])


@pytest.mark.parametrize(
    "rule",
    [
        "ports:",
        "ports:x",
        "ports:9-8",
        "ports:0-3",
        "ports:65000-65536",
        "ports:1-2000",
        "http://h:9-8/v1",
        "127.0.0.1:8000",
        "",
        "registry:x",
    ],
)
def test_what_is_no_rule(rule):
    with pytest.raises(BundleError, match=r"is no (rule|range)"):
        discover([rule])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("node1:8000", "http://node1:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("https://node1/v1", "https://node1/v1"),
        ("node1", None),
        ("node1:", None),
        (":80", None),
        ("node1:70000", None),
        ("a/b:80", None),
        ("", None),
    ],
)
def test_hosts_and_ports(text, found):
    assert as_url(text) == found


def test_rules_are_read_in_order_and_servers_counted_once(tmp_path, monkeypatch):
    file = tmp_path / "servers.txt"
    file.write_text("localhost:3\n127.0.0.1:1\n")
    monkeypatch.setenv("SERVERS", "http://127.0.0.1:1/v1 127.0.0.1:2")
    monkeypatch.setenv("HERE", str(tmp_path))
    rules = ["env:SERVERS", " file:$HERE/servers.txt", "ports:2", "env:NOT_SET", "file:/nowhere"]
    assert discover(rules) == [
        url("127.0.0.1", 1),
        url("127.0.0.1", 2),
        url("localhost", 3),
    ]
    assert not is_fixed(rules)
    assert not is_range("http://127.0.0.1:8000/v1")


@given(SERVERS, st.data())
def test_servers_of_this_node_are_preferred(servers, data):
    urls = [url(*each) for each in servers]
    here = data.draw(st.sets(st.sampled_from([host for host, _ in servers] or ["x"])))
    own = [url(host, port) for host, port in servers if host in here]
    assert on_this_node(urls, here.__contains__) == (own or urls)


def test_of_many_servers_elsewhere_some_are_drawn():
    urls = [url(f"node{number}", 8000) for number in range(1000)]
    drawn = on_this_node(urls, lambda host: False)
    assert len(set(drawn)) == 64
    assert set(drawn) < set(urls)
    assert set(drawn) != set(on_this_node(urls, lambda host: False))


def test_this_node_has_many_names(monkeypatch):
    for name in ("localhost", "LOCALHOST", "127.0.0.1", "::1", socket.gethostname()):
        assert is_this_node(name)
    assert is_this_node("127.0.0.2"), "any address that can be bound to"
    assert not is_this_node("192.0.2.1")

    def lookup(host, *_args, **_options):
        if host != "node7-hsn0":
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert is_this_node("node7-hsn0")
    assert not is_this_node("node8-hsn0")
