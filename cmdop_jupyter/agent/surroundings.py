"""What could stand in the way of sessions on the machine that runs them, or end them: it looks, and changes nothing."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from .places import drop_socket, listen
from .status import LOST
from .store import SessionStore

LOW_DISK = 1024**3  # bytes
ASK_SECONDS = 5.0  # for a tool of the system to answer
SPARES = ("process", "none")  # what KillMode= a unit has that leaves what it started alone when it stops
LINGER = "run `loginctl enable-linger` there once"
DETACH = 'set detach = "systemd" for this machine in cmdop.toml'

Check = dict[str, object]


def examine(store: SessionStore, detach: Sequence[str] = ()) -> list[Check]:
    """Look at everything; of each thing `what` it is, whether it is `ok`, and what was `found`, with the remedy.

    Args:
        detach: Words that sessions here are started with; they are tried.
    """
    checks = [_disk(store), _sockets(store), _sessions(store), _terminals()]
    checks.append(_check("shell", True, shutil.which("bash") or "no bash: cells run by /bin/sh"))
    problem, cgroup = _try(detach)
    if detach:
        words = shlex.join(detach)
        checks.append(_check("detach", not problem, f"{words}: {problem}; no session starts so" if problem else words))
    if os.path.isdir("/run/systemd/system") and not problem:
        checks.append(_check("logout", *_judge(cgroup)))
    else:
        checks.append(_check("logout", True, "ends no session"))
    container = container_words()
    if container:
        lost = "" if _on_a_volume(store.root) else f"; {store.root} is on no volume, so their logs go with it too"
        checks.append(_check("container", True, f"{container}: it takes its sessions with it when it stops{lost}"))
    return checks


def _check(what: str, ok: bool, found: str) -> Check:
    return {"what": what, "ok": ok, "found": found}


# -- the folder and the terminals


def _disk(store: SessionStore) -> Check:
    free = shutil.disk_usage(store.root).free
    return _check("state folder", free > LOW_DISK, f"{store.root}, {_size(free)} free")


def _sockets(store: SessionStore) -> Check:
    what = "control sockets"
    try:
        with tempfile.TemporaryDirectory(prefix=".look-", dir=store.folder) as folder:
            listener, place = listen(folder)
            listener.close()
            drop_socket(place, folder)
    except OSError as error:
        where = "neither the state folder nor the temp folder takes them"
        return _check(what, False, f"{where} ({error.strerror or error}); set CMDOP_STATE_DIR to a folder that does")
    if os.path.dirname(place) != folder:
        return _check(what, True, "in the temp folder (the state folder refuses them)")
    return _check(what, True, "in the state folder")


def _sessions(store: SessionStore) -> Check:
    found = store.sessions()
    total = sum(int(str(facts["end"])) for facts in found)
    lost = [str(facts["name"]) for facts in found if facts["state"] == LOST]
    remedy = f"; lost: {', '.join(lost)} (`%cmdop stop NAME` ends what is left of one)" if lost else ""
    return _check("sessions", not lost, f"{len(found)}, {_size(total)} of output{remedy}")


def _terminals() -> Check:
    try:
        for fd in os.openpty():
            os.close(fd)
    except OSError as error:
        words = f"{error.strerror}: use --tty none, or ask for a larger kernel.pty.max"
        return _check("terminals", False, words)
    return _check("terminals", True, "can be opened")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


# -- what ends sessions


def unit_of(cgroup: str) -> tuple[str, str]:
    """Whose processes are in a cgroup (`/proc/self/cgroup`), as systemd sees it, and by which unit.

    `login`: a login session's; `manager`: the user manager's; `service`: a system service's; "": nobody's that ends.
    """
    paths = dict(line.split(":", 2)[1:] for line in cgroup.splitlines() if line.count(":") >= 2)
    parts = paths.get("name=systemd", paths.get("", "/")).strip("/").split("/")
    if any(part.startswith("user@") and part.endswith(".service") for part in parts):
        return "manager", next(part for part in parts if part.startswith("user@"))
    for part in reversed(parts):
        if part.startswith("session-") and part.endswith(".scope"):
            return "login", part
        if part.endswith(".service"):
            return "service", part
    return "", ""


def shall_kill(user: str, logind: Mapping[str, str]) -> bool:
    """Whether logind ends what a login of `user` leaves behind. `logind`: its properties.

    Source: `manager_shall_kill` in systemd's logind-core.c; lingering is not asked there.
    """
    excluded = logind.get("KillExcludeUsers", "").split()
    only = logind.get("KillOnlyUsers", "").split()
    if user in excluded or (not excluded and user == "root"):
        return False
    return user in only if only else logind.get("KillUserProcesses") == "yes"


def verdict(whose: str, unit: str, *, kills: bool, linger: bool, kill_mode: str) -> tuple[bool, str]:
    """Whether sessions that are `whose` outlive it, and why or what to do."""
    remedy = DETACH if linger else f"{LINGER}, and {DETACH}"
    if whose == "login" and kills:
        return False, f"systemd ends what a login leaves behind (KillUserProcesses=yes), lingering or not: {remedy}"
    if whose == "service" and kill_mode not in SPARES:
        return False, f"{unit} takes its sessions with it when it stops or restarts: {remedy}"
    if whose == "manager" and not linger:
        return False, f"the user manager ends with your last login, and takes its sessions with it: {LINGER}"
    reasons = {
        "login": " (logind leaves alone what a login leaves behind)",
        "service": f" ({unit} has KillMode={kill_mode})",
        "manager": " (the user manager stays: lingering is on)",
    }
    return True, f"ends no session{reasons.get(whose, '')}"


def _judge(cgroup: str) -> tuple[bool, str]:
    whose, unit = unit_of(cgroup)
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    linger = os.path.exists(f"/var/lib/systemd/linger/{user}")
    kills, kill_mode = False, ""
    if whose == "login":
        properties = [f"--property={name}" for name in ("KillUserProcesses", "KillOnlyUsers", "KillExcludeUsers")]
        problem, said = _run(["loginctl", "show-session", *properties])
        if problem:
            return True, f"not known: logind does not say whether it ends what a login leaves behind ({problem})"
        kills = shall_kill(user, _properties(said))
    elif whose == "service":
        _, said = _run(["systemctl", "show", "--property=KillMode", unit])
        kill_mode = _properties(said).get("KillMode", "")
    return verdict(whose, unit, kills=kills, linger=linger, kill_mode=kill_mode)


def _properties(said: str) -> dict[str, str]:
    found = (line.partition("=") for line in said.splitlines())
    return {name: value for name, _, value in found}


def _try(detach: Sequence[str]) -> tuple[str, str]:
    """Where sessions land: the problem with that, and their cgroup."""
    return _run([*detach, "sh", "-c", "cat /proc/self/cgroup 2>/dev/null || :"])


def _run(command: Sequence[str]) -> tuple[str, str]:
    """Why a command failed, '' when it did not, and what it said."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_SECONDS,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {ASK_SECONDS:g} s", ""
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}", ""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    problem = "" if done.returncode == 0 else said[-1] if said else f"exit {done.returncode}"
    return problem, done.stdout.decode("utf-8", "replace")


# -- containers


def container_words(root: str = "/", environment: Mapping[str, str] = os.environ) -> str:
    """What kind of container this is, as people call it; '' for none, or one with a system of its own in it.

    Args:
        root: Where its file system begins.
    """
    if os.path.isdir(os.path.join(root, "run/systemd/system")):
        return ""
    if "KUBERNETES_SERVICE_HOST" in environment or os.path.exists(os.path.join(root, "run/secrets/kubernetes.io")):
        return "a pod"
    if os.path.exists(os.path.join(root, "run/.containerenv")):
        return "a Podman container"
    if os.path.exists(os.path.join(root, ".dockerenv")):
        return "a Docker container"
    return ""


def _on_a_volume(path: str) -> bool:
    return os.stat(path).st_dev != os.stat("/").st_dev
