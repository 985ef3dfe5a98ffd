"""Records what real programs write to terminals of 120×40, for the files in this folder.

    python record.py FOLDER [NAME…]

Needs git, vim, htop, bash, apt-get and unshare (as root; apt-get reinstalls one small package) and a pip that can find
tqdm. Nothing of the machine stays in a recording: names of hosts, users and folders are replaced, and htop sees no
processes but its own.
"""

import fcntl
import http.server
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty
import zipfile
from collections.abc import Callable
from pathlib import Path

CURSES = """
import curses, time
def main(screen):
    curses.use_default_colors()
    for pair in range(1, 8):
        curses.init_pair(pair, pair, -1)
    for step in range(12):
        screen.erase()
        for row in range(4):
            bar = (step * 7 + row * 19) % 50
            screen.addstr(row + 1, 2, f"{row:2}[", curses.A_BOLD)
            screen.addstr("|" * bar, curses.color_pair(2 + row % 3))
            screen.addstr(row + 1, 56, f"{bar * 2:3}%]")
        screen.addstr(6, 0, f"{'PID':>6} {'USER':<9} {'CPU%':>5}  COMMAND".ljust(119), curses.A_REVERSE)
        for row in range(25):
            style = curses.A_STANDOUT if row == step else curses.color_pair(row % 8)
            line = f"{1000 + row * 37:6} someone   {step * row:5.1f}  /usr/bin/work-{row} {step}"
            screen.addstr(7 + row, 0, line, style)
        screen.addstr(34, 4, "wide: \u4f60\u597d \u65e5\u672c\u8a9e e\u0301", curses.A_UNDERLINE)
        screen.addstr(39, 0, "F1Help  F10Quit", curses.color_pair(6))
        screen.refresh()
        time.sleep(0.05)
curses.wrapper(main)
"""

Keys = tuple[tuple[float, bytes], ...]  # what is typed, and seconds after the start

TQDM = """
import sys, time
from tqdm import tqdm
for epoch in tqdm(range(3), desc="epochs", ncols=80):
    for step in tqdm(range(40), desc=f"epoch {epoch}", ncols=80, leave=False):
        time.sleep(0.012)
    print(f"epoch {epoch} done", flush=True)
"""
TWO_BARS = """
import time
from tqdm import tqdm
first, second = (tqdm(total=30, desc=name, position=at, ncols=70) for at, name in enumerate(["first", "second"]))
for _ in range(30):
    time.sleep(0.015)
    first.update(); second.update()
second.close(); first.close()
"""
# What `docker pull` writes: github.com/moby/moby, pkg/jsonmessage.
LAYERS = r"""
import sys, time
names = ["a3ed95caeb02", "9c1b6dd6c1e6", "51f5c6a04d83"]
write = sys.stdout.write
write("latest: Pulling from library/demo\n")
for name in names:
    write(f"{name}: Pulling fs layer \n")
for done in range(0, 101, 4):
    for at, name in enumerate(names):
        up = len(names) - at
        bar = "=" * (done // 4) + ">"
        text = f"Downloading [{bar:<26}]  {done / 10:.1f}MB/10MB" if done < 100 else "Pull complete "
        write(f"\x1b[{up}A\x1b[2K\r{name}: {text}\r\x1b[{up}B")
    sys.stdout.flush()
    time.sleep(0.01)
write("Status: Downloaded newer image for demo:latest\n")
"""
COLORS = r"""
print("".join(f"\x1b[{n}m{n}\x1b[0m " for n in (*range(30, 38), *range(90, 98))))
print("".join(f"\x1b[{n}m{n}\x1b[0m " for n in (*range(40, 48), *range(100, 108))))
for start in (16, 52, 88, 124, 160, 196, 232):
    print("".join(f"\x1b[38;5;{n}m{n:4d}" for n in range(start, min(start + 36, 256), 3)) + "\x1b[m")
print("".join(f"\x1b[38;2;{255 - n};{n};128m#" for n in range(0, 256, 4)) + "\x1b[0m")
print("".join(f"\x1b[48:2::{n}:64:{255 - n}m " for n in range(0, 256, 8)) + "\x1b[0m")
print("\x1b[1mbold\x1b[22m \x1b[2mdim\x1b[22m \x1b[3mitalic\x1b[23m \x1b[4munder\x1b[24m", end=" ")
print("\x1b[7minverse\x1b[27m \x1b[1;4;31mall\x1b[0m")
"""


