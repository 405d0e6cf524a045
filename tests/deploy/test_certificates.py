"""deploy/make-certificates.sh: an authority for good, certificates anew when they do not fit."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.hub import make_certificates, script

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority and a broker's certificate, to be copied."""
    folder = tmp_path_factory.mktemp("made") / "hub"
    make_certificates(folder, "hub.example")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "hub"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def openssl(*arguments: object) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_what_is_sound_is_left_as_it_is(folder: Path) -> None:
    """The second run changes no byte."""
    before = contents(folder)
    make_certificates(folder, "hub.example")
    assert contents(folder) == before


def test_no_key_is_readable_by_others(folder: Path) -> None:
    """Whatever the caller's umask; the authority's folder is closed altogether."""
    make_certificates(folder, "--client", "hedge")
    keys = list(folder.rglob("*.key"))
    assert {p.name for p in keys} == {"ca.key", "server.key", "hedge.key"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in keys} == {0o600}
    assert stat.S_IMODE((folder / "authority").stat().st_mode) == 0o700


def test_the_certificate_is_for_every_name_and_for_this_machine(folder: Path) -> None:
    """Names, addresses and localhost, and it is a server's."""
    make_certificates(folder, "hub.example", "192.0.2.7", "2001:db8::1")
    text = openssl("x509", "-in", folder / "server.crt", "-noout", "-text")
    for name in ("DNS:hub.example", "IP Address:192.0.2.7", "2001:DB8:0:0:0:0:0:1",
                 "DNS:localhost", "TLS Web Server Authentication", "CN = hub.example"):  # fmt: skip
        assert name in text
    openssl("verify", "-CAfile", folder / "ca.crt", folder / "server.crt")


def sign_for_a_day(folder: Path) -> None:
    """Put a certificate in the broker's place that fits and ends tomorrow."""
    authority = folder / "authority"
    request, extensions = folder / "request", folder / "extensions"
    openssl("req", "-new", "-key", folder / "server.key", "-out", request, "-subj", "/CN=x")
    extensions.write_text("subjectAltName=DNS:hub.example")
    openssl(
        *("x509", "-req", "-in", request, "-days", 1, "-extfile", extensions),
        *("-CA", authority / "ca.crt", "-CAkey", authority / "ca.key", "-set_serial", 7),
        *("-out", folder / "server.crt"),
    )


@pytest.mark.parametrize(
    "spoil",
    [
        sign_for_a_day,
        lambda folder: (folder / "server.key").unlink(),
        lambda folder: shutil.copy(folder / "authority/ca.key", folder / "server.key"),
        lambda folder: shutil.copy(folder / "ca.crt", folder / "server.crt"),
        lambda folder: (folder / "server.crt").write_text("torn"),
        lambda folder: (folder / "server.crt.names").write_text("DNS:other.example"),
    ],
    ids=["ends soon", "no key", "another key", "another certificate", "torn", "other names"],
)
def test_what_does_not_fit_is_made_anew_by_the_same_authority(
    folder: Path, spoil: Callable[[Path], object]
) -> None:
    """Stations need nothing new."""
    authority = contents(folder / "authority")
    spoil(folder)
    spoilt = contents(folder)
    make_certificates(folder, "hub.example")
    assert contents(folder)["server.crt"] != spoilt["server.crt"]
    assert contents(folder / "authority") == authority
    openssl("x509", "-in", folder / "server.crt", "-noout", "-checkend", 90 * 86_400)
    openssl("verify", "-CAfile", folder / "ca.crt", folder / "server.crt")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a: (a / "ca.key").unlink(), "ca.key is missing: put it back"),
        (lambda a: (a / "ca.crt").unlink(), "ca.crt is missing: put it back"),
        (lambda a: shutil.copy(a.parent / "server.key", a / "ca.key"), "not the key of ca.crt"),
    ],
)
def test_an_authority_is_never_replaced(
    folder: Path, spoil: Callable[[Path], object], said: str
) -> None:
    """A damaged one is named with the mend, and what is left of it stays."""
    spoil(folder / "authority")
    before = contents(folder)
    done = script("make-certificates.sh", folder, "new.example")
    assert done.returncode == 1
    assert said in done.stderr
    assert contents(folder) == before


def test_an_authority_s_key_may_be_kept_elsewhere(folder: Path) -> None:
    """Nothing is signed while the certificate is sound, so nothing is missed."""
    (folder / "authority" / "ca.key").unlink()
    make_certificates(folder, "hub.example")


def test_two_at_once_make_one_authority(tmp_path: Path) -> None:
    """The second waits for the first and finds everything there."""
    command = ["bash", "deploy/make-certificates.sh", str(tmp_path / "hub"), "hub.example"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("making the authority" in text for text in said) == 1
    openssl("verify", "-CAfile", tmp_path / "hub/ca.crt", tmp_path / "hub/server.crt")


@pytest.mark.parametrize("name", ["a b", "x/../y", "-days", "*.example\n", "a,DNS:b", ""])
def test_what_is_no_host_name_is_refused(tmp_path: Path, name: str) -> None:
    """Nothing of it reaches openssl's settings."""
    done = script("make-certificates.sh", tmp_path / "hub", name)
    assert done.returncode == 1
    assert "is no host name" in done.stderr
    assert not (tmp_path / "hub" / "server.crt").exists()
