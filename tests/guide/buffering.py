# Use a short flush interval for streams producing thousands of lines/second
handler = BufferedHandler(flush_interval=0.05)  # Flush every 50ms
