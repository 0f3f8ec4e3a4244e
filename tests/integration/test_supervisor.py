from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cli.fleet.home import FleetError, FleetHome
from cli.fleet.process import ProcessSpec, http_probe
from cli.fleet.status import ProcessState, ProcessStatus, read_status, stop_fleet, write_status
from cli.fleet.supervisor import RestartPolicy, Supervisor
from tests.support import eventually, eventually_async, is_gone

PROJECT = Path(__file__).resolve().parents[2]
QUICK = RestartPolicy(
    first_pause_seconds=0.01,
    longest_pause_seconds=0.05,
    start_tries=3,
    probe_pause_seconds=0.02,
    liveness_interval_seconds=0.1,
    liveness_failures=3,
)

# Answers 200, or 503 while the file `<name>.unwell` exists; writes down its start and its end.
STAND_IN = """
import http.server, pathlib, signal, sys
name, port, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if (folder / f"{name}.unwell").exists() else 200)
        self.end_headers()
    def log_message(self, *args):
        pass
def note(what):
    with open(folder / "journal", "a") as journal:
        journal.write(f"{what} {name}\\n")
def end(number, frame):
    note("end")
    sys.exit(0)
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
signal.signal(signal.SIGTERM, end)
note("start")
print("hello from", name, flush=True)
server.serve_forever()
"""

# A supervisor in a process of its own: `a`, and `b` that depends on it.
FLEET = """
import asyncio, pathlib, sys
from cli.fleet.home import FleetHome
from cli.fleet.supervisor import Supervisor
from tests.integration.test_supervisor import QUICK, stand_in
async def main():
    home = FleetHome(pathlib.Path(sys.argv[1]))
    async with Supervisor(home, policy=QUICK) as fleet:
        await fleet.start([stand_in(home, "a"), stand_in(home, "b", depends_on=("a",))])
        print("ready", flush=True)
        await fleet.run_until_signalled()
        print("signalled", flush=True)
    print("left", flush=True)
asyncio.run(main())
"""


def stand_in(home: FleetHome, name: str, depends_on: tuple[str, ...] = ()) -> ProcessSpec:
    port = home.claim_port(name)
    probe = http_probe(f"http://127.0.0.1:{port}/ready", timeout_seconds=0.5)
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-I", "-S", "-c", STAND_IN, name, str(port), str(home.path)),
        port=port,
        readiness=probe,
        liveness=probe,
        depends_on=depends_on,
        ready_seconds=60.0,
    )


def script(home: FleetHome, name: str, text: str) -> ProcessSpec:
    """Return a shell script that counts as ready once the file `<name>.ready` exists."""

    async def is_ready() -> str | None:
        return None if (home.path / f"{name}.ready").exists() else f"no file {name}.ready"

    return ProcessSpec(
        name=name,
        argv=("/bin/sh", "-c", f"cd {home.path}; {text}"),
        readiness=is_ready,
        ready_seconds=60.0,
    )


def journal(home: FleetHome) -> list[str]:
    return (home.path / "journal").read_text().splitlines()


def status_of(fleet: Supervisor, name: str) -> ProcessStatus:
    [status] = [status for status in fleet.status() if status.name == name]
    return status


def pid_of(fleet: Supervisor, name: str) -> int:
    pid = status_of(fleet, name).pid
    assert pid is not None
    return pid


def until(check: Callable[[], bool]) -> asyncio.Future[bool]:
    async def answer() -> bool:
        return check()

    return asyncio.ensure_future(eventually_async(answer))


