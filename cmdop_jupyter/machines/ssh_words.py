"""What ssh, sudo, docker and kubectl say: a prompt becomes a Question, last words become a ConnectFailed.

Reads one line of known_hosts to tell a key's fingerprint, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shlex
import unicodedata
from dataclasses import dataclass

from ..errors import ConnectFailed, HostKeyChanged
from .ssh_rules import RULES, Rule

__all__ = ["Question", "cannot_run", "explain", "fingerprint", "is_transient", "read_prompt"]

LONGEST_PROMPT = 4000  # characters; ssh's question about a host key has some 250
LONGEST_QUOTE = 300  # characters of one line that is quoted

PACKAGES = {"ssh": "openssh-client", "docker": "docker.io or Docker's own", "kubectl": "kubectl", "sudo": "sudo"}

# `Enter passphrase for key '/home/me/.ssh/otp_rsa':` asks for no one-time code, so names go before words are looked at.
NAMES = re.compile(r"^\([^\s()]+@[^\s()]+\) |'[^']*'|\"[^\"]*\"|\S+@\S+?'s ")
KINDS = (
    ("host key", re.compile(r"\(yes/no(/\[fingerprint\])?\)\? *$|^please type 'yes', 'no'")),
    ("passphrase", re.compile(r"passphrase|\bpin for\b|unlock")),
    ("code", re.compile(r"one[- ]time|verification|\botp\b|\btoken|passcode|\bcode\b|authenticator|2fa|two-factor")),
    ("password", re.compile(r"password|passwort|mot de passe|contraseña|пароль|密码|パスワード")),
)


@dataclass(frozen=True, slots=True)
class Question:
    """Something that ssh or sudo wants to know of a person.

    Attributes:
        machine: Whose dial it belongs to.
        text: The prompt behind the machine's name; of several lines for a host key.
        secret: What is typed must not be seen.
        kind: `password`, `passphrase`, `code`, `host key` or `other`.
        headless: Nobody could be asked.
    """

    machine: str
    text: str
    secret: bool
    kind: str
    headless: bool = False


def read_prompt(machine: str, prompt: str, hint: str = "", *, again: bool = False, headless: bool = False) -> Question:
    """The question behind a prompt of ssh or sudo.

    Args:
        hint: SSH_ASKPASS_PROMPT: `confirm` (yes or no), `none` (only shown: touch the key), or ''.
        again: It was asked and answered before, so the answer was wrong.
    """
    text = clean(prompt)[:LONGEST_PROMPT].strip()
    lowered = text.lower()
    bare = NAMES.sub("", lowered)
    kind = "other"
    if hint not in ("confirm", "none"):
        kind = next((kind for kind, p in KINDS if p.search(lowered if kind == "host key" else bare)), "other")
    secret = kind != "host key" and hint not in ("confirm", "none")
    if again and kind != "host key":
        text += " (the last answer was not accepted)"
    return Question(machine, f"{machine}: {text}", secret, kind, headless)


def clean(text: str) -> str:
    """Without escape sequences, and without characters that control a terminal or turn the direction of writing."""
    text = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?", "", text.replace("\r\n", "\n"))
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def is_transient(stderr: str, code: int | None) -> bool:
    """Whether the far side had just too much to do, so that another try a little later may work."""
    rule, _ = _find(clean(stderr)) if code != 0 else (None, "")
    return rule is not None and rule.busy


def explain(machine: str, kind: str, stderr: str, code: int | None, refused: Question | None = None) -> ConnectFailed:
    """Why a machine was not reached, and what to do, from what its command left behind.

    Args:
        machine: Its name.
        kind: `ssh`, `docker`, `kubectl`, `sudo` or `link`.
        stderr: What the command said.
        code: What it returned; negative for a signal; None where that is not known.
        refused: The question that got no answer, if there was one.
    """
    said = clean(stderr)
    if "IDENTIFICATION HAS CHANGED" in said and re.search(r"^Host key .* has changed", said, re.MULTILINE):
        return _changed(machine, said)
    rule, line = _find(said)
    if refused is not None and (rule is None or rule.asks):
        return _finish(ConnectFailed(machine, *_unanswered(refused)), needs_you=True)
    if rule is None:
        return ConnectFailed(machine, _ending(kind, said, code))
    found = rule.pattern.search(line)
    assert found is not None
    names = {"machine": machine, **{name: value or "" for name, value in found.groupdict().items()}}
    reason = rule.reason.format(**names)
    if rule.asks and "Permission denied, please try again" in said:
        reason = f"the password was not accepted; {reason}"
    for hint in re.findall(r'^Load key ".*|^no such identity: .*|.*UNPROTECTED PRIVATE KEY.*', said, re.MULTILINE):
        line = f"{hint.strip('@ ')}; {line}"
    error = ConnectFailed(machine, f"{reason} ({line[:LONGEST_QUOTE].strip()})", rule.remedy.format(**names))
    return _finish(error, busy=rule.busy, needs_you=rule.needs_you)


def cannot_run(machine: str, command: str, error: OSError) -> ConnectFailed:
    """Why the command that was to reach a machine did not even start."""
    if isinstance(error, FileNotFoundError):
        package = PACKAGES.get(command.rpartition("/")[2])
        remedy = f"install it (package {package})" if package else "install it, or correct `link` in the configuration"
        failed = ConnectFailed(machine, f"there is no program {command!r} here", f"{remedy}, or see to PATH")
    else:
        failed = ConnectFailed(machine, f"{command!r} cannot be run: {error.strerror or error}")
    return _finish(failed, needs_you=True)


def fingerprint(line: str) -> str:
    """`SHA256:…` of the key in a line of known_hosts or of a public key file; '' where there is none."""
    for word in line.split():
        if word.startswith("AAAA"):  # a key blob begins with the length of its type's name
            try:
                digest = hashlib.sha256(base64.b64decode(word, validate=True)).digest()
            except binascii.Error:
                return ""
            return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    return ""


def _find(said: str) -> tuple[Rule | None, str]:
    """The first rule that fits, and the last line that it fits."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for rule in RULES:
        for line in reversed(lines):
            if rule.pattern.search(line):
                return rule, line
    return None, ""


