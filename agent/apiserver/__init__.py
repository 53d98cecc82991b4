"""The API server: Kubernetes' REST API over a store.

What a request says: ``paths``, ``query``, ``selectors``, ``body``, ``protobuf``, ``negotiate``. Which verb it means:
``rest``. The verbs: ``read``, ``write``, ``deletion``, ``watch``, ``subresources``, ``apply``. How objects merge:
``patch``, ``shapes``; stored: ``objects``; checked and completed: ``admission``, ``schema``. What kinds there are:
``registry``, ``discovery``, ``openapi``, ``tables``. Errors: ``status``. Relays to kubelets: ``streams``. HTTP:
``app``; sockets and TLS: ``server``.
"""

from __future__ import annotations

from agent.apiserver.server import serve

__all__ = ["serve"]
