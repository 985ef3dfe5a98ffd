"""The last words of ssh, sudo, docker and kubectl, and what they mean: a table, the more telling before the vaguer.

ssh's are in OpenSSH's sshconnect.c, sshconnect2.c, clientloop.c and packet.c. Only sudo's are ever translated: those
that are not known here are shown as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a line means.

    Attributes:
        pattern: Fits it; its named groups, and `machine`, may be used in `reason` and `remedy`.
        busy: Another try a little later may work.
        needs_you: None will until a person has done something.
        asks: So it ends when a question got no answer.
    """

    pattern: re.Pattern[str]
    reason: str
    remedy: str = ""
    busy: bool = False
    needs_you: bool = False
    asks: bool = False


def _rule(
    pattern: str, reason: str, remedy: str = "", *, busy: bool = False, needs_you: bool = False, asks: bool = False
) -> Rule:
    return Rule(re.compile(pattern), reason, remedy, busy, needs_you, asks)


KEYS = (
    "add your public key to ~/.ssh/authorized_keys there (`ssh-copy-id`), load your key into the agent (`ssh-add`), "
    "or see to User and IdentityFile in ~/.ssh/config"
)

SSH = (
    _rule(
        r"ssh_askpass: exec\((?P<script>.*)\): (?P<why>.*)|unable to run (?P<run>\S*/asking/\S+)",
        "the script that was to ask you cannot be run: {script}{run}",
        "set CMDOP_STATE_DIR to a folder on a file system that allows programs (no `noexec`)",
        needs_you=True,
    ),
    _rule(
        r"host key for (?P<host>\S+) (is marked as|was) revoked",
        "its host key is marked as revoked in your known_hosts",
        "the key was given up, or stolen: ask whoever runs it",
        needs_you=True,
    ),
    _rule(
        r"^No (?P<type>\S+) host key is known for (?P<host>.+) and you have requested strict",
        "its host key is not known here, and StrictHostKeyChecking forbids asking",
        "add its key to known_hosts, or set `StrictHostKeyChecking ask` for it",
        needs_you=True,
    ),
    _rule(
        r"^Host key verification failed",
        "its host key is not known here, and was not accepted",
        "connect from a notebook, or by ssh in a terminal, and compare the fingerprint",
        needs_you=True,
        asks=True,
    ),
    _rule(
        r"Could not resolve hostname (?P<host>\S+): .*[Tt]emporary",
        "the name {host} cannot be looked up now",
        "is this computer on the network?",
    ),
    _rule(
        r"Could not resolve hostname (?P<host>\S+?):",
        "no host is called {host}",
        "check the name, HostName in ~/.ssh/config, and the network or VPN that knows it",
    ),
    _rule(
        r"connect to (?:host|address) (?P<host>\S+) port (?P<port>\d+): Connection refused",
        "nothing listens on port {port} of {host}",
        "is sshd running there, and is it that port?",
    ),
    _rule(
        r"connect to (?:host|address) (?P<host>\S+) port (?P<port>\d+): "
        r"(?P<why>.*([Tt]imed out|No route|unreachable|is down).*)",
        "{host} does not answer: {why}",
        "is it running, and does a firewall or a missing VPN stand in between?",
    ),
    _rule(
        r"timed out during banner exchange|^Timeout, server (?P<host>\S+) not responding",
        "it took the connection and then said nothing",
        "it may be overloaded or hanging; try again later",
    ),
    _rule(
        r"^Unable to negotiate with (?P<host>\S+) port \d+: (?P<what>no matching .*?) found\.",
        "the two sides know no common way: {what}",
        "allow one of what it offers in ~/.ssh/config (HostKeyAlgorithms, KexAlgorithms, Ciphers), or have it updated",
        needs_you=True,
    ),
    _rule(
        r"Bad configuration option|bad configuration options|Bad owner or permissions on|Can't open user config file|"
        r"keyword .* extra arguments|^command-line.* line \d+:",
        "ssh does not like its configuration",
        "correct ~/.ssh/config; `ssh -G HOST` shows how it is read",
        needs_you=True,
    ),
    _rule(
        r"Too many authentication failures",
        "it refused before the right key came: more keys were offered than it takes",
        "set `IdentitiesOnly yes` and `IdentityFile` for it in ~/.ssh/config",
        needs_you=True,
    ),
    _rule(
        r"signing failed for|agent refused operation|communication with agent failed|Error connecting to agent",
        "the ssh agent did not use the key",
        "unlock the agent or plug in the hardware key, then see `ssh-add -l`",
        needs_you=True,
    ),
    _rule(
        r"[Pp]assword (has|is) expired|[Pp]assword change required|account (has|is) expired",
        "the password or the account there has expired",
        "log in once by ssh in a terminal and change it",
        needs_you=True,
    ),
    _rule(
        r"Permission denied \((?P<methods>[^)]*publickey[^)]*)\)",
        "it accepted no key of yours, and would have taken: {methods}",
        KEYS,
        needs_you=True,
        asks=True,
    ),
    _rule(
        r"Permission denied \((?P<methods>[^)]*)\)",
        "it let you in by none of: {methods}",
        "check the user name and the password",
        needs_you=True,
        asks=True,
    ),
    _rule(
        r"forwarding failed for listen port|Could not request local forwarding|cannot listen to port|"
        r"^bind \[?\S+\]?:\d+: Address already in use",
        "a port that ~/.ssh/config forwards cannot be",
        "add `-o ClearAllForwardings=yes` to the command, or take ExitOnForwardFailure out for this host",
        needs_you=True,
    ),
    _rule(
        r"open failed: administratively prohibited: (?P<why>.*)|stdio forwarding failed",
        "the jump host does not lead on to it",
        "can the jump host reach it, and does its sshd allow AllowTcpForwarding?",
    ),
    _rule(
        r"channel \d+: open failed|Session open refused by peer",
        "it let you in and opened no session",
        "its sshd may allow none (MaxSessions), or no more now",
    ),
    _rule(
        r"(shell|exec) request failed on channel|PTY allocation request failed",
        "it let you in and runs no commands",
        "its sshd may be out of processes, or restrict this key or user",
    ),
    _rule(
        r"exec: (?P<program>\S+): (?:command )?not found",
        "its ProxyCommand {program} is not installed here",
        "install it, or correct ProxyCommand in ~/.ssh/config",
        needs_you=True,
    ),
    _rule(
        r"by UNKNOWN port 65535",
        "what leads there (ProxyCommand or ProxyJump) ended",
        "try the same by ssh in a terminal",
    ),
    _rule(
        r"Not allowed at this time",
        "its sshd turns this address away for a while (PerSourcePenalties)",
        "wait some minutes; failed logins cause that",
    ),
    _rule(
        r"kex_exchange_identification|ssh_exchange_identification|Exceeded MaxStartups",
        "it closed the connection before it said a word",
        "too many may be logging in at once (MaxStartups), it bans this address, or it is no ssh server",
        busy=True,
    ),
    _rule(r"^Received disconnect from \S+ port \d+:\d+: (?P<why>.*)", "it ended the connection: {why}"),
    _rule(r"^Connection (?P<how>closed|reset) by \S+", "the connection was {how} while logging in"),
)

