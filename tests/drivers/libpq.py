"""libpq itself, led line by line: an order in JSON comes in, what came of it goes out.

{"id": 1, "session": "s", "connect": "host=... port=..."}   {"id": 2, "session": "s", "run": "SELECT 1"}
{"id": 3, "session": "s", "cancel": ""}

{"id": 2}   well   {"id": 2, "code": "57P01", "text": "..."}   not, with the SQLSTATE where there is one

The library is called directly: psycopg2 2.9 keeps only the last result, which behind a FATAL is libpq's
own "server closed the connection unexpectedly", without a SQLSTATE, whoever the words were from.
"""
import ctypes
import json
import queue
import sys
import threading

pq = ctypes.CDLL("libpq.so.5")
for name, result, arguments in (
    ("PQconnectdb", ctypes.c_void_p, [ctypes.c_char_p]),
    ("PQstatus", ctypes.c_int, [ctypes.c_void_p]),
    ("PQerrorMessage", ctypes.c_char_p, [ctypes.c_void_p]),
    ("PQsendQuery", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
    ("PQgetResult", ctypes.c_void_p, [ctypes.c_void_p]),
    ("PQresultStatus", ctypes.c_int, [ctypes.c_void_p]),
    ("PQresultErrorField", ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int]),
    ("PQresultErrorMessage", ctypes.c_char_p, [ctypes.c_void_p]),
    ("PQclear", None, [ctypes.c_void_p]),
    ("PQgetCancel", ctypes.c_void_p, [ctypes.c_void_p]),
    ("PQcancel", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]),
    ("PQfreeCancel", None, [ctypes.c_void_p]),
):
    function = getattr(pq, name)
    function.restype, function.argtypes = result, arguments

NoticeReceiver = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
pq.PQsetNoticeReceiver.restype = ctypes.c_void_p
pq.PQsetNoticeReceiver.argtypes = [ctypes.c_void_p, NoticeReceiver, ctypes.c_void_p]

CONNECTION_OK = 0
PGRES_BAD_RESPONSE, PGRES_FATAL_ERROR = 5, 7
PG_DIAG_SQLSTATE, PG_DIAG_SEVERITY_NONLOCALIZED = ord("C"), ord("V")

speaking = threading.Lock()
sessions = {}


def say(order, **what):
    with speaking:
        print(json.dumps({"id": order["id"], **what}), flush=True)


def text(words):
    return (words or b"").decode(errors="replace")


def words_of(result):
    told = {"text": text(pq.PQresultErrorMessage(result))}
    code = pq.PQresultErrorField(result, PG_DIAG_SQLSTATE)
    return {**told, "code": text(code)} if code else told


class Session(threading.Thread):
    """Statements of one session wait for each other, and for nobody else's."""

    def __init__(self):
        super().__init__(daemon=True)
        self.orders = queue.Queue()
        self.connection = None
        self.receiver = NoticeReceiver(self.hear)
        self.unasked = {}

    def hear(self, _, result):
        """An error that comes while nothing is under way is a notice to libpq (src/interfaces/libpq/fe-protocol3.c,
        pqParseInput3). So it is when one read brings it right behind the end of the last answer."""
        if pq.PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED) == b"FATAL":
            self.unasked = words_of(result)

    def run(self):
        while True:
            order = self.orders.get()
            say(order, **(self.connect(order["connect"]) if "connect" in order else self.query(order["run"])))

    def connect(self, to):
        self.connection = pq.PQconnectdb(to.encode())
        well = pq.PQstatus(self.connection) == CONNECTION_OK
        pq.PQsetNoticeReceiver(self.connection, self.receiver, None)
        return {} if well else {"text": text(pq.PQerrorMessage(self.connection))}

    def query(self, sql):
        """The first error counts; what libpq makes of the connection's end comes behind it."""
        if not pq.PQsendQuery(self.connection, sql.encode()):
            return self.unasked or {"text": text(pq.PQerrorMessage(self.connection))}
        told = {}
        while result := pq.PQgetResult(self.connection):
            if not told and pq.PQresultStatus(result) in (PGRES_BAD_RESPONSE, PGRES_FATAL_ERROR):
                told = words_of(result)
            pq.PQclear(result)
        return self.unasked if told and "code" not in told and self.unasked else told

    def cancel(self):
        cancel = pq.PQgetCancel(self.connection)
        why = ctypes.create_string_buffer(256)
        well = pq.PQcancel(cancel, why, len(why))
        pq.PQfreeCancel(cancel)
        return {} if well else {"text": text(why.value)}


for line in sys.stdin:
    order = json.loads(line)
    if order["session"] not in sessions:
        sessions[order["session"]] = Session()
        sessions[order["session"]].start()
    session = sessions[order["session"]]
    if "cancel" in order:
        say(order, **session.cancel())
    else:
        session.orders.put(order)
