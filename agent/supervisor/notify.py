"""Tell systemd (``Type=notify``): sd_notify(3) in a few lines. Without ``$NOTIFY_SOCKET`` nothing is said."""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """Send e.g. ``READY=1`` or ``STATUS=...``; an address that starts with ``@`` is in the abstract namespace."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
