"""What tests of sources share: writing files, and the laws that every source keeps."""

from __future__ import annotations

import contextlib
import copy
import gzip
import os
import pickle
import tempfile
import threading
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
from hypothesis import strategies as st

from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.source import Source

COMPRESSED = ["", ".gz", ".zst"]
bounds = st.lists(st.integers(0, 40), max_size=6)


def write(path: Path, data: bytes) -> Path:
    """Write a file, compressed as its name says."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(data)
    return path


@contextlib.contextmanager
def scratch():
    """A directory for one example of a property test."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def everything(source):
    return list(source.read(0, len(source)))


def check_slices(source, cuts=(1, 3)):
    """Slices in any order, reopened, pickled, copied and anew give what reading all gives."""
    items = everything(source)
    total = len(source)
    edges = sorted({0, total, *(min(cut, total) for cut in cuts)})
    slices = list(pairwise(edges))
    assert isinstance(source, Source)
    assert len(items) == total
    assert [each for start, stop in slices for each in source.read(start, stop)] == items
    for start, stop in reversed(slices):
        assert list(source.read(start, stop)) == items[start:stop]
        again = reopen(source.reference(start, stop))
        assert list(again.read(start, stop)) == items[start:stop]
        assert len(again) == total
    for other in (pickle.loads(pickle.dumps(source)), copy.deepcopy(source), source.anew()):
        assert everything(other) == items
    assert list(source.read(0, total + 9)) == items
    assert list(source.read(total, total + 1)) == []


def read_by_two_threads(source, size=7):
    """What two threads read at once, slice by slice."""
    found = [[], []]

    def read(into):
        for start in range(0, len(source), size):
            into.extend(source.read(start, start + size))

    threads = [threading.Thread(target=read, args=[into]) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def read_by_a_child(source, start, stop):
    """What a forked process reads."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with os.fdopen(writer, "wb") as file:
            pickle.dump(list(source.read(start, stop)), file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        items = pickle.load(file)
    os.waitpid(child, 0)
    return items
