"""The iptables backend: Frontends lowered to chains, compared with what is installed, applied by an engine.

- ``names``: chain names, and which chains are ours.
- ``ruleset``: chains and rules as values; one rule is the words that ``iptables-save`` prints for it.
- ``lower``: Frontends -> Ruleset, in kube-proxy's layout.
- ``parse``: the text of ``iptables-save`` -> Ruleset (only what is ours).
- ``diff``: installed and wanted Ruleset -> Plan, which an engine applies and a person can read.
- ``engines``: the only I/O. ``restore`` runs ``iptables-restore`` (nft or legacy), ``libiptc`` is python-iptables.
- ``preflight``: which variant and engine this host calls for, and why.
"""