@pytest.fixture
def home(tmp_path: Path) -> FleetHome:
    home = FleetHome(tmp_path / "home")
    home.create()
    return home


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that does nothing, in a group of its own."""
    with subprocess.Popen(["/bin/sleep", "600"], start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def run_fleet(home: FleetHome) -> Iterator[subprocess.Popen[str]]:
    """Run a supervisor in a process of its own, killed if the test fails."""
    with subprocess.Popen(
        [sys.executable, "-c", FLEET, str(home.path)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.strip() == expected:
            return
    raise AssertionError(f"no line {expected!r} in {''.join(seen)}")


async def test_processes_start_after_and_stop_before_those_they_depend_on(
    home: FleetHome,
) -> None:
    specs = [
        stand_in(home, "leaf", depends_on=("left", "right")),
        stand_in(home, "left", depends_on=("root",)),
        stand_in(home, "right", depends_on=("root",)),
        stand_in(home, "root"),
    ]
    async with Supervisor(home, specs, QUICK) as fleet:
        await fleet.ready()
        assert {status.state for status in fleet.status()} == {ProcessState.READY}
        pids = [status.pid for status in fleet.status()]
        assert all(pid is not None and os.getsid(pid) == pid for pid in pids)
        assert read_status(home) == fleet.status()
    lines = journal(home)
    assert lines[0] == "start root"
    assert set(lines[1:3]) == {"start left", "start right"}
    assert lines[3:5] == ["start leaf", "end leaf"]
    assert set(lines[5:7]) == {"end left", "end right"}
    assert lines[7:] == ["end root"]
    assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids)
    assert {status.state for status in read_status(home)} == {ProcessState.STOPPED}


async def test_stages_start_one_after_the_other(home: FleetHome) -> None:
    async with Supervisor(home, policy=QUICK) as fleet:
        await fleet.start([stand_in(home, "server")])
        assert journal(home) == ["start server"]
        await fleet.start([stand_in(home, "service", depends_on=("server",))])
        assert journal(home) == ["start server", "start service"]


async def test_killed_process_comes_back_and_the_others_are_left_alone(home: FleetHome) -> None:
    async with Supervisor(home, [stand_in(home, "a"), stand_in(home, "b")], QUICK) as fleet:
        await fleet.ready()
        killed, untouched = pid_of(fleet, "a"), pid_of(fleet, "b")
        os.kill(killed, signal.SIGKILL)
        await until(lambda: status_of(fleet, "a").restarts == 1)
        await fleet.ready()
        await until(lambda: status_of(fleet, "a").state is ProcessState.READY)
        assert pid_of(fleet, "a") != killed
        assert pid_of(fleet, "b") == untouched
        assert read_status(home) == fleet.status()
    log = (home.logs / "a.log").read_text()
    assert log.count("hello from a") == 2  # appended, not begun anew


async def test_crash_loop_is_shown_as_restarting_and_harms_nobody(home: FleetHome) -> None:
    loop = script(home, "loop", "echo cannot read the map >&2; exit 3")
    async with Supervisor(home, [loop, stand_in(home, "a")], QUICK) as fleet:
        with pytest.raises(FleetError, match=r"(?s)loop has died .* code 3.*cannot read the map"):
            await fleet.ready()
        tries = status_of(fleet, "loop").restarts
        await until(lambda: status_of(fleet, "loop").restarts > tries + 2)
        assert status_of(fleet, "loop").state is ProcessState.RESTARTING
        assert [s.state for s in read_status(home) if s.name == "loop"] == [ProcessState.RESTARTING]
        await until(lambda: status_of(fleet, "a").state is ProcessState.READY)
        assert status_of(fleet, "a").restarts == 0


async def test_process_that_never_gets_ready_is_reported_with_its_log(home: FleetHome) -> None:
    slow = replace(script(home, "slow", "echo still thinking; exec sleep 600"), ready_seconds=0.3)
    async with Supervisor(home, [slow], QUICK) as fleet:
        with pytest.raises(FleetError, match=r"(?s)slow is not ready.*no file.*still thinking"):
            await fleet.ready()
        assert status_of(fleet, "slow").restarts == 0  # slow is not dead


async def test_program_that_does_not_exist_is_named(home: FleetHome) -> None:
    spec = replace(script(home, "ghost", ""), argv=("/no/such/program",))
    async with Supervisor(home, [spec], QUICK) as fleet:
        with pytest.raises(FleetError, match=r"(?s)ghost has died.*cannot execute /no/such/prog"):
            await fleet.ready()


@pytest.mark.parametrize("fault", ["stopped", "answers 503"])
async def test_wedged_process_is_killed_and_begun_again(home: FleetHome, fault: str) -> None:
    async with Supervisor(home, [stand_in(home, "a")], QUICK) as fleet:
        await fleet.ready()
        wedged = pid_of(fleet, "a")
        unwell = home.path / "a.unwell"
        if fault == "stopped":
            os.kill(wedged, signal.SIGSTOP)
        else:
            unwell.touch()
        await until(lambda: status_of(fleet, "a").restarts >= 1)
        unwell.unlink(missing_ok=True)
        await until(lambda: status_of(fleet, "a").state is ProcessState.READY)
        assert pid_of(fleet, "a") != wedged
        assert not psutil.pid_exists(wedged)


async def test_passing_weakness_is_forgiven(home: FleetHome) -> None:
    answers = iter([None, "busy", "busy", None, "busy", "busy", None])
    asked_all = asyncio.Event()

    async def liveness() -> str | None:
        try:
            return next(answers)
        except StopIteration:
            asked_all.set()
            return None

    spec = replace(script(home, "a", "touch a.ready; exec sleep 600"), liveness=liveness)
    policy = replace(QUICK, liveness_interval_seconds=0.01)
    async with Supervisor(home, [spec], policy) as fleet:
        await fleet.ready()
        await asyncio.wait_for(asked_all.wait(), 30)
        assert status_of(fleet, "a").restarts == 0


async def test_process_without_a_sign_of_life_after_its_start_is_begun_again(
    home: FleetHome,
) -> None:
    async def no_answer() -> str | None:
        return "no answer"

    stuck = replace(script(home, "stuck", "exec sleep 600"), liveness=no_answer, ready_seconds=0.05)
    async with Supervisor(home, [stuck], QUICK) as fleet:
        await until(lambda: status_of(fleet, "stuck").restarts >= 2)


async def test_process_deaf_to_the_request_to_end_is_killed_with_its_children(
    home: FleetHome,
) -> None:
    text = "trap '' TERM; sleep 600 & echo $! > child; touch deaf.ready; while :; do wait; done"
    deaf = replace(script(home, "deaf", text), grace_seconds=0.2)
    async with Supervisor(home, [deaf], QUICK) as fleet:
        await fleet.ready()
        parent = psutil.Process(pid_of(fleet, "deaf"))
        child = psutil.Process(int((home.path / "child").read_text()))
        assert child.is_running()
    assert is_gone(parent)
    await until(lambda: is_gone(child))


async def test_children_of_a_dead_process_do_not_outlive_it(home: FleetHome) -> None:
    text = "sleep 600 & echo $! >> children; touch mother.ready; wait"
    async with Supervisor(home, [script(home, "mother", text)], QUICK) as fleet:
        await fleet.ready()
        [child] = [int(line) for line in (home.path / "children").read_text().split()]
        orphan = psutil.Process(child)
        os.kill(pid_of(fleet, "mother"), signal.SIGKILL)
        await until(lambda: is_gone(orphan))


async def test_dependent_waits_for_what_it_needs_before_it_starts_again(home: FleetHome) -> None:
    (home.path / "need.ready").touch()
    text = "echo start >> starts; touch user.ready; exec sleep 600"
    need = script(home, "need", "exec sleep 600")
    user = replace(script(home, "user", text), depends_on=("need",))
    async with Supervisor(home, [need, user], QUICK) as fleet:
        await fleet.ready()
        (home.path / "need.ready").unlink()
        os.kill(pid_of(fleet, "need"), signal.SIGKILL)
        await until(lambda: status_of(fleet, "need").restarts == 1)
        os.kill(pid_of(fleet, "user"), signal.SIGKILL)
        await until(lambda: status_of(fleet, "user").restarts == 1)
        await until(lambda: status_of(fleet, "need").pid is not None)
        assert (home.path / "starts").read_text().count("start") == 1
        assert status_of(fleet, "user").pid is None
        (home.path / "need.ready").touch()
        await until(lambda: (home.path / "starts").read_text().count("start") == 2)


async def test_second_supervisor_on_a_home_is_refused(home: FleetHome) -> None:
    async with Supervisor(home, [stand_in(home, "a")], QUICK) as fleet:
        await fleet.ready()
        running = fleet.status()
        with pytest.raises(FleetError, match=rf"{home.path}.* pid {os.getpid()}"):
            await Supervisor(FleetHome(home.path)).__aenter__()
        assert fleet.status() == running == read_status(home)


@pytest.mark.parametrize(
    ("depends_on", "message"),
    [
        ({"a": ("b",), "b": ("a",)}, "circle"),
        ({"a": ("nobody",)}, r"a depends on \['nobody'\]"),
    ],
)
async def test_impossible_order_is_refused_before_anything_starts(
    home: FleetHome, depends_on: dict[str, tuple[str, ...]], message: str
) -> None:
    specs = [
        replace(script(home, name, "exec sleep 600"), depends_on=names)
        for name, names in depends_on.items()
    ]
    with pytest.raises(FleetError, match=message):
        await Supervisor(home, specs).__aenter__()
    assert home.supervisor_pid() is None  # and the home is free again


async def test_name_given_twice_is_refused(home: FleetHome) -> None:
    async with Supervisor(home, [stand_in(home, "a")], QUICK) as fleet:
        with pytest.raises(FleetError, match="named twice"):
            fleet.launch([stand_in(home, "a")])


async def test_defect_in_the_supervision_ends_the_fleet_and_is_raised(home: FleetHome) -> None:
    async def broken_probe() -> str | None:
        raise ZeroDivisionError

    good = stand_in(home, "good")
    bad = replace(stand_in(home, "bad"), readiness=broken_probe, depends_on=("good",))
    with pytest.raises(ZeroDivisionError):
        async with Supervisor(home, [good, bad], QUICK) as fleet:
            await fleet.run_until_signalled()
    assert journal(home)[0] == "start good"
    assert journal(home)[-1] == "end good"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_error_in_the_body_stops_the_fleet_and_passes(home: FleetHome) -> None:
    async def fail_in_the_body() -> None:
        async with Supervisor(home, [stand_in(home, "a")], QUICK) as fleet:
            await fleet.ready()
            raise KeyError

    with pytest.raises(KeyError):
        await fail_in_the_body()
    assert journal(home) == ["start a", "end a"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_leads_to_a_stop_in_order(home: FleetHome, number: signal.Signals) -> None:
    with run_fleet(home) as supervisor:
        wait_for_line(supervisor, "ready")
        supervisor.send_signal(number)
        wait_for_line(supervisor, "signalled")
        wait_for_line(supervisor, "left")
        assert supervisor.wait(30) == 0
    assert journal(home) == ["start a", "start b", "end b", "end a"]
    assert home.supervisor_pid() is None
    assert json.loads(home.state_file.read_text())["supervisor_pid"] is None


def test_signal_while_starting_stops_what_has_started(home: FleetHome) -> None:
    (home.path / "b.unwell").touch()  # never ready
    with run_fleet(home) as supervisor:
        eventually(lambda: (home.path / "journal").exists() and "start b" in journal(home))
        supervisor.send_signal(signal.SIGTERM)
        wait_for_line(supervisor, "left")
        assert supervisor.wait(30) == 0
    assert journal(home) == ["start a", "start b", "end b", "end a"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of the killed")
def test_killed_supervisor_leaves_no_orphan_and_the_next_one_starts(home: FleetHome) -> None:
    with run_fleet(home) as supervisor:
        wait_for_line(supervisor, "ready")
        before = read_status(home)
        children = psutil.Process(supervisor.pid).children(recursive=True)
        assert {child.pid for child in children} == {status.pid for status in before}
        supervisor.kill()
        supervisor.wait(30)
    eventually(lambda: all(is_gone(child) for child in children))
    assert [(s.pid, s.state) for s in read_status(home)] == [(None, ProcessState.STOPPED)] * 2
    with run_fleet(home) as supervisor:
        wait_for_line(supervisor, "ready")
        assert [status.port for status in read_status(home)] == [status.port for status in before]
        assert stop_fleet(home)


def test_stop_ends_everything_and_says_whether_there_was_anything(home: FleetHome) -> None:
    assert not stop_fleet(home)
    with run_fleet(home) as supervisor:
        wait_for_line(supervisor, "ready")
        processes = psutil.Process(supervisor.pid).children(recursive=True)
        assert len(processes) == 2
        assert stop_fleet(home)
        assert all(is_gone(process) for process in processes)
    assert {status.state for status in read_status(home)} == {ProcessState.STOPPED}
    assert not stop_fleet(home)
    assert journal(home) == ["start a", "start b", "end b", "end a"]


def test_stop_kills_a_supervisor_that_does_not_end(home: FleetHome) -> None:
    with run_fleet(home) as supervisor:
        wait_for_line(supervisor, "ready")
        processes = psutil.Process(supervisor.pid).children(recursive=True)
        supervisor.send_signal(signal.SIGSTOP)
        assert stop_fleet(home, timeout_seconds=0.2)
        eventually(lambda: all(is_gone(process) for process in processes))
    assert home.supervisor_pid() is None


def test_leftovers_are_killed_and_a_reused_number_is_spared(home: FleetHome) -> None:
    with sleeper() as ours, sleeper() as strangers:
        started_at = psutil.Process(ours.pid).create_time()
        write_status(
            home,
            1,
            [
                ProcessStatus("a", ours.pid, None, ProcessState.READY, 0, started_at),
                ProcessStatus("b", strangers.pid, None, ProcessState.READY, 0, started_at - 3600),
            ],
        )
        assert [status.state for status in read_status(home)] == ["ready", "stopped"]
        assert not stop_fleet(home)
        assert ours.wait(30) == -signal.SIGKILL
        assert strangers.poll() is None
    assert [status.state for status in read_status(home)] == ["stopped", "stopped"]


def test_home_without_a_fleet_has_no_status(home: FleetHome) -> None:
    assert read_status(home) == []
