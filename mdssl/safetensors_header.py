"""What a safetensors file says of itself, read without torch."""

from __future__ import annotations

import json


def safetensors_metadata(data: bytes) -> dict[str, str]:
    """The ``__metadata__`` of a safetensors file: eight bytes of header length, then the header as JSON."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]
