"""The one folder that holds everything a fleet keeps on this machine."""

from __future__ import annotations

import fcntl
import json
import os
import random
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import PermanentError

# Below every system's ephemeral range (32768 on Linux, 49152 on macOS): a client that
# reconnects to a dead server on an ephemeral port can be given that very port as its own
# source, connect to itself and keep the server from coming back.
FIRST_PORT = 20_000
LAST_PORT = 29_999

LOCK_TRIES = 20
LOCK_PAUSE_SECONDS = 0.05


class FleetError(PermanentError):
    """The fleet cannot start, run or stop here until the stated cause is removed."""


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file so that a reader sees the old text or the new one, never a part.

    Parameters
    ----------
    path
        The file to replace; its folder exists.
    text
        The new content.
    mode
        Permission bits of the file, independent of the umask.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def is_port_free(port: int) -> bool:
    """Tell whether a server could listen on a loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection of an earlier server in TIME_WAIT does not take the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class FleetHome:
    """The folder of one fleet: its databases, logs, secrets and run-time files.

    Constructing it touches nothing; `create` and whatever needs to write make the folders.

    Parameters
    ----------
    path
        The folder; made absolute, links resolved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.postgres_data = self.path / "data" / "postgres"
        self.valkey_data = self.path / "data" / "valkey"
        self.logs = self.path / "logs"
        self.run = self.path / "run"
        self.secrets = self.path / "secrets"
        self.state_file = self.run / "fleet.json"
        self.ports_file = self.run / "ports.json"
        self.lock_file = self.run / "supervisor.lock"
        self.token_file = self.secrets / "token"
        self._claimed: set[str] = set()

    def create(self) -> None:
        """Make the folders that are missing; `secrets` is closed to other users.

        Raises
        ------
        FleetError
            If a folder cannot be made or belongs to another user.
        """
        for folder in (self.valkey_data, self.logs, self.run, self.secrets):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FleetError(
                    f"cannot make {folder}: {error.strerror}; choose another home with --home"
                ) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise FleetError(
                    f"{folder} is not writable by user {os.geteuid()}: run the fleet as user "
                    f"{folder.stat().st_uid}, or choose another home with --home"
                )
        self.secrets.chmod(0o700)

    def token(self) -> str:
        """Return the bearer token of this fleet's REST routes, made on first use."""
        return self.secret(self.token_file.name)

    def renew_token(self) -> str:
        """Put another bearer token in the place of the present one and return it."""
        self.create()
        token = secrets.token_urlsafe(32)
        write_atomically(self.token_file, token + "\n", mode=0o600)
        return token

    def secret(self, name: str) -> str:
        """Return a random secret of 256 bits, made on first use, readable by its owner only.

        Two processes that ask for the first time at once get the same answer.
        """
        path = self.secrets / name
        if not path.exists():
            self.create()
            draft = path.with_name(f".{name}.{secrets.token_hex(4)}")
            write_atomically(draft, secrets.token_urlsafe(32) + "\n", mode=0o600)
            with suppress(FileExistsError):  # another process was first: its secret is the one
                os.link(draft, path)
            draft.unlink()
        return path.read_text().strip()

    def ports(self) -> dict[str, int]:
        """Return the remembered loopback port of every process that was ever given one."""
        try:
            remembered: dict[str, int] = json.loads(self.ports_file.read_text())
        except FileNotFoundError:
            return {}
        return remembered

    def port(self, name: str) -> int:
        """Return the loopback port of a process: the remembered one, else a newly picked one."""
        remembered = self.ports().get(name)
        return self._pick_port(name) if remembered is None else remembered

    def claim_port(self, name: str) -> int:
        """Return the port a process is about to be started on.

        The remembered port, unless some other program has taken it since: then another one is
        picked and remembered. Each name is checked once in the life of this object, and not
        at all while another supervisor runs on this home, because then the port is in use
        rightly.
        """
        port = self.port(name)
        if name in self._claimed or self.supervisor_pid() not in (None, os.getpid()):
            return port
        self._claimed.add(name)
        return port if is_port_free(port) else self._pick_port(name)

    def _pick_port(self, name: str) -> int:
        self.create()
        remembered = self.ports()
        taken = set(remembered.values())
        candidates = [port for port in range(FIRST_PORT, LAST_PORT + 1) if port not in taken]
        random.SystemRandom().shuffle(candidates)
        for port in candidates:
            if is_port_free(port):
                ports = {**remembered, name: port}
                write_atomically(self.ports_file, json.dumps(ports, indent=1) + "\n")
                return port
        raise FleetError(
            f"no free port between {FIRST_PORT} and {LAST_PORT} on 127.0.0.1 for {name}: "
            f"stop the programs that listen there"
        )

    def supervisor_pid(self) -> int | None:
        """Return the process id of the supervisor that runs on this home, if one does.

        The lock is the evidence, not the number: a lock ends with its process, while the
        number of a dead process may belong to another program by now.
        """
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            for _ in range(LOCK_TRIES):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    written = os.pread(descriptor, 32, 0).strip()
                    if written:
                        return int(written)
                    time.sleep(LOCK_PAUSE_SECONDS)  # its owner is just about to write its number
                else:
                    return None
        finally:
            os.close(descriptor)
        raise FleetError(f"{self.lock_file} is locked by a process that does not say who it is")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this home alone, as its supervisor does.

        Raises
        ------
        FleetError
            If another supervisor runs on this home.
        """
        self.create()
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for _ in range(LOCK_TRIES):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(LOCK_PAUSE_SECONDS)  # `supervisor_pid` holds it for an instant
            else:
                raise FleetError(
                    f"a fleet already runs on {self.path}, supervisor pid {self.supervisor_pid()}: "
                    f"stop it with `mnt stop`, or choose another home with --home"
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)


def resolve_home(option: Path | None) -> FleetHome:
    """Return the home to use: the option `--home`, else `MNT_HOME`, else `.mnt` here."""
    return FleetHome(option or Path(os.environ.get("MNT_HOME") or ".mnt"))
