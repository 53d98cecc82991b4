"""Events are news, not records: they go an hour after they were last written (kube-apiserver's ``--event-ttl``)."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import msgspec

from agent.apiserver.api import Api, kind_of
from agent.store import Conflict, NotFound, StoreError

log = logging.getLogger(__name__)

LIFE = timedelta(hours=1)
EVERY = 60.0  # seconds
PAGE = 500


class _Meta(msgspec.Struct):
    creationTimestamp: str = ""


class _Event(msgspec.Struct):
    metadata: _Meta
    lastTimestamp: str | None = None
    eventTime: str | None = None


_decoder = msgspec.json.Decoder(_Event)


async def forget_old_events(api: Api) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(EVERY)
        try:
            await remove_events(api, before=datetime.now(UTC) - LIFE)
        except StoreError as error:
            log.error("cannot remove old events: %s", error)


async def remove_events(api: Api, *, before: datetime) -> int:
    """Returns how many went."""
    prefix, after, removed = f"{kind_of('events').storage}/", "", 0
    while True:
        page = await api.store.list(prefix, after=after, limit=PAGE)
        for item in page.items:
            if last_seen(item.value) < before:
                try:
                    await api.store.delete(item.key, revision=item.revision)
                    removed += 1
                except (Conflict, NotFound):  # written again just now, or gone already
                    continue
        if not page.more:
            return removed
        after = page.items[-1].key


def last_seen(value: bytes) -> datetime:
    """When a stored Event was last news."""
    event = _decoder.decode(value)
    moments = (event.lastTimestamp, event.eventTime, event.metadata.creationTimestamp)
    return max(datetime.fromisoformat(moment) for moment in moments if moment)
