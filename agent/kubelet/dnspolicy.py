"""Which name server a pod asks, and how it completes short names (pure).

``dnsPolicy`` chooses the base and ``dnsConfig`` adds to it (kubelet's network/dns):

| policy | name server | search list |
|---|---|---|
| ClusterFirst (default) | the DNS Service | ``ns.svc.Z svc.Z Z``, then the host's; ``ndots:5`` |
| ClusterFirst of a hostNetwork pod | the host's | the host's: such a pod asks for ClusterFirstWithHostNet |
| ClusterFirstWithHostNet | as ClusterFirst | as ClusterFirst |
| Default | the host's | the host's |
| None | only ``dnsConfig`` | only ``dnsConfig`` |

``ndots:5`` makes a resolver try the search list first for every name with fewer than five dots, so that
``db.other.svc`` and ``_http._tcp.db.ns.svc`` work without their end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.kubelet.spec import DnsConfig, Pod

MAX_NAMESERVERS, MAX_SEARCHES, MAX_SEARCH_CHARACTERS = 3, 32, 2048  # Kubernetes' limits; glibc reads three servers


@dataclass(frozen=True, slots=True)
class HostResolv:
    """The node's own resolv.conf."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolved:
    """The content of a pod's resolv.conf."""

    nameservers: tuple[str, ...]
    searches: tuple[str, ...]
    options: tuple[str, ...]


def resolve_dns(pod: Pod, *, dns_ip: str, domain: str, host: HostResolv) -> Resolved:
    """What the pod's resolv.conf says."""
    policy = pod.spec.dns_policy
    if policy == "None":
        base = Resolved((), (), ())
    elif policy == "Default" or (policy == "ClusterFirst" and pod.spec.host_network):
        base = Resolved(host.nameservers, host.searches, host.options)
    else:
        suffixes = (f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain)
        base = Resolved((dns_ip,), (*suffixes, *host.searches), ("ndots:5",))
    return _bounded(_add(base, pod.spec.dns_config or DnsConfig()))


def parse_resolv(text: str) -> HostResolv:
    """Read a resolv.conf; the last ``search`` or ``domain`` line counts (resolv.conf(5))."""
    nameservers: list[str] = []
    searches: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        word, *rest = line.split("#")[0].split(";")[0].split() or [""]
        if word == "nameserver" and rest:
            nameservers.append(rest[0])
        elif word in ("search", "domain"):
            searches = tuple(name.rstrip(".") for name in rest if name != ".")
        elif word == "options":
            options += rest
    return HostResolv(tuple(nameservers), searches, tuple(options))


def _add(base: Resolved, config: DnsConfig) -> Resolved:
    """``dnsConfig`` comes after the base; an option of the same name replaces it."""
    options = {option.partition(":")[0]: option for option in base.options}
    for option in config.options:
        options[option.name] = option.name if option.value is None else f"{option.name}:{option.value}"
    return Resolved(
        _unique((*base.nameservers, *config.nameservers)),
        _unique((*base.searches, *config.searches)),
        tuple(options.values()),
    )


def _bounded(resolved: Resolved) -> Resolved:
    searches: list[str] = []
    for name in resolved.searches[:MAX_SEARCHES]:
        if len(" ".join([*searches, name])) > MAX_SEARCH_CHARACTERS:
            break
        searches.append(name)
    return Resolved(resolved.nameservers[:MAX_NAMESERVERS], tuple(searches), resolved.options)


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
