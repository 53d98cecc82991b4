"""The command line: ``podwire``.

``main`` the group · ``node`` the commands of a node (up, status, down, clean, check, proxy, dns) · ``kubectl``
kubectl's verbs, for the API of this or any other cluster · ``sequence`` what happened when a Service was created ·
``demo`` the document, played on a node of its own. Commands import what they need when they run: ``podwire get`` stays
quick.
"""
