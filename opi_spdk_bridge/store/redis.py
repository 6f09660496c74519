"""State in Redis, for bridges whose own disk is not to be trusted with it.

Each commit is one script, so it is applied as a whole, and only while this bridge has the lease: two bridges cannot
change one state. How durable it is, is Redis's business: run it with `appendonly yes`, `appendfsync always` for the
promise that SQLite gives. While Redis is away reads are answered and changes are UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from opi_spdk_bridge import errors
from opi_spdk_bridge.store.base import Change, Row, Store, finished
from opi_spdk_bridge.store.group import Grouped

log = logging.getLogger(__name__)

LEASE_S = 15
_RENEWAL_S = 4
_TIMEOUT_S = 5.0
_BYTES = ("desired", "previous", "facts", "secrets")

# KEYS: lease, records. ARGV: our token, number of deletes, the deleted names, then name and row of each put.
_COMMIT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('LEASE lost') end
local first = 3 + tonumber(ARGV[2])
for i = 3, first - 1 do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
"""

# KEYS: lease. ARGV: our token, its life in seconds. Answers 1 when it is ours now.
_ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""

# KEYS: lease. ARGV: our token.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisStore(Store):
    """Keeps rows in the hash `opi-spdk-bridge:records` of the database at `url` (redis://host:port/number).

    `read_only` takes no lease, and cannot commit. `lost` is set when another bridge has taken the state over.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url = url
        self._read_only = read_only
        self._token = uuid.uuid4().hex
        self._redis: Any = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
        )
        self._writes = Grouped(self._apply)
        self._renewal: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    @property
    def lost(self) -> asyncio.Event:
        return self._lost

    @property
    def address(self) -> str:
        host = self._redis.connection_pool.connection_kwargs
        return f"redis://{host.get('host', 'localhost')}:{host.get('port', 6379)}/{host.get('db', 0)}"

    async def open(self) -> None:
        if self._read_only:
            await self._ask(self._redis.ping())
            return
        if not await self._acquire():
            raise errors.FailedPrecondition(
                f"another bridge has the state in {self.address}: stop it, or wait {LEASE_S} s if it died"
            )
        self._renewal = asyncio.create_task(self._renew(), name="redis-lease")
        with contextlib.suppress(RedisError):
            persistence = await self._redis.config_get("appendonly")
            if persistence.get("appendonly") == "no" or persistence.get(b"appendonly") == b"no":
                log.warning("%s does not keep a log (appendonly no): what it forgets at a crash is lost", self.address)

    async def load(self) -> list[Row]:
        return [_row(value) for value in (await self._ask(self._redis.hgetall(self._key("records")))).values()]

    async def write(self, change: Change) -> None:
        await self._writes.submit(change)

    def sync(self) -> asyncio.Future[None]:
        return finished()  # a write that Redis has answered is as durable as Redis is set to make it

    async def get_setting(self, key: str) -> str | None:
        value = await self._ask(self._redis.hget(self._key("settings"), key))
        return value.decode() if value is not None else None

    async def put_setting(self, key: str, value: str) -> None:
        await self._ask(self._redis.hset(self._key("settings"), key, value))

    async def close(self) -> None:
        await self._writes.drain()
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal
            with contextlib.suppress(RedisError):
                await self._redis.eval(_RELEASE, 1, self._key("lease"), self._token)
        await self._redis.aclose()

    async def _apply(self, changes: Sequence[Change]) -> None:
        """One script for all; of several changes to one name the last counts."""
        rows: dict[str, Row | None] = {}
        for change in changes:
            rows.update(dict.fromkeys(change.deletes))
            rows.update({row.name: row for row in change.puts})
        gone = [name for name, row in rows.items() if row is None]
        puts = [part for name, row in rows.items() if row is not None for part in (name, _value(row))]
        arguments = [self._token, len(gone), *gone, *puts]
        await self._ask(self._redis.eval(_COMMIT, 2, self._key("lease"), self._key("records"), *arguments))

    async def _acquire(self) -> bool:
        return bool(await self._ask(self._redis.eval(_ACQUIRE, 1, self._key("lease"), self._token, LEASE_S)))

    async def _renew(self) -> None:
        """Keeps the lease, also over a restart of Redis; gives up when another bridge has it."""
        while True:
            await asyncio.sleep(_RENEWAL_S)
            with contextlib.suppress(errors.Unavailable):
                if not await self._acquire():
                    log.error("another bridge has taken over the state in %s", self.address)
                    self._lost.set()
                    return

    async def _ask(self, question: Any) -> Any:
        try:
            return await question
        except (RedisError, OSError, TimeoutError) as problem:
            what = "another bridge has taken it over" if "LEASE" in str(problem) else str(problem) or "no answer"
            raise errors.Unavailable(f"the state in {self.address} cannot be reached: {what}") from problem

    @staticmethod
    def _key(name: str) -> str:
        return f"{{opi-spdk-bridge}}:{name}"  # the braces keep all keys on one node of a cluster


def _value(row: Row) -> bytes:
    members = asdict(row)
    for name in _BYTES:
        members[name] = members[name].hex() if members[name] is not None else None
    return orjson.dumps(members)


def _row(value: bytes) -> Row:
    members = orjson.loads(value)
    for name in _BYTES:
        members[name] = bytes.fromhex(members[name]) if members[name] is not None else None
    return Row(**members)
