"""Secrets in what is shown and saved: none of their bytes is, however they were cut, coloured or wrapped."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.errors import InvalidRequest
from cmdop_jupyter.notebook.views.cells import StyledLine
from cmdop_jupyter.notebook.views.fold import fold
from cmdop_jupyter.notebook.views.redact import MARK, Redactor
from cmdop_jupyter.notebook.views.sgr import PLAIN
from cmdop_jupyter.notebook.views.text import Facts, frozen_bundle, shown, snapshot_bundle, to_ansi, to_html, to_text

BODY = "q7Zk2Xw9Lm4Rt8Vb3Ny6Hc1Jd5Gf0Ps"  # 32 characters nowhere else here
JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJ{BODY}.{BODY}"
KEY = "\n".join(
    ["-----BEGIN OPENSSH PRIVATE KEY-----", *[BODY * 2 + "AbCd1234"] * 3, BODY, "-----END OPENSSH PRIVATE KEY-----"]
)
PLANTED = {
    "AWS": ("id AKIA{} here", "Q7ZK2XW9LM4RT8VB"),
    "GitHub": ("ghp_{}", BODY),
    "GitHub, fine": ("github_pat_11ABC_{}", BODY),
    "GitLab": ("glpat-{}", BODY),
    "Slack": ("xoxb-{}", BODY),
    "OpenAI": ("key sk-proj-{}, ok", BODY),
    "cmd": ("cmd_{}", BODY),
    "bearer": ("Authorization: Bearer {}", BODY),
    "basic": ("> authorization: basic {}==", BODY),
    "bearer alone": ("curl -H 'x: bearer {}'", BODY),
    "password": ("password={} and more", BODY),
    "quoted": ('{{"db_password": "{}", "port": 5}}', "q7Zk 2Xw9,Lm4R t8Vb"),
    "escaped": ('{{\\"token\\": \\"{}\\"}}', BODY),
    "environment": ("export MY_SECRET_KEY='{}'", BODY),
    "flag": ("deploy --token {} --fast", BODY),
    "URL": ("postgres://me:{}@db.example.com/x", BODY),
    "query": ("GET /x?user=1&access_token={}", BODY),
    "JWT": ("{}", JWT),
}
COLOURS = [b"\x1b[31m", b"\x1b[0m", b"\x1b[1;44m", b"\x1b[38;2;9;9;9m", b"\x1b[K", b"\x1b]0;t\x07"]


def rest_of(secret: str) -> re.Pattern[str]:
    """What of a secret would be too much to see: four of its characters that follow one another."""
    parts = [secret[at : at + 4] for at in range(len(secret) - 3)]
    return re.compile("|".join(map(re.escape, parts)))


def all_that_is_shown(lines: list[StyledLine]) -> str:
    facts = Facts(
        name="x",
        machine="y",
        session_id="z",
        command="c",
        state="running",
        started=0,
        elapsed=1,
        exit="",
        bytes=1,
        lines=1,
    )
    bundles = [frozen_bundle(facts, lines, [], 0), snapshot_bundle(facts, lines, 0)]
    page = re.sub("<[^>]*>", "", to_html(lines) + "".join(bundle["text/html"] for bundle in bundles))
    ansi = re.sub(r"\x1b\[[0-9;]*m", "", to_ansi(lines))
    return "\n".join([to_text(lines), ansi, page, *(bundle["text/plain"] for bundle in bundles)])


@pytest.mark.parametrize("kind", PLANTED)
def test_a_secret_is_replaced_and_what_is_around_it_stays(kind):
    form, secret = PLANTED[kind]
    text = f"before {form.format(secret)} behind"

    made = shown(text)

    assert MARK in made
    assert not rest_of(secret).search(made)
    assert made.startswith("before ")
    assert shown(made) == made


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=4096 token_count 12 tokens: 99",
        "PWD=/home/me",
        "see https://example.com:8080/a/b?c=d@e",
        "the password was changed, bearer of news",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "git@github.com:me/project.git and cmd_run_all_of_them",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert shown(text) == text


@given(st.data())
def test_no_part_of_a_secret_is_shown_however_it_was_cut_and_coloured(data):
    form, secret = PLANTED[data.draw(st.sampled_from(sorted(PLANTED)))]
    whole = f"{data.draw(st.sampled_from(['', 'x ', '漢字 ']))}{form.format(secret)} end\n".encode()
    chunks, at = [], 0
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    for number, piece in enumerate(pieces):
        if number and not re.search(rb"[\x80-\xbf]", piece[:1]):
            piece = data.draw(st.sampled_from(COLOURS)) + piece
        chunks.append(Chunk(at, "stdout", 0, 0, piece))
        at += len(piece)
    columns = data.draw(st.sampled_from([None, 20, 37, 120]))

    lines = fold(chunks, columns=columns, from_start=True)

    assert not rest_of(secret).search(all_that_is_shown(lines))


@given(st.sampled_from(sorted(set(PLANTED) - {"quoted"})), st.integers(1, 60), st.integers(0, 40))
def test_the_beginning_of_a_secret_at_the_end_of_a_row_that_was_cut_is_not_shown(kind, shown_of_it, before):
    form, secret = PLANTED[kind]
    text = ("a word " * before + form.format(secret))[: 7 * before + form.index("{") + min(shown_of_it, len(secret))]
    line = StyledLine("stdout", ((text, PLAIN),), 5000)

    assert not rest_of(secret).search(to_text([line]).replace("…", ""))


@given(st.sampled_from(["JWT", "GitHub", "password", "URL"]), st.integers(0, 60))
def test_the_end_of_a_secret_at_the_beginning_of_a_row_that_is_not_whole_is_not_shown(kind, gone):
    form, secret = PLANTED[kind]
    whole = form.format(secret)
    text = whole[min(gone, len(whole)) :] + " then ordinary words" * 40

    made = to_text([StyledLine("stdout", ((text, PLAIN),), len(text), headless=True)])

    assert not rest_of(secret).search(made)
    assert "ordinary words" in made


@pytest.mark.parametrize("window", [(0, 3), (1, 3), (2, 4), (2, 6), (4, 6), (0, 6)])
def test_a_private_key_is_not_shown_whichever_of_its_lines_are(window):
    lines = [StyledLine("stdout", ((text, PLAIN),), len(text)) for text in KEY.split("\n")][slice(*window)]

    made = to_text(lines)

    assert not rest_of(BODY).search(made)
    assert len(made.split("\n")) == len(lines)


def test_lines_of_another_channel_in_between_hide_nothing():
    chunks = [
        Chunk(0, "stdout", 0, 0, b"token=q7Zk2Xw9"),
        Chunk(14, "stderr", 0, 0, b"oh\n"),
        Chunk(17, "stdout", 0, 0, b"Lm4Rt8Vb\n"),
    ]

    assert to_text(fold(chunks)).split("\n") == ["token=[redacted]", "oh"]


def test_characters_of_no_width_hide_nothing():
    assert shown("gh\u200bp_q7Zk2Xw9\u0301Lm4Rt8Vb3Ny6Hc") == MARK


def test_a_pattern_of_ones_own_replaces_its_groups_or_all_of_its_match():
    redactor = Redactor([r"account (\d+)", r"acme-\w+"])

    assert redactor("account 12345 of acme-hidden, token=seen") == "account [redacted] of [redacted], token=seen"
    assert Redactor([])("token=seen") == "token=seen"
    assert Redactor(["default", "seen"])("token=x seen") == "token=[redacted] [redacted]"


def test_a_pattern_that_does_not_compile_is_refused_with_a_word():
    with pytest.raises(InvalidRequest, match="is no regular expression"):
        Redactor(["("])


def test_what_could_not_be_searched_in_time_is_not_shown():
    redactor = Redactor([r"(x+x+)+y"], seconds=0.05)
    lines = [StyledLine("stdout", ((text, PLAIN),), len(text)) for text in ("fine", "x" * 2000, "fine too")]

    began = time.monotonic()
    made = redactor.lines(lines)

    assert time.monotonic() - began < 2
    assert "xx" not in "".join(line.text for line in made)
    assert made[0].text == "fine"


@pytest.mark.parametrize(
    "text",
    [
        "x" * 2000,
        "://" * 700,
        "token " * 350,
        "sk-" * 700,
        'password="' * 200,
        "a" * 999 + "@",
        "Aa1/" * 500,
        "eyJ" * 700,
    ],
)
def test_no_output_takes_long(text):
    lines = [StyledLine("stdout", ((text, PLAIN),), 9999)] * 40

    began = time.monotonic()
    made = Redactor(seconds=5).lines(lines)

    assert len(made) == 40
    assert time.monotonic() - began < 0.5
