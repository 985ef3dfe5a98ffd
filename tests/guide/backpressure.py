import asyncio

class FlowControlledHandler:
    def __init__(self, max_queue=1000):
        # Bounded queue prevents unbounded memory growth under high load
        self.queue = asyncio.Queue(maxsize=max_queue)

    def add(self, data: bytes):
        try:
            # Non-blocking put: add data if queue has capacity
            self.queue.put_nowait(data)
        except asyncio.QueueFull:
            # Drop oldest data or handle overflow when consumer is too slow
            pass

    async def consume(self):
        while True:
            # Block until data is available, then process it
            data = await self.queue.get()
            await self.process(data)
            self.queue.task_done()  # Signal that this item is done
