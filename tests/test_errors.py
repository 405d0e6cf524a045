"""What errors show, and what they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.errors import redacted

SECRET = "pl4nted"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mqtt://user:pl4nted@host:1883", "mqtt://user:***@host:1883"),
        ("mqtt://user:a:pl4nted@b@host", "mqtt://user:***@host"),
        ("mqtt://user:pl4nted/more@host/x", "mqtt://user:***@host/x"),
        ("postgresql://:pl4nted@/birds", "postgresql://:***@/birds"),
        ("user:pl4nted@host", "user:***@host"),
        ("postgresql:///b?user=u&password=pl4nted&x=1", "postgresql:///b?user=u&password=***&x=1"),
        ("postgresql:///b?sslpassword=pl4nted", "postgresql:///b?sslpassword=***"),
    ],
)
def test_a_password_is_hidden_wherever_a_url_has_it(url: str, shown: str) -> None:
    """Also one with the signs that end a password."""
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url", ["mqtts://user@hub.example:8883", "sqlite:////srv/birds.db", "embedded", "mqtt://[::1]"]
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    """What is hidden for nothing helps nobody to find a mistake."""
    assert redacted(url) == url


@given(st.text(), st.text(), st.sampled_from(["mqtt://", "postgresql+psycopg://", ""]))
def test_no_password_gets_through(before: str, after: str, scheme: str) -> None:
    """Whatever stands around it."""
    assert SECRET not in redacted(f"{scheme}user:{before}{SECRET}{after}@host/name")
