"""The node's networking: namespaces, links, addresses. It knows nothing of pods' objects, and imports nothing of ours.

``namespaces`` named network namespaces and how a thread visits one · ``links`` netlink, one idempotent verb at a time ·
``attach`` a pod's veth pair to the bridge · ``ipam`` who has which address (pure) · ``host`` the node's bridge and
settings, and the preflight. All functions block; call them from an executor's thread.
"""
