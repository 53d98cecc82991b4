"""Making rules: text in the order in which ``iptables-save`` prints it, each rule with a comment."""

from __future__ import annotations

from rules.iptables.ruleset import OWNER, Rule, quote_comment, shorten_comment

MARK = "0x4000"  # kube-proxy's masquerade bit (14), so that both name the same packets
LOCAL_DESTINATION = "-m addrtype --dst-type LOCAL"
LOCAL_SOURCE = "-m addrtype --src-type LOCAL"
NEW = "-m conntrack --ctstate NEW"

_EVERYTHING = ("0.0.0.0/0", "::/0")  # not written, as the kernel does not keep it


def make_rule(
    comment: str,
    *,
    then: str,
    source: str = "",
    destination: str = "",
    interface: str = "",
    protocol: str = "",
    matches: str = "",
) -> Rule:
    """A rule. ``source`` and ``destination`` are canonical CIDRs (see ``host``); one that begins with ``!`` is negated.
    ``matches`` follow the comment; ``then`` is the target with its options."""
    where = f"{_address('-s', source)}{_address('-d', destination)}"
    if interface:
        where += f"-o {interface} "
    if protocol:
        where += f"-p {protocol} "
    comment = quote_comment(shorten_comment(comment))
    return Rule(f"{where}-m comment --comment {comment} {matches}{' ' if matches else ''}-j {then}")


def our_rule(
    comment: str,
    *,
    then: str,
    source: str = "",
    destination: str = "",
    interface: str = "",
    protocol: str = "",
    matches: str = "",
) -> Rule:
    """A rule that serves no Service in particular."""
    return make_rule(
        f"{OWNER}: {comment}",
        source=source,
        destination=destination,
        interface=interface,
        protocol=protocol,
        matches=matches,
        then=then,
    )


def host(address: str) -> str:
    """The CIDR of one canonical address."""
    return f"{address}/128" if ":" in address else f"{address}/32"


def share_of(part: int, whole: int) -> str:
    """``part`` packets in ``whole``; nothing for all of them. The kernel keeps a probability in units of 2**-31
    (xt_statistic), so do we."""
    if part == whole:
        return ""
    return f"-m statistic --mode random --probability {round(2**31 * part / whole) / 2**31:.11f}"


def _address(option: str, address: str) -> str:
    if not address or address in _EVERYTHING:
        return ""
    return f"! {option} {address[1:]} " if address[0] == "!" else f"{option} {address} "
