"""multipart/form-data in both directions (RFC 7578); `cgi`, which used to read it, is gone from Python 3.13."""

from __future__ import annotations

import re
import secrets
from pathlib import Path


def encode(fields: dict[str, str], files: dict[str, Path]) -> tuple[str, bytes]:
    """Content type and body of a form. A file travels under a plain name: its own may name a patient."""
    boundary = secrets.token_hex(16)
    body = bytearray()
    for name, text in fields.items():
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
    for name, path in files.items():
        suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
        head = f'Content-Disposition: form-data; name="{name}"; filename="image{suffix}"'
        body += f"--{boundary}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        body += path.read_bytes() + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", bytes(body)


def decode(content_type: str, body: bytes) -> dict[str, bytes]:
    """The parts of a form by their names.

    Raises:
        ValueError: the body is no complete form.
    """
    found = re.search(r'boundary="?([^";,]+)"?', content_type)
    if not found:
        raise ValueError("the reply is multipart, but names no boundary")
    boundary = b"--" + found[1].encode()
    if not body.rstrip().endswith(boundary + b"--"):
        raise ValueError("the reply is cut off")
    parts = {}
    for part in (b"\r\n" + body).split(b"\r\n" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        if name:
            parts[name[1].decode()] = content
    return parts
