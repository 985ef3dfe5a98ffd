"""The agent as one file that can be sent: a zipapp whose bytes depend on nothing but its sources."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip can say


@dataclass(frozen=True, slots=True)
class Parcel:
    """A zipapp: `python3 -I -S FILE serve NONCE` runs it.

    Attributes:
        data: The file.
        digest: Its SHA-256, in hexadecimal.
        version: Of the package it was made from, for people; `digest` is what tells agents apart.
    """

    data: bytes = field(repr=False)
    digest: str
    version: str


def parcel_of(sources: Mapping[str, bytes], version: str) -> Parcel:
    """Pack the files, by their names. The same sources give the same bytes, whenever they are packed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(sources):
            facts = zipfile.ZipInfo(name, LONG_AGO)
            facts.create_system, facts.external_attr = 3, 0o644 << 16  # as on Unix, also when made elsewhere
            archive.writestr(facts, sources[name], zipfile.ZIP_DEFLATED, 9)
    data = packed.getvalue()
    return Parcel(data, hashlib.sha256(data).hexdigest(), version)


@functools.cache
def agent_parcel() -> Parcel:
    """The agent of this package."""
    above = __package__.rpartition(".")[0]
    files = resources.files(above).joinpath("agent").iterdir()
    sources = {file.name: file.read_bytes() for file in files if file.name.endswith(".py")}
    return parcel_of(sources, importlib.import_module(above).__version__)
