"""The agent: everything of podwire that talks to the Kubernetes API or to the person at the terminal.

Layers, downward only (checked by import-linter; drawn in docs/architecture.md)::

    cli -> supervisor -> apiserver | controllers | kubelet | proxy | dns -> kube | store -> config -> telemetry
"""
