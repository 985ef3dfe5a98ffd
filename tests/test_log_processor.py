"""LogProcessor: what it counts, alerts and refuses, alone and on streams of real sessions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from live import live_terminal
from naive import Record, lines

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import InvalidRequest, PatternError, PatternTooSlow
from cmdop_jupyter.handlers import LogProcessor, Rule

SLOW = r"(a|a)+(?!.)"
ATOMS = [
    b"ERROR",
    b"ERR",
    b"OR",
    b"WARN",
    b"a",
    b"\n",
    b"\r",
    b"\r\n",
    "é".encode(),
    b"\xe2",
    b"\x9c",
    b"\x93",
    b"\xff",
]
ATOMS += [b"\x1b[31m", b"\x1b", b"[0m", b"\x1b]0;ERROR\x07"]
PIECE = st.lists(st.sampled_from(ATOMS), max_size=6).map(b"".join)
PIECES = st.lists(PIECE, max_size=12)


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


async def test_the_guides_processor_counts_what_a_stream_says(terminal):
    class Processor(LogProcessor):
        def alert(self, message: str) -> None:
            alerts.append(message)

    alerts: list[str] = []
    processor = Processor()
    stream = await terminal.create(command="echo 'a FATAL one'; echo 'WARN me' >&2; echo fine; printf ERROR")

    await stream.on_output(processor.process)
    processor.finish()

    assert (processor.error_count, processor.warning_count, alerts) == (2, 1, ["a FATAL one", "ERROR"])


@given(pieces=PIECES)
def test_counts_and_alerts_do_not_depend_on_how_the_bytes_were_cut(pieces):
    def seen_in(parts: list[bytes]) -> tuple[dict[str, int], list[str]]:
        alerts: list[str] = []
        processor = LogProcessor({"error": "ERROR", "odd": r"^\w+$|\ufffd", "warning": "WARN"}, alert=alerts.append)
        for part in parts:
            processor.process(part)
        processor.finish()
        return processor.counts, alerts

    assert seen_in(pieces) == seen_in([b"".join(pieces)])


@given(pieces=st.lists(st.tuples(st.sampled_from(["stdout", "stderr", "tty"]), PIECE), max_size=12))
def test_lines_are_those_of_each_channel(pieces):
    alerts: list[str] = []
    processor = LogProcessor(alert=alerts.append)
    for channel, data in pieces:
        processor.process(data, channel)
    processor.finish()

    records = [Record(channel, 0, data) for channel, data in pieces]
    wanted = [line.text for line in lines(records) if regex.search("ERROR|FATAL", line.text)]
    assert alerts == wanted
    assert processor.error_count == len(wanted)


RULES = {
    "e": "ERR|OR$",
    "word": r"^\w+$",
    "odd": r"\ufffd(?!a)",
    "twice": r"(.)\1",
    "caps": re.compile("warn", re.I),
    "empty": r"^$",
}


@given(pieces=PIECES, names=st.lists(st.sampled_from(list(RULES)), unique=True))
def test_rules_are_asked_in_order_line_by_line_as_by_re(pieces, names):
    seen: list[tuple[str, str]] = []
    wanted = []
    processor = LogProcessor(
        [Rule(name, RULES[name], lambda text, name=name: seen.append((name, text))) for name in names]
    )
    for piece in pieces:
        processor.process(piece)
    processor.finish()

    for line in lines([Record("stdout", 0, piece) for piece in pieces]):
        name = next((name for name in names if re.search(RULES[name], line.text)), None)
        if name is not None:
            wanted.append((name, line.text))
    assert seen == wanted
    assert processor.counts == {name: sum(one == name for one, _ in wanted) for name in names}


def test_a_str_is_a_line():
    processor = LogProcessor({"all": "^one ERROR$"})

    processor.process("one ERROR")
    processor.process("", "stderr")
    processor.process("one ERROR", "stderr")

    assert processor.counts == {"all": 2}


@pytest.mark.parametrize("unit", ["chunk", "line"])
async def test_it_takes_chunks_and_lines_of_a_stream(terminal, unit):
    processor = LogProcessor()
    stream = await terminal.create(command="echo 'ERROR ✓'; echo; echo WARN >&2; seq 1000; echo FATAL")

    subscription = stream.on_output(processor.process, unit=unit)
    await subscription

    assert (processor.counts, subscription.errors) == ({"error": 2, "warning": 1}, 0)


def test_the_first_rule_that_matches_counts_a_line():
    processor = LogProcessor({"timeout": "timed out", "error": "ERROR"})

    processor.process(b"ERROR: timed out\nERROR\nfine\n")

    assert processor.counts == {"timeout": 1, "error": 1}
    assert (processor.error_count, processor.warning_count) == (1, 0)


def test_a_line_counts_when_it_is_whole():
    processor = LogProcessor()

    processor.process(b"this is an ERR")
    assert processor.error_count == 0
    processor.process(b"OR\nWARN")
    assert (processor.error_count, processor.warning_count) == (1, 0)
    processor.finish()
    assert processor.warning_count == 1


def test_colours_inside_a_word_do_not_hide_it():
    processor = LogProcessor()

    processor.process(b"\x1b[31mERR\x1b[1mOR\x1b[0m\n")

    assert processor.error_count == 1


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (r"x{s}", "yyy", False),  # a fuzzy match, for `regex`
        (r"x{s}", "x{s}", True),
        (r"^x{2}$", "xx", True),
        (r"^x{1,2}$", "xx", True),
        (r"[{e}]", "}", True),
        (r"\N{DIGIT ONE}", "1", True),
        ('{"level": "error"', '{"level": "error"}', True),
        (re.compile("error", 2), "ERROR", True),
        (re.compile(r"^\w$", 256), "é", False),  # re.ASCII, which has another number in `regex`
        (re.compile(r"^\w$"), "é", True),
        (regex.compile(r"\p{Lu}"), "É", True),
        ("a.c", "abc", True),
        ("a|b c", "b c", True),
        ("", "anything", True),
    ],
)
def test_patterns_mean_what_python_means(pattern, line, found):
    processor = LogProcessor({"it": pattern})

    processor.process(line.encode() + b"\n")

    assert processor.counts == {"it": int(found)}


@pytest.mark.parametrize(
    ("pattern", "position"),
    [("a(", 1), ("*", 0), (b"bytes", None), (None, None), (re.compile(b"a"), None)],
)
def test_a_pattern_that_does_not_compile_is_told_at_once(pattern, position):
    with pytest.raises(PatternError) as told:
        Rule("it", pattern)

    assert position is None or told.value.position is not None


def test_a_pattern_that_is_too_slow_skips_its_line_and_no_other():
    processor = LogProcessor({"slow": SLOW, "error": "ERROR"})

    with pytest.raises(PatternTooSlow) as told:
        processor.process(b"ERROR first\n" + b"a" * 100 + b"! ERROR\nERROR last\naaa\n")

    assert processor.counts == {"slow": 1, "error": 3}
    assert (told.value.pattern, told.value.offset, told.value.line_head) == (SLOW, 12, "a" * 80)


def test_a_pattern_that_is_always_too_slow_is_switched_off_and_that_is_told(caplog):
    processor = LogProcessor({"slow": SLOW, "error": "ERROR"})

    with pytest.raises(PatternTooSlow):
        processor.process((b"a" * 100 + b"! ERROR\n") * 500)

    assert processor.error_count == 500
    assert "rule 'slow' was too slow on 10 lines and is off now" in caplog.text
    assert repr(processor) == "<LogProcessor: 54 kB, lines: 0 slow (off), 500 error>"


def test_rates_are_lines_a_second_of_the_last_seconds():
    now = 1000.0
    processor = LogProcessor(clock=lambda: now)
    processor.process(b"ERROR\n" * 6 + b"WARN\n")
    now += 30
    processor.process(b"ERROR\n" * 6)

    assert processor.rates() == {"error": 12 / 60, "warning": 1 / 60}
    assert processor.rates(10) == {"error": 6 / 10, "warning": 0}
    now += 45
    assert processor.rates() == {"error": 6 / 60, "warning": 0}


def test_the_memory_of_rates_is_bounded():
    now = 0.0
    processor = LogProcessor(clock=lambda: now)
    for _ in range(10_000):
        processor.process(b"ERROR\n")
        now += 0.75

    assert processor.rates(3600)["error"] == pytest.approx(1 / 0.75, rel=0.01)
    assert len(processor._tallies[0].recent) <= 3601


def test_an_alert_is_given_once_or_not_more_often_than_its_cooldown():
    now, once, calm = 0.0, [], []
    rules = [Rule("once", "A", once.append, once=True), Rule("calm", "B", calm.append, cooldown=10)]
    processor = LogProcessor(rules, clock=lambda: now)

    processor.process(b"A1\nB1\nA2\nB2\n")
    now = 9.9
    processor.process(b"A3\nB3\n")
    now = 10.0
    processor.process(b"A4\nB4\n")

    assert (once, calm) == (["A1"], ["B1", "B4"])
    assert processor.counts == {"once": 4, "calm": 4}
    assert processor.held_back == {"once": 3, "calm": 2}
    assert repr(processor).endswith("; 5 alerts held back>")


def test_a_rule_may_have_an_alert_of_its_own():
    own, usual = [], []
    processor = LogProcessor([Rule("oom", "memory", own.append), Rule("error", "ERROR")], alert=usual.append)

    processor.process(b"ERROR: out of memory\nERROR\n")

    assert (own, usual) == (["ERROR: out of memory"], ["ERROR"])


def test_an_alert_that_raises_loses_no_line(caplog):
    seen: list[str] = []

    def alert(line: str) -> None:
        seen.append(line)
        raise LookupError(line)

    processor = LogProcessor(alert=alert)

    with pytest.raises(LookupError, match="ERROR 1"):
        processor.process(b"ERROR 1\nWARN\nERROR 2\nhalf ERR")
    processor.process(b"\n")

    assert (seen, processor.counts) == (["ERROR 1", "ERROR 2"], {"error": 2, "warning": 1})
    assert "LookupError: ERROR 2" in caplog.text


async def test_async_alerts_are_done_when_what_process_returns_is_done():
    seen: list[str] = []

    class Processor(LogProcessor):
        async def alert(self, line: str) -> None:
            await asyncio.sleep(0)
            seen.append(line)

    done = Processor().process(b"ERROR 1\nERROR 2\n")

    assert seen == []
    await done
    assert seen == ["ERROR 1", "ERROR 2"]


async def test_async_alerts_are_given_though_nobody_awaits_them():
    seen: asyncio.Queue[str] = asyncio.Queue()

    LogProcessor(alert=seen.put).process(b"ERROR\n")

    assert await seen.get() == "ERROR"


def test_async_alerts_are_given_without_a_loop_too():
    seen: list[str] = []

    async def alert(line: str) -> None:
        await asyncio.sleep(0)
        seen.append(line)
        raise LookupError(line)

    with pytest.raises(LookupError):
        LogProcessor(alert=alert).process(b"ERROR 1\nERROR 2\n")
    assert seen == ["ERROR 1", "ERROR 2"]


async def test_an_async_alert_that_raises_is_reported_by_the_stream(terminal):
    async def alert(line: str) -> None:
        raise LookupError(line)

    told: asyncio.Queue[BaseException] = asyncio.Queue()
    stream = await terminal.create(command="echo ERROR")
    stream.on_error(told.put_nowait)
    stream.on_output(LogProcessor(alert=alert).process)

    assert isinstance(await told.get(), LookupError)


async def test_lines_of_several_threads_are_all_counted():
    processor = LogProcessor()

    def feed(channel: str) -> None:
        for _ in range(500):
            processor.process(b"ER", channel)
            processor.process(b"ROR\n", channel)

    await asyncio.gather(*(asyncio.to_thread(feed, channel) for channel in ("stdout", "stderr", "tty")))

    assert processor.error_count == 1500


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: LogProcessor(rules=["ERROR"]), "a list of Rule"),
        (lambda: LogProcessor([Rule("a", "x"), Rule("a", "y")]), "two rules are called 'a'"),
        (lambda: LogProcessor({"oom": "memory"}, alert=print), "no rule would call this alert"),
        (lambda: LogProcessor(alert="mail"), "alert is a function"),
        (lambda: Rule("", "x"), "a rule has a name"),
        (lambda: Rule("a", "x", cooldown=-1), "cooldown is 0 seconds or more"),
        (lambda: LogProcessor().rates(0), "more than 0"),
        (lambda: LogProcessor().rates(4000), "up to 3600 seconds"),
    ],
)
def test_what_cannot_be_is_refused_with_its_remedy(make, remedy):
    with pytest.raises(InvalidRequest) as refused:
        make()

    assert remedy in str(refused.value)


def test_a_repr_tells_the_counts_in_one_line():
    processor = LogProcessor()
    processor.process(b"ERROR\nWARN\nok\nhalf")
    assert repr(processor) == "<LogProcessor: 18 B, lines: 1 error, 1 warning>"
