"""Who can reach the server: beyond this machine only those who log in."""

from pathlib import Path

import pytest

from bundle.monailabel.serve import serve
from prsmed.errors import RequestError


@pytest.mark.parametrize("host", ["label.hospital.lan", "0.0.0.0", "192.168.0.7", "::"])
def test_a_host_that_others_reach_needs_a_realm(host: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="they must log in; give --realm"):
        serve(str(tmp_path), host=host, realm=None)


@pytest.mark.parametrize(
    ("host", "realm"), [("localhost", None), ("127.0.0.1", None), ("::1", None), ("label.hospital.lan", "https://id")]
)
def test_a_host_is_taken(host: str, realm: str | None, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no folder; name one"):
        serve(str(tmp_path / "missing"), host=host, realm=realm)
