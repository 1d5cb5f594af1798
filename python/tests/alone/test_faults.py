"""A rank that dies, is late, leaves, or disagrees: an exception on every other rank, no abort, nothing left behind."""

import signal
import time

import pytest
from ranks import run, start

INIT = 'dist.init_process_group("slackline", timeout=timedelta(seconds=60))\n'


def told(ended):
    assert ended.code == 0, ended.output
    return [line for line in ended.output.splitlines() if line.startswith("TOLD")]


@pytest.mark.parametrize(
    "call",
    [
        "dist.barrier()",
        "dist.all_reduce(torch.ones(1_000_000))",
        "dist.all_to_all_single(torch.zeros(3), torch.zeros(3), async_op=True).wait()",
        "dist.recv(torch.zeros(3), 1)",
        "list(exchange.drain())",
    ],
)
def test_killed_rank(call):
    program = f"""
    exchange = slackline.BoundedLagAllToAll(lag=2)
    exchange.submit(torch.zeros(3))
    meet()
    if rank == 1:
        exchange.submit(torch.zeros(3))
        os.kill(os.getpid(), signal.SIGKILL)
    if "exchange" in {call!r}:
        [exchange.submit(torch.zeros(3)) for _ in range(2)]
    error = expect(slackline.DeadRankError, [1], lambda: {call})
    expect(slackline.DeadRankError, [1], lambda: {call})
    """
    program = INIT + "\n".join(line[4:] for line in program.splitlines())
    zero, one, two = run(3, program)
    assert one.code == -signal.SIGKILL
    for survivor in (zero, two):
        first, again = told(survivor)
        assert "rank 1 has died" in first and "rank 1 has died" in again


def test_rank_that_exits_early():
    program = INIT + """
meet()
if rank == 1:
    sys.exit(0)
expect(slackline.DeadRankError, [1], lambda: dist.all_reduce(torch.ones(3)))
"""
    zero, one, two = run(3, program)
    assert one.code == 0, one.output
    assert all("rank 1 gave up: it left" in told(survivor)[0] for survivor in (zero, two))


def test_rank_that_raises():
    """A program of its own, whose interpreter ends."""
    program = INIT + """
meet()
if rank == 1:
    raise KeyError("of its own")
expect(slackline.DeadRankError, [1], lambda: dist.all_reduce(torch.ones(3)))
"""
    zero, one = run(2, program)
    assert one.code == 1 and "of its own" in one.output
    assert told(zero)


@pytest.mark.parametrize(
    "call", ["dist.all_reduce(torch.ones(5))", "dist.barrier()", "list(exchange.drain())", "dist.recv(torch.ones(2), 1)"]
)
def test_late_rank(call, tmp_path):
    """The survivors name it within the timeout, and so does the late rank itself when it comes."""
    program = f"""
import json
dist.init_process_group("slackline", timeout=timedelta(seconds=60))
exchange = slackline.BoundedLagAllToAll(lag=2, timeout=timedelta(seconds=1.5))
exchange.submit(torch.zeros(ranks))
list(exchange.flush())
group = dist.new_group(timeout=timedelta(seconds=1.5))
dist.group.WORLD.setTimeout(timedelta(seconds=1.5))
meet()
if rank == 1:
    while not os.path.exists(os.environ["SIGNAL"]):
        time.sleep(0.05)
    time.sleep(0.3)
    if "recv" not in {call!r}:
        exchange.submit(torch.zeros(ranks)) if "exchange" not in {call!r} else None
        expect(slackline.LateRankError, [1], lambda: dist.all_reduce(torch.ones(5)) if "exchange" not in {call!r} else {call})
else:
    exchange.submit(torch.zeros(ranks)) if "exchange" in {call!r} else None
    error = expect(slackline.LateRankError, [1], lambda: {call})
    assert isinstance(error, TimeoutError)
    open(os.environ["SIGNAL"], "w")
"""
    zero, one, two = run(3, program, SIGNAL=str(tmp_path / "signal"))
    for ended in (zero, two):
        (line,) = told(ended)
        assert "rank 1 did not come" in line and float(line.split()[1]) >= 1
    assert len(told(one)) == (0 if "recv" in call else 1)


def test_splits_that_disagree():
    program = INIT + """
meet()
sends, receives = [2, 2, 2], [2, 2, 2]
if rank == 0:
    receives = [2, 4, 2]
def call():
    output, source = torch.zeros(sum(receives)), torch.zeros(sum(sends))
    dist.all_to_all_single(output, source, receives, sends)
    dist.barrier()
error = expect(slackline.MismatchError, [1], call)
assert (error.bytes, error.expected) == (8, 16), error
assert "rank 1 sent 8 bytes to rank 0" in str(error) and "expected 16 bytes" in str(error), error
"""
    assert all(told(ended) for ended in run(3, program))