DOCKER = (
    _rule(
        r"permission denied while trying to connect to the [Dd]ocker (daemon|API)",
        "you may not use the Docker daemon",
        "have yourself added to the group `docker`, and log in anew",
        needs_you=True,
    ),
    _rule(
        r"Cannot connect to the Docker daemon|error during connect|Is the docker daemon running",
        "the Docker daemon does not answer",
        "start it (`systemctl start docker`, or Docker Desktop), or see to DOCKER_HOST",
    ),
    _rule(
        r"No such container: (?P<container>\S+)",
        "there is no container {container}",
        "`docker ps` lists those that run",
    ),
    _rule(
        r"[Cc]ontainer (?P<container>\S+) is not running",
        "container {container} is not running",
        "`docker start {container}`",
    ),
    _rule(
        r"[Cc]ontainer (?P<container>\S+) is paused", "container {container} is paused", "`docker unpause {container}`"
    ),
    _rule(
        r"(context|docker endpoint).*context not found|context \"(?P<context>[^\"]+)\": not found",
        "docker knows no such context",
        "`docker context ls` lists them",
        needs_you=True,
    ),
    _rule(r"unable to find user (?P<user>\S+?):", "there is no user {user} in the container", needs_you=True),
    _rule(
        r"\"sh\": executable file not found|exec: \"sh\"",
        "the container has no shell",
        "use an image with sh and python3, or a debug container",
        needs_you=True,
    ),
)

