"""Every operation over slackline gives what gloo gives, or what a plain computation gives where gloo cannot."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int32, torch.int64]
ANY = [*FLOATS, *INTEGERS, torch.int16, torch.bool, torch.complex64]
OP = dist.ReduceOp


class Draw:
    """Random choices that all ranks make alike, and contents that differ."""

    def __init__(self, generator, rank):
        self.generator, self.own = generator, torch.Generator().manual_seed(rank + 77)

    def number(self, below):
        return int(torch.randint(below, (), generator=self.generator))

    def choice(self, options):
        return options[self.number(len(options))]

    def size(self):
        """Mostly small; at times more than a slot, and more than a ring."""
        return self.choice([0, 1, 3, 17, 100, 1000, 5000, 40_000, 300_000])

    def contents(self, shape, dtype):
        """Small whole numbers, so that sums are exact in every dtype and every order."""
        numbers = torch.randint(0, 4, tuple(shape), generator=self.own)
        return self.maybe_strided(numbers.to(dtype))

    def maybe_strided(self, tensor):
        """The same numbers, at times not contiguous."""
        how = self.number(4)
        if how == 0 and tensor.dim() == 1:
            return torch.stack([tensor, tensor], 1)[:, 0]
        if how == 1 and tensor.dim() == 2:
            return tensor.t().contiguous().t()
        return tensor

    def timed(self):
        return bool(self.number(2))


def each_way(draw, over):
    """The groups, and what makes a tensor fit for them: gloo takes contiguous ones only, and not of every dtype."""
    known = [torch.float16, torch.float32, torch.float64, torch.complex64, *INTEGERS]

    def for_gloo(tensor):
        return tensor.to(tensor.dtype if tensor.dtype in known else torch.float64).contiguous()

    return (over[0], for_gloo), (over[1], draw.maybe_strided)


def finish(work, later):
    if later:
        work.wait()
    else:
        assert work is None


def same(slackline_result, gloo_result):
    assert slackline_result.dtype == gloo_result.dtype
    torch.testing.assert_close(slackline_result, gloo_result, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(params=range(6))
def draw(request, generator, groups):
    return Draw(generator, dist.get_rank())


def all_to_all_single(draw, over):
    ranks, rank, dtype = dist.get_world_size(), dist.get_rank(), draw.choice(ANY)
    largest, width = draw.choice([1, 4, 50, 3000, 60_000]), draw.choice([None, 1, 3])
    rows = [[draw.number(largest + 1) * draw.number(2) for _ in range(ranks)] for _ in range(ranks)]
    uneven = draw.number(3) > 0
    if not uneven:
        rows = [[largest] * ranks] * ranks
    sends, receives = rows[rank], [of_rank[rank] for of_rank in rows]
    tail = () if width is None else (width,)
    source = draw.contents((sum(sends), *tail), dtype)
    results = []
    for group, fit in each_way(draw, over):
        output = fit(torch.zeros((sum(receives), *tail), dtype=dtype))
        splits = (receives, sends) if uneven else (None, None)
        later = draw.timed()
        finish(dist.all_to_all_single(output, fit(source), *splits, group=group, async_op=later), later)
        results.append(output.to(source.dtype))
    same(results[1], results[0])


def all_to_all(draw, over):
    """A list of tensors, which gloo does not exchange if they differ in size: it is given the whole as one."""
    ranks, rank, dtype = dist.get_world_size(), dist.get_rank(), draw.choice([*INTEGERS, *FLOATS])
    rows = [[draw.size() for _ in range(ranks)] for _ in range(ranks)]
    receives = [of_rank[rank] for of_rank in rows]
    sources = [draw.contents((size,), dtype) for size in rows[rank]]
    (gloo, for_gloo), (group, fit) = each_way(draw, over)
    outputs = [fit(torch.zeros(size, dtype=dtype)) for size in receives]
    later = draw.timed()
    finish(dist.all_to_all(outputs, sources, group=group, async_op=later), later)
    whole = for_gloo(torch.zeros(sum(receives), dtype=dtype))
    dist.all_to_all_single(whole, for_gloo(torch.cat(sources)), receives, rows[rank], group=gloo)
    same(torch.cat(outputs), whole.to(dtype))


def broadcast(draw, over):
    dtype, root = draw.choice([*INTEGERS, *FLOATS]), draw.number(dist.get_world_size())
    source = draw.contents((draw.size(),), dtype)
    results = []
    for group, fit in each_way(draw, over):
        tensor = fit(source.clone())
        finish(dist.broadcast(tensor, root, group=group, async_op=(later := draw.timed())), later)
        results.append(tensor.to(source.dtype))
    same(results[1], results[0])


def all_gather(draw, over):
    dtype = draw.choice([*INTEGERS, *FLOATS])
    source = draw.contents((draw.size(), 2), dtype)
    into_one = draw.number(2)
    results = []
    for group, fit in each_way(draw, over):
        later = draw.timed()
        source = fit(source)
        output = torch.zeros((dist.get_world_size() * source.size(0), 2), dtype=source.dtype)
        if into_one:
            finish(dist.all_gather_into_tensor(output, source.contiguous(), group=group, async_op=later), later)
        else:
            outputs = list(output.chunk(dist.get_world_size())) if source.size(0) else [output] * dist.get_world_size()
            finish(dist.all_gather(outputs, source, group=group, async_op=later), later)
        results.append(output.to(dtype))
    same(results[1], results[0])


def gather_and_scatter(draw, over):
    ranks, rank, root = dist.get_world_size(), dist.get_rank(), draw.number(dist.get_world_size())
    dtype = draw.choice([*INTEGERS, *FLOATS])
    contents = draw.contents((draw.size(),), dtype)
    results = []
    for group, fit in each_way(draw, over):
        source = fit(contents)
        like = dict(size=source.shape, dtype=source.dtype)
        gathered = [torch.zeros(**like) for _ in range(ranks)] if rank == root else None
        later = draw.timed()
        finish(dist.gather(source, gathered, root, group=group, async_op=later), later)
        back = fit(torch.zeros(**like))
        later = draw.timed()
        finish(dist.scatter(back, gathered, root, group=group, async_op=later), later)
        results.append([tensor.to(dtype) for tensor in [back, *(gathered or [])]])
    for ours, theirs in zip(*reversed(results), strict=True):
        same(ours, theirs)


def reduced(sources, op):
    """The plain computation, for what gloo lacks."""
    if sources[0].dtype == torch.bool:
        stacked = torch.stack(sources)
        return stacked.all(0) if op in (OP.MIN, OP.PRODUCT, OP.BAND) else stacked.any(0)
    result = sources[0].clone()
    for source in sources[1:]:
        if op in (OP.SUM, OP.AVG):
            result = result + source
        elif op == OP.PRODUCT:
            result = result * source
        elif op == OP.MIN:
            result = torch.minimum(result, source)
        elif op == OP.MAX:
            result = torch.maximum(result, source)
        elif op == OP.BAND:
            result = result & source
        elif op == OP.BOR:
            result = result | source
        else:
            result = result ^ source
    return result / len(sources) if op == OP.AVG else result


def reduction(draw):
    dtype = draw.choice([*INTEGERS, *FLOATS, torch.int16, torch.bool])
    if dtype == torch.bool:
        ops = [OP.SUM, OP.PRODUCT, OP.MIN, OP.MAX, OP.BAND, OP.BOR]
    elif dtype in FLOATS:
        ops = [OP.SUM, OP.PRODUCT, OP.MIN, OP.MAX, OP.AVG]
    else:
        ops = [OP.SUM, OP.PRODUCT, OP.MIN, OP.MAX, OP.BAND, OP.BOR, OP.BXOR]
    return dtype, draw.choice(ops)


def everybodys(source):
    """That of all ranks, over gloo."""
    numbers = source.to(torch.float64).contiguous()
    outputs = [torch.zeros_like(numbers) for _ in range(dist.get_world_size())]
    dist.all_gather(outputs, numbers)
    return [output.to(source.dtype) for output in outputs]


def all_reduce(draw, over):
    dtype, op = reduction(draw)
    source = draw.contents((draw.size(),), dtype)
    expected = reduced(everybodys(source), op)
    tensor = draw.maybe_strided(source.clone())
    finish(dist.all_reduce(tensor, op, group=over[1], async_op=(later := draw.timed())), later)
    same(tensor, expected)
    if dtype in (torch.float32, torch.float64, torch.int32, torch.int64) and op in (OP.SUM, OP.PRODUCT, OP.MIN, OP.MAX):
        of_gloo = source.clone().contiguous()
        dist.all_reduce(of_gloo, op, group=over[0])
        same(tensor, of_gloo)


def reduce_to_one(draw, over):
    dtype, op = reduction(draw)
    root = draw.number(dist.get_world_size())
    source = draw.contents((draw.size(),), dtype)
    expected, tensor = reduced(everybodys(source), op), source.clone()
    finish(dist.reduce(tensor, root, op, group=over[1], async_op=(later := draw.timed())), later)
    if dist.get_rank() == root:
        same(tensor, expected)


def reduce_scatter(draw, over):
    dtype, op = reduction(draw)
    ranks, size = dist.get_world_size(), draw.size()
    source = draw.contents((ranks * size,), dtype).contiguous()
    expected = reduced(everybodys(source), op)[dist.get_rank() * size :][:size]
    output = torch.zeros(size, dtype=dtype)
    later = draw.timed()
    if draw.number(2):
        finish(dist.reduce_scatter_tensor(output, source, op, group=over[1], async_op=later), later)
    else:
        parts = [source[size * rank :][:size] for rank in range(ranks)]
        finish(dist.reduce_scatter(output, parts, op, group=over[1], async_op=later), later)
    same(output, expected)


def send_and_receive(draw, over):
    ranks, rank, size = dist.get_world_size(), dist.get_rank(), draw.size()
    if ranks == 1:
        return
    _, group = over
    to, source = (rank + 1) % ranks, (rank - 1) % ranks
    first, second = torch.full((size,), rank), torch.full((size + 1,), -rank)
    works = [dist.isend(first, to, group, tag=5), dist.isend(second, to, group, tag=6)]
    got_first, got_second = torch.zeros_like(first), torch.zeros_like(second)
    # In another order than they were sent, and one of them from anybody.
    dist.recv(got_second, source, group, tag=6)
    assert dist.recv(got_first, None if ranks == 2 else source, group, tag=5) == source
    [work.wait() for work in works]
    same(got_first, torch.full((size,), source))
    same(got_second, torch.full((size + 1,), -source))


def objects(draw, over):
    ranks, rank = dist.get_world_size(), dist.get_rank()
    _, group = over
    everything = [None] * ranks
    dist.all_gather_object(everything, {"rank": rank, "list": list(range(rank))}, group)
    assert everything == [{"rank": peer, "list": list(range(peer))} for peer in range(ranks)]
    told = [f"from {rank}"]
    dist.broadcast_object_list(told, ranks - 1, group)
    assert told == [f"from {ranks - 1}"]


OPERATIONS = [
    all_to_all_single,
    all_to_all,
    broadcast,
    all_gather,
    gather_and_scatter,
    all_reduce,
    reduce_to_one,
    reduce_scatter,
    send_and_receive,
    objects,
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_operation(operation, draw, groups):
    for _ in range(8):
        operation(draw, groups)


def test_any_order(draw, groups):
    for _ in range(40):
        draw.choice(OPERATIONS)(draw, groups)


def test_many_at_once(generator, groups):
    """Asynchronous operations of all kinds and sizes, waited for in another order."""
    draw, (_, group) = Draw(generator, dist.get_rank()), groups
    ranks, rank = dist.get_world_size(), dist.get_rank()
    waits = []
    for number in range(30):
        size = draw.size()
        kind = draw.number(4)
        if kind == 0:
            tensor = torch.full((size,), float(rank + number))
            work = dist.all_reduce(tensor, group=group, async_op=True)
            wanted = torch.full((size,), float(sum(peer + number for peer in range(ranks))))
        elif kind == 1:
            tensor = torch.full((size,), rank + number)
            work = dist.broadcast(tensor, number % ranks, group=group, async_op=True)
            wanted = torch.full((size,), number % ranks + number)
        elif kind == 2:
            tensor = torch.zeros(size * ranks, dtype=torch.int16)
            work = dist.all_gather_into_tensor(tensor, torch.full((size,), rank, dtype=torch.int16), group, True)
            wanted = torch.arange(ranks, dtype=torch.int16).repeat_interleave(size)
        else:
            tensor = torch.zeros(size * ranks)
            source = torch.full((size * ranks,), float(rank))
            work = dist.all_to_all_single(tensor, source, group=group, async_op=True)
            wanted = torch.arange(ranks).float().repeat_interleave(size)
        waits.append((work, tensor, wanted))
    for at in torch.randperm(len(waits), generator=draw.own):
        work, tensor, wanted = waits[at]
        work.wait()
        same(tensor, wanted)
        assert work.is_completed() and work.is_success() and work.exception() is None


def test_subgroups(groups):
    ranks, rank = dist.get_world_size(), dist.get_rank()
    for members in ([0], list(range(ranks - 1, -1, -1)), list(range(0, ranks, 2)), list(range(ranks // 2, ranks))):
        group = dist.new_group(members, backend="slackline")
        if rank in members:
            total = torch.tensor([rank + 1])
            dist.all_reduce(total, group=group)
            assert total.item() == sum(member + 1 for member in members)
            root = max(members)
            told = torch.tensor([rank])
            dist.broadcast(told, root, group=group)
            assert told.item() == root
            dist.destroy_process_group(group)


def test_functional_collectives_and_inference_mode(groups):
    _, group = groups
    ranks, rank = dist.get_world_size(), dist.get_rank()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            source = torch.full((2 * ranks, 3), float(rank))
            got = functional.all_to_all_single(source, None, None, group) + 0
            same(got, torch.arange(ranks).float().repeat_interleave(2).unsqueeze(1).expand(-1, 3))
            total = functional.all_reduce(torch.ones(5), "sum", group) + 0
            same(total, torch.full((5,), float(ranks)))
            gathered = functional.all_gather_tensor(torch.full((2,), rank), 0, group) + 0
            same(gathered, torch.arange(ranks).repeat_interleave(2))
            scattered = functional.reduce_scatter_tensor(torch.ones(3 * ranks), "sum", 0, group) + 0
            same(scattered, torch.full((3,), float(ranks)))
            output = torch.zeros(ranks)
            dist.all_to_all_single(output, torch.full((ranks,), float(rank)), group=group, async_op=True).wait()
            same(output, torch.arange(ranks).float())


def test_futures(groups):
    _, group = groups
    for size in (1, 500_000):
        tensor = torch.ones(size)
        future = dist.all_reduce(tensor, group=group, async_op=True).get_future()
        twice = future.then(lambda future: future.value()[0] * 2).wait()
        same(twice, torch.full((size,), 2.0 * dist.get_world_size()))


def test_distributed_data_parallel(groups):
    """Gradients are those that gloo's group gives."""
    def gradients(group):
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 1))
        parallel = torch.nn.parallel.DistributedDataParallel(model, process_group=group)
        torch.manual_seed(dist.get_rank())
        for _ in range(2):
            parallel(torch.randn(8, 20)).sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    for theirs, ours in zip(*map(gradients, groups), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_barriers_and_batches_of_messages(groups):
    _, group = groups
    ranks, rank = dist.get_world_size(), dist.get_rank()
    dist.barrier(group)
    # Older versions of torch refuse to call it for other backends than gloo.
    group.monitored_barrier()
    if ranks > 1:
        out, into = torch.tensor([rank]), torch.tensor([-1])
        peers = [(rank + 1) % ranks, (rank - 1) % ranks]
        ops = [dist.P2POp(dist.isend, out, peers[0], group), dist.P2POp(dist.irecv, into, peers[1], group)]
        [work.wait() for work in dist.batch_isend_irecv(ops)]
        assert into.item() == peers[1]


def test_arguments_are_refused_by_name(groups):
    _, group = groups
    ranks = dist.get_world_size()
    tensor = torch.zeros(2 * ranks)
    with pytest.raises(ValueError, match="input_split_sizes"):
        dist.all_to_all_single(torch.zeros(2 * ranks), tensor, [2] * ranks, [1] * ranks, group=group)
    with pytest.raises(ValueError, match="uint16"):
        dist.all_reduce(torch.zeros(3, dtype=torch.uint16), dist.ReduceOp.SUM, group=group)
    with pytest.raises(ValueError, match="average"):
        dist.all_reduce(torch.zeros(3, dtype=torch.int32), dist.ReduceOp.AVG, group=group)
    with pytest.raises((ValueError, RuntimeError), match="sparse|dense"):
        dist.all_reduce(torch.eye(2).to_sparse(), group=group)
    with pytest.raises((ValueError, RuntimeError), match="meta"):
        dist.broadcast(torch.zeros(2, device="meta"), 0, group=group)
    # Nothing of it was sent.
    dist.all_reduce(tensor, group=group)
