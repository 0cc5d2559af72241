import json

from app import Ticker

from wsworker.testing import FakeConnection, FakeWorker


def test_slot_1_ticks_for_everybody():
    worker = FakeWorker(slot=1)
    client = FakeConnection(worker)
    ticker = Ticker()
    ticker.on_worker_start(worker)
    ticker.on_connect(client)
    [timer] = worker.timers
    for _ in range(100):
        timer.fn()
    ticks = [json.loads(message) for message in client.sent]
    numbers = [tick["number"] for tick in ticks]
    assert numbers == list(range(numbers[0], numbers[0] + 100))
    assert all(tick["price"] >= 1 for tick in ticks)


def test_the_others_do_not():
    worker = FakeWorker(slot=2)
    Ticker().on_worker_start(worker)
    assert worker.timers == []


def test_a_worker_that_is_replaced_stops_ticking():
    worker = FakeWorker(slot=1)
    ticker = Ticker()
    ticker.on_worker_start(worker)
    ticker.on_worker_reload(worker)
    assert worker.timers[0].cancelled
