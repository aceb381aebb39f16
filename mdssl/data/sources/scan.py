"""All images below a folder, and what else is there."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from mdssl.data.sources.base import Findings
from mdssl.errors import InputError

_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".tga", ".avif"),
)
_LITTER = {
    *("__macosx", "@eadir", "#recycle", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("thumbnails", "thumbs", "__pycache__"),
}
"""What systems and programs leave in folders of others, in small letters."""
_NO_TEXT = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes in a file's name that are no UTF-8."""
_HIDDEN = "hidden files and folders"


@cache
def suffixes() -> frozenset[str]:
    """The endings of file names that are images, in small letters: of those that Pillow opens here."""
    from PIL import Image

    can_open = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return frozenset(_SUFFIXES) & can_open


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's own: hidden, or left by the system."""
    return name.startswith(".") or name.lower() in _LITTER


def scan(root: Path, findings: Findings) -> list[str]:
    """The relative paths of all images below ``root``, sorted; links are followed.

    Raises:
        InputError: a folder's or image's name is no UTF-8, as in archives from Windows.
    """
    found: list[str] = []
    unnamed: list[str] = []

    def look_into(folder: str, inside: str, above: tuple[str, ...]) -> None:
        before = len(found)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(
                f"folder {folder} of the source cannot be read: {error.strerror}. Check its permissions."
            ) from error
        for entry in entries:
            place, suffix = f"{inside}{entry.name}", os.path.splitext(entry.name)[1].lower()
            if is_hidden(entry.name):
                findings.leave_out(_HIDDEN, place)
            elif "\\" in entry.name:
                raise InputError(
                    f"{place!r} in {root} is one name with backslashes: its archive, from Windows, was unpacked by a "
                    "program that does not know them. Unpack it with another, such as 7z."
                )
            elif os.path.isdir(entry.path):
                real = os.path.realpath(entry.path)
                if real in above:
                    findings.leave_out("links that lead back to a folder around them", place)
                    continue
                if entry.is_symlink():
                    linked.append(place)
                look_into(entry.path, f"{place}/", (*above, real))
            elif suffix not in suffixes():
                findings.leave_out(f"files that are no images by their names ({suffix or 'no suffix'})", place)
            elif not os.path.isfile(entry.path):
                findings.leave_out("links to nothing", place)
            else:
                if entry.is_symlink():
                    linked.append(place)
                found.append(place)
                if _NO_TEXT.search(place):
                    unnamed.append(place)
        if len(found) == before and inside:
            findings.leave_out("folders without images", inside.rstrip("/"))

    linked: list[str] = []
    look_into(str(root), "", (os.path.realpath(root),))
    if unnamed:
        raise InputError(
            f"{len(unnamed)} images have paths that are no UTF-8, such as {unnamed[0]!a}; rename them, for names from "
            "Windows with: convmv -r -f cp1252 -t utf8 --notest FOLDER."
        )
    if linked:
        findings.remarks.append(f"links that are followed: {len(linked):,}, such as {linked[0]}")
    return found
