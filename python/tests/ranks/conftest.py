"""Tests of which every rank of a `torchrun` runs the same, in the same order."""

import os
import zlib

import pytest
import torch
import torch.distributed as dist

import slackline


@pytest.fixture(scope="session")
def groups():
    """The same ranks over gloo and over slackline; the default group is gloo's."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    yield dist.group.WORLD, dist.new_group(backend="slackline")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def generator(request):
    """Alike on all ranks; another for each test."""
    seed = int(os.environ.get("SLACKLINE_TEST_SEED", "1")) + zlib.crc32(request.node.name.encode())
    return torch.Generator().manual_seed(seed)


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        # The others would wait for this rank.
        rank = os.environ.get("RANK")
        print(f"rank {rank}: {item.nodeid} failed\n{report.longreprtext}", flush=True)
        os._exit(1)
