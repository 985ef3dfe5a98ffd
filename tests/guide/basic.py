from cmdop_jupyter import AsyncCMDOPClient

async with AsyncCMDOPClient() as client:
    session = await client.terminal.get_active_session("my-server")
    stream = client.terminal.stream()

    # Define a callback that fires for each chunk of output received
    def on_output(data: bytes):
        # Decode bytes to string; flush=True ensures immediate display
        print(data.decode(), end="", flush=True)

    # Register the callback to receive real-time output
    stream.on_output(on_output)

    # Attach to the session and start a long-running build
    await stream.attach(session.session_id)
    await stream.send_input(b"./long_build.sh\n")

    # Keep the connection open to continue receiving output (5 minutes)
    await asyncio.sleep(300)
