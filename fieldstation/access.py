"""From settings to what opens a broker: url, user, password and certificates in one value."""

from __future__ import annotations

import logging
from dataclasses import replace

from fieldstation.config import MqttSettings, read_password, secret_path
from fieldstation.mqtt.connection import Access, BrokerUrl

log = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.", "::1")


def access_to(settings: MqttSettings) -> Access:
    """Return what opens the broker that the settings name, each part of it tried.

    Raises:
        MendableError: its url, password or certificates cannot be used.
    """
    url = BrokerUrl.parse(settings.url)
    access = Access(
        replace(url, username=url.username or settings.username or None),
        read_password(settings),
        ca_file=secret_path(settings.ca_file),
        certificate_file=secret_path(settings.certificate_file),
        key_file=secret_path(settings.key_file),
    )
    access.tls_context()
    if access.password and not url.tls and not url.host.startswith(LOOPBACK):
        log.warning("%s: the password travels unencrypted: use mqtts://", access.url)
    return access
