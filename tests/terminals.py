"""Programs that run on a real terminal: what they wrote there, and what is left of it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import threading
from pathlib import Path

START = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from graphs import build, molecules, right_answers
from langgraph_hpc_fanout import Limits, OpenAIEndpoint, Pool
from langgraph_hpc_fanout.watch.display import screen
screen._PATIENCE_SECONDS = 10.0  # a busy machine draws late
pool = Pool(OpenAIEndpoint(sys.argv[2], limits=Limits(concurrency=2)))
"""


class OnTerminal:
    """A program whose stdout and stderr are a terminal of 100 columns."""

    def __init__(self, body, fleet, **environment):
        self._screen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        code = START + textwrap.dedent(body)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(Path(__file__).parent), fleet.urls[0]],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "HPC_FANOUT_PROGRESS": "", "TERM": "xterm", **environment},
        )
        os.close(terminal)
        self._written = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while more := os.read(self._screen, 65536):
                self._written += more
        except OSError:
            pass  # all have closed the terminal

    def wait(self, timeout=40):
        """The program has ended: everything it wrote."""
        try:
            self.process.wait(timeout)
        finally:
            self.process.kill()
            self._reader.join(timeout)
            os.close(self._screen)
        return self.raw

    @property
    def raw(self):
        """What has been written, with its control codes."""
        return self._written.decode()


def plain(raw):
    """The text without control codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw).replace("\r", "")


def left_on_screen(raw):
    """The lines that are there at the end: what codes to go up and to erase have wiped is gone."""
    lines, row, column = [""], 0, 0
    for code, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", raw):
        if text:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
        elif code == "\r":
            column = 0
        elif code == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code.endswith("A"):
            row = max(0, row - int(code[2:-1] or 1))
        elif code == "\x1b[2K":
            lines[row] = ""
    return [line.rstrip() for line in lines]


def cursor_is_visible(raw):
    """Whether the last word on the cursor was to show it."""
    words = re.findall(r"\x1b\[\?25([hl])", raw)
    return not words or words[-1] == "h"
