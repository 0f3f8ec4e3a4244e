"""A cycle in a process of its own, which leaves behind how it ended."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from cli.fleet.home import write_atomically

OUTCOME = "outcome.json"


def run_job(folder: Path, arguments: list[str]) -> int:
    """Run the `mnt` command with some arguments and write its exit code into a folder.

    Parameters
    ----------
    folder
        Of the job; it exists.
    arguments
        As on a command line.

    Returns
    -------
    int
        The exit code.
    """
    from cli.main import run

    sys.argv = ["mnt", *arguments]
    exit_code = 1
    try:
        run()
        exit_code = 0
    except SystemExit as ended:
        exit_code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        write_atomically(folder / OUTCOME, orjson.dumps({"exit_code": exit_code}).decode())
    return exit_code


if __name__ == "__main__":
    sys.exit(run_job(Path(sys.argv[1]), sys.argv[2:]))
