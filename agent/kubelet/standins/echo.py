"""podwire/echo: a test server in the manner of agnhost's netexec. It says who it is and who asked.

HTTP (``--http-port``, 8080): ``/hostname`` (and ``/``), ``/clientip``, ``/echo?msg=``, ``/healthz``, ``/slow?ms=``,
``/fail?code=``, ``/exit?code=&wait=`` (seconds), ``/env?name=``. ``/healthz`` is 503 after ``/unhealthy``, until
``/healthy``. UDP (``--udp-port``, 8081): ``hostname``, ``clientip``, ``echo MESSAGE``. TCP (``--tcp-port``, off): sends
back each line. Ports are numbers, several separated by commas; 0 or empty turns one off.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from . import serving

NAME = "podwire-echo"
HOSTNAME = socket.gethostname()

_healthy = threading.Event()


def main(argv: list[str]) -> None:
    ports = parse_ports(argv)
    serving.mind_signals()
    _healthy.set()
    for port in ports["http-port"]:
        serving.serve_http(port, handle, server=NAME)
    for port in ports["tcp-port"]:
        serving.serve_connections(port, _talk)
    for port in ports["udp-port"]:
        threading.Thread(target=_answer_datagrams, args=(serving.listen(port, socket.SOCK_DGRAM),), daemon=True).start()
    serving.say(f"{NAME} {HOSTNAME}: " + ", ".join(f"{name} {port}" for name in ports for port in ports[name]))
    serving.wait_for_end()


def parse_ports(argv: list[str]) -> dict[str, list[int]]:
    """``--http-port 80,8080``, ``--http-port=80``; agnhost's own sub-command ``netexec`` is let pass."""
    ports = {"http-port": [8080], "udp-port": [8081], "tcp-port": []}
    words = [part for word in argv if word != "netexec" for part in word.lstrip("-").split("=", 1)]
    if len(words) % 2:
        sys.exit(f"{NAME}: {words[-1]} needs a value")
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name not in ports:
            sys.exit(f"{NAME}: unknown option --{name}; there are " + ", ".join(f"--{known}" for known in ports))
        try:
            ports[name] = [int(port) for port in value.split(",") if port and int(port)]
        except ValueError:
            sys.exit(f"{NAME}: --{name} {value}: expected port numbers")
    return ports


def handle(request: serving.Request) -> serving.Response:
    answer = _ANSWERS.get(request.path)
    return answer(request) if answer else serving.Response(f"{NAME}: no {request.path}\n", 404)


def _hostname(request: serving.Request) -> serving.Response:
    return serving.Response(HOSTNAME)


def _client(request: serving.Request) -> serving.Response:
    host, port = request.client
    return serving.Response(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _echo(request: serving.Request) -> serving.Response:
    return serving.Response(request.query.get("msg", request.body.decode(errors="replace")))


def _env(request: serving.Request) -> serving.Response:
    name = request.query.get("name")
    return serving.Response(os.environ.get(name, "") if name else "".join(f"{n}={v}\n" for n, v in os.environ.items()))


def _slow(request: serving.Request) -> serving.Response:
    time.sleep(int(request.query.get("ms", "1000")) / 1000)
    return serving.Response(HOSTNAME)


def _fail(request: serving.Request) -> serving.Response:
    return serving.Response(f"failing as asked, {HOSTNAME}\n", int(request.query.get("code", "500")))


def _health(request: serving.Request) -> serving.Response:
    return serving.Response("ok\n") if _healthy.is_set() else serving.Response("unhealthy as asked\n", 503)


def _set_health(request: serving.Request) -> serving.Response:
    if request.path == "/healthy":
        _healthy.set()
    else:
        _healthy.clear()
    return serving.Response("ok\n")


def _exit(request: serving.Request) -> serving.Response:
    """Answer first, then end."""
    code, wait = int(request.query.get("code", "0")), float(request.query.get("wait", "0.05"))
    threading.Timer(wait, lambda: os._exit(code)).start()
    return serving.Response(f"exiting with code {code}\n")


_ANSWERS: dict[str, serving.Handler] = {
    "/": _hostname,
    "/hostname": _hostname,
    "/clientip": _client,
    "/echo": _echo,
    "/env": _env,
    "/slow": _slow,
    "/fail": _fail,
    "/healthz": _health,
    "/healthy": _set_health,
    "/unhealthy": _set_health,
    "/exit": _exit,
}


def _talk(connection: socket.socket, client: tuple[str, int]) -> None:
    with connection.makefile("rb") as stream:
        for line in stream:
            connection.sendall(line)


def _answer_datagrams(server: socket.socket) -> None:
    while True:
        data, peer = server.recvfrom(65535)
        command, _, rest = data.decode(errors="replace").strip().partition(" ")
        answers = {"hostname": HOSTNAME, "clientip": f"{serving.plain(peer[0])}:{peer[1]}", "echo": rest}
        server.sendto(answers.get(command.lower(), "").encode(), peer)
