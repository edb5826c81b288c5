"""Files with an instance a line, as launchers write them."""

from __future__ import annotations

import re

from langgraph_hpc_fanout.instances.instance import (
    Instance,
    InstancesError,
    Reading,
    instance_at,
    instance_of,
    reading_of,
    shown,
)

_COMMENT = re.compile(r"(?:^|\s)#")


def read_lines(text: str, name: str, *, is_final: bool) -> Reading[Instance]:
    """The instances of a list: `host:port`, `host port` or a URL a line, then `key=value`s.

    This is what Aegis writes (one `host:port` a line: BaseCAF_Aegis 027e337, launcher.py), what
    Aurora-Swarm reads (then `key=value`, between tabs or blanks: Aurora-Swarm 3018b60,
    hostfile.py), and a plain list of URLs. Aurora-Swarm takes 8000 for a port that is missing; here
    that is a fault, because a scheduler's own file of nodes looks just like it.

    Args:
        text: All that is in the file.
        name: The file's, for messages.
        is_final: Whether a last line without an end is whole. While the file is written, `node1:80`
            may be the beginning of `node1:8000`.
    """
    lines = text.split("\n")
    if not is_final:
        lines.pop()  # what follows the last end of a line: nothing, or half a line
    instances, faults = [], []
    for number, line in enumerate(lines, 1):
        words = _COMMENT.split(line, maxsplit=1)[0].split()
        if not words:
            continue
        try:
            instances.append(_instance(words))
        except InstancesError as error:
            faults.append(f"{name}, line {number}: {error}")
    return reading_of(instances, faults, is_complete=is_final)


def _instance(words: list[str]) -> Instance:
    address, *rest = words
    port = None
    if rest and "=" not in rest[0] and "://" not in address:
        port = rest.pop(0)
    for word in rest:
        if word.find("=") < 1:
            raise InstancesError(
                f"{shown(word)!r} after the address means nothing here; write key=value."
            )
    return instance_at(address, rest) if port is None else instance_of(address, port, rest)
