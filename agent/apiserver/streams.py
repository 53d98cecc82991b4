"""Relaying what only a pod's node can answer: ``logs``, ``exec``, ``attach`` and ``portforward``.

The API server finds the pod's node, connects to its kubelet with its client certificate and hands through what comes.
All but logs are WebSockets (KEP-4006): both ends agree on one of ``PROTOCOLS``, and frames are relayed as they are.
Those of ``portforward`` are pieces of a SPDY connection, which only the kubelet understands. SPDY without a WebSocket
around it, which older clients speak, is not relayed.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import msgspec
from starlette.websockets import WebSocket, WebSocketState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from agent.apiserver.api import Api, find_object, get_object, kind_of
from agent.apiserver.paths import Target
from agent.apiserver.query import Query
from agent.apiserver.registry import JSON, value_at
from agent.apiserver.status import StatusError, bad_request, not_found, unavailable

log = logging.getLogger(__name__)

CHANNELS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
TUNNEL = "SPDY/3.1+portforward.k8s.io"
PROTOCOLS = {"exec": CHANNELS, "attach": CHANNELS, "portforward": (TUNNEL,)}
LOG_PARAMETERS = ("follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream")
# The API's names and the kubelet's.
STREAMS = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
ERROR_CHANNEL = b"\x03"  # how it ended, as a Status
CLOSE_REASON = 100  # characters, of at most 123 bytes (RFC 6455, 5.5.1)
KUBELET_WORDS = {"exec": "exec", "attach": "attach", "portforward": "portForward"}
CONNECT = 10.0  # seconds
KUBELET_PORT = 10250
REASONS = {400: "BadRequest", 404: "NotFound", 500: "InternalError", 501: "NotImplemented"}


@dataclass(frozen=True, slots=True)
class Kubelets:
    """Connections to kubelets, with the API server's client certificate."""

    tls: ssl.SSLContext
    http: httpx2.AsyncClient

    async def close(self) -> None:
        await self.http.aclose()


def open_kubelets(pki: Path) -> Kubelets:
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "kubelet-client.crt", pki / "kubelet-client.key")
    timeout = httpx2.Timeout(CONNECT, read=None)  # a followed log may be silent for hours
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=10)  # each followed log holds one
    return Kubelets(tls, httpx2.AsyncClient(verify=tls, timeout=timeout, limits=limits, trust_env=False))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container runs, or only its pod. ``address`` is host:port of the kubelet."""

    address: str
    namespace: str
    pod: str
    container: str = ""

    def path(self, what: str) -> str:
        """``what``: the kubelet's word."""
        return f"/{what}/{self.namespace}/{self.pod}/{self.container}".rstrip("/")


async def find_place(api: Api, target: Target, query: Query) -> Place | None:
    """None: the pod has no node yet. Raises StatusError (400, 404)."""
    pod = await get_object(api, target)
    container = "" if target.subresource == "portforward" else choose_container(pod, query.text("container"))
    name = value_at(pod, "spec.nodeName")
    if not name:
        return None
    node = await find_object(api, kind_of("nodes"), "", name)
    if node is None:
        raise not_found(kind_of("nodes"), name)
    return Place(kubelet_address(node), target.namespace, target.name, container)


async def find_way(api: Api, target: Target, query: Query) -> Place:
    """The same for those who want to get in. Raises StatusError (400, 404)."""
    place = await find_place(api, target, query)
    if place is None:
        raise bad_request(f"pod {target.name} does not have a host assigned")
    return place


def choose_container(pod: JSON, asked: str) -> str:
    """Raises StatusError 400."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    regular, initial = _names(spec, "containers"), _names(spec, "initContainers")
    if asked:
        if asked not in (*regular, *initial, *_names(spec, "ephemeralContainers")):
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(regular) == 1 and not initial:
        return regular[0]
    choices = f"choose one of: [{' '.join(regular)}]"
    if initial:
        choices += f" or one of the init containers: [{' '.join(initial)}]"
    raise bad_request(f"a container name must be specified for pod {name}, {choices}")


def _names(spec: JSON, field: str) -> list[str]:
    return [container["name"] for container in spec.get(field) or []]


def kubelet_address(node: JSON) -> str:
    """Raises StatusError 503 if the node has not said where it is."""
    addresses = {entry["type"]: entry["address"] for entry in value_at(node, "status.addresses") or []}
    address = addresses.get("InternalIP")
    if not address:
        raise unavailable(f"node {node['metadata']['name']} has not told its address yet: is its kubelet running?")
    port = value_at(node, "status.daemonEndpoints.kubeletEndpoint.Port") or KUBELET_PORT
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@asynccontextmanager
async def open_log(kubelets: Kubelets, place: Place, query: Query) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """The container's log as it comes. Raises StatusError."""
    parameters = {name: query.text(name) for name in LOG_PARAMETERS if query.text(name)}
    request = kubelets.http.build_request(
        "GET", f"https://{place.address}{place.path('containerLogs')}", params=parameters
    )
    try:
        response = await kubelets.http.send(request, stream=True)
    except httpx2.HTTPError as error:
        raise _unreachable(place, error) from error
    try:
        if not response.is_success:
            raise _refusal(response.status_code, await response.aread())
        yield _chunks(response)
    finally:
        await response.aclose()


