"""From Kubernetes Services to kernel rules: values in, values out; only the engines do I/O.

    Snapshot --policy.resolve_frontends--> Frontends --iptables.lower--> Ruleset --iptables.diff--> Plan --engine.apply

This package knows nothing of the agent, needs only the standard library (engines aside), and can be read in that order:
``snapshot``, ``policy``, ``iptables``.
"""
