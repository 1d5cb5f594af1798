"""Starts rank programs, for tests of what happens when one of them fails.

They are forks of this process, which has imported torch: importing it takes seconds for each rank.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import textwrap
import time
import traceback

import torch
import torch.distributed as dist

import slackline
import slackline.distributed

torch.set_num_threads(1)

PROLOGUE = '''
import os, signal, sys, time
from datetime import timedelta
rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

def meet():
    """No rank goes on before all have left the barrier: what then happens to one is no fault of the barrier."""
    dist.barrier()
    store = dist.distributed_c10d._get_default_store()
    store.set(f"met/{rank}", "")
    store.wait([f"met/{peer}" for peer in range(ranks)])
    # The store is rank 0's, which may end first.
    store.set(f"seen/{rank}", "")
    if rank == 0:
        store.wait([f"seen/{peer}" for peer in range(ranks)])

def expect(kind, blamed, call):
    begun = time.monotonic()
    try:
        call()
    except kind as error:
        assert isinstance(error, slackline.CollectiveError) and isinstance(error, RuntimeError)
        assert error.ranks == blamed, (error, error.ranks)
        print(f"TOLD {time.monotonic() - begun:.2f} {error.round} {error}", flush=True)
        return error
    raise AssertionError("nothing was raised")
'''


class Rank:
    """A process that runs a program as one rank of a job."""

    def __init__(self, program: str, environment: dict[str, str]) -> None:
        self._file = tempfile.NamedTemporaryFile()
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.dup2(self._file.fileno(), 1)
                os.dup2(self._file.fileno(), 2)
                sys.stdout = sys.stderr = os.fdopen(1, "w")
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.environ.update(environment)
                exec(program, {"torch": torch, "dist": dist, "slackline": slackline})
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                # What the interpreter does at its end, without pytest's part of it.
                slackline.distributed._leave_all()
                sys.stdout.flush()
                os._exit(code)

    @property
    def output(self) -> str:
        with open(self._file.name) as file:
            return file.read()

    def wait(self, limit: float) -> int:
        until = time.monotonic() + limit
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise TimeoutError(f"a rank did not end: {self.output}")
            else:
                time.sleep(0.01)
        return self.code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(10)


def start(ranks: int, program: str, **environment: str) -> list[Rank]:
    """The ranks of a job, each with a program's text."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), **environment}
    text = PROLOGUE + textwrap.dedent(program)
    return [Rank(text, job | {"RANK": str(rank)}) for rank in range(ranks)]


def finish(processes: list[Rank], limit: float = 90) -> list[Rank]:
    """Waits for all of them."""
    try:
        for process in processes:
            process.wait(limit)
    finally:
        for process in processes:
            process.kill()
    return processes


def run(ranks: int, program: str, **environment: str) -> list[Rank]:
    """Runs a program on all ranks."""
    return finish(start(ranks, program, **environment))
