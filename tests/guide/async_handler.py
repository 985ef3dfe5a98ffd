async def handle_output(data: bytes):
    text = data.decode()

    # Perform async I/O operations like database writes and WebSocket sends
    await save_to_database(text)
    await send_to_websocket(text)

    # Detect error patterns in real-time and trigger alerts
    if "error" in text.lower():
        await send_alert(text)

# Use on_output_async for handlers that need to await async operations
stream.on_output_async(handle_output)
