# Binary data (e.g., from cat-ing a file) is passed as raw bytes
def on_binary_output(data: bytes):
    # Append binary data to a file (open in append-binary mode)
    with open("output.bin", "ab") as f:
        f.write(data)

stream.on_output(on_binary_output)

# Stream the contents of a binary file from the remote machine
await stream.send_input(b"cat /path/to/binary.file\n")
