"""Making rules: words in the order in which ``iptables-save`` prints them, each with a comment."""

from __future__ import annotations

from rules.iptables.ruleset import OWNER, Rule, shorten_comment
from rules.policy.addresses import parse_network

MARK = "0x4000"  # kube-proxy's masquerade bit (14), so that both name the same packets
LOCAL_DESTINATION = ("-m", "addrtype", "--dst-type", "LOCAL")
LOCAL_SOURCE = ("-m", "addrtype", "--src-type", "LOCAL")
NEW = ("-m", "conntrack", "--ctstate", "NEW")


def make_rule(
    comment: str,
    *,
    then: tuple[str, ...],
    source: str = "",
    destination: str = "",
    interface: str = "",
    protocol: str = "",
    matches: tuple[str, ...] = (),
) -> Rule:
    """A rule in the order in which ``iptables-save`` prints it. An address that begins with ``!`` is negated."""
    return Rule(
        (
            *_address("-s", source),
            *_address("-d", destination),
            *(("-o", interface) if interface else ()),
            *(("-p", protocol) if protocol else ()),
            "-m",
            "comment",
            "--comment",
            shorten_comment(comment),
            *matches,
            "-j",
            *then,
        )
    )


def _address(option: str, address: str) -> tuple[str, ...]:
    """``-s 10.0.0.1/32``. A range that holds everything is not written, as the kernel does not keep it."""
    if not address:
        return ()
    network = parse_network(address.removeprefix("!"))
    if network.prefixlen == 0:
        return ()
    return (*(("!",) if address.startswith("!") else ()), option, str(network))


def one_in(count: int) -> tuple[str, ...]:
    """One packet in ``count``. The kernel keeps the probability in units of 2**-31 (xt_statistic), so do we."""
    if count == 1:
        return ()
    probability = round(2**31 / count) / 2**31
    return ("-m", "statistic", "--mode", "random", "--probability", f"{probability:.11f}")


def our_rule(
    comment: str,
    *,
    then: tuple[str, ...],
    source: str = "",
    destination: str = "",
    interface: str = "",
    matches: tuple[str, ...] = (),
) -> Rule:
    """A rule that serves no Service in particular."""
    return make_rule(
        f"{OWNER}: {comment}",
        source=source,
        destination=destination,
        interface=interface,
        matches=matches,
        then=then,
    )
