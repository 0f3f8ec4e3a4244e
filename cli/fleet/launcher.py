"""Becomes a process of the fleet: run as a script, it sets itself up and then execs.

    python launcher.py SUPERVISOR_PID ACCOUNT PROGRAM [ARGUMENT ...]

ACCOUNT is `-`, or `uid:gid:capability` (capability may be empty). The work is done here,
after the fork and in a program of its own, because Python code between fork and exec is
unsafe in a process that has threads. It imports nothing of the project, to start quickly.

On Linux the kernel is asked to kill this process when the supervisor dies. The request is
lost when the user changes, so it comes after that; and it is not made retroactively, so the
supervisor may already be gone, which is checked last.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522


def become(account: str, libc: ctypes.CDLL) -> None:
    """Change to another user, keeping the one named capability if one is named."""
    uid, gid, capability = account.split(":")
    os.setgroups([])
    os.setgid(int(gid))
    if capability:
        # Keeps capabilities over the change of user, and lets access(2) count them: Postgres
        # asks it about its own binaries.
        control(libc, PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setuid(int(uid))
    if capability:
        mask = 1 << int(capability)
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        effective_permitted_inheritable = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
        if libc.capset(header, effective_permitted_inheritable) != 0:
            raise OSError(ctypes.get_errno(), "capset")
        control(libc, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, int(capability))
    os.chdir("/")  # the folder we came from may be closed to this user


def control(libc: ctypes.CDLL, *arguments: int) -> None:
    """Call prctl(2)."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:5]]
    if libc.prctl(*padded) != 0:
        raise OSError(ctypes.get_errno(), f"prctl{arguments}")


def main() -> None:
    """Set this process up as its arguments say and become the program."""
    supervisor_pid, account, *argv = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if account != "-":
        try:
            become(account, libc)
        except OSError as error:
            sys.exit(
                f"cannot run {argv[0]} as uid:gid:capability {account}: {error}; "
                f"run the fleet as an ordinary user instead of root"
            )
    if sys.platform == "linux":
        control(libc, PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(supervisor_pid):
        sys.exit("the supervisor is gone")
    try:
        os.execv(argv[0], argv)  # noqa: S606 - becoming the program is what this is for
    except OSError as error:
        sys.exit(f"cannot execute {argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
