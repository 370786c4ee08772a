from __future__ import annotations

import random

import pytest
from fake_device import make_sequence

from vllm_jax.scheduler.queue import WaitingQueue


def waiting(order):
    seq = make_sequence([1])
    seq.order = order
    return seq


def test_order_is_priority_then_arrival_then_number():
    orders = [(0, 2.0, 3), (0, 1.0, 4), (-1, 9.0, 5), (0, 1.0, 2), (7, 0.0, 1)]
    queue = WaitingQueue()
    for order in orders:
        queue.push(waiting(order))
    assert len(queue) == 5
    assert [queue.pop().order for _ in orders] == sorted(orders)
    with pytest.raises(IndexError):
        queue.pop()


def test_a_sequence_that_comes_back_is_in_front_again():
    queue = WaitingQueue()
    first, second = waiting((0, 0.0, 1)), waiting((0, 0.0, 2))
    queue.push(first)
    queue.push(second)
    assert queue.pop() is first
    queue.push(first)
    assert queue.peek() is first
    with pytest.raises(ValueError, match="waits already"):
        queue.push(first)


def test_removal_against_a_sorted_list():
    rng = random.Random(0)
    queue, model = WaitingQueue(), []
    for number in range(2000):
        action = rng.random()
        if action < 0.5 or not model:
            seq = waiting((rng.randrange(3), 0.0, number))
            queue.push(seq)
            model.append(seq)
        elif action < 0.7:
            model.sort(key=lambda s: s.order)
            assert queue.pop() is model.pop(0)
        else:
            seq = model.pop(rng.randrange(len(model)))
            queue.remove(seq)
            if rng.random() < 0.3:
                queue.push(seq)
                model.append(seq)
        assert len(queue) == len(model) == len(list(queue))
        assert all(seq in queue for seq in model)
    model.sort(key=lambda s: s.order)
    assert [queue.pop() for _ in model] == model


def test_removed_entries_do_not_pile_up():
    queue = WaitingQueue()
    queue.push(waiting((0, 0.0, 0)))
    for number in range(1, 500):
        seq = waiting((1, 0.0, number))
        queue.push(seq)
        queue.remove(seq)
    assert len(queue._heap) < 50
    with pytest.raises(KeyError):
        queue.remove(seq)
