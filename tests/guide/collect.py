# Initialize a list to accumulate output chunks as they arrive
output_buffer = []

def collect(data: bytes):
    # Append each raw byte chunk to the buffer
    output_buffer.append(data)

stream.on_output(collect)
await stream.attach(session.session_id)
await stream.send_input(b"ls -la\n")
await asyncio.sleep(2)

# Join all chunks and decode to get the complete output as a string
full_output = b"".join(output_buffer).decode()
print(full_output)
