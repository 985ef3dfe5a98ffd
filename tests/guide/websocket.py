from fastapi import WebSocket

async def stream_to_websocket(websocket: WebSocket, hostname: str):
    async with AsyncCMDOPClient() as client:
        session = await client.terminal.get_active_session(hostname)
        stream = client.terminal.stream()

        # Forward each output chunk from the terminal to the WebSocket client
        async def forward_output(data: bytes):
            await websocket.send_bytes(data)

        stream.on_output_async(forward_output)
        await stream.attach(session.session_id)

        # Receive user input from the WebSocket and forward to the terminal
        while True:
            data = await websocket.receive_bytes()
            await stream.send_input(data)
