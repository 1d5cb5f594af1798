"""Rounds of bounded lag return exactly what the ranks sent for them."""

import pytest
import torch
import torch.distributed as dist

import slackline


def rows_of(number, sender, receiver):
    """Uneven, often nothing, at times far more than a slot."""
    mix = (number * 7 + sender * 3 + receiver * 5) % 11
    return [0, 1, 0, 4, 13, 0, 2, 200, 7, 1, 40_000 if number % 6 == 0 else 3][mix]


@pytest.mark.parametrize("delivery", ["elastic", "fixed"])
@pytest.mark.parametrize("lag", [0, 1, 4])
@pytest.mark.parametrize("over", [0, 1], ids=["beside gloo", "slackline"])
def test_rounds_are_exact_and_in_order(groups, lag, delivery, over):
    ranks, rank = dist.get_world_size(), dist.get_rank()
    exchange = slackline.BoundedLagAllToAll(groups[over], lag=lag, delivery=delivery)
    taken = []

    def check(rounds):
        for number, output in rounds:
            wanted = [torch.full((rows_of(number, peer, rank), 2), float(1000 * number + peer)) for peer in range(ranks)]
            torch.testing.assert_close(output, torch.cat(wanted), rtol=0, atol=0)
            taken.append(number)

    for number in range(25):
        sends = [rows_of(number, rank, peer) for peer in range(ranks)]
        receives = [rows_of(number, peer, rank) for peer in range(ranks)]
        source = torch.full((sum(sends), 2), float(1000 * number + rank))
        assert exchange.submit(source, receives, sends) == number
        source.fill_(-1)
        check(exchange.take())
        assert number - lag <= len(taken) - 1 + (0 if lag or delivery == "elastic" else 1)
        if delivery == "fixed":
            assert len(taken) == max(0, number + 1 - lag)
        if number == 12:
            check(exchange.flush())
            assert len(taken) == 13
            if delivery == "fixed":
                break
    check(exchange.drain())
    assert taken == list(range(len(taken))) and len(taken) in (13, 25)
    stats = exchange.stats()
    assert stats["rounds"] == stats["taken"] == len(taken)
    assert max(stats["observed_lag"]) <= lag and sum(stats["observed_lag"].values()) == len(taken)
    with pytest.raises(slackline.CollectiveError, match="drained"):
        exchange.submit(torch.zeros(ranks))
    exchange.close()


def test_rounds_nobody_asked_for_are_kept(groups):
    exchange = slackline.BoundedLagAllToAll(groups[1], lag=1)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    for number in range(6):
        exchange.submit(torch.full((ranks,), 10 * number + rank))
    taken = list(exchange.drain())
    assert [number for number, _ in taken] == list(range(6))
    assert all(output.tolist() == [10 * number + peer for peer in range(ranks)] for number, output in taken)


def test_a_forward_pass_that_yields(groups):
    ranks, rank = dist.get_world_size(), dist.get_rank()

    class Model(torch.nn.Module):
        def forward(self, batch):
            received = yield torch.full((ranks, 2), float(batch))
            return batch, received.sum().item()

    lagged = slackline.bounded_lag(Model(), lag=3, group=groups[1])
    answers = []
    for batch in range(10):
        answers += lagged(batch)
    answers += lagged.drain()
    assert answers == [(batch, (batch, 2.0 * batch * ranks)) for batch in range(10)]
    assert lagged.stats()["rounds"] == 10


def test_arguments(groups):
    for wrong, match in [({"lag": -1}, "lag"), ({"delivery": "later"}, "delivery")]:
        with pytest.raises(ValueError, match=match):
            slackline.BoundedLagAllToAll(groups[1], **wrong)
