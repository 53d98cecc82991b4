"""Who may ask: whoever shows the token of this node's kubeconfig may do everything, others may learn that we are alive.

There is one token (``<state-dir>/pki/token``); it is root's, as the node's is. It is compared in constant time.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from agent.apiserver.status import unauthorized

OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})


def check_token(path: str, headers: Mapping[str, str], token: str) -> None:
    """Raises StatusError 401. Header names are lower case."""
    if path.rstrip("/") in OPEN_PATHS:
        return
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), token.encode()):
        raise unauthorized()
