#!/usr/bin/env python3
"""Says whether a run has kept what is promised, by what is in the tables and what the clients wrote down.

    checker.py observe DIR          while a run goes on: looks at checkpoints and rows, twice a second
    checker.py check DIR [--json]   afterwards: everything; writes DIR/report.json; ends with 1 if a promise was
                                    broken, with 2 if that cannot be said
    checker.py write DIR DOCUMENT   puts what a check has come to between the marks of docs/proof.md
    checker.py self-test            breaks each promise in a small made-up run, and expects to be told

It shares no code with the framework: it knows the tables, what the clients wrote (`DIR/clients`, `DIR/subscribers`),
and the domain, which is folded here once more. Nothing but Python and `psql` is needed.

Every rule reports only what cannot be, whatever was killed, cut or frozen at that moment. Where a rule leaves something
out for that reason, a comment says why. What was looked at is counted by rule: a rule that has looked at nothing is
reported as well.
"""

import bisect
import contextlib
import gc
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
import unittest
from array import array
from collections import Counter, defaultdict

SLOTS = 1024


# ---------------------------------------------------------------------------------------------------------------------
# The domain, as the clients of the run have it
# ---------------------------------------------------------------------------------------------------------------------


class Domain:
    """What events mean, and what the read models make of them."""

    ACCOUNTS = "account"
    COURSES = "course"

    @staticmethod
    def kind(name):
        """`account.deposited`, `Deposited` and `deposited` are one."""
        return name.rsplit(".", 1)[-1].replace("_", "").lower()

    @staticmethod
    def key(stream):
        return stream.split("-", 1)[1] if "-" in stream else stream


class Model:
    """A read model: which rows an event concerns, and what it does to one. A row is a tuple; no row is None.

    `turn` gives, of the key of a row, the one by which events are kept in order, parked, and given to shards. With
    `releases`, programs of two releases keep it, and the earlier one reads fewer events: its rows may lack the others
    until a program of the later release makes them anew, so only those of the end are looked at."""

    def __init__(self, name, columns, keys, fold, turn=lambda key: key, releases=False):
        self.name, self.columns, self.keys, self.fold, self.turn = name, columns, keys, fold, turn
        self.rule = "E5" if releases else "P1"

    def is_whole(self, where):
        return self.rule == "P1" or where == "the end"


def field(data, name, otherwise):
    """What cannot be read has been reported already."""
    found = data.get(name, otherwise) if isinstance(data, dict) else otherwise
    return found if isinstance(found, type(otherwise)) else otherwise


def added(kind, data):
    if kind in ("deposited", "poisoned"):
        return field(data, "amount", 0)
    return -field(data, "amount", 0) if kind == "withdrawn" else 0


def is_account(stream):
    return stream.startswith(Domain.ACCOUNTS + "-")


def is_of_a_saga(stream):
    """Transfers, the purses they move money between, and what sagas note of themselves."""
    return stream.startswith(("transfer-", "purse-", "saga."))


def account_key(stream, kind, data):
    return (Domain.key(stream),) if is_account(stream) else ()


def balance_fold(row, kind, data):
    """A row an account, deleted when it is closed."""
    if kind == "closed":
        return None
    owner, balance, events = row or ("", 0, 0)
    return field(data, "owner", "") if kind == "opened" else owner, balance + added(kind, data), events + 1


def turnover_keys(stream, kind, data):
    """By the end of the account's key, called as a stream may be, and by the amount: several streams in one row."""
    if not is_account(stream) or kind not in ("deposited", "withdrawn", "poisoned"):
        return ()
    return f"account-{Domain.key(stream)[-2:]}", f"amount-{field(data, 'amount', 0) % 97}"


def sum_fold(row, kind, data):
    total, events = row or (0, 0)
    return total + added(kind, data), events + 1


MODELS = {
    model.name: model
    for model in (
        Model("balance@1", ("owner", "balance", "events"), account_key, balance_fold),
        Model("turnover@1", ("sum", "events"), turnover_keys, sum_fold),
        # In SQL of its own: what is kept in order is the stream.
        Model("ledger", ("sum", "events"), account_key, sum_fold, lambda key: f"{Domain.ACCOUNTS}-{key}"),
        Model("activity@1", ("sum", "events"), account_key, sum_fold, releases=True),
    )
}


def account_states(events):
    """The state of an account after each of its events, as loads give it."""
    is_open, owner, balance, count = False, "", 0, 0
    yield {"open": is_open, "owner": owner, "balance": balance, "events": count}
    for kind, data in events:
        balance, count = balance + added(kind, data), count + 1
        if kind == "opened":
            is_open, owner = True, field(data, "owner", "")
        elif kind == "closed":
            is_open, owner = False, ""
        yield {"open": is_open, "owner": owner, "balance": balance, "events": count}


SHADOW = "~shadow"


def model_of(projection):
    """A table that is built beside another is made by the same rules."""
    return MODELS.get(projection[: -len(SHADOW)] if projection.endswith(SHADOW) else projection)


# ---------------------------------------------------------------------------------------------------------------------
# XXH3-64, from its specification, for inputs of up to 240 bytes: which slot a key is in
# ---------------------------------------------------------------------------------------------------------------------

M64 = (1 << 64) - 1
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9


def _u32(data, at):
    return int.from_bytes(data[at : at + 4], "little")


def _u64(data, at):
    return int.from_bytes(data[at : at + 8], "little")


def _fold(a, b):
    product = a * b
    return (product & M64) ^ (product >> 64)


def _mix(data, at, secret):
    return _fold(_u64(data, at) ^ _u64(SECRET, secret), _u64(data, at + 8) ^ _u64(SECRET, secret + 8))


