"""`%%cmdop` and `%cmdop`: parses, calls once, shows."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import keyword
import os
import shlex
import uuid
from collections.abc import Hashable
from typing import Any

import traitlets
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from ..agent.log import check_limit
from ..agent.store import first_line
from ..client import machine, new_id, start
from ..errors import CommandFailed, InvalidRequest, LinkLost, NameInUse, NotSupported
from ..fleet import Fleet
from ..machines.base import Machine, StartRequest
from ..machines.far import FarMachine
from ..machines.local import LocalMachine
from ..machines.presets import Place
from ..notify import set_notifier
from ..runtime import runtime
from ..stream import Stream
from ..streams import streams
from ..wait import wait_all, wait_for
from ..waiting import LAST_BYTES, last_words
from ..watching import no_cell, set_current_cell, set_wait_hook
from ..words import human_bytes
from . import completion, telling
from .fleets import confirm, run_cell
from .links import address
from .notices import set_up
from .options import CellOptions, Defaults, Usage, read_cell, read_limit, read_size
from .tables import Bundle, Note, Table
from .verbs import Verbs, attached, find
from .views import Views, make_views
from .views.sieve import Looks
from .views.text import set_redaction

DAY = 24 * 3600.0


@magics_class
class CmdopMagics(Magics):
    """`%config CmdopMagics` shows what can be set for all cells; an option of a cell wins."""

    if_running = traitlets.Enum(
        ("error", "attach", "replace"),
        "error",
        help="What a cell does when a session of its --name is running. 'attach' takes it if it is the same command "
        "with the same options; 'replace' stops it first. Either makes Restart & Run All work.",
    ).tag(config=True)
    view = traitlets.Enum(
        ("output", "terminal", "none"), "output", help="What a cell shows: its live output, a terminal, or one line."
    ).tag(config=True)
    tail = traitlets.Int(40, min=1, max=200, help="Lines of the newest output that a view shows.").tag(config=True)
    tty = traitlets.Enum(
        ("split", "full", "none"),
        "split",
        help="'split': terminals for stdout, stderr and input, kept apart; 'full': one terminal; 'none': pipes.",
    ).tag(config=True)
    shell_command = traitlets.Unicode("", help="The shell of cells; empty: bash where there is one, else sh.").tag(
        config=True
    )
    max_log = traitlets.Unicode(
        "2Gi", help="Output that is kept of a session; '500M,hold' makes the command wait there."
    ).tag(config=True)
    keep_days = traitlets.Float(14.0, min=0.0, help="Days after which ended sessions are swept out.").tag(config=True)
    redact = traitlets.List(
        traitlets.Unicode(),
        ["default"],
        help="Regular expressions of what is shown and saved as [redacted]: what their groups match, or all of it. "
        "'default' stands for keys, tokens, passwords of common forms; [] for nothing. The log stays exact.",
    ).tag(config=True)
    keep_bytes = traitlets.Unicode("10Gi", help="Size of all sessions above which the oldest ended go.").tag(
        config=True
    )

    notify = traitlets.Any(
        None, allow_none=True, help="A function of (title, text, stream) that is called with what --notify tells of."
    ).tag(config=True)

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._shell = shell
        self._owner = uuid.uuid4().hex
        self._views: Views = make_views(shell)
        views = self._views
        self._verbs = Verbs(
            self._show,
            self._bind,
            views.keep,
            views.settle,
            views.finish,
            views.say,
            self._open_shell,
            lambda table, heard, only: views.sessions(table, heard, only, self._bound),
            views.keep_fleet,
            lambda: views.fleets(self.tail),
        )
        self._given: dict[str, object] = {}
        self._uninstall = contextlib.ExitStack()  # what `begin` put into the shell

    # -- life

    def begin(self, running: list[str]) -> None:
        """Fill the namespace, follow cells, and tell which sessions of earlier kernels are `running`."""
        set_current_cell(self._current_cell)
        set_wait_hook(self._views.waiting)
        streams.attach = attached
        self._uninstall.callback(completion.install(self._shell, self._verbs))
        self._uninstall.callback(telling.install(self._shell))
        taken = []
        for name, value in (("wait_for", wait_for), ("wait_all", wait_all), ("cmdop", streams)):
            held = self._shell.user_ns.get(name, value)
            if held is value or (getattr(held, "__module__", "") or "").startswith("cmdop_jupyter"):
                self._shell.user_ns[name] = self._given[name] = value
            else:
                taken.append(name)
        words = []
        if taken:
            words.append(
                f"{', '.join(taken)}: taken by a variable of yours, so not replaced (import it from cmdop_jupyter)"
            )
        if running:
            words.append(f"still running: {', '.join(running)}; `%cmdop attach NAME` brings one back")
        if words:
            self._views.say("cmdop_jupyter: " + ". ".join(words))

    def end(self) -> None:
        """Take back what `begin` did."""
        set_current_cell(no_cell)
        set_wait_hook(None)
        self._uninstall.close()
        self._views.close()
        streams.attach = None
        for name, value in self._given.items():
            if self._shell.user_ns.get(name) is value:
                del self._shell.user_ns[name]
        for kind in ("line", "cell"):
            self._shell.magics_manager.magics[kind].pop("cmdop", None)

    @traitlets.validate("redact")
    def _check_redaction(self, proposal: dict[str, Any]) -> list[str]:
        try:
            set_redaction(proposal["value"])
        except InvalidRequest as error:
            raise traitlets.TraitError(str(error)) from None
        return list(proposal["value"])

    @traitlets.validate("notify")
    def _check_notifier(self, proposal: dict[str, Any]) -> object:
        if proposal["value"] is not None and not callable(proposal["value"]):
            raise traitlets.TraitError("notify is a function of (title, text, stream), or None")
        return proposal["value"]

    @traitlets.observe("notify")
    def _set_notifier(self, change: dict[str, Any]) -> None:
        set_notifier(change["new"])

    @traitlets.validate("keep_bytes", "max_log")
    def _check_size(self, proposal: dict[str, Any]) -> str:
        value = str(proposal["value"])
        try:
            size, policy = read_limit(value)
            if proposal["trait"].name == "max_log":
                check_limit(size, policy)
        except InvalidRequest as error:
            raise traitlets.TraitError(str(error)) from None
        return value

    # -- the magic

    @no_var_expand
    @line_cell_magic
    def cmdop(self, line: str, cell: str | None = None) -> object:
        r"""Run a command as a session that outlives this kernel; its output lives on in the cell that started it.

            %%cmdop [machine…] [options]
            the text of a script, passed on untouched: $, {} and backslashes included

        The cell returns at once. Later cells go on when the output says so:

            ready = await wait_for(r"listening on port (\d+)", "api", timeout=60)

        No machine means this one. Others have a name in cmdop.toml or ~/.ssh/config, or say how to get there:
        me@host, ssh://host:2222, docker://container, k8s://namespace/pod, sudo://user. `%cmdop machines` lists them.
        The script is run there, by bash (or sh), or by its `#!` line.

        Several machines are a fleet, with one view: `web1 web2`, `web[01-20]`, `@group`, `@tag`.
            --at-most N           machines that run it at once; by default all do.
            --stop-on-failure     start no more once one has failed; those that run go on.
            A name that is none starts nothing. --name is the fleet's, as a variable and for waits: `deploy.failed`,
            `deploy.rerun()`, `await deploy`, `wait_all(REGEX, deploy, at_least=3)`; `deploy["web01"]` is a stream.

        What it is called, and what happens to a namesake
            --name api, -n api    also binds the variable `api` to the stream. Without it one is made from the command.
            --if-running HOW      when a session of that name runs: `error` (tell), `attach` (take it, if it is the same
                                  command), `replace` (stop it, then start); `--replace` for short.

        How it runs
            --tty split           (default) terminals for stdout, stderr and input: kept apart, unbuffered, coloured.
            --tty full | none     one terminal, for full-screen programs | pipes.
            --no-input            nobody can type: stdin is /dev/null.
            --shell zsh           another shell or interpreter.
            --cwd DIR             where it runs; by default where the notebook is, elsewhere in the home folder, or
                                  where cmdop.toml says. `~` is that machine's.
            -e X, -e K=V          hand over the notebook's variable X (str, int, float, Path), else the
                                  environment's; or set K. Values are stored nowhere.
            --yes, -y             do not ask first, where cmdop.toml says `confirm = true` of the machine.

        Waiting in the cell
            --wait                until it has exited; an exit that is not 0 raises, unless --no-raise.
            --until REGEX         until a line matches; gives the match. --fail REGEX: a line that is an error.
            --timeout 90s         limits the waiting, never the command.

        When it asks, and when you do not look
            --answer REGEX=ENV    type the value of the environment variable ENV, and Enter, at a prompt that REGEX is
                                  found in; may be repeated. For other prompts there is a field below the output.
            --notify WHAT         tell of `end`, `fail`, `match=REGEX`, `silence=10m` (commas between): a notification
                                  of the browser where it is allowed, and the function in `%config CmdopMagics.notify`.

        What is shown and kept
            --view output | none  the live output | one line.
            --view terminal       a terminal to type into, for full-screen programs (then --tty is full by default).
            --tail N              lines of it, 1 to 200 (40).
            --include REGEX       only lines that match, of all of the log. As the next two it may be repeated.
            --exclude REGEX       no lines that match.
            --highlight REGEX     what matches stands out.
            --since 10m           only what came since then; also 14:05, or an ISO time.
            --timestamps          when each line came.
            --max-log SIZE        what is kept of its output, `500M`, `2Gi` (default): then the oldest goes.
                                  `SIZE,hold`: then the command waits until `%cmdop limit NAME SIZE` raises it.
            --ephemeral[=SECONDS] end it when this kernel has been gone for 60 s, or SECONDS.
            --keep-script         leave the script on disk when the session ends.
            --dry-run             tell what would be run and how its machine is reached, and run nothing.

        `%cmdop help` lists the verbs, for sessions: ps, attach, tail, send, signal, stop, wait, limit, forward, keep,
        rm; for machines: shell, machines, connect, forget, doctor.
        Defaults for all cells: `%config CmdopMagics`.
        """
        if cell is None:
            return self._verbs.run(line)
        defaults = Defaults(
            if_running=self.if_running,
            view=self.view,
            tail=self.tail,
            shell=self.shell_command,
            tty=self.tty,
            max_log=self.max_log,
            cwd=place_of(machine()).cwd or "",
            owner=self._owner,
        )
        return self._run_cell(read_cell(line, cell, new_id(), self._shell.user_ns, defaults))

    def _run_cell(self, options: CellOptions) -> object:
        if options.fleet:
            return self._run_fleet(options)
        where = machine(options.machine)
        if options.named:
            self._check_name(options.request.name)
        if options.dry_run:
            return dry_run(options, place_of(where))
        if options.view == "terminal":
            self._views.check_terminal()
        confirm([place_of(where)], f"`{first_line(str(options.request.script))[:80]}`", options.confirmed)
        with contextlib.suppress(LinkLost):  # it is told when it is dialled
            runtime().wait(where.keep_ended(self.keep_days * DAY, read_size(self.keep_bytes)))
        stream = self._start(where, options)
        if options.named:
            self._bind(stream)
        set_up([stream], options, self._views)
        if options.view == "output":
            self._show(stream, options.tail, options.looks, "output")
        elif options.view == "terminal":
            self._views.show_terminal(stream)
        else:
            self._views.say(repr(stream))
        if options.until:
            patterns = {"fail": options.fail, "timeout": options.timeout, "start": "begin"}
            return stream.wait_for(options.until, **patterns).result()  # type: ignore[arg-type]
        if options.wait:
            self._wait(stream, options)
        return None

    def _run_fleet(self, options: CellOptions) -> object:
        if options.named:
            self._check_name(options.request.name)
        here = machine()
        local = {"cwd": os.path.expanduser(options.request.cwd or place_of(here).cwd or "") or os.getcwd()}
        keep = (self.keep_days * DAY, read_size(self.keep_bytes))

        def made(fleet: Fleet) -> None:
            if options.named:
                self._bind(fleet)

        return run_cell(options, self._views, local, keep, made)

    def _open_shell(self, name: str, session: str | None, confirmed: bool) -> Stream:
        """A login shell in a terminal: a new one, or the one of that name that runs."""
        self._views.check_terminal()
        where = machine(name)
        if session is not None:
            self._check_name(session)
        confirm([place_of(where)], "a login shell", confirmed)
        cwd = os.getcwd() if name == "local" else None
        max_log, policy = read_limit(self.max_log)
        request = StartRequest(
            id=new_id(),
            name=session or "shell",
            free_name=session is None,
            cwd=cwd,
            max_log=max_log,
            log_policy=policy,
            owner=self._owner,
        )
        try:
            stream = start(where, request).result()
        except NameInUse as clash:
            stream = Stream(where).attach(clash.session_id, "begin").result()
        self._bind(stream)
        self._views.show_terminal(stream)
        return stream

    def _start(self, where: Machine, options: CellOptions) -> Stream:
        request = options.request
        try:
            return start(where, request).result()
        except NameInUse as clash:
            name = address(where.name, request.name)
            if options.if_running == "error":
                raise NameInUse(name, clash.session_id) from None
            held = Stream(where).attach(clash.session_id, "begin").result()
            if options.if_running == "attach":
                if held.facts.digest != request.digest:
                    raise InvalidRequest(
                        f"{name} is running with another command or other options, so this cell did not attach to "
                        f"it; `--replace` stops it first, `%cmdop attach {name}` shows it"
                    ) from None
                return held
            held.stop().result()
            return start(where, dataclasses.replace(request, id=new_id())).result()

    def _wait(self, stream: Stream, options: CellOptions) -> None:
        """Block until the command has exited, or a line says that it failed."""
        exit = stream.wait_exit(options.timeout, fail=options.fail).result()
        if options.must_succeed and (exit is None or not exit.ok):
            lines = last_words(runtime().wait(where_of(stream).tail(stream.session_id, LAST_BYTES)).chunks)
            raise CommandFailed(stream.name, str(exit or "lost"), tuple(line.text[:300] for line in lines))

    # -- names and views

    def _check_name(self, name: str) -> None:
        what = self._hidden_by(name)
        if what:
            raise InvalidRequest(f"--name {name} would hide {what}; take another name")

    def _hidden_by(self, name: str) -> str:
        """What a variable of that name would hide, in words; '' for nothing."""
        held = self._shell.user_ns.get(name, getattr(builtins, name, None))
        if held is None or isinstance(held, (Fleet, Stream)):
            return ""
        return f"a variable of yours ({type(held).__name__})" if name in self._shell.user_ns else f"Python's own {name}"

    def _bind(self, stream: Stream | Fleet) -> None:
        """Bind a stream or a fleet to its name, where that can be a variable and hides nothing; say why not."""
        if refused := self._bound(stream):
            self._views.say(refused)

    def _bound(self, stream: Stream | Fleet) -> str:
        """Do so, and give why it would hide something."""
        name = stream.name
        if not name.isidentifier() or keyword.iskeyword(name):
            return ""
        what = self._hidden_by(name)
        if what:
            kind = "cmdop.fleets[{!r}] is the fleet" if isinstance(stream, Fleet) else "cmdop[{!r}] is the stream"
            return f"{name} would hide {what}, so it is not bound: {kind.format(name)}"
        self._shell.user_ns[name] = stream
        return ""

    def _show(self, stream: Stream, tail: int | None, looks: Looks, view: str | None) -> None:
        """Show a stream; where nobody says how, what has one terminal and runs is a terminal again."""
        looked = tail is not None or looks != Looks()
        if view == "terminal" and looked:
            raise Usage("--view terminal shows all as it is: leave out --tail, --include and the like, or the view")
        if view is None and not looked and stream.facts.tty == "full" and stream.state not in ("ended", "lost"):
            with contextlib.suppress(NotSupported):
                self._views.check_terminal()
                view = "terminal"
        if view == "terminal":
            self._views.check_terminal()
            self._views.show_terminal(stream)
        else:
            self._views.show(stream, tail or self.tail, looks)

    def _current_cell(self) -> tuple[Hashable, Hashable] | None:
        return self._views.current_cell()


def sessions_of_others() -> list[str]:
    """Names of the sessions that run and have no stream here."""
    ours = {stream.session_id for stream in streams.values()}
    found = runtime().wait(machine().sessions())
    return [facts.name for facts, status in found if status.live and facts.id not in ours]


def where_of(stream: Stream) -> Machine:
    """The machine a stream's session is on."""
    return stream._machine


