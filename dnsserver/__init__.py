"""A DNS server for Kubernetes Services: what a name answers, and how the answer travels.

Pure, from the inside out: ``names`` (labels, reverse names), ``records`` (one Service -> its records; the index of
all), ``zone`` (question -> answer: all semantics), ``wire`` (bytes -> checked question, answer -> bytes), ``respond``
(request bytes -> response bytes, or what must be asked upstream). At the edge: ``upstream`` and ``cache``
(forwarding), ``server`` (sockets), ``metrics``, ``ports`` (who holds a port), ``resolv`` (resolv.conf).

A later fast path takes its place beside ``server``: ``records.Index`` tells which names a change touched, and
``wire.render`` yields the bytes after the question, which do not depend on the client's ID or spelling.
"""
