"""What a change of frontends does to traffic, in words: ``diff_frontends``.

Nothing is decided here: policy has said, before and after, what each place (an address and port where a Service
listens) does with a connection. This module compares the two answers and says what is different, and nothing else.

    ServiceFrontends -> {Place: listener} -> for each kind of client its *fate* -> changes -> sentences

A place is asked once for each kind of client: pods, this node itself, and everybody else ("from outside"). Changes that
are the same for all of them are said without "from ...", and those that are the same at several places are said once.

New connections and open ones are told apart. conntrack keeps translating an open TCP connection whatever happens to its
Service; UDP flows and SCTP associations whose endpoint is no longer usable at their place are ended by the proxy.

``listeners`` places and fates · ``diff`` their comparison · ``words`` numbers and lists · ``values`` sentences.
"""

from rules.effects.diff import diff_frontends
from rules.effects.values import NO_EFFECT, Effect, Impact, render_effects

__all__ = ["NO_EFFECT", "Effect", "Impact", "diff_frontends", "render_effects"]
