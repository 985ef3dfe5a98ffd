"""Everything that knows IPython or widgets; nothing outside imports it."""

from __future__ import annotations

from typing import Any

from ..directory import set_asker

_LOADED, _ASKER = "_cmdop_magics", "_cmdop_asker"


def load(shell: Any) -> None:
    """Register the magics, put `wait_for`, `wait_all` and `cmdop` into the namespace, tell what still runs."""
    from .magics import CmdopMagics, sessions_of_others

    if getattr(shell, _LOADED, None) is not None:
        return
    running = sessions_of_others()  # raises where sessions cannot be kept, and nothing is loaded
    magics = CmdopMagics(shell)
    shell.register_magics(magics)
    setattr(shell, _LOADED, magics)
    magics.begin(running)
    if getattr(shell, "kernel", None) is not None:
        from .views.question import PageAsker

        setattr(shell, _ASKER, PageAsker(shell))
        set_asker(getattr(shell, _ASKER))


def unload(shell: Any) -> None:
    """Take the magics out again; sessions go on."""
    magics = getattr(shell, _LOADED, None)
    if magics is not None:
        magics.end()
        setattr(shell, _LOADED, None)
    asker = getattr(shell, _ASKER, None)
    if asker is not None:
        set_asker(None)
        asker.close()
        setattr(shell, _ASKER, None)