def test_rounds_whose_splits_disagree():
    program = INIT + """
exchange = slackline.BoundedLagAllToAll(lag=1)
def call():
    for number in range(9):
        wrong = rank == 1 and number == 5
        exchange.submit(torch.zeros(2 + wrong), [1, 1], [1 + wrong, 1])
        list(exchange.take())
    list(exchange.drain())
error = expect(slackline.MismatchError, [1], call)
assert (error.bytes, error.expected, error.round) == (8, 4, 5), error
"""
    assert all(told(ended) for ended in run(2, program))


def test_different_operations():
    program = INIT + """
meet()
def call():
    if rank == 0:
        dist.all_reduce(torch.ones(4))
    else:
        dist.broadcast(torch.ones(4), 0)
    dist.barrier()
try:
    call()
except slackline.MismatchError as error:
    print("TOLD", error, flush=True)
"""
    zero, one = run(2, program)
    assert "all_reduce" in told(zero)[0] + told(one)[0]


@pytest.mark.parametrize("call", ["dist.barrier()", "dist.recv(torch.ones(2), 1)", "list(exchange.flush())", "lagged()"])
def test_interrupt(call):
    """Ctrl-C ends every wait, and the ranks can say farewell afterwards."""
    program = INIT + f"""
exchange = slackline.BoundedLagAllToAll(lag=1)
meet()
def lagged():
    for _ in range(9):
        exchange.submit(torch.zeros(ranks))
        list(exchange.take())
if rank == 0:
    print("READY", flush=True)
    if "exchange" in {call!r}:
        exchange.submit(torch.zeros(ranks))
    try:
        {call}
    except KeyboardInterrupt:
        print("TOLD interrupted", flush=True)
else:
    time.sleep(60)
"""
    processes = start(2, program)
    try:
        while "READY" not in processes[0].output:
            time.sleep(0.01)
        time.sleep(0.3)
        processes[0].send_signal(signal.SIGINT)
        assert processes[0].wait(60) == 0, processes[0].output
        assert "TOLD interrupted" in processes[0].output
    finally:
        for process in processes:
            process.kill()


def test_one_wait_with_a_timeout_of_its_own_leaves_the_operation_alone():
    program = INIT + """
meet()
store = dist.distributed_c10d._get_default_store()
if rank == 0:
    tensor = torch.ones(3)
    work = dist.all_reduce(tensor, async_op=True)
    try:
        work.wait(timedelta(seconds=0.2))
    except TimeoutError as error:
        print("TOLD", error, flush=True)
    store.set("tried", "1")
    assert work.wait() and tensor.tolist() == [2, 2, 2]
else:
    store.wait(["tried"])
    dist.all_reduce(torch.ones(3))
dist.barrier()
dist.destroy_process_group()
"""
    zero, one = run(2, program)
    assert told(zero) and one.code == 0, one.output


def test_fork_is_told_and_harms_nobody():
    program = INIT + """
dist.all_reduce(torch.ones(200_000))
dist.all_reduce(torch.ones(3), async_op=True).wait()
child = os.fork()
if child == 0:
    try:
        dist.all_reduce(torch.ones(3))
    except slackline.CollectiveError as error:
        assert "fork" in str(error)
        sys.exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
dist.all_reduce(torch.ones(3))
dist.destroy_process_group()
"""
    assert all(ended.code == 0 for ended in run(2, program))


def test_hosts_that_share_no_memory_are_refused_on_all_ranks():
    program = """
import slackline.distributed as backend
backend._host = lambda: f"boot {rank}"
import socket
socket.gethostname = lambda: f"node{rank}"
try:
    dist.init_process_group("slackline")
except slackline.CollectiveError as error:
    assert "ranks [0] on node0, ranks [1] on node1" in str(error) and "MPI" in str(error), error
    print("TOLD", flush=True)
"""
    assert all(told(ended) for ended in run(2, program))


def test_nothing_is_left_behind_and_large_messages_move_while_nobody_calls():
    program = INIT + """
before = set(os.listdir("/dev/shm"))
source, output = torch.full((2 * 8_000_000,), float(rank)), torch.zeros(2 * 8_000_000)
work = dist.all_to_all_single(output, source, async_op=True)
# This rank computes and calls nothing.
limit = time.monotonic() + 60
while output[-1] != 1 or output[7_999_999] != 0 or (output[8_000_000:] != 1).any():
    assert time.monotonic() < limit, "nothing moved"
work.wait()
assert work.get_future().wait()[0] is output
dist.barrier()
assert set(os.listdir("/dev/shm")) <= before
dist.destroy_process_group()
"""
    assert all(ended.code == 0 for ended in run(2, program))