async def _chunks(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Until the end; a kubelet that dies half-way is the end, too."""
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx2.HTTPError as error:
        log.warning("%s: the log broke off: %s", response.url.path, error)


def _unreachable(place: Place, error: Exception) -> StatusError:
    why = str(error) or type(error).__name__
    return StatusError(502, "InternalError", f"cannot reach the kubelet at {place.address}: {why}")


def _refusal(code: int, body: bytes) -> StatusError:
    """The kubelet's plain text as a Status."""
    return StatusError(code, REASONS.get(code, "Unknown"), body.decode(errors="replace").strip() or f"HTTP {code}")


def kubelet_parameters(query: Query) -> str:
    """``exec``'s parameters as the kubelet names them. Raises StatusError."""
    pairs = [("command", word) for word in query.all("command")]
    pairs += [(kubelets, "1") for name, kubelets in STREAMS if query.flag(name)]
    return urlencode(pairs)


def agree(what: str, offered: Sequence[str]) -> list[Subprotocol]:
    """What both sides may speak. Raises StatusError 400."""
    common = [Subprotocol(name) for name in PROTOCOLS[what] if name in offered]
    if not common:
        wanted = PROTOCOLS[what][0]
        raise bad_request(f"unable to upgrade: no subprotocol of {list(offered)} is supported; use {wanted}")
    return common


async def relay(kubelets: Kubelets, place: Place, what: str, query: Query, client: WebSocket) -> None:
    """Join the client with the kubelet until one of them closes. Raises StatusError before the client is accepted."""
    uri = f"wss://{place.address}{place.path(KUBELET_WORDS[what])}?{kubelet_parameters(query)}"
    subprotocols = agree(what, client.scope["subprotocols"])
    try:
        kubelet = await _connect(kubelets, place, uri, None if what == "portforward" else subprotocols)
    except StatusError as error:
        await _explain(client, subprotocols[0], error)
        return
    async with kubelet:
        await client.accept(subprotocol=kubelet.subprotocol or subprotocols[0])
        await _join(client, kubelet)


async def _connect(
    kubelets: Kubelets, place: Place, uri: str, subprotocols: list[Subprotocol] | None
) -> ClientConnection:
    """``None``: the kubelet is not asked to agree; a tunnel's name is not one that RFC 6455 (4.1) allows."""
    try:
        return await connect(
            uri,
            ssl=kubelets.tls,
            subprotocols=subprotocols,
            compression=None,
            max_size=None,
            proxy=None,
            open_timeout=CONNECT,
            ping_timeout=None,  # see agent.web
        )
    except InvalidStatus as error:
        raise _refusal(error.response.status_code, bytes(error.response.body or b"")) from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise _unreachable(place, error) from error


async def _explain(client: WebSocket, subprotocol: Subprotocol, error: StatusError) -> None:
    """Tell within the session why there is none: kubectl would take a refused handshake for "try SPDY"."""
    await client.accept(subprotocol=subprotocol)
    if subprotocol == TUNNEL:
        await client.close(code=1011, reason=str(error)[:CLOSE_REASON])
        return
    await client.send_bytes(ERROR_CHANNEL + msgspec.json.encode(error.status()))
    await client.close(code=1000)


async def _join(client: WebSocket, kubelet: ClientConnection) -> None:
    """Copy both ways; when one way ends, so does the other."""
    ways = {asyncio.create_task(_to_kubelet(client, kubelet)), asyncio.create_task(_to_client(client, kubelet))}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        if client.client_state is WebSocketState.CONNECTED and client.application_state is WebSocketState.CONNECTED:
            await client.close(code=1000)


async def _to_kubelet(client: WebSocket, kubelet: ClientConnection) -> None:
    while (message := await client.receive())["type"] == "websocket.receive":
        data = message.get("bytes")
        await kubelet.send(data if data is not None else message["text"])


async def _to_client(client: WebSocket, kubelet: ClientConnection) -> None:
    try:
        async for data in kubelet:
            await (client.send_text(data) if isinstance(data, str) else client.send_bytes(data))
    except ConnectionClosed:  # without a closing handshake: the kubelet died; the client sees the end
        return