def _avalanche(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & M64
    return h ^ h >> 32


def _xxh64_avalanche(h):
    h ^= h >> 33
    h = h * PRIME64_2 & M64
    h ^= h >> 29
    h = h * PRIME64_3 & M64
    return h ^ h >> 32


def _rotate(h, by):
    return (h << by | h >> 64 - by) & M64


def xxh3_64(data):
    n = len(data)
    if n == 0:
        return _xxh64_avalanche(_u64(SECRET, 56) ^ _u64(SECRET, 64))
    if n <= 3:
        combined = data[0] << 16 | data[n >> 1] << 24 | data[-1] | n << 8
        return _xxh64_avalanche(combined ^ (_u32(SECRET, 0) ^ _u32(SECRET, 4)))
    if n <= 8:
        h = (_u32(data, n - 4) + (_u32(data, 0) << 32)) ^ (_u64(SECRET, 8) ^ _u64(SECRET, 16))
        h ^= _rotate(h, 49) ^ _rotate(h, 24)
        h = h * 0x9FB21C651E98DF25 & M64
        h ^= (h >> 35) + n
        h = h * 0x9FB21C651E98DF25 & M64
        return h ^ h >> 28
    if n <= 16:
        low = _u64(data, 0) ^ (_u64(SECRET, 24) ^ _u64(SECRET, 32))
        high = _u64(data, n - 8) ^ (_u64(SECRET, 40) ^ _u64(SECRET, 48))
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return _avalanche(n + swapped + high + _fold(low, high) & M64)
    h = n * PRIME64_1
    if n <= 128:
        for i in range((n - 1) // 32 + 1):
            h += _mix(data, 16 * i, 32 * i) + _mix(data, n - 16 * (i + 1), 32 * i + 16)
        return _avalanche(h & M64)
    if n <= 240:
        for i in range(8):
            h += _mix(data, 16 * i, 16 * i)
        h = _avalanche(h & M64)
        for i in range(8, n // 16):
            h += _mix(data, 16 * i, 16 * (i - 8) + 3)
        return _avalanche(h + _mix(data, n - 16, 136 - 17) & M64)
    raise ValueError("a key of more than 240 bytes")


_slots = {}


def slot(key):
    found = _slots.get(key)
    if found is None:
        found = _slots[key] = xxh3_64(key.encode()) % SLOTS
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Reading the database
# ---------------------------------------------------------------------------------------------------------------------

ROWS = ("business", *MODELS, *(name + SHADOW for name in MODELS))
LOOKED_AT = ("checkpoints", "dead_letters", "moves", "replaced", *ROWS)
SMALL = 400_000
"""Of a table of more bytes, a sixteenth of the keys is looked at, each time another one."""


class Away(Exception):
    """The database cannot be reached, or not now."""


# A table that a trigger on `checkpoints` writes, where there is one: who has moved what. One owner is one process.
MOVES = f"""json_build_object(
    'count', (SELECT count(*) FROM MOVES),
    'by_two', (SELECT coalesce(json_agg(m), '[]') FROM (
        SELECT projection, epoch, owner, array_agg(DISTINCT process) AS processes, min(n) AS first FROM MOVES
         WHERE owner IS NOT NULL GROUP BY projection, epoch, owner HAVING count(DISTINCT process) > 1 LIMIT 20) AS m),
    'two_owners', (SELECT coalesce(json_agg(m), '[]') FROM (
        SELECT projection, from_slot, to_slot, epoch, array_agg(DISTINCT owner) AS owners, min(n) AS first FROM MOVES
         WHERE owner IS NOT NULL GROUP BY projection, from_slot, to_slot, epoch HAVING count(DISTINCT owner) > 1
         LIMIT 20) AS m),
    'back', (SELECT coalesce(json_agg(m), '[]') FROM (
        SELECT * FROM MOVES WHERE to_position < from_position AND projection NOT LIKE '%{SHADOW}' LIMIT 20) AS m))"""

# The same of snapshots: those that took the place of one that was as new or newer, and of the same shape.
REPLACED = """json_build_object(
    'count', (SELECT count(*) FROM REPLACED),
    'back', (SELECT coalesce(json_agg(r), '[]') FROM (
        SELECT * FROM REPLACED WHERE same_shape AND to_position <= from_position ORDER BY n LIMIT 1000) AS r))"""


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def name_of(*parts):
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def table_key(columns):
    """Which column says whose row it is."""
    return next((name for name in ("key", "account", "stream", "op") if name in columns), columns[0])


def sampled(size, digit):
    """Which rows of a table are looked at: all, or those whose keys' MD5 begins with a digit."""
    return digit if size > SMALL else ""


class Postgres:
    def __init__(self, run):
        self.conninfo, self.schema = run["database"], run.get("schema") or "eventstore"
        found = run.get("psql") or shutil.which("psql")
        self.psql = found or next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"), reverse=True)), "psql")
        options = "-c statement_timeout=20s -c lock_timeout=1s -c timezone=UTC -c client_min_messages=warning"
        self.env = {**os.environ, "PGCONNECT_TIMEOUT": "3", "PGOPTIONS": options, "PGAPPNAME": "checker"}

    def run(self, script, to=None, seconds=30):
        command = [self.psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.conninfo]
        try:
            done = subprocess.run(
                command,
                input=script.encode(),
                stdout=to or subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.env,
                timeout=seconds,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            raise Away(str(error)) from error
        if done.returncode:
            raise Away(done.stderr.decode(errors="replace").strip() or f"psql: {done.returncode}")
        return None if to else done.stdout.decode()

    def look(self, prefix):
        """Checkpoints, dead letters and rows as of one moment; of large tables those whose keys hash to `prefix`."""
        wanted = ", ".join(literal(name) for name in LOOKED_AT)
        tables = self.run(
            f"""SELECT json_build_array(n.nspname, c.relname, coalesce(pg_relation_size(c.oid), 0),
                                        array_agg(a.attname ORDER BY a.attnum))
                  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                 WHERE c.relkind = 'r' AND c.relname IN ({wanted}) AND n.nspname IN ({literal(self.schema)}, 'public')
                 GROUP BY n.nspname, c.relname, c.oid ORDER BY n.nspname = {literal(self.schema)};"""
        )
        tables = {name: (schema, rows, columns) for schema, name, rows, columns in map(json.loads, tables.splitlines())}
        if "checkpoints" not in tables:
            raise Away("there are no tables yet")
        # Locked before the first snapshot: a table that changes its name afterwards would be read under the checkpoint
        # of the other one.
        places = {name: name_of(schema, name) for name, (schema, _, _) in tables.items()}
        parts = [
            f"'head', (SELECT coalesce(max(position), 0) FROM {name_of(self.schema, 'events')})",
            f"""'checkpoints', (SELECT coalesce(json_agg(json_build_array(projection, from_slot, to_slot, position,
                event_id, epoch, owner) ORDER BY projection, from_slot), '[]') FROM {places["checkpoints"]})""",
            """'server', (SELECT concat(pg_postmaster_start_time(), ' ', max(backend_start)) FROM pg_stat_activity
                WHERE backend_type = 'checkpointer')""",
            """'timeline', CASE WHEN pg_is_in_recovery() THEN NULL
                ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END""",
        ]
        if "dead_letters" in tables:
            parts.append(
                f"""'letters', (SELECT coalesce(json_agg(json_build_array(projection, of, position, event, skipped)
                    ORDER BY projection, of, position), '[]') FROM {places["dead_letters"]})"""
            )
        if "moves" in tables and not prefix:
            parts.append(f"'moves', {MOVES.replace('MOVES', places['moves'])}")
        if "replaced" in tables and not prefix:
            parts.append(f"'replaced', {REPLACED.replace('REPLACED', places['replaced'])}")
        models = []
        for name, (_, size, columns) in tables.items():
            if name not in ROWS or name == "business" and prefix:
                continue
            sample = sampled(size, prefix)
            whose = name_of(table_key(columns))
            where = f"WHERE left(md5({whose}::text), 1) = {literal(sample)}" if sample else ""
            row = ", ".join(name_of(column) for column in columns)
            models.append(
                f"""{literal(name)}, json_build_object('sample', {literal(sample)}, 'columns',
                    {literal(json.dumps(columns))}::json, 'rows',
                    (SELECT coalesce(json_agg(json_build_array({row})), '[]') FROM {places[name]} {where}))"""
            )
        parts.append(f"'models', json_build_object({', '.join(models)})")
        answer = self.run(
            f"""BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                LOCK TABLE {", ".join(places.values())} IN ACCESS SHARE MODE;
                SELECT json_build_object({", ".join(parts)});
                COMMIT;"""
        )
        return json.loads(answer)

    def events(self, path):
        """The log, a line an event, as COPY writes it."""
        events, types = name_of(self.schema, "events"), name_of(self.schema, "event_types")
        with open(path, "wb") as to:
            self.run(
                f"""COPY (SELECT e.position, e.version, e.event_id, t.name, e.stream,
                                 encode(e.metadata, 'hex'), encode(e.payload, 'hex'), to_json(e.tags),
                                 (extract(epoch FROM e.recorded_at) * 1000000)::bigint,
                                 (extract(epoch FROM e.occurred_at) * 1000000)::bigint
                            FROM {events} AS e LEFT JOIN {types} AS t USING (type_key)
                           ORDER BY e.position, e.event_id) TO STDOUT;""",
                to,
                300,
            )


class Sqlite:
    def __init__(self, run):
        self.path = re.sub("^(sqlite://|sqlite:|file:)", "", run["database"]).split("?")[0]

    def open(self):
        if not os.path.exists(self.path):
            raise Away(f"{self.path} is not there")
        db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10, isolation_level=None)
        db.create_function("md5_digit", 1, lambda key: hashlib.md5(str(key).encode()).hexdigest()[0])
        return db

    def look(self, prefix):
        try:
            with contextlib.closing(self.open()) as db:
                db.execute("BEGIN")
                return self.look_with(db, prefix)
        except sqlite3.Error as error:
            raise Away(str(error)) from error

    @staticmethod
    def look_with(db, prefix):
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "eventstore_checkpoints" not in there:
            raise Away("there are no tables yet")
        (head,) = db.execute("SELECT coalesce(max(position), 0) FROM eventstore_events").fetchone()
        checkpoints = db.execute(
            """SELECT projection, from_slot, to_slot, position, lower(hex(event_id)), epoch,
                      CASE WHEN owner IS NOT NULL THEN lower(hex(owner)) END
                 FROM eventstore_checkpoints ORDER BY projection, from_slot"""
        ).fetchall()
        seen = {"head": head, "checkpoints": checkpoints, "server": "", "timeline": "", "letters": []}
        letters = "eventstore_dead_letters"
        if letters in there:
            seen["letters"] = db.execute(
                f'SELECT projection, "of", position, event, skipped FROM {letters} ORDER BY 1, 2, 3'
            ).fetchall()
        seen["models"] = {}
        for name in there & set(ROWS):
            if name == "business" and prefix:
                continue
            columns = [column[1] for column in db.execute(f"PRAGMA table_info({name_of(name)})")]
            (count,) = db.execute(f"SELECT count(*) FROM {name_of(name)}").fetchone()
            sample = sampled(count * 80, prefix)
            where = f"WHERE md5_digit({name_of(table_key(columns))}) = {literal(sample)}" if sample else ""
            rows = db.execute(f"SELECT * FROM {name_of(name)} {where}").fetchall()
            rows = [[one.hex() if isinstance(one, bytes) else one for one in row] for row in rows]
            seen["models"][name] = {"sample": sample, "columns": columns, "rows": rows}
        return seen

    def events(self, path):
        with contextlib.closing(self.open()) as db, open(path, "w", encoding="utf-8") as to:
            for row in db.execute(
                """SELECT e.position, e.version, lower(hex(e.event_id)), t.name, e.stream,
                          lower(hex(e.metadata)), lower(hex(e.payload)), e.tags, e.recorded_at, e.occurred_at
                     FROM eventstore_events AS e LEFT JOIN eventstore_types AS t USING (type_key)
                    ORDER BY e.position"""
            ):
                to.write("\t".join("\\N" if one is None else escaped(str(one)) for one in row) + "\n")


def escaped(text):
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


ESCAPES = {"\\t": "\t", "\\n": "\n", "\\r": "\r", "\\\\": "\\", "\\b": "\b", "\\f": "\f", "\\v": "\v"}


def unescaped(text):
    return re.sub(r"\\.", lambda found: ESCAPES.get(found[0], found[0][1]), text) if "\\" in text else text


def database(run):
    return Sqlite(run) if run.get("store") == "sqlite" else Postgres(run)


def now(run):
    """Microseconds, by the clock that all times of a run are of: the machine's since its start, which is never set
    back, and what it lacked to the time of day when the run began."""
    return run["clock"] + time.monotonic_ns() // 1000 if "clock" in run else time.time_ns() // 1000


def same_uuid(text):
    return int(text.replace("-", ""), 16) if text else None


# ---------------------------------------------------------------------------------------------------------------------
# observe
# ---------------------------------------------------------------------------------------------------------------------


def observe(folder, every=0.5):
    """Looks until told to stop; what cannot be looked at now is tried again."""
    over = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.append(True))
    path, looks, said = os.path.join(folder, "run.json"), 0, None
    with open(os.path.join(folder, "observed.jsonl"), "a", encoding="utf-8") as to:
        while not over and not os.path.exists(os.path.join(folder, "ended")):
            begun = time.monotonic()
            try:
                # Read again each time: after a failover the database is elsewhere.
                with open(path, encoding="utf-8") as file:
                    run = json.load(file)
                seen = database(run).look("0123456789abcdef"[looks % 16])
                # Of the clock that the clients have, after all that was seen: it is no earlier than what it shows.
                seen["t"] = now(run)
                to.write(json.dumps(seen, separators=(",", ":")) + "\n")
                to.flush()
                looks, said = looks + 1, None
            except Exception as error:
                # Whatever it is, the next look may succeed; that there are too few of them, the check says.
                if str(error) != said:
                    print(f"observe: {error}", file=sys.stderr, flush=True)
                said = str(error)
            while not over and time.monotonic() < begun + every:
                time.sleep(max(0.0, min(0.05, begun + every - time.monotonic())))
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# What is found
# ---------------------------------------------------------------------------------------------------------------------

SHOWN = 10
"""So many violations of one kind are shown; the others are counted."""


class Report:
    def __init__(self):
        self.violations, self.notes = [], []
        self.kinds, self.shown, self.told = Counter(), Counter(), set()
        self.checked, self.rules = Counter(), Counter()
        self.faults, self.recovered, self.settled_ms, self.run = Counter(), {}, None, {}

    def violation(self, promise, what, about=None, **evidence):
        """The same about the same is shown once, or once more if it is still so at the end."""
        self.kinds[promise, what] += 1
        known = about is not None and (promise, what, about) in self.told
        self.told.add((promise, what, about))
        if not known and self.shown[promise, what] < SHOWN:
            self.shown[promise, what] += 1
            self.violations.append({"id": promise, "what": what, "evidence": evidence})

    def note(self, text):
        text = " ".join(text.split())
        if text not in self.notes:
            self.notes.append(text)

    def json(self):
        broken = [{"id": promise, "what": what, "times": times} for (promise, what), times in self.kinds.items()]
        started, ended = self.run.get("started"), self.run.get("faults_ended")
        return {
            "violations": self.violations,
            "broken": broken,
            "faults_seconds": round((ended - started) / 1e6) if started and ended else None,
            "checked": dict(self.checked),
            "rules": dict(sorted(self.rules.items())),
            "faults": dict(sorted(self.faults.items())),
            "recovered_ms": self.recovered,
            "settled_ms": self.settled_ms,
            "notes": self.notes,
            **{name: self.run.get(name) for name in ("seed", "profile", "store", "mutant")},
        }

    def text(self):
        run = self.run
        lines = [f"seed {run.get('seed')}, profile {run.get('profile')}, store {run.get('store')}"]
        lines.append("checked: " + ", ".join(f"{count} {name}" for name, count in self.checked.items()))
        lines.append("by rule: " + ", ".join(f"{rule} {count}" for rule, count in sorted(self.rules.items())))
        total = sum(self.faults.values())
        lines.append(f"faults: {total}" + "".join(f", {count} {kind}" for kind, count in sorted(self.faults.items())))
        if self.recovered:
            longest = (f"{kind} {ms['longest']} ms" for kind, ms in sorted(self.recovered.items()))
            lines.append("longest recovery: " + ", ".join(longest))
        lines.append(f"everything at the head after: {self.settled_ms} ms")
        lines += [f"note: {note}" for note in self.notes]
        for violation in self.violations:
            evidence = json.dumps(violation["evidence"], ensure_ascii=False, default=str)
            lines.append(f"BROKEN {violation['id']}: {violation['what']}: {evidence}")
        for (promise, what), times in self.kinds.items():
            if times > self.shown[promise, what]:
                lines.append(f"BROKEN {promise}: {what}: {times} times in all")
        lines.append("nothing was broken" if not self.violations else f"{sum(self.kinds.values())} violations")
        return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# The log, and what clients wrote
# ---------------------------------------------------------------------------------------------------------------------

COMMAND = re.compile(rb'"\$commandId":"([0-9a-fA-F-]{32,36})"')


ACTOR = re.compile(rb'"\$actor":"([^"]*)"')
PURSE, FULL = 500, 1_000
"""What is in a purse at first, and the most it takes."""
WAITS = 700_000
"""So many microseconds after its request a transfer that waits is refused."""


TIMELINE, WHEN = re.compile(rb'"timeline":"([0-9A-F]+)"'), re.compile(rb'"t":([0-9]{12,})')


DECIDED = "decided"
"""The data of an event that a rule made: other checks say what they are to be."""
BY_RULE = ("command", "reserve", "sponsor", "ticket")
CLOCKS = 5_000_000
"""So many microseconds the clock of the server and that of the run may be apart."""
UNSEEN = 60_000_000
"""After so many microseconds without an observation, somebody has not looked who should have."""
CRASHED = 15_000_000
"""So many microseconds around a crash of the server, rows may be of before it."""
NOW = ("load", "snapshot", "head")
"""Reads of what is there now; others are of what was there."""


def meaning(data):
    """What JSON says; an event without fields is written as null."""
    return None if data == {} else data


class Log:
    """The events in order of position. Columns instead of objects: there may be millions."""

    def __init__(self):
        self.position, self.version, self.stream, self.op = array("q"), array("q"), array("l"), array("q")
        self.recorded, self.occurred = array("q"), array("q")
        self.names, self.data, self.ids, self.tags, self.metadata = [], [], [], [], []
        self.streams, self.stream_of, self.events_of = [], {}, []
        self.by_id, self.by_command, self.by_position = {}, defaultdict(list), {}

    def __len__(self):
        return len(self.position)

    def head(self):
        return self.position[-1] if self.position else 0

    def stream_name(self, event):
        return self.streams[self.stream[event]]

    def of_stream(self, stream):
        return self.events_of[self.stream_of[stream]] if stream in self.stream_of else ()

    def show(self, event):
        return {
            "position": self.position[event],
            "stream": self.stream_name(event),
            "version": self.version[event],
            "event": self.names[event],
            "id": show_uuid(self.ids[event]),
        }

    def read(self, lines, report):
        names, kinds, all_tags, metadatas = {}, {}, {}, {}
        for line in lines:
            position, version, id, name, stream, metadata, payload, tags, recorded, occurred = map(
                unescaped, line.rstrip("\n").split("\t")
            )
            event, position, version, id = len(self.position), int(position), int(version), same_uuid(id)
            if id in self.by_id:
                report.violation("A5", "an event id is in the log twice", **self.show(self.by_id[id]), again=position)
            self.position.append(position)
            self.version.append(version)
            if stream not in self.stream_of:
                self.stream_of[stream] = len(self.streams)
                self.streams.append(stream)
                self.events_of.append(array("l"))
            self.stream.append(self.stream_of[stream])
            self.events_of[self.stream_of[stream]].append(event)
            self.op.append(-1)
            self.names.append(names.setdefault(name, name))
            self.tags.append(all_tags.get(tags) or all_tags.setdefault(tags, tuple(json.loads(tags))))
            self.metadata.append(metadatas.setdefault(metadata, metadata))
            self.recorded.append(int(recorded))
            self.occurred.append(int(occurred))
            self.ids.append(id)
            self.by_id.setdefault(id, event)
            self.by_position.setdefault(position, event)
            payload = bytes.fromhex(payload)
            try:
                data = json.loads(payload)
            except ValueError:
                data = None
                report.violation("A10", "a payload is no JSON", **self.show(event))
            self.data.append((kinds.setdefault(name, Domain.kind(name)), data))
            command = COMMAND.search(bytes.fromhex(metadata)) if metadata != "\\N" else None
            if command:
                self.by_command[same_uuid(command[1].decode())].append(event)
        return self


def tags_of(data):
    """A course and a student are tags of the events that name them."""
    fields = data if isinstance(data, dict) else {}
    return tuple(f"{name}:{fields[name]}" for name in ("course", "student") if name in fields)


def show_uuid(number):
    if number is None:
        return None
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


class Attempt:
    """One call. Its phase: pending (nothing was heard of it), stored, rejected (for good), refused (this call has
    recorded nothing, another may), unknown."""

    __slots__ = ("client", "line", "invoked", "over", "phase", "answer", "repeated", "state", "error", "why", "conflict")

    def __init__(self, client, line, invoked):
        self.client, self.line, self.invoked = client, line, invoked
        self.over = self.answer = self.state = self.error = self.why = self.conflict = None
        self.phase, self.repeated = "pending", False

    def unsure(self):
        return self.phase in ("pending", "unknown")

    def show(self):
        shown = {"client": self.client, "line": self.line, "invoked": self.invoked, "phase": self.phase}
        for name in ("over", "answer", "error", "why", "conflict"):
            if getattr(self, name) is not None:
                shown[name] = getattr(self, name)
        return shown


class Op:
    """What one client asked for, as often as it or another asked."""

    __slots__ = ("id", "kind", "expected", "events", "attempts", "extra", "present", "said")

    def __init__(self, id, kind):
        self.id, self.kind, self.attempts, self.expected, self.events = id, kind, [], (), ()
        self.extra, self.present, self.said = None, (), None

    def invoked(self):
        return min(attempt.invoked for attempt in self.attempts)

    def show(self, **more):
        attempts = [attempt.show() for attempt in self.attempts[:6]]
        return {"op": show_uuid(self.id), "kind": self.kind, "attempts": attempts, **more}


def lines_of(path, report):
    """The lines of a file as JSON, with their numbers. One that was torn is none: whoever wrote it did not go on."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, json.loads(line)
            except ValueError:
                if line.strip():
                    report.note(f"{os.path.basename(path)}:{number} is torn")


class Clients:
    def __init__(self):
        self.ops, self.reads = {}, []

    def read(self, paths, report):
        for path in paths:
            client, open_attempts = os.path.basename(path)[: -len(".jsonl")], {}
            for number, line in lines_of(path, report):
                self.take(client, number, line, open_attempts, report)
        return self

    def take(self, client, number, line, open_attempts, report):
        phase, id = line.get("phase"), same_uuid(line.get("op"))
        if phase == "invoked":
            attempt = open_attempts[id] = Attempt(client, number, line["t"])
            op = self.ops.get(id)
            if op is None:
                op = self.ops[id] = Op(id, line.get("kind"))
            op.attempts.append(attempt)
            self.asked(op, line)
        elif phase == "read":
            self.reads.append((client, number, line))
        elif phase in ("stored", "rejected", "refused", "unknown"):
            attempt = open_attempts.pop(id, None)
            if attempt is None:
                report.violation("checked", "an outcome of what was not invoked", client=client, line=number)
                return
            attempt.over, attempt.phase, attempt.error = line["t"], phase, line.get("error")
            attempt.why, attempt.conflict = line.get("why"), line.get("conflict")
            if phase == "stored":
                attempt.answer = line.get("first"), line.get("last"), tuple(sorted((line.get("streams") or {}).items()))
                attempt.state, attempt.repeated = line.get("state"), bool(line.get("repeated"))
        elif phase != "given up":
            report.violation("checked", "a line says nothing", client=client, line=number, phase=phase)

    def asked(self, op, line):
        streams = line.get("streams") or ()
        if op.events or op.expected:
            return
        op.expected = tuple((one["stream"], one.get("expected")) for one in streams)
        op.events = tuple(
            (same_uuid(event.get("id")), one["stream"], event.get("type"), event.get("data"))
            for one in streams
            for event in one.get("events") or ()
        )
        extra = {name: line[name] for name in ("course", "student", "amount") if name in line}
        op.extra, op.said = extra or None, line.get("said")


# ---------------------------------------------------------------------------------------------------------------------
# The rules
# ---------------------------------------------------------------------------------------------------------------------


class Check:
    def __init__(self, folder, report):
        self.folder, self.report = folder, report
        self.run, self.log, self.clients = {}, Log(), Clients()
        self.last, self.timelines, self.failovers, self.crashes = None, [], [], []

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def nothing(self, what, **evidence):
        self.report.violation("checked", what, **evidence)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self):
        report = self.report
        try:
            with open(self.path("run.json"), encoding="utf-8") as file:
                self.run = json.load(file)
        except (OSError, ValueError) as error:
            self.nothing("there is no run.json", error=str(error))
            return False
        report.run = self.run
        self.read_faults()
        if not self.read_tables():
            return False
        clients = sorted(glob.glob(self.path("clients", "*.jsonl")))
        self.clients.read(clients, report)
        log, ops = self.log, self.clients.ops
        attempts = [attempt for op in ops.values() for attempt in op.attempts]
        stored = [op for op in ops.values() if any(attempt.phase == "stored" for attempt in op.attempts)]
        report.checked.update(
            {
                "events": len(log),
                "acknowledged events": sum(len(op.events) for op in stored),
                "ops": len(ops),
                "acknowledged ops": len(stored),
                "unknown answers": sum(map(Attempt.unsure, attempts)),
                "reads": len(self.clients.reads),
            }
        )
        for name in ("events", "ops", "acknowledged ops", "reads"):
            if not report.checked[name]:
                self.nothing(f"there are no {name}: nothing was checked", clients=len(clients))
        return True

    def look_for_timelines(self):
        """When another server, of another history, was first seen."""
        previous, path = None, self.path("observed.jsonl")
        if not os.path.exists(path):
            return
        with open(path, "rb") as file:
            for line in file:
                found, t = TIMELINE.search(line), WHEN.findall(line)
                if found and t:
                    if previous and found[1] != previous:
                        self.timelines.append(int(t[-1]))
                    previous = found[1]

    def read_faults(self):
        path, recovered = self.path("faults.jsonl"), defaultdict(list)
        if not os.path.exists(path):
            return self.nothing("there is no faults.jsonl")
        for _, line in lines_of(path, self.report):
            fault, what = str(line.get("fault")), str(line.get("what"))
            if fault == "recovered":
                if line.get("ms") is not None:
                    recovered[what].append(line["ms"])
            elif fault == "not recovered":
                self.report.violation(
                    "liveness", "nothing was recorded for long after a fault", after=what, t=line["t"]
                )
            elif fault == "ended":
                self.report.violation("liveness", "a worker has ended by itself", worker=what, t=line["t"])
            elif fault == "failed":
                self.report.note(f"a fault failed: {what}")
            else:
                self.report.faults[fault] += 1
                if re.search("restart|backend kill|fail.?over|disk full", fault, re.I):
                    self.crashes.append(line["t"])
                if re.search("fail.?over|promote|restore", f"{fault} {what}", re.I):
                    self.failovers.append(line["t"])
        if not self.report.faults:
            self.nothing("no fault was injected")
        self.report.recovered = {kind: {"times": len(ms), "longest": max(ms)} for kind, ms in sorted(recovered.items())}

    def read_tables(self):
        """From the database, and kept in DIR/tables; from there, if the database is not there any more."""
        events, last = self.path("tables", "events.tsv"), self.path("tables", "last.json")
        try:
            if "database" in self.run:
                source = database(self.run)
                # After everything, whenever the check is.
                seen = {**source.look(""), "t": 1 << 62}
                os.makedirs(self.path("tables"), exist_ok=True)
                source.events(events)
                with open(last, "w", encoding="utf-8") as file:
                    json.dump(seen, file)
        except (Away, sqlite3.Error, ValueError) as error:
            if not os.path.exists(last):
                self.nothing("the database cannot be read", error=str(error))
                return False
            self.report.note(f"the tables are those of the first check: {str(error).splitlines()[0]}")
        try:
            with open(events, encoding="utf-8") as lines:
                self.log.read(lines, self.report)
            with open(last, encoding="utf-8") as file:
                self.last = json.load(file)
        except OSError as error:
            self.nothing("there are no tables", error=str(error))
            return False
        return True

    def check(self):
        if not self.read():
            return
        self.look_for_timelines()
        self.link()
        self.beside()
        self.acknowledged = self.acknowledgements()
        self.order()
        self.outcomes()
        self.real_time()
        self.business()
        self.domain()
        self.transfers()
        self.refusals()
        self.folds = self.fold_models()
        self.reads()
        deliveries = self.read_deliveries()
        self.observations(deliveries)
        self.moved()
        self.replaced()
        self.deliveries(deliveries)
        self.liveness()

    # -- the log and the outcomes -------------------------------------------------------------------------------------

    def link(self):
        """Which op each event is of, and that it is as it was asked for (A10) and by somebody (A5)."""
        log, report = self.log, self.report
        numbers = {}
        for number, op in enumerate(self.clients.ops.values()):
            numbers[number] = op
            events = set()
            for id, stream, type, data in op.events:
                event = log.by_id.get(id) if id is not None else None
                if event is not None:
                    events.add(event)
                    self.compare(op, event, stream, type, data)
            with_ids = bool(op.events) and all(id is not None for id, *_ in op.events)
            for event in log.by_command.get(op.id, ()):
                if with_ids and event not in events:
                    report.violation("A5", "an op is in the log twice, under other ids", **op.show(**log.show(event)))
                events.add(event)
            op.present = tuple(sorted(events))
            if op.events and not with_ids and len(op.present) == len(op.events):
                for event, (_, stream, type, data) in zip(op.present, op.events):
                    self.compare(op, event, stream, type, data)
            for event in op.present:
                if log.op[event] not in (-1, number):
                    report.violation("A5", "two ops have one event", **op.show(**log.show(event)))
                log.op[event] = number
        self.ops = numbers
        for event in range(len(log)):
            report.rules["A5"] += 1
            if log.op[event] < 0 and not is_of_a_saga(log.stream_name(event)):
                report.violation("A5", "an event is in the log that nobody has asked for", **log.show(event))

    def compare(self, op, event, stream, type, data):
        log, report = self.log, self.report
        report.rules["A10"] += 1
        kind, stored = log.data[event]
        if log.stream_name(event) != stream:
            report.violation("A10", "an event is in another stream", **op.show(asked=stream, **log.show(event)))
        if type is not None and Domain.kind(type) != kind:
            report.violation("A10", "an event is of another type", **op.show(asked=type, **log.show(event)))
        if data != DECIDED and meaning(stored) != meaning(data):
            report.violation("A10", "an event has other data", **op.show(asked=data, stored=stored, **log.show(event)))

    def beside(self):
        """A10, T2 and A2: tags, metadata and instants are what was said, all the same for what was appended at once."""
        log, report = self.log, self.report
        for op in self.clients.ops.values():
            if not op.present:
                continue
            programs = {attempt.client.rsplit("-", 1)[0] for attempt in op.attempts}
            said, first = op.said or {}, min(attempt.invoked for attempt in op.attempts)
            over = min((attempt.over for attempt in op.attempts if attempt.phase == "stored"), default=None)
            for event in op.present:
                report.rules["A10 metadata"] += 1
                kind, data = log.data[event]
                tags = () if is_account(log.stream_name(event)) else tags_of(data)
                if sorted(log.tags[event]) != sorted(tags):
                    report.violation("A10", "an event has other tags", **op.show(tags=log.tags[event], asked=tags))
                try:
                    stored = json.loads(bytes.fromhex(log.metadata[event]))
                except ValueError:
                    stored = {}
                expected = {
                    "$commandId": show_uuid(op.id),
                    "$actor": said.get("actor"),
                    "$correlationId": said.get("correlation"),
                    "note": said.get("note"),
                }
                expected = {name: value for name, value in expected.items() if value is not None}
                source, request = stored.pop("$source", None), stored.pop("$request", None)
                if stored != expected:
                    report.violation("A10", "an event has other metadata", **op.show(stored=stored, asked=expected))
                elif source not in programs:
                    report.violation("A10", "an event is said to be another program's", **op.show(source=source))
                elif (request is not None) != (op.kind in BY_RULE):
                    report.violation("A10", "an event is of a request, or is not", **op.show(request=request))
                occurred = said.get("occurred_at", log.recorded[event])
                if log.occurred[event] != occurred:
                    evidence = {"occurred": log.occurred[event], "recorded": log.recorded[event], "asked": occurred}
                    report.violation("T2", "an event happened at another instant", **op.show(**evidence))
                if log.recorded[event] < first - CLOCKS or over is not None and log.recorded[event] > over + CLOCKS:
                    evidence = {"recorded": log.recorded[event], "invoked": first, "acknowledged": over}
                    report.violation("T1", "an event was recorded before it was asked for, or later", **op.show(**evidence))
            stamps = {log.recorded[event] for event in op.present}
            positions = self.positions(op)
            together = positions[-1] - positions[0] == len(positions) - 1 and len(positions) == len(op.events)
            if len(stamps) > 1 and together and op.kind != "transaction":
                report.violation("T1", "the events of an append were recorded at two instants", **op.show(stamps=sorted(stamps)))

    def order(self):
        """A3: positions are 1..n, and versions are 1..n in their order."""
        log, report, previous = self.log, self.report, 0
        for event, position in enumerate(log.position):
            report.rules["A3"] += 1
            if position != previous + 1:
                report.violation("A3", "positions have a gap or a double", after=previous, **log.show(event))
            previous = position
            if event and log.recorded[event] < log.recorded[event - 1]:
                evidence = {"recorded": log.recorded[event], "before": log.recorded[event - 1]}
                report.violation("T1", "a stamp goes back along positions", **log.show(event), **evidence)
        for events in log.events_of:
            for version, event in enumerate(events, 1):
                if log.version[event] != version:
                    report.violation("A3", "versions have a gap or a double", expected=version, **log.show(event))
                    break

    def outcomes(self):
        """What was said of each op is what came of it."""
        report = self.report
        for op in self.clients.ops.values():
            present, asked = op.present, len(op.events)
            stored = [attempt for attempt in op.attempts if attempt.phase == "stored"]
            rejected = [attempt for attempt in op.attempts if attempt.phase == "rejected"]
            wrote = [attempt for attempt in stored if attempt.answer[0] is not None]
            report.rules["A1"] += bool(stored)
            report.rules["A2"] += len(op.expected) > 1 or asked > 1
            report.rules["A6"] += any(map(Attempt.unsure, op.attempts))
            report.rules["C1"] += op.kind == "command" and len(op.attempts) > 1
            if wrote and not present:
                # One that was refused afterwards is told below.
                report.violation("A1", "an acknowledged append is not in the log", **op.show())
                continue
            if present and 0 < len(present) < asked:
                report.violation("A2", "a part of an append is in the log", **op.show(asked=asked, stored=len(present)))
                continue
            if asked and len(present) > asked:
                report.violation("A5", "an op is in the log twice", **op.show(asked=asked, stored=len(present)))
                continue
            if present:
                self.expected(op)
                self.together(op)
            for attempt in wrote:
                self.answer(op, attempt)
            # A transaction is committed once, by one client, and nobody asks again behind its back.
            again = next((attempt for attempt in stored if attempt.repeated), None)
            if again and op.kind == "transaction":
                earlier = [attempt for attempt in op.attempts if attempt.invoked < again.invoked]
                if not any(map(Attempt.unsure, earlier)) and not any(attempt in stored for attempt in earlier):
                    what = "a transaction was recorded before, and each earlier call was said to have recorded nothing"
                    report.violation("A6", what, **op.show())
            answers = {attempt.answer for attempt in wrote}
            if len(answers) > 1:
                promise = "C1" if op.kind == "command" else "A5"
                report.violation(promise, "one op has two answers", **op.show())
            if present and not stored:
                self.rejected(op, rejected)
            for late in rejected:
                promise = "C1" if op.kind == "command" else "A5"
                if late.why == "invalid":
                    report.violation(promise, "an op was said to be another's, or none", **op.show())
                elif any(attempt.over < late.invoked for attempt in wrote):
                    report.violation(promise, "a retry of what was stored was refused", **op.show())

    def expected(self, op):
        """A4: the streams were as they were to be."""
        log, report = self.log, self.report
        first = {}
        for event in op.present:
            first.setdefault(log.stream_name(event), log.version[event])
        for stream, expected in op.expected:
            version = first.get(stream)
            if version is None or expected in (None, "any"):
                continue
            report.rules["A4"] += 1
            if expected == "none":
                right = version == 1
            elif expected == "exists":
                right = version > 1
            else:
                right = version == int(expected) + 1
            if not right:
                evidence = {"stream": stream, "expected": expected, "stored_as": version}
                report.violation(
                    "A4", "an append was stored though the stream was not as expected", **op.show(**evidence)
                )

    def together(self, op):
        """A2: the events of one append stand together, in the order they were given; of a transaction they need not."""
        log, report, present = self.log, self.report, op.present
        if op.kind == "transaction" or len(present) < 2:
            return
        if log.position[present[-1]] - log.position[present[0]] != len(present) - 1:
            report.violation("A5", "an op is in the log in two places", **op.show(positions=self.positions(op)))
            return
        given = [log.by_id.get(id) for id, *_ in op.events if id is not None]
        for one, next in zip(given, given[1:]):
            if log.stream[one] == log.stream[next] and one > next:
                report.violation(
                    "A3", "the events of an append are in another order", **op.show(positions=self.positions(op))
                )
                return

    def positions(self, op):
        return [self.log.position[event] for event in op.present]

    def answer(self, op, attempt):
        log, report = self.log, self.report
        first, last, streams = attempt.answer
        report.rules["answers"] += 1
        positions = self.positions(op)
        last = first if last is None else last
        if (first, last) != (positions[0], positions[-1]):
            evidence = op.show(answered=[first, last], stored=positions)
            report.violation("C1" if op.kind == "command" else "A5", "the answer is not what was stored", **evidence)
            return
        versions = {log.stream_name(event): log.version[event] for event in op.present}
        for stream, version in streams:
            if stream in versions and versions[stream] != version:
                evidence = op.show(stream=stream, answered=version, stored=versions[stream])
                report.violation(
                    "C1" if op.kind == "command" else "A5", "the answer is not what was stored", **evidence
                )
            elif isinstance(attempt.state, dict) and is_account(stream) and stream in versions:
                fold = self.state(stream, version)
                if any(not same(read, fold.get(name)) for name, read in attempt.state.items() if name in fold):
                    report.violation(
                        "C1",
                        "the state a command answers with is not the fold",
                        **op.show(read=attempt.state, fold=fold),
                    )

    def rejected(self, op, rejected):
        """Refused, and yet in the log."""
        report = self.report
        unsure = [attempt for attempt in op.attempts if attempt.unsure()]
        evidence = op.show(positions=self.positions(op))
        if not unsure:
            return report.violation("A4", "what was refused is in the log", **evidence)
        for refusal in rejected:
            # Another client may ask, and be recorded, at the same time or afterwards; one asks one thing at a time.
            def over(other, refusal=refusal):
                if other.client == refusal.client:
                    return other.invoked < refusal.invoked
                return other.over is not None and other.over < refusal.invoked

            if all(map(over, unsure)):
                return report.violation(
                    "A6", "an unknown outcome was said to be a refusal, and is in the log", **evidence
                )

    def refusals(self):
        """A4, C2, A13: who was refused was right to be, by what was recorded before, or at the same time."""
        for op in self.clients.ops.values():
            for attempt in op.attempts:
                if attempt.phase != "rejected":
                    continue
                if attempt.why == "conflict" and op.kind in ("exact", "none", "multi"):
                    self.conflict(op, attempt)
                elif attempt.why == "rule" and op.kind == "command":
                    self.decided(op, attempt)
                elif attempt.why == "rule" and op.kind == "reserve":
                    self.sold_out(op, attempt)
                elif attempt.why == "newer":
                    self.newer(op, attempt)

    def conflict(self, op, attempt):
        """A4: who is told of a conflict was too late: somebody who had begun before the answer is in the way."""
        report, given = self.report, attempt.conflict or {}
        wanted = [(stream, 0 if expected == "none" else expected) for stream, expected in op.expected]
        wanted = [(stream, version) for stream, version in wanted if isinstance(version, int)]
        report.rules["A4 conflicts"] += 1
        if (
            wanted
            and not op.present
            and not any(self.in_the_way(stream, version, attempt) for stream, version in wanted)
        ):
            return report.violation(
                "A4", "a conflict was reported though the stream was as expected", **op.show(expected=wanted)
            )
        stream, actual = given.get("stream"), given.get("actual")
        if stream is None or actual is None or self.lost_after(attempt.invoked):
            return None
        low, high = self.versions_during(stream, attempt)
        if not low <= actual <= high or dict(wanted).get(stream) == actual:
            report.violation(
                "A4", "a conflict names a version that the stream did not have", **op.show(between=(low, high))
            )

    def decided(self, op, attempt):
        """C2: a withdrawal is refused by a state that the account had while it was asked for."""
        if not op.events or self.lost_after(attempt.invoked):
            return
        _, stream, type, data = op.events[0]
        if Domain.kind(type or "") != "withdrawn":
            return
        self.report.rules["C2 refusals"] += 1
        low, high = self.versions_during(stream, attempt)
        # One that is recorded, by another call of the same command, is answered as that one was, and not decided again.
        own = [self.log.version[event] for event in op.present]
        high = min([high, *(version - 1 for version in own)])
        low = min(low, high)
        balances = [self.state(stream, version)["balance"] for version in range(low, high + 1)]
        if min(balances) >= data["amount"]:
            evidence = op.show(versions=(low, high), balances=balances[:20])
            promise, what = "C2", "a command was refused that no state of that time refuses"
            if own:
                promise, what = "C1", "a command was refused that is in the log, and no state before it refuses"
            self.report.violation(promise, what, **evidence)

    def sold_out(self, op, attempt):
        """A13: a seat is refused where all are taken, or the student has one."""
        extra, seats = op.extra or {}, self.run.get("seats")
        course, student = extra.get("course"), extra.get("student")
        limit = seats.get(course) if isinstance(seats, dict) else seats
        if course is None or limit is None or self.lost_after(attempt.invoked):
            return
        self.report.rules["A13 refusals"] += 1
        taken = [who for who, event in self.seats[course] if self.begun_before(event, attempt.over)]
        if len(taken) < limit and student not in taken:
            self.report.violation("A13", "a seat was refused though there was one", **op.show(taken=taken, seats=limit))

    def newer(self, op, attempt):
        """C5: a seat is refused for an event that this program does not know, where there is one."""
        course = (op.extra or {}).get("course")
        if op.kind not in ("reserve", "sponsor") or self.lost_after(attempt.invoked):
            return
        self.report.rules["C5 refusals"] += 1
        closed = self.closed.get(course)
        if closed is None or not self.begun_before(closed, attempt.over):
            self.report.violation("C5", "an event is said to be unknown, and there is none", **op.show())

    def begun_before(self, event, t):
        op = self.ops.get(self.log.op[event])
        return op is None or op.invoked() < t

    def versions_during(self, stream, attempt):
        """The versions a stream may have had while something was asked."""
        times, versions = self.acknowledged.get(stream, ((), ()))
        known = bisect.bisect_left(times, attempt.invoked)
        low, events = versions[known - 1] if known else 0, self.log.of_stream(stream)
        high = low
        while high < len(events) and self.begun_before(events[high], attempt.over):
            high += 1
        return low, high

    def in_the_way(self, stream, version, attempt):
        events = self.log.of_stream(stream)
        if len(events) < version:
            # What it had read is gone: others tell.
            return True
        if len(events) == version:
            # Whoever was there was lost with the end of a log that nobody had been told of.
            return self.lost_after(attempt.invoked)
        return self.begun_before(events[version], attempt.over)

    def real_time(self):
        """A7: what was acknowledged before something was asked for comes first."""
        log, report = self.log, self.report
        earliest, who = None, None
        for event in range(len(log) - 1, -1, -1):
            op = self.ops.get(log.op[event])
            if op is None:
                continue
            report.rules["A7"] += 1
            invoked = op.invoked()
            if earliest is not None and earliest < invoked and who is not op:
                evidence = {"first": log.show(event), "invoked": invoked, "acknowledged": earliest}
                report.violation(
                    "A7", "what was acknowledged before this was asked for comes behind it", **evidence, then=who.show()
                )
            over = min((one.over for one in op.attempts if one.phase == "stored"), default=None)
            if over is not None and (earliest is None or over < earliest):
                earliest, who = over, op

    def business(self):
        """A2: a transaction's row and its events, both or neither."""
        report = self.report
        transactions = [op for op in self.clients.ops.values() if op.kind == "transaction"]
        table = self.last["models"].get("business")
        if table is None:
            if transactions:
                self.nothing("there is no table `business`")
            return
        columns = table["columns"]
        rows = {}
        for row in table["rows"]:
            row = dict(zip(columns, row))
            rows[same_uuid(str(row["op"]))] = row
        for op in transactions:
            report.rules["A2 transactions"] += 1
            row = rows.pop(op.id, None)
            if (row is None) == bool(op.present):
                there = "its events" if op.present else "its row"
                report.violation(
                    "A2", f"of a transaction only {there} can be found", **op.show(positions=self.positions(op))
                )
            elif row is not None and op.extra and op.extra.get("amount", row.get("amount")) != row.get("amount"):
                report.violation("A10", "the row of a transaction has another amount", **op.show(row=row))
        for id in rows:
            report.violation("A2", "a row of a transaction that nobody has asked for", op=show_uuid(id))

    def domain(self):
        """A13, C2 and C5: what no decision on a fresh state could have made."""
        log, report = self.log, self.report
        taken, students, seats = Counter(), {}, self.run.get("seats")
        self.seats, self.closed, issued = defaultdict(list), {}, 0
        for event in range(len(log)):
            kind, data = log.data[event]
            if kind == "closed" and not is_account(log.stream_name(event)):
                self.closed.setdefault(field(data, "course", ""), event)
            if kind == "issued":
                report.rules["A13 tickets"] += 1
                issued += 1
                if field(data, "number", 0) != issued:
                    what = "a ticket was decided on a state that was not fresh: by the names of events alone"
                    report.violation("A13", what, **log.show(event), number=data, expected=issued)
            op = self.ops.get(log.op[event])
            if op is not None and op.kind == "sponsor":
                report.rules["A13 sponsors"] += 1
                course = (op.extra or {}).get("course")
                if field(data, "amount", 0) != taken[course] + 1:
                    what = "a sponsor was decided on a course that was not fresh: a stream and a tag together"
                    report.violation("A13", what, **log.show(event), data=data, students=taken[course])
                if course in self.closed:
                    what = "a course was sponsored after an event that the rule does not know"
                    report.violation("C5", what, **log.show(event), unknown=log.position[self.closed[course]])
            if kind == "reserved":
                report.rules["C5"] += 1
                closed = self.closed.get(field(data, "course", ""))
                if closed is not None:
                    what = "a seat was sold after an event that the rule does not know"
                    report.violation("C5", what, **log.show(event), unknown=log.position[closed])
                report.rules["A13"] += 1
                course, student = field(data, "course", ""), field(data, "student", "")
                if (course, student) in students:
                    report.violation(
                        "A13",
                        "a seat was sold twice to one student",
                        **log.show(event),
                        first=students[course, student],
                    )
                students[course, student] = log.position[event]
                self.seats[course].append((student, event))
                taken[course] += 1
                limit = seats.get(course) if isinstance(seats, dict) else seats
                if limit is not None and taken[course] == limit + 1:
                    report.violation("A13", "a course was sold out and more", **log.show(event), seats=limit)
        for stream, events in zip(log.streams, log.events_of):
            if not is_account(stream):
                continue
            balance = 0
            for event in events:
                report.rules["C2"] += 1
                balance += added(*log.data[event])
                op = self.ops.get(log.op[event])
                if op is not None and op.kind == "drawn":
                    report.rules["C6"] += 1
                    if balance != 0:
                        what = "what was loaded in a transaction had changed before it was committed"
                        report.violation("C6", what, **log.show(event), left=balance)
                if balance < 0:
                    report.violation(
                        "C2",
                        "a balance is below zero: decided on a state that was not fresh",
                        **log.show(event),
                        balance=balance,
                    )
                    break

    def transfers(self):
        """G1, G7, M1: what the sagas have made of each transfer that was requested, each command once."""
        log, report = self.log, self.report
        requested, moves, purses = {}, defaultdict(list), Counter()
        for event in range(len(log)):
            stream, (kind, data) = log.stream_name(event), log.data[event]
            if not is_of_a_saga(stream):
                continue
            if kind == "requested" and stream.startswith("transfer-"):
                requested[Domain.key(stream)] = event
                continue
            report.rules["G1"] += 1
            actor = ACTOR.search(bytes.fromhex(log.metadata[event]))
            if not actor or not actor[1].startswith(b"saga:"):
                report.violation("G1", "an event of a saga is not by one", **log.show(event))
            if stream.startswith("saga."):
                continue
            transfer = Domain.key(stream) if stream.startswith("transfer-") else field(data, "transfer", "")
            if transfer not in requested:
                report.violation("G1", "a saga has sent what nobody has asked for", **log.show(event))
                continue
            moves[transfer].append(event)
            if stream.startswith("purse-"):
                report.rules["C2 purses"] += 1
                amount = field(data, "amount", 0)
                purses[stream] += -amount if kind == "taken" else amount
                # What comes back is not refused.
                below, above = PURSE + purses[stream] < 0, PURSE + purses[stream] > FULL and kind == "given"
                if below or above:
                    what = "a command of a saga was decided on a state that was not fresh"
                    report.violation("C2", what, **log.show(event), left=PURSE + purses[stream])
        for transfer, first in requested.items():
            self.transfer(transfer, first, moves[transfer])

    def transfer(self, transfer, first, events):
        log, report = self.log, self.report
        order = log.data[first][1]
        way, amount = field(order, "way", ""), field(order, "amount", 0)
        kinds = [log.data[event][0] for event in events]
        told = {"transfer": transfer, "way": way, "events": [log.show(event) for event in events[:8]]}
        times = Counter(kinds)
        report.rules[f"G1 {way}"] += 1
        if any(number > 1 for number in times.values()):
            return report.violation("G1", "a command of a saga is in the log twice", **told)
        of = {"taken": "from", "given": "to", "returned": "from"}
        for event, kind in zip(events, kinds):
            if kind in of:
                _, data = log.data[event]
                if log.stream_name(event) != f"purse-{field(order, of[kind], '')}" or field(data, "amount", 0) != amount:
                    report.violation("G1", "a saga has moved what was not asked for", **told)
        if times["completed"] + times["refused"] != 1:
            return report.violation("G7", "a transfer is not over, or is twice", **told)
        report.rules["G7"] += 1
        wanted = {
            # The commands of an answer go out in its order.
            ("free", "completed"): [["taken", "given", "completed"]],
            ("free", "refused"): [["refused"], ["taken", "returned", "refused"]],
            ("steps", "completed"): [["taken", "given", "completed"]],
            ("steps", "refused"): [["refused"], ["taken", "returned", "refused"]],
            ("waits", "refused"): [["refused"]],
        }
        end = "completed" if times["completed"] else "refused"
        if kinds not in wanted.get((way, end), ()):
            report.violation("G7", "what a transfer has done does not fit together", **told)
        if way == "waits":
            report.rules["M1"] += 1
            late = log.recorded[events[-1]] - log.recorded[first]
            if late < WAITS:
                report.violation("M1", "a timer has fired before it was due", after=late, **told)

    # -- time and failovers -------------------------------------------------------------------------------------------

    def lost_after(self, t):
        """Whether the log may have lost its end after an instant: what nobody had been told of may have been seen by a
        reader on a server that was then replaced."""
        after = any(moment > t for moment in self.failovers)
        return after or any(moment > t for moment in self.timelines)

    # -- read models --------------------------------------------------------------------------------------------------

    def fold_models(self):
        """For each model and key, the positions of its events, and the row after each."""
        log, folds, self.samples = self.log, {}, {}
        for model in MODELS.values():
            keys, fold, of = model.keys, model.fold, {}
            for event in range(len(log)):
                kind, data = log.data[event]
                for key in keys(log.stream_name(event), kind, data):
                    found = of.get(key)
                    if found is None:
                        found = of[key] = (array("q"), [None])
                    found[0].append(log.position[event])
                    found[1].append(fold(found[1][-1], kind, data))
            folds[model.name] = of
            samples = self.samples[model.name] = defaultdict(list)
            for key, (positions, states) in of.items():
                turn = model.turn(key)
                one = key, turn, slot(turn), positions, states
                samples[""].append(one)
                samples[hashlib.md5(key.encode()).hexdigest()[0]].append(one)
        return folds

    def without(self, model, key, until, skipped):
        """The row of a key without events that were passed over."""
        row, log = None, self.log
        for position in self.folds[model.name][key][0]:
            if position <= until and position not in skipped:
                row = model.fold(row, *log.data[log.by_position[position]])
        return row

    def observations(self, deliveries):
        """What was seen while it went on, and at the end."""
        path, before, count = self.path("observed.jsonl"), None, 0
        looks = []
        if not os.path.exists(path):
            self.nothing("there is no observed.jsonl")
        else:
            looks = lines_of(path, self.report)
        self.owners, self.verified = defaultdict(list), {}
        last = self.run.get("started")
        for number, seen in looks:
            count += 1
            self.unseen(last, seen["t"])
            last = seen["t"]
            self.observation(seen, before, deliveries, f"observed.jsonl:{number}")
            before = seen
        self.unseen(last, self.run.get("faults_ended"))
        self.report.checked["observations"] = count
        if not count:
            self.nothing("there are no observations: nothing was checked")
        self.observation(self.last, before, deliveries, "the end")
        for name, model in MODELS.items():
            if not self.report.rules[f"{model.rule} {name}"]:
                self.nothing("of a read model no row was checked", model=name)
            if name not in self.last["models"]:
                self.nothing("there is no table of a read model", model=name)

    def unseen(self, after, until):
        if after and until and until - after > UNSEEN:
            self.nothing("for a minute nothing was observed", after=after, until=until)

    def observation(self, seen, before, deliveries, where):
        report = self.report
        shards = defaultdict(list)
        for projection, start, end, position, event, epoch, owner in seen["checkpoints"]:
            shards[projection].append((start, end, position, same_uuid(event), epoch, owner))
        earlier = defaultdict(list)
        if before:
            for projection, *shard in before["checkpoints"]:
                earlier[projection].append(shard)
        letters = defaultdict(lambda: defaultdict(list))
        for projection, key, position, event, skipped in seen.get("letters", ()):
            letters[projection][key].append((position, skipped))
        for projection, of in shards.items():
            of.sort()
            self.cover(projection, of, where)
            self.moves(projection, of, earlier[projection], seen, before, where)
            self.owned(projection, of, seen, where)
            forked = self.forked(projection, of, seen, where)
            model = model_of(projection)
            if forked:
                continue
            if model and model.is_whole(where) and projection in seen["models"]:
                self.rows(model, projection, of, seen["models"][projection], letters[projection], where)
            if projection in deliveries:
                self.handed_over(projection, of, deliveries[projection], letters[projection], seen, where)
        for name, table in seen["models"].items():
            if name not in shards and model_of(name) and not name.endswith(SHADOW) and table["rows"]:
                report.violation("P1", "a table has rows and no checkpoint", table=name, where=where)

    def moved(self):
        """S5 and P2 by all that was ever moved, where it was written down."""
        report, moves = self.report, self.last.get("moves")
        if moves is None:
            return
        report.rules["P2 moves"] += moves["count"]
        report.rules["S5 moves"] += moves["count"]
        if not moves["count"]:
            self.nothing("no checkpoint was moved")
        for move in moves["by_two"]:
            report.violation("P2", "two processes moved the shards of one node in one epoch", **move)
        for move in moves["two_owners"]:
            report.violation("P2", "two nodes had a shard in one epoch", **move)
        for move in moves["back"]:
            report.violation("S5", "a checkpoint was moved back", **move)

    def replaced(self):
        """N2: no snapshot takes the place of a newer one, unless that one is of events that are not in the log."""
        report, replaced = self.report, self.last.get("replaced")
        if replaced is None:
            return
        report.rules["N2"] += replaced["count"]
        if not replaced["count"]:
            self.nothing("no snapshot was replaced")
        for one in replaced["back"]:
            there = self.log.by_position.get(one["from_position"])
            if there is not None and self.log.ids[there] == same_uuid(one["from_event"]):
                report.violation("N2", "an older snapshot has taken the place of a newer one", **one)

    def cover(self, projection, shards, where):
        """P6: each slot is in one shard."""
        self.report.rules["P6"] += 1
        ends = [0] + [end for _, end, *_ in shards]
        starts = [start for start, *_ in shards] + [SLOTS]
        if ends != starts:
            slots = [(start, end) for start, end, *_ in shards]
            self.report.violation(
                "P6", "shards do not have each slot once", projection=projection, shards=slots, where=where
            )

    def moves(self, projection, shards, earlier, seen, before, where):
        """S5 and P2: neither a position nor an epoch goes back."""
        report, head = self.report, seen["head"]
        shadow = projection.endswith(SHADOW)
        # A step that only the next one waits for may be lost with the server, and its rows with it.
        crashed = before is not None and before.get("server") != seen.get("server")
        elsewhere = before is not None and before.get("timeline") != seen.get("timeline")
        for start, end, position, _, epoch, _ in shards:
            report.rules["S5"] += 1
            evidence = {
                "projection": projection,
                "slots": (start, end),
                "position": position,
                "epoch": epoch,
                "where": where,
            }
            if position > head:
                report.violation("S5", "a checkpoint is beyond the end of the log", **evidence, head=head)
            for old_start, old_end, old_position, _, old_epoch, _ in earlier:
                if old_start >= end or start >= old_end:
                    continue
                # What stands beside is begun again, and changes places with the other.
                again = shadow and epoch != old_epoch
                if position < old_position and not crashed and not again:
                    report.violation("S5", "a checkpoint went back", **evidence, before=old_position)
                if epoch < old_epoch and not elsewhere:
                    report.violation("P2", "an epoch went back", **evidence, before=old_epoch)

    def owned(self, projection, shards, seen, where):
        """P2: of one epoch, one owner."""
        for start, end, _, _, epoch, owner in shards:
            if owner is None:
                continue
            self.report.rules["P2"] += 1
            known = self.owners[projection, epoch, seen.get("timeline")]
            for other_start, other_end, other in known:
                if other != owner and other_start < end and start < other_end:
                    owners = (other, owner)
                    self.report.violation(
                        "P2",
                        "two nodes had a shard in one epoch",
                        projection=projection,
                        slots=(start, end),
                        epoch=epoch,
                        owners=owners,
                        where=where,
                    )
            if (start, end, owner) not in known:
                known.append((start, end, owner))

    def forked(self, projection, shards, seen, where):
        """S6: a checkpoint whose event is not in the log. Its rows are of a log that is no more."""
        log, report, forked = self.log, self.report, False
        for start, end, position, event, *_ in shards:
            if event is None or position == 0:
                continue
            report.rules["S6"] += 1
            there = log.by_position.get(position)
            if there is not None and log.ids[there] == event:
                continue
            forked = True
            if where != "the end" and self.lost_after(seen["t"]):
                report.note("a checkpoint was beyond what a failover has kept, before anybody was told of it")
                continue
            evidence = {
                "projection": projection,
                "slots": (start, end),
                "position": position,
                "event": show_uuid(event),
                "where": where,
            }
            report.violation("S6", "the log has lost what was taken in, and it was not reported", **evidence)
        return forked

    def rows(self, model, projection, shards, table, letters, where):
        """P1 and P3: a row is the fold of its events up to its shard's checkpoint, or up to what it waits for."""
        report, columns = self.report, table["columns"]
        try:
            key_at = columns.index(table_key(columns))
            places = [columns.index(column) for column in model.columns]
        except ValueError:
            return self.nothing("a table has other columns", table=projection, columns=columns)
        rows = {row[key_at]: tuple(row[place] for place in places) for row in table["rows"]}
        keys = self.samples[model.name][table["sample"]]
        until_of = array("q", bytes(8 * SLOTS))
        for start, end, position, *_ in shards:
            for one in range(max(start, 0), min(end, SLOTS)):
                until_of[one] = position
        find, take = bisect.bisect_right, rows.pop
        for key, turn, of, positions, states in keys:
            until, passed = until_of[of], None
            if letters and turn in letters:
                until, passed = self.parked(projection, turn, positions, until, letters[turn], where)
            expected = self.without(model, key, until, passed) if passed else states[find(positions, until)]
            row = take(key, None)
            if row != expected and (row is None or expected is None or normal(row) != normal(expected)):
                evidence = {
                    "model": projection,
                    "key": key,
                    "row": row,
                    "fold": expected,
                    "until": until,
                    "where": where,
                }
                report.violation(
                    model.rule, "a row is not the fold of its events", self.about(projection, key, where), **evidence
                )
        report.rules[f"{model.rule} {model.name}"] += len(keys)
        for key, row in rows.items():
            evidence = {"model": projection, "key": key, "row": row, "where": where}
            report.violation(model.rule, "a row that no event has made", self.about(projection, key, where), **evidence)

    @staticmethod
    def about(projection, key, where):
        return projection, key, where == "the end"

    def parked(self, projection, key, positions, until, letters, where):
        """P3: what waits are all events of the key from the first one on, up to the checkpoint."""
        report = self.report
        report.rules["P3"] += 1
        waiting = sorted(position for position, skipped in letters if skipped is None)
        passed = {position for position, skipped in letters if skipped is not None}
        if not waiting:
            return until, passed
        first = waiting[0]
        behind = [position for position in positions if first <= position <= until and position not in passed]
        if waiting != behind:
            missing = sorted(set(behind) - set(waiting))[:5]
            odd = sorted(set(waiting) - set(behind))[:5]
            evidence = {
                "projection": projection,
                "key": key,
                "until": until,
                "not_parked": missing,
                "parked": odd,
                "where": where,
            }
            about = self.about(projection, key, where)
            report.violation("P3", "what is parked is not all that came after it", about, **evidence)
        return min(until, first - 1), passed

    # -- loads and snapshots ------------------------------------------------------------------------------------------

    def reads(self):
        """N1 and T1: what was read is the fold of its prefix; what is of now has all that was acknowledged before."""
        log, report = self.log, self.report
        highest = self.highest()
        for client, number, read in self.clients.reads:
            kind, stream, at = read.get("kind"), read.get("stream"), read.get("at")
            version, state, began = read.get("version"), read.get("state"), read.get("began")
            report.rules[f"read {kind}"] += 1
            evidence = {"client": client, "line": number, "kind": kind, "stream": stream, "at": at, "version": version}
            if kind == "head" and began is not None and read.get("position") is not None:
                report.rules["A7 reads"] += 1
                if read["position"] < highest(began):
                    report.violation(
                        "A7",
                        "a read was of a log that ended before what had been acknowledged",
                        **evidence,
                        read=read["position"],
                        acknowledged=highest(began),
                    )
            if kind == "head":
                continue
            if kind in ("row", "row_now", "until", "list"):
                self.typed(kind, read, evidence)
                continue
            if kind == "load_as_of":
                self.as_of(read, evidence)
                continue
            events, rule = log.of_stream(stream), "N1" if at is None else "T1"
            report.rules[rule] += 1
            asked = at if kind == "load_version" else None
            if asked is not None:
                at = None
            last = self.log.by_position.get(at) if at is not None else None
            if at is not None and (last is None or not self.begun_before(last, read["t"])):
                # It asked for what was not there yet.
                continue
            if at is not None:
                count = bisect.bisect_right(self.positions_of(stream), at)
                if version is not None and version != count:
                    report.violation(rule, "a state as of a position has another version", **evidence, events=count)
                    continue
                version = count
            if version is None:
                continue
            if version > len(events):
                if not self.lost_after(read["t"]):
                    report.violation(rule, "a state of more events than there are", **evidence, events=len(events))
                continue
            place = read.get("position")
            if kind in NOW and place is not None and not self.lost_after(read["t"]):
                report.rules["T1 now"] += 1
                count = bisect.bisect_right(self.positions_of(stream), place)
                if version != count:
                    report.violation("T1", "a state is not that of its position", **evidence, place=place, events=count)
            if asked is not None and version > asked:
                report.violation(rule, "a state as of a version has another version", **evidence)
                continue
            if (kind in NOW or asked is not None) and began is not None:
                times, versions = self.acknowledged.get(stream, ((), ()))
                known = bisect.bisect_left(times, began)
                known = versions[known - 1] if known else 0
                report.rules["N1 fresh"] += 1
                if version < (known if asked is None else min(known, asked)):
                    report.violation(
                        rule, "a load does not have what was acknowledged before it", **evidence, acknowledged=known
                    )
            if not is_account(stream):
                continue
            if kind == "row_at":
                positions, states = self.folds["balance@1"].get(Domain.key(stream), ((), (None,)))
                fold = states[bisect.bisect_right(positions, at)]
                fold = fold and dict(zip(MODELS["balance@1"].columns, fold))
            else:
                fold = self.state(stream, version)
            if (state is None) != (fold is None):
                report.violation(rule, "a state is not the fold of its events", **evidence, read=state, fold=fold)
            elif fold is not None:
                different = {
                    name: (state[name], fold[name])
                    for name in fold
                    if name in state and not same(state[name], fold[name])
                }
                if different:
                    report.violation(rule, "a state is not the fold of its events", **evidence, read_and_fold=different)

    def as_of(self, read, evidence):
        """T3: a state as of an instant that is over is made of what was recorded by then, for ever."""
        report, stream, state = self.report, read["stream"], read.get("state")
        if self.lost_after(read["t"]):
            return
        report.rules["T3"] += 1
        events = self.log.of_stream(stream)
        count = bisect.bisect_right(events, read["at"], key=lambda event: self.log.recorded[event])
        fold = self.state(stream, count)
        whole = bisect.bisect_right(self.log.recorded, read["at"])
        if read.get("position", 0) > whole:
            what = "a state as of an instant was read from more than was recorded by then"
            report.violation("T3", what, **evidence, place=read["position"], recorded=whole)
        if read.get("version") != count or any(not same(state.get(name), fold[name]) for name in fold):
            what = "a state as of an instant is not made of what was recorded by then"
            report.violation("T3", what, **evidence, read=state, fold=fold, events=count)

    def typed(self, kind, read, evidence):
        """P9: a row that is read is the fold of its first events, and of all that were to be seen; a list has all that
        match, and no other."""
        report, after, t = self.report, read.get("after"), read["t"]
        # The rows of before a crash or a failover are those of a checkpoint that may have been lost.
        near = bisect.bisect_left(self.crashes, read["began"] - CRASHED)
        if self.lost_after(read["began"]) or near < len(self.crashes) and self.crashes[near] < t + CRASHED:
            return
        report.rules[f"P9 {kind}"] += 1
        folds, columns = self.folds["balance@1"], MODELS["balance@1"].columns

        def waits(positions):
            # A key that may be parked: a list has its row as it is, and says nothing.
            return kind != "row" and any(
                self.log.data[self.log.by_position[position]][0] == "poisoned" for position in positions
            )

        def between(positions):
            low = bisect.bisect_right(positions, after) if after and not waits(positions) else 0
            high = len(positions)
            while high > low and not self.begun_before(self.log.by_position[positions[high - 1]], t):
                high -= 1
            return low, high

        def row(state):
            return state and normal(tuple(state.get(name) for name in columns))

        def expected(states, low, high):
            return [one and normal(one) for one in states[low : high + 1]]

        if kind != "list":
            positions, states = folds.get(Domain.key(read["stream"]), ((), (None,)))
            low, high = between(positions)
            seen = row(read.get("state"))
            if seen not in expected(states, low, high):
                promise = "P1" if seen not in expected(states, 0, high) else "P9"
                what = {
                    "P1": "a row that was read is not the fold of its first events",
                    "P9": "a row that was read lacks what it was to have seen",
                }[promise]
                fold = expected(states, low, high)[:5]
                report.violation(promise, what, **evidence, after=after, read=seen, between=(low, high), fold=fold)
            return
        wanted, there = read.get("at_version"), {key: row(state) for key, state in read["state"]}
        evidence = {**evidence, "after": after, "events": wanted}
        if list(there) != sorted(there, key=str.encode):
            report.violation("P9", "a list is not in the order of its keys", **evidence, keys=list(there)[:20])
        at = columns.index("events")
        for key, seen in there.items():
            positions, states = folds.get(key, ((), (None,)))
            low, high = between(positions)
            if seen[at] != wanted or seen not in expected(states, low, high):
                fold = expected(states, low, high)[:5]
                report.violation("P9", "a list has a row that it is not to have", **evidence, key=key, row=seen, fold=fold)
        for key, (positions, states) in folds.items():
            low = bisect.bisect_right(positions, after) if after else 0
            # Without a position to wait for, it may have been read before the first event of a key.
            if after is None or key in there or not states[low] or states[low][at] != wanted or waits(positions):
                continue
            low, high = between(positions)
            if all(one and one[at] == wanted for one in states[low : high + 1]):
                report.violation("P9", "a list lacks a row", **evidence, key=key, fold=states[low])

    def highest(self):
        """The last position acknowledged before an instant."""
        acknowledged = sorted(
            (min(one.over for one in op.attempts if one.phase == "stored"), self.log.position[op.present[-1]])
            for op in self.clients.ops.values()
            if op.present and any(one.phase == "stored" for one in op.attempts)
        )
        times, positions = [over for over, _ in acknowledged], []
        for _, position in acknowledged:
            positions.append(max(position, positions[-1] if positions else 0))

        def highest(t):
            known = bisect.bisect_left(times, t)
            return positions[known - 1] if known else 0

        return highest

    def acknowledgements(self):
        """Of each stream, the instants at which versions had been acknowledged, and the highest until then."""
        of = defaultdict(list)
        for op in self.clients.ops.values():
            over = min((one.over for one in op.attempts if one.phase == "stored"), default=None)
            if over is not None:
                for event in op.present:
                    of[self.log.stream_name(event)].append((over, self.log.version[event]))
        found = {}
        for stream, acknowledged in of.items():
            acknowledged.sort()
            highest, versions = 0, []
            for _, version in acknowledged:
                highest = max(highest, version)
                versions.append(highest)
            found[stream] = ([over for over, _ in acknowledged], versions)
        return found

    def positions_of(self, stream):
        cached = self.__dict__.setdefault("_positions", {})
        if stream not in cached:
            cached[stream] = array("q", (self.log.position[event] for event in self.log.of_stream(stream)))
        return cached[stream]

    def state(self, stream, version):
        cached = self.__dict__.setdefault("_states", {})
        if stream not in cached:
            cached[stream] = list(account_states(self.log.data[event] for event in self.log.of_stream(stream)))
        return cached[stream][min(version, len(cached[stream]) - 1)]

    # -- subscribers --------------------------------------------------------------------------------------------------

    def read_deliveries(self):
        """Of subscriptions with a checkpoint, when each event was first handed over. Readers are checked on the way."""
        log, report = self.log, self.report
        with_checkpoint = {projection for projection, *_ in self.last["checkpoints"]}
        first, readers, lines = {}, defaultdict(list), 0
        repeated = Counter()
        for path in sorted(glob.glob(self.path("subscribers", "*.jsonl"))):
            file, last_t, place = os.path.basename(path), None, 0
            for number, line in lines_of(path, report):
                if "position" not in line:
                    continue
                lines += 1
                name, position, id, t = line["subscription"], line["position"], same_uuid(line["id"]), line["t"]
                event = log.by_position.get(position)
                if (
                    event is None
                    or log.ids[event] != id
                    or log.stream_name(event) != line["stream"]
                    or log.version[event] != line["version"]
                ):
                    if self.lost_after(t):
                        report.note("a subscriber saw what a failover has not kept, before anybody was told of it")
                    else:
                        report.violation(
                            "S1", "what was handed over is not in the log", file=file, line=number, handed=line
                        )
                    event = None
                if name in with_checkpoint:
                    if event is None:
                        continue
                    place = min(place + 1, 4095) if t == last_t else 0
                    last_t = t
                    times = first.get(name)
                    if times is None:
                        times = first[name] = array("q", bytes(8 * len(log)))
                    moment = t << 12 | place
                    if times[event]:
                        repeated[name] += 1
                    if not times[event] or moment < times[event]:
                        times[event] = moment
                else:
                    runs = readers[file]
                    if not runs or runs[-1][:2] != (file, line["run"]):
                        runs.append((file, line["run"], [position, position, number]))
                    else:
                        at = runs[-1][2]
                        if position != at[1] + 1:
                            what = (
                                "a reader was given an event again or out of order"
                                if position <= at[1]
                                else "a reader was not given an event"
                            )
                            report.violation("S1", what, reader=file, line=number, before=at[1], position=position)
                        at[1] = position
                    report.rules["S1 readers"] += 1
        report.checked["deliveries"] = lines
        report.rules["S1 again"] += sum(repeated.values())
        if not lines:
            self.nothing("there are no deliveries: nothing was checked")
        self.readers(readers)
        return first

    def readers(self, readers):
        """S1: one run goes on where another had been, or before; and the last one comes to the end."""
        report, head = self.report, self.log.head()
        if not readers:
            self.nothing("no reader has read anything")
        for name, runs in readers.items():
            reached = 0
            for file, run, (start, end, line) in runs:
                if start > reached + 1:
                    report.violation(
                        "S1",
                        "a reader was not given an event",
                        reader=file,
                        run=run,
                        line=line,
                        before=reached,
                        position=start,
                    )
                reached = max(reached, end)
            if reached < head:
                report.violation(
                    "liveness", "a reader has not come to the end of the log", reader=name, reached=reached, head=head
                )

    def handed_over(self, projection, shards, times, letters, seen, where):
        """S5: what a subscription's checkpoint has passed was handed over before."""
        log, report = self.log, self.report
        streams = self.slots_of_streams()
        verified = self.verified.setdefault(projection, [0] * SLOTS)
        categories = self.categories(times)
        for start, end, position, *_ in shards:
            low = min(verified[start:end], default=position)
            if low >= position:
                continue
            low_event = bisect.bisect_right(log.position, low)
            for event in range(low_event, bisect.bisect_right(log.position, position)):
                of, category = streams[log.stream[event]]
                if not start <= of < end or verified[of] >= log.position[event] or category not in categories:
                    continue
                report.rules["S5 handed over"] += 1
                stream = log.stream_name(event)
                # What waits is looked at again at the end.
                if letters and any(log.position[event] >= waits for waits, _ in letters.get(stream, ())):
                    continue
                if not times[event] or times[event] >> 12 > seen["t"]:
                    report.violation(
                        "S5",
                        "a subscription's checkpoint has passed what was not handed over",
                        subscription=projection,
                        **log.show(event),
                        checkpoint=position,
                        where=where,
                    )
            for one in range(start, end):
                verified[one] = max(verified[one], position)

    def slots_of_streams(self):
        found = self.__dict__.get("_slots_of_streams")
        if found is None:
            found = self._slots_of_streams = [(slot(stream), stream.split("-", 1)[0]) for stream in self.log.streams]
        return found

    def categories(self, times):
        """Which categories a subscription hears of: those it was ever given an event of."""
        cached = self.__dict__.setdefault("_categories", {})
        if id(times) not in cached:
            streams = self.slots_of_streams()
            cached[id(times)] = {streams[self.log.stream[event]][1] for event, t in enumerate(times) if t}
        return cached[id(times)]

    def deliveries(self, first):
        """S1: everything was handed over, each stream in order: an event for the first time after the one before it."""
        log, report = self.log, self.report
        reached = defaultdict(lambda: SLOTS * [0])
        for projection, start, end, position, *_ in self.last["checkpoints"]:
            for one in range(start, end):
                reached[projection][one] = position
        waiting = defaultdict(set)
        for projection, key, position, *_ in self.last.get("letters", ()):
            waiting[projection].add((key, position))
        streams = self.slots_of_streams()
        if not first:
            self.nothing("no subscription with a checkpoint has handed anything over")
        for name, times in first.items():
            categories = self.categories(times)
            for number, (stream, events) in enumerate(zip(log.streams, log.events_of)):
                of, category = streams[number]
                if category not in categories:
                    continue
                before = 0
                for event in events:
                    report.rules["S1"] += 1
                    if not times[event]:
                        position = log.position[event]
                        if position <= reached[name][of] and (stream, position) not in waiting[name]:
                            report.violation(
                                "S1", "an event was never handed over", subscription=name, **log.show(event)
                            )
                        continue
                    if times[event] < before:
                        report.violation(
                            "S1",
                            "an event was handed over before the one before it in its stream",
                            subscription=name,
                            **log.show(event),
                        )
                    before = max(before, times[event])

    # -- liveness -----------------------------------------------------------------------------------------------------

    def liveness(self):
        report, head = self.report, self.log.head()
        report.settled_ms = settled = self.run.get("settled_ms")
        limit = self.run.get("settle_limit_ms", 10_000)
        report.rules["liveness"] += 1
        if settled is None:
            left = self.run.get("unsettled")
            report.violation("liveness", "not everything came to the end of the log after the faults", left=left)
        elif settled > limit:
            report.violation(
                "liveness",
                "it took too long until everything was at the end of the log",
                settled_ms=settled,
                limit_ms=limit,
            )
        for projection, start, end, position, *_ in self.last["checkpoints"]:
            if position < head and not projection.endswith(SHADOW):
                report.violation(
                    "liveness",
                    "a projection is not at the end of the log",
                    projection=projection,
                    slots=(start, end),
                    position=position,
                    head=head,
                )
        for projection, key, position, *_ in self.last.get("letters", ()):
            if not projection.endswith(SHADOW):
                report.violation("liveness", "an event still waits", projection=projection, key=key, position=position)


def normal(row):
    """An owner that is not there is an empty one; numbers are numbers."""
    return tuple("" if one is None else int(one) if isinstance(one, float) and one.is_integer() else one for one in row)


def same(read, fold):
    return (read or "") == (fold or "") if isinstance(fold, str) else (read or 0) == fold


def check(folder, as_json=False, to=sys.stdout):
    report = Report()
    # There are no cycles to be found, only time to be lost among millions of objects.
    gc.disable()
    Check(folder, report).check()
    gc.enable()
    text = json.dumps(report.json(), indent=1, ensure_ascii=False, default=str)
    with open(os.path.join(folder, "report.json"), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    print(text if as_json else report.text(), file=to)
    return report


# ---------------------------------------------------------------------------------------------------------------------
# write: a report for people, in a document
# ---------------------------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- report: begin -->", "<!-- report: end -->"


def markdown(report):
    def listed(counts):
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())

    seconds = report.get("faults_seconds")
    faults = sum(report["faults"].values())
    lasting = f" in {seconds:,} seconds" if seconds else ""
    broken = sum(one["times"] for one in report["broken"])
    said = "no promise was broken" if not broken else f"{broken} violations"
    head = (
        f"Seed {report['seed']}, profile {report['profile']}, {report['store']}: {faults:,} faults{lasting}, {said}. "
    )
    settled = report["settled_ms"]
    head += f"Everything was at the end of the log {settled:,} ms after the last one." if settled is not None else ""
    rows = [("checked", listed(report["checked"])), ("faults", listed(report["faults"]))]
    if report["recovered_ms"]:
        longest = {kind: f"{ms['longest']:,} ms" for kind, ms in report["recovered_ms"].items()}
        rows.append(("longest until events were recorded again", ", ".join(f"{k} {ms}" for k, ms in longest.items())))
    rows.append(("comparisons by rule", listed(report["rules"])))
    rows += [(f"**broken: {one['id']}**", f"{one['what']}: {one['times']:,} times") for one in report["broken"]]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"{head}\n\n| | |\n|---|---|\n{table}\n"


def write(folder, path):
    """Puts what a run has come to between the marks of a document."""
    with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
        report = json.load(file)
    with open(path, encoding="utf-8") as file:
        before, rest = file.read().split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n{markdown(report)}{END}{after}")


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "observe":
        return observe(arguments[1])
    if len(arguments) in (2, 3) and arguments[0] == "check" and arguments[2:] in ([], ["--json"]):
        try:
            return 1 if check(arguments[1], bool(arguments[2:])).violations else 0
        except Exception:
            # Not 1: that a rule could not be applied is no violation, and no proof either.
            traceback.print_exc()
            return 2
    if len(arguments) == 3 and arguments[0] == "write":
        write(*arguments[1:])
        return 0
    if arguments == ["self-test"]:
        import self_test

        suite = unittest.defaultTestLoader.loadTestsFromModule(self_test)
        return 0 if unittest.TextTestRunner().run(suite).wasSuccessful() else 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
