"""Starts rank programs, for tests of what happens when one of them fails."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass

PROLOGUE = """
import os, signal, sys, time
import faulthandler; faulthandler.enable()
from datetime import timedelta
import torch
import torch.distributed as dist
import slackline
rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

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
"""


@dataclass
class Ended:
    """How a rank ended."""

    code: int
    output: str


def start(ranks: int, program: str, **environment: str) -> list[subprocess.Popen[str]]:
    """Processes that run a program as the ranks of a job."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = PROLOGUE + textwrap.dedent(program)
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", text],
            env=os.environ | job | environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen[str]], limit: float = 90) -> list[Ended]:
    """Waits for all of them."""
    try:
        return [Ended(code=process.wait(limit), output=process.communicate()[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()


def run(ranks: int, program: str, **environment: str) -> list[Ended]:
    """Runs a program on all ranks."""
    return finish(start(ranks, program, **environment))
