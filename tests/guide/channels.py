def on_output(data: bytes, stream_type: str):
    # Route output to the correct system stream based on its type
    if stream_type == "stdout":
        sys.stdout.buffer.write(data)  # Normal output goes to stdout
    elif stream_type == "stderr":
        sys.stderr.buffer.write(data)  # Error output goes to stderr

stream.on_output(on_output)
