import asyncio
from collections import deque

class BufferedHandler:
    def __init__(self, flush_interval=0.1):
        self.buffer = deque()  # Thread-safe double-ended queue
        self.flush_interval = flush_interval  # Seconds between flushes

    def add(self, data: bytes):
        # Append incoming data to the buffer (called per output chunk)
        self.buffer.append(data)

    async def run(self):
        while True:
            if self.buffer:
                # Drain the entire buffer into a batch for processing
                batch = list(self.buffer)
                self.buffer.clear()
                await self.process_batch(batch)
            # Wait before checking for more data (controls processing rate)
            await asyncio.sleep(self.flush_interval)

    async def process_batch(self, batch):
        # Combine all buffered chunks into one for efficient processing
        combined = b"".join(batch)
        print(combined.decode(), end="")

handler = BufferedHandler()
stream.on_output(handler.add)

# Run the buffer processor as a background task alongside the stream
asyncio.create_task(handler.run())
