"""Commands and requests that the kubelet itself makes in a container: exec probes, postStart and preStop hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agent.kubelet.containers import Container, ContainerError, Runtime
from agent.kubelet.probes import Checker, ProbeError
from agent.kubelet.spec import ContainerSpec, Handler

OUTPUT_LIMIT = 10 * 1024  # bytes that are kept, as upstream's exec probe


async def run_command(runtime: Runtime, container_id: str, argv: Sequence[str], seconds: float) -> tuple[int, str]:
    """Exit code and output (both streams). Raises TimeoutError, and then the command is dead; and ContainerError."""
    process = await runtime.exec(container_id, tuple(argv))
    output = bytearray()

    async def collect(reader: asyncio.StreamReader | None) -> None:
        while reader is not None and (data := await reader.read(4096)):
            output.extend(data[: OUTPUT_LIMIT - len(output)])

    finished = False
    try:
        async with asyncio.timeout(seconds):
            code, _, _ = await asyncio.gather(process.wait(), collect(process.stdout), collect(process.stderr))
        finished = True
    finally:
        if not finished:
            await process.kill()
    return code, output.decode(errors="replace").strip()


async def run_handler(
    handler: Handler,
    spec: ContainerSpec,
    container: Container,
    *,
    runtime: Runtime,
    checker: Checker,
    address: str,
    seconds: float,
) -> str:
    """Run a lifecycle hook for at most so many seconds; what went wrong, or ""."""
    try:
        async with asyncio.timeout(seconds):
            if handler.exec is not None:
                code, output = await run_command(runtime, container.id, handler.exec.command, seconds)
                return "" if code == 0 else f"command exited with {code}: {output}"
            if handler.http_get is not None:
                success, message = await checker.http_get(handler.http_get, address=address, ports=spec.ports)
                return "" if success else message
            if handler.sleep is not None:
                await asyncio.sleep(handler.sleep.seconds)
            return ""
    except TimeoutError:
        return f"not done within {seconds:g} s"
    except (ContainerError, ProbeError) as error:
        return str(error)
