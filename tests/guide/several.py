# Handler 1: print output to the console in real-time
stream.on_output(lambda d: print(d.decode(), end=""))

# Handler 2: write raw bytes to a log file for later review
log_file = open("session.log", "ab")
stream.on_output(lambda d: log_file.write(d))

# Handler 3: check each chunk for error patterns and send alerts
stream.on_output(lambda d: alert_if_error(d))
