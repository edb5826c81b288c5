"""Where the servers of a node are: rules that a bundle names, and how they are read.

An entry of a bundle's `servers` is one of:

- `http://127.0.0.1:8000/v1`: a server. A range of ports, `http://127.0.0.1:8000-8007/v1`, is as
  many; those that turn out to be no chat server are left out when others are some.
- `ports:8000-8007`: short for that range with http on 127.0.0.1.
- `env:NAME`: the environment variable holds URLs, with commas or spaces between them.
- `file:PATH`: a file with a server a line, as launchers write them: `host:port`, or `host port`
  and anything after it, or a URL; `#` begins a comment. `~` and `$NAME` in the path are the
  worker's. Of these only the ones on this node count, so that each worker asks the servers of its
  own node; if none is on this node, as for a worker on a login node, all of them do, or 64 of them
  drawn by lot: more would not make one worker faster.

What `env:` and `file:` hold is read again while no server is found and after servers have died.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from langgraph_hpc_fanout.remote.bundle import BundleError

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - names, not a bind
_RANGE = re.compile(r"(https?://[^/\s]*:)(\d+)-(\d+)((?:/.*)?)", re.IGNORECASE)
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_MOST_PORTS = 1024
_MOST_ELSEWHERE = 64


def discover(rules: Sequence[str]) -> list[str]:
    """The URLs that rules stand for now; reads files, variables and names of hosts.

    Raises:
        BundleError: If one is no rule.
    """
    urls: list[str] = []
    for rule in rules:
        urls += _read(rule.strip())
    return list(dict.fromkeys(urls))


def is_fixed(rules: Iterable[str]) -> bool:
    """Whether rules stand for the same URLs for ever."""
    return not any(rule.strip().startswith(("env:", "file:")) for rule in rules)


def is_range(rule: str) -> bool:
    """Whether a rule stands for ports some of which may be anything."""
    return rule.strip().startswith("ports:") or _RANGE.fullmatch(rule.strip()) is not None


def without_user(rule: str) -> str:
    """A rule as it may be shown: without the user and the query of its URL."""
    before, scheme, after = rule.partition("://")
    return f"{before}{scheme}{after.partition('?')[0].rpartition('@')[2]}" if scheme else rule


def urls_in(text: str) -> list[str]:
    """URLs with commas or spaces between them; `host:port` is one, too."""
    return [url for each in re.split(r"[\s,]+", text) if (url := as_url(each)) is not None]


def urls_of_lines(text: str) -> list[str]:
    """The servers that a file lists."""
    urls = []
    for line in text.splitlines():
        words = line.partition("#")[0].replace(",", " ").split()
        if len(words) > 1 and words[1].isdecimal():
            words = [f"{words[0]}:{words[1]}"]
        if words and (url := as_url(words[0])) is not None:
            urls.append(url)
    return urls


def as_url(text: str) -> str | None:
    """A URL, or that of `host:port`; None if it is neither."""
    if _URL.fullmatch(text):
        return text
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in text:
        return None
    return f"http://{text}/v1"


def urls_of_range(rule: str) -> list[str]:
    """The URLs of a range of ports.

    Raises:
        BundleError: If it is none.
    """
    found = _RANGE.fullmatch(rule)
    if found is None:
        raise BundleError(
            f"{without_user(rule)!r} is no range of ports; write one such as ports:8000-8007."
        )
    before, first, last, after = found[1], int(found[2]), int(found[3]), found[4]
    if not 0 < first <= last < 65536 or last - first >= _MOST_PORTS:
        raise BundleError(
            f"{without_user(rule)!r} is no range of at most {_MOST_PORTS} ports from low to high."
        )
    return [f"{before}{port}{after}" for port in range(first, last + 1)]


def on_this_node(urls: Sequence[str], is_here: Callable[[str], bool]) -> list[str]:
    """Those of the URLs whose host is this node; all if none is, or some of many."""
    hosts = {url: urlsplit(url).hostname or "" for url in urls}
    here = {host: is_here(host) for host in set(hosts.values())}
    if own := [url for url in urls if here[hosts[url]]]:
        return own
    if len(urls) <= _MOST_ELSEWHERE:
        return list(urls)
    return random.Random().sample(list(urls), _MOST_ELSEWHERE)


def is_this_node(host: str) -> bool:
    """Whether a host is this machine: by its names, else by its addresses."""
    host = host.lower()
    if host in _LOCAL or host in _own_names():
        return True
    with contextlib.suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            # Only an address of this machine can be bound to, whatever the interface is called.
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind(address)
                return True
    return False


@functools.cache
def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0], socket.getfqdn().lower()} - {""}


def _read(rule: str) -> list[str]:
    if rule.startswith("ports:"):
        ports = rule.removeprefix("ports:").strip()
        return urls_of_range(f"http://127.0.0.1:{ports if '-' in ports else f'{ports}-{ports}'}/v1")
    if rule.startswith("env:"):
        return urls_in(os.environ.get(rule.removeprefix("env:").strip(), ""))
    if rule.startswith("file:"):
        return _read_file(rule.removeprefix("file:").strip())
    if _RANGE.fullmatch(rule):
        return urls_of_range(rule)
    if _URL.fullmatch(rule):
        return [rule]
    raise BundleError(
        f"{without_user(rule)!r} is no rule for servers; give a URL such as "
        "http://127.0.0.1:8000/v1, or ports:8000-8007, env:NAME or file:PATH."
    )


def _read_file(path: str) -> list[str]:
    try:
        text = Path(os.path.expandvars(path)).expanduser().read_text("utf-8", "replace")
    except OSError:  # not written yet
        return []
    return on_this_node(urls_of_lines(text), is_this_node)
