"""One price for everybody: the worker in slot 1 publishes it, the bus carries it to the clients of all workers."""

import json
import random
import time

SECONDS = 0.1


class Ticker:
    """app:Ticker in config.yaml: each worker makes one, so what it keeps is its own."""

    def on_worker_start(self, worker):
        self.worker = worker
        self.price = 100.0
        # counted from the clock, not from 0: whoever takes over slot 1 goes on with larger numbers
        self.number = int(time.time() / SECONDS)
        self.timer = worker.every(SECONDS, self.tick) if worker.slot == 1 else None

    def on_worker_reload(self, worker):
        if self.timer:
            self.timer.cancel()  # the new worker in slot 1 ticks already

    def on_connect(self, connection):
        connection.subscribe("price")

    def tick(self):
        self.number += 1
        self.price = max(1.0, self.price * random.gauss(1, 0.002))
        tick = {"number": self.number, "price": round(self.price, 2)}
        self.worker.publish("price", json.dumps(tick))
