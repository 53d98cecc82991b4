"""The supervisor: ``podwire up``.

It prepares the node (namespace, bridge, keys), starts the processes of docs/architecture.md and starts again whichever
dies. It stays in the network namespace it was started in and owns the API server's listening socket on that namespace's
loopback: it hands the socket down, so that a client outside finds the port open even while the API server restarts.

``prepare`` the node before anything runs · ``child`` one process, its readiness, silence and restarts · ``process``
what runs inside a child · ``predecessors`` what a killed supervisor left behind · ``neighbours`` who else is on the
machine · ``notify`` what systemd hears · ``shutdown`` whether the machine shuts down · ``daemon`` the loop · ``state``
what other commands (status, down) read · ``clean`` takes it all away.
"""
