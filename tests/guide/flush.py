def on_output(data):
    # flush=True forces immediate write to the terminal (no buffering delay)
    print(data.decode(), end="", flush=True)