def place_of(where: Machine) -> Place:
    """How a machine is reached."""
    if isinstance(where, FarMachine):
        return where.place
    return where._place if isinstance(where, LocalMachine) else Place(where.name, where.name)


def dry_run(options: CellOptions, place: Place) -> Table:
    """What a cell would start, and where; nothing is dialled."""
    request: StartRequest = options.request
    reached = [["reached by", shlex.join(place.command)], ["known from", place.source]] if place.command else []
    rows = [
        ["machine", place.name if place.kind == "local" else f"{place.name} ({place.kind})"],
        *reached,
        ["name", request.name],
        ["runs by", request.shell or place.shell or "its #! line, else bash or sh"],
        ["in", request.cwd or place.cwd or "its home folder"],
        ["terminal", str(request.tty)],
        ["input", "yes" if request.input else "no"],
        ["variables", ", ".join({**place.env, **request.env}) or "none"],
        ["log keeps", f"{human_bytes(request.max_log or 0)}, {request.log_policy}"],
        ["if it runs", options.if_running],
    ]
    if place.detach:
        rows.append(["started by", shlex.join(place.detach)])
    if place.confirm:
        rows.append(["asked first", "no, by --yes" if options.confirmed else "yes"])
    script = str(request.script).splitlines()
    rows += [["script" if number == 0 else "", line] for number, line in enumerate(script)]
    return Table(["nothing was started", ""], rows)


__all__ = ["Bundle", "CmdopMagics", "Note", "find"]
