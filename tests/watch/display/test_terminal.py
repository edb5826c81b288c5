"""The bar, on a real terminal."""

from __future__ import annotations

import signal
import time

import pytest
from terminals import OnTerminal, cursor_is_visible, left_on_screen, plain


@pytest.fixture
def fleet(fake_fleet):
    return fake_fleet(latency=0.2, capacity=1000)


def bars(lines):
    return [line for line in lines if "━" in line]


def test_a_run_leaves_its_bar(fleet):
    program = OnTerminal("build(pool).invoke({'molecules': molecules(12)}); print('end')", fleet)
    raw = program.wait()
    assert program.process.returncode == 0, raw
    lines = left_on_screen(raw)
    assert lines[0].startswith("screen ━━━")
    assert " 12/12 100% 0:00:0" in lines[0]
    assert "items/s" in lines[1]
    assert lines[2:] == ["end", ""]
    assert "2 in flight" in plain(raw)
    assert "left" in plain(raw)
    assert cursor_is_visible(raw)


def test_short_runs_are_silent(fake_fleet):
    body = "build(pool).invoke({'molecules': molecules(2)}); print('end')"
    program = OnTerminal(body, fake_fleet(latency=0.0))
    assert program.wait() == "end\r\n"


def test_two_runs_at_once_have_a_bar_each(fleet):
    body = """
    other = threading.Thread(target=lambda: build(pool).invoke({"molecules": molecules(8)}))
    other.start()
    build(pool).invoke({"molecules": molecules(11)})
    other.join()
    while "hpc-fanout-bars" in {thread.name for thread in threading.enumerate()}:
        time.sleep(0.01)
    """
    program = OnTerminal(body, fleet)
    raw = program.wait()
    assert program.process.returncode == 0, raw
    found = bars(left_on_screen(raw))
    assert len(found) == 2
    assert all(any(count in bar for bar in found) for count in ("8/8", "11/11"))


def test_what_others_write_meanwhile_is_not_lost(fleet):
    body = """
    import logging
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run = threading.Thread(target=lambda: build(pool).invoke({"molecules": molecules(16)}))
    run.start()
    number = 0
    while run.is_alive():
        time.sleep(0.1)
        number += 1
        print(f"printed {number}")
        print(f"stderr {number}", file=sys.stderr)
        logging.info(f"logged {number}")
        print("[bold]", end="", flush=True)
        print()
    print("written:", number)
    """
    lines = left_on_screen(OnTerminal(body, fleet).wait())
    assert len(bars(lines)) == 1
    count = int(lines[-2].removeprefix("written: "))
    assert count > 5
    for number in range(1, count + 1):
        assert {f"{kind} {number}" for kind in ("printed", "logged", "stderr")} <= set(lines)
    assert lines.count("[bold]") == count


def test_stdout_of_a_program_goes_where_it_was_sent(fleet, tmp_path):
    body = f"""
    sys.stdout = open({str(tmp_path / "out")!r}, "w")
    run = threading.Thread(target=lambda: build(pool).invoke({{"molecules": molecules(8)}}))
    run.start()
    while run.is_alive():
        time.sleep(0.1)
        print("answer")
    """
    raw = OnTerminal(body, fleet).wait()
    assert "answer" not in raw
    assert (tmp_path / "out").read_text().count("answer") > 3
    assert len(bars(left_on_screen(raw))) == 1


CTRL_C = {
    "sync": "build(pool).invoke({'molecules': molecules(64)})",
    "async": "import asyncio; asyncio.run(build(pool).ainvoke({'molecules': molecules(64)}))",
}


@pytest.mark.parametrize("how", CTRL_C)
def test_ctrl_c_leaves_the_bar_as_it_was(fleet, how):
    body = f"""
    try:
        {CTRL_C[how]}
    except KeyboardInterrupt:
        while "hpc-fanout-bars" in {{thread.name for thread in threading.enumerate()}}:
            time.sleep(0.01)
        print("interrupted")
    """
    program = OnTerminal(body, fleet)
    wait_for_a_bar(program)
    program.process.send_signal(signal.SIGINT)
    raw = program.wait()
    assert program.process.returncode == 0, raw
    lines = left_on_screen(raw)
    (bar,) = bars(lines)
    assert "/64" in bar
    assert bar.endswith("stopped")
    assert "interrupted" in lines
    assert cursor_is_visible(raw)


def test_a_program_that_exits_in_mid_run(fleet):
    body = """
    import asyncio
    graph = build(pool).ainvoke({"molecules": molecules(64)})
    threading.Thread(target=lambda: asyncio.run(graph), daemon=True).start()
    time.sleep(1.2)
    """
    raw = OnTerminal(body, fleet).wait()
    (bar,) = bars(left_on_screen(raw))
    assert "/64" in bar
    assert "64/64" not in bar
    assert bar.endswith("stopped")
    assert cursor_is_visible(raw)


def test_a_program_that_is_killed_in_mid_run(fleet):
    program = OnTerminal("build(pool).invoke({'molecules': molecules(64)})", fleet)
    wait_for_a_bar(program)
    program.process.kill()
    assert cursor_is_visible(program.wait())


def test_the_child_of_a_fork_draws_no_bar_and_can_write(fleet):
    body = """
    import logging
    logging.basicConfig(format="%(message)s")
    run = threading.Thread(target=lambda: build(pool).invoke({"molecules": molecules(10)}))
    run.start()
    time.sleep(0.8)
    child = os.fork()
    if child == 0:
        print("child printed", type(sys.stdout).__name__)
        logging.warning("child logged")
        build(pool).invoke({"molecules": molecules(8)})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run.join()
    """
    program = OnTerminal(body, fleet)
    raw = program.wait()
    assert program.process.returncode == 0, raw
    assert "10/10" in raw
    assert "8/8" not in raw
    assert "child logged" in raw


def test_no_bar_when_none_is_wanted(fleet):
    body = "build(pool).invoke({'molecules': molecules(8)})"
    assert OnTerminal(body, fleet, HPC_FANOUT_PROGRESS="off").wait() == ""


def test_a_broken_drawing_does_not_disturb_the_run(fleet):
    body = """
    from langgraph_hpc_fanout.watch.display import bars
    bars.bar = None
    state = build(pool).invoke({"molecules": molecules(8)})
    print(right_answers(state["predictions"], molecules(8)), type(sys.stderr).__name__)
    """
    raw = OnTerminal(body, fleet).wait()
    assert "True TextIOWrapper" in raw
    assert cursor_is_visible(raw)


def wait_for_a_bar(program):
    deadline = time.monotonic() + 30
    while "━" not in program.raw:
        assert time.monotonic() < deadline, program.raw
        time.sleep(0.05)
