# Good: async handler does not block the event loop during network/disk I/O
async def on_output(data):
    await save_to_db(data)

# Avoid: sync handler blocks the event loop while waiting for I/O
def on_output(data):
    save_to_db_sync(data)  # Blocks event loop, delays all other tasks
