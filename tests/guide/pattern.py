import asyncio

async def wait_for_prompt():
    # Create an asyncio Event that will be set when the pattern is found
    found = asyncio.Event()

    def check_output(data: bytes):
        # Check if the shell prompt character appears in the output
        if b"$" in data or b">" in data:
            found.set()  # Signal that the pattern was detected

    stream.on_output(check_output)
    await stream.attach(session.session_id)
    await stream.send_input(b"cd /app\n")

    # Block until the prompt appears or timeout after 10 seconds
    await asyncio.wait_for(found.wait(), timeout=10)
    print("Command completed!")
