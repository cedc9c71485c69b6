"""asyncpg, which speaks the protocol by itself, led as libpq.py is. It knows no cancel but a statement's
time-out: {"id": 3, "session": "s", "run": "SELECT pg_sleep(60)", "timeout": 0.5}

asyncpg 0.27 forgets the words of a FATAL when the connection ends behind it, also those of PostgreSQL's own
shutdown: "connection is closed", or 08003. What it is told while connecting it tells.
"""
import asyncio
import json
import sys

import asyncpg

sessions = {}


def say(order, **what):
    print(json.dumps({"id": order["id"], **what}), flush=True)


def words(conninfo):
    """Of libpq's keywords those that are used here."""
    given = dict(word.split("=", 1) for word in conninfo.split())
    tls = given["sslmode"] if given["sslmode"] != "disable" else False
    return {"host": given["host"], "port": int(given["port"]), "user": given["user"],
            "database": given["dbname"], "ssl": tls, "timeout": 30,
            "server_settings": {"application_name": given["application_name"]}}


async def obey(order):
    try:
        if "connect" in order:
            sessions[order["session"]] = await asyncpg.connect(**words(order["connect"]))
        else:
            await sessions[order["session"]].execute(order["run"], timeout=order.get("timeout"))
        say(order)
    # Some of its errors are of no class that it documents.
    except Exception as error:
        detail = getattr(error, "detail", None) or ""
        say(order, code=getattr(error, "sqlstate", None), text=f"{type(error).__name__}: {error} {detail}")


async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        loop.create_task(obey(json.loads(line)))


asyncio.run(main())