KUBECTL = (
    _rule(
        r"\(Forbidden\)|is forbidden:|cannot create resource \"pods/exec\"",
        "the cluster does not let you run commands there",
        "ask for a role that may create `pods/exec`; `kubectl auth can-i create pods/exec` tells",
        needs_you=True,
    ),
    _rule(
        r"You must be logged in to the server|\(Unauthorized\)|getting credentials: |provide credentials",
        "the cluster does not know you",
        "log in to it again, as for `kubectl get pods`",
        needs_you=True,
    ),
    _rule(
        r"\(NotFound\): (?P<what>\w+) \"(?P<name>[^\"]+)\" not found",
        "there is no {name} among the {what}",
        "`kubectl get pods --all-namespaces` lists them",
    ),
    _rule(
        r"container (?P<container>\S+) is not valid for pod (?P<pod>\S+)|"
        r"unable to upgrade connection: container not found",
        "the pod has no such container, or it does not run",
        "`kubectl describe pod` lists them",
    ),
    _rule(
        r"cannot exec (in|into) a (container in a )?(completed|deleted) pod", "the pod has ended", "name one that runs"
    ),
    _rule(
        r"context \"(?P<context>[^\"]+)\" does not exist|context was not found for specified context: (?P<other>\S+)",
        "kubectl knows no context {context}{other}",
        "`kubectl config get-contexts` lists them",
        needs_you=True,
    ),
    _rule(
        r"^The connection to the server (?P<server>\S+) was refused",
        "nothing answers at {server}",
        "is the cluster running, and is it the right one? `kubectl config current-context`",
    ),
    _rule(
        r"^Unable to connect to the server: (?P<why>.*)",
        "the cluster cannot be reached: {why}",
        "see to VPN and kubeconfig",
    ),
)

SUDO = (
    _rule(
        r"^(?P<user>\S+) is not in the sudoers file",
        "{user} may not use sudo here",
        "have somebody who may (root) add it with `visudo`",
        needs_you=True,
    ),
    _rule(
        r"(?P<user>\S+) (is not allowed to|may not) (execute|run)",
        "sudo does not let {user} run a shell as that user",
        "have `sh` for that user allowed with `visudo`",
        needs_you=True,
    ),
    _rule(
        r"unknown user:? (?P<user>\S+)", "there is no user {user} here", "`getent passwd` lists them", needs_you=True
    ),
    _rule(
        r"\d+ incorrect password attempt|[Aa]uthentication (failed|failure)",
        "sudo did not accept the password",
        "it asks for your own password, not the other user's",
        needs_you=True,
        asks=True,
    ),
    _rule(
        r"no password was provided|a password is required|a terminal is required|no askpass program|must have a tty",
        "sudo wants a password, and got none",
        "connect from a notebook, or have NOPASSWD set for it with `visudo`",
        needs_you=True,
        asks=True,
    ),
    _rule(
        r"\"no new privileges\"|effective uid is not 0",
        "sudo can do nothing in this place",
        "containers often forbid it",
        needs_you=True,
    ),
)

RULES = (*SSH, *DOCKER, *KUBECTL, *SUDO)