def _ending(kind: str, said: str, code: int | None) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    how = "ended" if code is None else f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
    what = "its command" if kind == "link" else kind
    if not lines:
        return f"{what} {how} and said nothing"
    return f"{what} {how}: {' / '.join(line[:LONGEST_QUOTE] for line in lines[-3:])}"


def _unanswered(question: Question) -> tuple[str, str]:
    asked = re.sub(r"\s+", " ", question.text.removeprefix(f"{question.machine}: "))[:LONGEST_QUOTE]
    if question.kind == "host key":
        key = re.search(r"(\S+) key fingerprint is (?:SHA256:\S*[^\s.]|\S+)", question.text)
        shown = f" ({key[0]})" if key else ""
        if question.headless:
            return (
                f"its host key is not known here{shown}, and nobody is there to say whether it is right",
                "connect from a notebook first, or by ssh in a terminal, and compare the fingerprint",
            )
        return f"you did not accept its host key{shown}", "ask whoever runs it for the right fingerprint"
    what = {"other": "an answer", "code": "a one-time code"}.get(question.kind, f"a {question.kind}")
    if question.headless:
        loaded = "load the key into an agent (`ssh-add`)" if question.kind == "passphrase" else "use keys or an agent"
        remedy = f"{loaded}, or connect from a notebook first"
        return f"it asks for {what} ({asked}), and nobody is there to answer", remedy
    return f"it asked for {what} ({asked}), and got none", "connect again to be asked again, or use keys or an agent"


def _changed(machine: str, said: str) -> HostKeyChanged:
    offered = re.search(r"key sent by the remote host is\s+(\S*[^\s.])", said)
    host = re.search(r"^Host key for (.+) has changed", said, re.MULTILINE)
    kept = re.findall(r"^Offending (?:\S+ )?key (?:for IP )?in (.+):(\d+)\s*$", said, re.MULTILINE)
    file, line = (kept[0][0], int(kept[0][1])) if kept else ("", 0)
    known = tuple(dict.fromkeys(print_ for path, at in kept if (print_ := _known(path, int(at)))))
    shown = offered[1] if offered else "another key"
    have = " and ".join(known) or "another"
    remedy = "somebody may be in between: ask whoever runs it for the new fingerprint"
    if host and file:
        forget = f"ssh-keygen -R {shlex.quote(host[1])} -f {shlex.quote(file)}"
        remedy += f", and only if it is the one shown, run `{forget}` and connect again"
    reason = f"its host key has changed: it shows {shown}, line {line} of {file or 'known_hosts'} has {have}"
    return HostKeyChanged(machine, reason, remedy, shown if offered else "", known, file, line)


def _known(path: str, line: int) -> str:
    """The fingerprint in one line of a known_hosts file, '' where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return next((fingerprint(text) for number, text in enumerate(file, 1) if number == line), "")
    except OSError:
        return ""


def _finish(error: ConnectFailed, *, busy: bool = False, needs_you: bool = False) -> ConnectFailed:
    error.busy, error.needs_you = busy, needs_you
    return error