def record(
    command: list[str], folder: Path, env: dict[str, str], keys: Keys = (), *, split: bool = False
) -> list[tuple[str, bytes]]:
    """Run `command`; return what it wrote, by terminal: one of the usual kind, or two without output processing."""
    masters: dict[int, str] = {}
    slaves = []
    for name in ("stdout", "stderr") if split else ("stdout",):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        if split:
            tty.setraw(slave)
        masters[master] = name
        slaves.append(slave)
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "xterm-256color", "LANG": "C.UTF-8"} | env
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdin=slaves[0], stdout=slaves[0], stderr=slaves[-1], start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(slaves[0], termios.TIOCSCTTY, 0),
    )  # fmt: skip
    for slave in slaves:
        os.close(slave)
    seen: list[tuple[str, bytes]] = []
    begin = time.monotonic()
    typed = list(keys)
    while masters:
        if typed and time.monotonic() - begin >= typed[0][0]:
            os.write(next(iter(masters)), typed.pop(0)[1])
        for master in select.select(list(masters), [], [], 0.05)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:
                data = b""
            if data:
                seen.append((masters[master], data))
            else:
                os.close(master)
                del masters[master]
    process.wait()
    return seen


def small_wheel(folder: Path) -> Path:
    path = folder / "demo_wheel-1.0-py3-none-any.whl"
    info = "demo_wheel-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("demo_wheel/data.bin", os.urandom(3_000_000))
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo-wheel\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def pip(folder: Path) -> list[tuple[str, bytes]]:
    wheel = small_wheel(folder)

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = b"<!DOCTYPE html><a href='/%s'>%s</a>" % (wheel.name.encode(), wheel.name.encode())
            body = wheel.read_bytes() if self.path.endswith(".whl") else page
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for at in range(0, len(body), 100_000):
                self.wfile.write(body[at : at + 100_000])
                time.sleep(0.05 if len(body) > 100_000 else 0)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    index = f"http://127.0.0.1:{server.server_port}/simple"
    python = [sys.executable, "-m", "pip", "--isolated", "--no-cache-dir", "--disable-pip-version-check"]
    options = ["--no-deps", "--target", "into", "--index-url", index, "demo-wheel"]
    return record([*python, "install", *options], folder, {"PIP_CONFIG_FILE": os.devnull})


def with_tqdm(folder: Path, script: str) -> list[tuple[str, bytes]]:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "tqdm"], check=True)
    return record([sys.executable, "-c", script], folder, {"PYTHONPATH": str(folder)}, split=True)


def clone(folder: Path) -> list[tuple[str, bytes]]:
    git = ["git", "-C", "origin", "-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", "init", "-q", "origin"], cwd=folder, check=True)
    for number in range(1500):
        (folder / "origin" / f"file{number}").write_text(f"{number}\n" * 40)
    subprocess.run([*git, "add", "."], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], cwd=folder, check=True)
    return record(["git", "clone", "--progress", f"file://{folder}/origin", "copy"], folder, {})


def apt(folder: Path) -> list[tuple[str, bytes]]:
    (folder / "archives" / "partial").mkdir(parents=True)
    options = ["Dpkg::Progress-Fancy=1", "APT::Color=1", "APT::Sandbox::User=root"]
    options += [f"Dir::Cache::Archives={folder}/archives", r"Dir::Ignore-Files-Silently::=\.disabled"]
    command = ["apt-get", "install", "-y", "--reinstall", *(word for option in options for word in ("-o", option))]
    return record([*command, "sensible-utils"], folder, {"DEBIAN_FRONTEND": "noninteractive"})


