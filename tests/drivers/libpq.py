"""libpq as psycopg2 drives it, led line by line: an order in JSON comes in, what came of it goes out.

{"id": 1, "session": "s", "connect": "host=... port=..."}   {"id": 2, "session": "s", "run": "SELECT 1"}
{"id": 3, "session": "s", "cancel": true}

{"id": 2}   well   {"id": 2, "code": "57P01", "text": "..."}   not, with the SQLSTATE if it is told one
"""
import json
import queue
import sys
import threading

import psycopg2

speaking = threading.Lock()
sessions = {}


def say(order, **what):
    with speaking:
        print(json.dumps({"id": order["id"], **what}), flush=True)


class Session(threading.Thread):
    """Statements of one session wait for each other, and for nobody else's."""

    def __init__(self):
        super().__init__(daemon=True)
        self.orders = queue.Queue()
        self.connection = None

    def run(self):
        while True:
            order = self.orders.get()
            try:
                self.obey(order)
                say(order)
            except psycopg2.Error as error:
                say(order, code=error.pgcode, text=str(error))

    def obey(self, order):
        if "connect" in order:
            self.connection = psycopg2.connect(order["connect"])
            # BEGIN and COMMIT are written out.
            self.connection.autocommit = True
        else:
            with self.connection.cursor() as cursor:
                cursor.execute(order["run"])


for line in sys.stdin:
    order = json.loads(line)
    if order["session"] not in sessions:
        sessions[order["session"]] = Session()
        sessions[order["session"]].start()
    session = sessions[order["session"]]
    if "cancel" in order:
        session.connection.cancel()
        say(order)
    else:
        session.orders.put(order)
