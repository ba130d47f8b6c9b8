"""The chain of links refuses to apply a micro-batch twice or to leave one out."""

import pytest

from iiot_dask.stream.work import ChainError, Link, Order, pick, run_step


def order(index):
    return Order(index, 0, flush=False, epoch_first=0, stop=index + 1)


def test_links_follow_each_other(sum_work, batch_of):
    work = sum_work()
    first = run_step(work, None, 0, 1, batch_of(0), order(0))
    second = run_step(work, first, 0, 1, batch_of(1), order(1))
    assert (first.index, second.index) == (-1, 2)
    assert pick(second).output["sum"] == batch_of(0).value.sum() + batch_of(1).value.sum()


def test_a_link_is_used_once(sum_work, batch_of):
    work = sum_work()
    first = run_step(work, None, 3, 4, batch_of(0), order(0))
    run_step(work, first, 3, 4, batch_of(1), order(1))
    with pytest.raises(ChainError, match="shard 3: state has seen -1 micro-batches of the epoch, order is number 1"):
        run_step(work, first, 3, 4, batch_of(1), order(1))


def test_a_missing_link_is_refused(sum_work, batch_of):
    first = run_step(sum_work(), None, 0, 1, batch_of(0), order(0))
    with pytest.raises(ChainError, match="order is number 2"):
        run_step(sum_work(), first, 0, 1, batch_of(2), order(2))
    with pytest.raises(ChainError, match="order number 1 came with a checkpoint; only number 0 may"):
        run_step(sum_work(), b"{}", 0, 1, batch_of(1), order(1))


def test_a_link_whose_step_failed_is_spent(sum_work, batch_of):
    work = sum_work(poison=1000.0)
    first = run_step(work, None, 0, 1, batch_of(0), order(0))
    with pytest.raises(ValueError, match="poison"):
        run_step(work, first, 0, 1, batch_of(1), order(1))
    with pytest.raises(ChainError):
        run_step(work, first, 0, 1, batch_of(1), order(1))


def test_a_checkpoint_starts_the_state(sum_work, batch_of):
    link = run_step(sum_work(), b'{"sum": 5.0, "steps": 7}', 0, 1, batch_of(0), order(0))
    assert isinstance(link, Link)
    assert link.state["steps"] == 8
    assert pick(link).output["sum"] == 5.0 + batch_of(0).value.sum()