def vim(folder: Path, keys: Keys, lines: int = 3) -> list[tuple[str, bytes]]:
    words = ["one", "two", "three", *(f"line {number} 世界 é" for number in range(4, lines + 1))]
    (folder / "poem.txt").write_text("".join(f"{word}\n" for word in words[:lines]))
    quoted = "printf 'before\\n'; vim -u NONE -i NONE -n poem.txt; printf 'after\\n'"
    return record(["sh", "-c", quoted], folder, {}, keys)


def edit(folder: Path) -> list[tuple[str, bytes]]:
    typed = [b":set number\r", b"\x06", b"/line 70\r", b"dd", b"yy10p", b"3o", "añb 你好".encode(), b"\x1b"]
    typed += [b":syntax on\r", b":vsplit\r", b"\x17l", b"G", b":resize 12\r", b"gg", b"i" + b"x" * 130 + b"\x1b", b"u"]
    keys = tuple((1.0 + 0.15 * at, key) for at, key in enumerate([*typed, b":qa!\r"]))
    return vim(folder, keys, 120)


def htop(folder: Path) -> list[tuple[str, bytes]]:
    script = "for i in 1 2 3 4; do sleep 100$i & done; htop -d 3; kill $(jobs -p)"
    typed = [b"t", b"\x1b[B", b"\x1b[B", b"?", b" ", b"/sle", b"\r", b"q"]
    keys = tuple((2.0 + 0.3 * at, key) for at, key in enumerate(typed))
    command = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script]
    return record(command, folder, {"HTOPRC": os.devnull}, keys)


def shell(folder: Path) -> list[tuple[str, bytes]]:
    keys = [b"echo hello wurld", b"\x7f" * 4, b"orld", b"\x01", b"\x1bf\x1bd", b" goodbye", b"\r"]
    keys += [b"\x1b[A\x17\x17", b"x y\r", b"\x1b[A", b"\x1b[D" * 3, b"\x7f", b"\r", b"exit\r"]
    typed = tuple((0.5 + 0.2 * at, key) for at, key in enumerate(keys))
    env = {"PS1": "$ ", "HISTFILE": "", "INPUTRC": os.devnull}
    return record(["bash", "--norc", "--noprofile", "-i"], folder, env, typed)


RECORDINGS: dict[str, Callable[[Path], list[tuple[str, bytes]]]] = {
    "pip": pip,
    "apt": apt,
    "tqdm": lambda folder: with_tqdm(folder, TQDM),
    "tqdm-two-bars": lambda folder: with_tqdm(folder, TWO_BARS),
    "git-clone": clone,
    "layers": lambda folder: record([sys.executable, "-c", LAYERS], folder, {}),
    "colors": lambda folder: record([sys.executable, "-c", COLORS], folder, {}),
    "curses": lambda folder: record([sys.executable, "-c", CURSES], folder, {}),
    "yes": lambda folder: record(["sh", "-c", "yes | head -n 1000"], folder, {}),
    "vim": lambda folder: vim(folder, ((1.5, b":q!\r"),)),
    "vim-edit": edit,
    "htop": htop,
    "bash": shell,
}


def scrub(data: bytes, folder: Path) -> bytes:
    data = data.replace(os.fsencode(folder), b"/home/someone")
    data = re.sub(rb"https?://[^\s/]+(?::\d+)?(?=/|\s)", b"http://packages.example.org", data)
    return data.replace(os.uname().nodename.encode(), b"machine")


def main() -> None:
    out = Path(sys.argv[1]).absolute()
    for name in sys.argv[2:] or RECORDINGS:
        with tempfile.TemporaryDirectory() as folder:
            seen = RECORDINGS[name](Path(folder))
        if {channel for channel, _ in seen} == {"stdout"}:
            (out / f"{name}.raw").write_bytes(scrub(b"".join(data for _, data in seen), Path(folder)))
        else:
            scrubbed = [[channel, scrub(data, Path(folder)).decode()] for channel, data in seen]
            lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in scrubbed]
            (out / f"{name}.jsonl").write_text("".join(lines))
        print(f"{name}: {sum(len(data) for _, data in seen)} bytes")


if __name__ == "__main__":
    main()
