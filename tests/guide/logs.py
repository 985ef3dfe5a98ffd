import re

class LogProcessor:
    def __init__(self):
        self.error_count = 0
        self.warning_count = 0

    def process(self, data: bytes):
        text = data.decode()

        # Split output into individual lines and classify each one
        for line in text.split("\n"):
            if re.search(r"ERROR|FATAL", line):
                self.error_count += 1
                self.alert(line)  # Immediately alert on errors
            elif re.search(r"WARN", line):
                self.warning_count += 1

    def alert(self, message):
        # Forward critical messages to external services (Slack, PagerDuty, etc.)
        send_notification(message)

processor = LogProcessor()

# Register the processor's process method as the output handler
stream.on_output(processor.process)
await stream.attach(session.session_id)

# Start tailing the log file for continuous monitoring
await stream.send_input(b"tail -f /var/log/app.log\n")
