"""How fast lines are searched: by either engine, as they get more, as they get long, and beside pexpect."""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pexpect import EOF
from pexpect.spawnbase import SpawnBase

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.patterns import Grep, Searcher

CHUNK = 64 * 1024  # bytes; a frame of the links
FEED = 16  # chunks a cursor takes at once
MB = 1_000_000
TRIES = 3  # of which the best counts: the machine does other things as well
ROUNDS = 5  # of which the middle one counts, where one figure is divided by another

LINE = b"2026-11-22T10:00:00.123Z INFO worker-%02d request id=%08x path=/api/v1/items/%05d status=200 took=%02d ms\n"
PORT = r"listening on port (\d+)"  # google-re2 decides
FAIL = r"Traceback|ERROR|FATAL|panic"
STATUS = r"status=(?!200)\d+"  # google-re2 cannot, and stops on every line

Row = dict[str, Any]


def log_of(data: bytes) -> list[Chunk]:
    return [Chunk(start, "stdout", 0, 0, data[start : start + CHUNK]) for start in range(0, len(data), CHUNK)]


def log_lines(size: int, line: bytes = LINE) -> bytes:
    some = b"".join(line % (n % 16, n * 2654435761 % 2**32, n % 99_999, n % 97) for n in range(20_000))
    return (some * (size // len(some) + 1))[:size]


def batches(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    return (chunks[start : start + FEED] for start in range(0, len(chunks), FEED))


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest try."""
    return min(seconds(work, time.perf_counter) for _ in range(TRIES))


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


def search(chunks: Sequence[Chunk], patterns: Sequence[str], fail: Sequence[str] = ()) -> None:
    searcher = Searcher(patterns, fail)
    for batch in batches(chunks):
        if searcher.feed(batch) is not None:
            raise AssertionError("nothing of this is in the log")


def searching(chunks: Sequence[Chunk], patterns: Sequence[str], fail: Sequence[str] = ()) -> float:
    return best(lambda: search(chunks, patterns, fail))


def growth(chunks: Sequence[Chunk], pattern: str) -> float:
    """How many times the processor's work a log takes, of that for a tenth of it."""
    tenth = chunks[: len(chunks) // 10]

    def once() -> float:
        whole = seconds(lambda: search(chunks, [pattern]), time.process_time)
        tenths = [seconds(lambda: search(tenth, [pattern]), time.process_time) for _ in range(10)]
        return whole / statistics.mean(tenths)

    return statistics.median(once() for _ in range(ROUNDS))


def grepping(chunks: Sequence[Chunk], pattern: str) -> float:
    def work() -> None:
        grep = Grep(pattern)
        if any(grep.feed(batch) for batch in batches(chunks)):
            raise AssertionError("nothing of this is in the log")

    return best(work)


class Read(SpawnBase):
    """A program whose output is read from a list, for pexpect."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        super().__init__(maxread=CHUNK)
        self._chunks = iter(chunks)

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:
        try:
            return next(self._chunks).data
        except StopIteration:
            raise EOF("that was all") from None


def expecting(chunks: Sequence[Chunk], pattern: str) -> float:
    return best(lambda: Read(chunks).expect([re.compile(pattern.encode()), EOF], timeout=None))


def each_chunk(chunks: Sequence[Chunk], pattern: str) -> float:
    find = re.compile(pattern.encode()).search
    return best(lambda: any(find(chunk.data) for chunk in chunks))


def main(full: bool) -> list[Row]:
    """Measure; `full` takes 100 MB instead of 20."""
    size = (100 if full else 20) * MB
    data = log_lines(size)
    large = log_of(data)
    coloured = log_of(log_lines(size // 2, b"\x1b[2m" + LINE.replace(b"INFO", b"\x1b[0m\x1b[32mINFO\x1b[0m")))
    russian = log_of(log_lines(size // 2, LINE.replace(b"request", "запрос".encode())))
    endless = log_of(b"x" * (size // 2))
    rival_size = (5 if full else 2) * MB
    rival = log_of(data[:rival_size])

    def row(name: str, value: float, unit: str, bound: str | None = None, detail: str = "") -> Row:
        return {"name": name, "value": value, "unit": unit, "bound": bound, "detail": detail}

    def speed(of: Sequence[Chunk], seconds: float) -> float:
        return sum(len(chunk.data) for chunk in of) / seconds / MB

    quick, must = searching(large, [PORT]), searching(large, [STATUS])
    expected, ours = expecting(rival, PORT), searching(rival, [PORT])
    lines = f"{size // MB} MB of lines of about 100 bytes"
    return [
        row("line search, google-re2 decides", speed(large, quick), "MB/s", ">= 300", f"/{PORT}/, {lines}"),
        row("line search, regex must", speed(large, must), "MB/s", ">= 40", f"/{STATUS}/, stops on every line"),
        row("... ten times as much, google-re2", growth(large, PORT), "times", "<= 12"),
        row("... ten times as much, regex", growth(large, STATUS), "times", "<= 12"),
        row("... with a fail pattern", speed(large, searching(large, [PORT], [FAIL])), "MB/s", None, f"/{FAIL}/"),
        row("... in colour", speed(coloured, searching(coloured, [PORT])), "MB/s", None, "4 sequences a line"),
        row("... not ASCII", speed(russian, searching(russian, [PORT])), "MB/s"),
        row("... without a newline", speed(endless, searching(endless, [PORT])), "MB/s"),
        row("grep", speed(large, grepping(large, PORT)), "MB/s", None, "no line matches"),
        row("line search beside pexpect", expected / ours, "times as fast", None, f"{rival_size // MB} MB"),
        row("pexpect", speed(rival, expected), "MB/s", None, "its buffer grows, and is searched at each read"),
        row("re, chunk by chunk", speed(large, each_chunk(large, PORT)), "MB/s", None, "misses what a chunk cuts"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="100 MB instead of 20")
    for measured in main(parser.parse_args().full):
        bound = measured["bound"] or ""
        print(f"{measured['name']:36} {measured['value']:10.4g} {measured['unit']:14} {bound:8} {measured['detail']}")
    sys.exit(0)
