"""Small runs that were made up, each with one promise broken, and some with none: `checker.py self-test`."""

import io
import json
import os
import sys
import tempfile
import unittest
from collections import Counter, defaultdict

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from checker import BEGIN, END, MODELS, check, escaped, slot, write, xxh3_64


class Made:
    """A run, as files. `seal` makes what follows from the log; what is broken afterwards is broken there alone."""

    def __init__(self):
        self.t, self.ids, self.log, self.business = 1_700_000_000_000_000, 0, [], []
        self.clients, self.subscribers = defaultdict(list), defaultdict(list)
        self.faults = [{"t": self.t, "fault": "kill", "what": "worker 1"}]
        self.faults.append({"t": self.t + 9, "fault": "recovered", "what": "kill", "ms": 12})
        self.run = {"seed": 7, "profile": "smoke", "store": "postgres", "seats": 3, "settled_ms": 812, "mutant": None}
        self.observed, self.last, self.versions, self.epoch, self.asked = [], None, Counter(), 5, {}

    def now(self):
        self.t += 10
        return self.t

    def id(self):
        self.ids += 1
        return f"00000000-0000-7000-8000-{self.ids:012x}"

    def append(self, op, events):
        """Into the log, whatever anybody has said of it."""
        asked = self.asked.get(op, {})
        said, by_rule = asked.get("said") or {}, asked.get("kind") in ("command", "reserve", "sponsor", "ticket")
        recorded, metadata = self.now(), {"$commandId": op, "$source": asked.get("program", "c1")}
        for name, key in (("actor", "$actor"), ("correlation", "$correlationId"), ("note", "note")):
            metadata.update({key: said[name]} if name in said else {})
        metadata.update({"$request": self.id()} if by_rule else {})
        for event in events:
            stream = event["stream"]
            self.versions[stream] += 1
            data = None if event["data"] == {} else event["data"]
            payload = json.dumps(data, ensure_ascii=False).encode()
            place = {"position": len(self.log) + 1, "version": self.versions[stream], "command": op, "payload": payload}
            data = data or {}
            tags = [f"{name}:{data[name]}" for name in ("course", "student") if name in data]
            beside = {"tags": tags, "metadata": metadata, "recorded": recorded}
            self.log.append({**event, **place, **beside, "occurred": said.get("occurred_at", recorded)})

    def planned(self, *events):
        categories = ("account", "course", "ticket", "transfer", "purse", "saga.moves")
        names = {category: category.split(".")[0] + ".{}" for category in categories}
        return [
            {"id": self.id(), "stream": stream, "name": names[stream.split("-")[0]].format(kind), "data": data}
            for stream, kind, data in events
        ]

    def say(self, client, **line):
        line = {"t": self.now(), **line}
        self.clients[client].append(line)
        return line

    def invoke(self, client, op, kind, events, expected="any", attempt=1, **more):
        streams = defaultdict(list)
        for event in events:
            data = more.get("data", event["data"])
            streams[event["stream"]].append({"id": event["id"], "type": event["name"], "data": data})
        streams = [{"stream": stream, "expected": expected, "events": planned} for stream, planned in streams.items()]
        self.asked.setdefault(op, {"kind": kind, "program": client, **more})
        return self.say(client, op=op, phase="invoked", kind=kind, attempt=attempt, streams=streams, **more)

    def stored(self, client, op, events, **more):
        there = [one for one in self.log if one["id"] in {event["id"] for event in events}]
        streams = {one["stream"]: one["version"] for one in there}
        answer = {"first": there[0]["position"], "last": there[-1]["position"], "streams": streams}
        return self.say(client, op=op, phase="stored", **answer, **more)

    def do(self, kind, *events, client="c1", expected="any", **more):
        """Asks for it, records it, is told so."""
        op, events = self.id(), self.planned(*events)
        self.invoke(client, op, kind, events, expected, **more)
        self.append(op, events)
        if kind == "transaction":
            self.business.append([op, more["amount"]])
        self.stored(client, op, events)
        return op, events

    def read(self, kind, stream, state, version, **more):
        began = self.now()
        return self.say(
            "r1",
            op=self.id(),
            phase="read",
            kind=kind,
            stream=stream,
            state=state,
            version=version,
            began=began,
            **{"at": None, **more},
        )

    def everything(self):
        """Something of each kind."""
        self.do(
            "none",
            ("account-1", "opened", {"owner": "Ann"}),
            ("account-1", "deposited", {"amount": 100}),
            expected="none",
        )
        self.do("any", ("account-2", "deposited", {"amount": 7}), client="c2")
        self.do("exact", ("account-1", "withdrawn", {"amount": 30}), expected=2)
        self.do("multi", ("account-1", "withdrawn", {"amount": 5}), ("account-2", "deposited", {"amount": 5}))
        self.do("transaction", ("account-2", "poisoned", {"amount": 11}), amount=4)
        for student in ("s1", "s2", "s3"):
            self.do(
                "reserve",
                ("course-k", "reserved", {"course": "k", "student": student}),
                expected=None,
                course="k",
                student=student,
            )
        op, events = self.id(), self.planned(("account-1", "withdrawn", {"amount": 10}))
        self.invoke("c1", op, "command", events, None)
        self.append(op, events)
        self.say("c1", op=op, phase="unknown", error="the connection broke")
        self.invoke("c1", op, "command", events, None, 2)
        self.stored("c1", op, events, state={"balance": 55, "events": 5})
        self.invoke("c2", op, "command", events, None)
        self.stored("c2", op, events, state={"balance": 55, "events": 5})
        self.invoke("c2", self.id(), "dropped", self.planned(("account-3", "deposited", {"amount": 1})))
        self.refused("exact", "account-1", 3, 5)
        self.refused("command", "account-1", why="rule", data={"amount": 56})
        self.no_seat("k", "s4")
        op = self.id()
        self.invoke("c2", op, "any", self.planned(("account-3", "deposited", {"amount": 1})))
        self.say("c2", op=op, phase="refused", error="the store is busy")
        self.say("c2", op=op, phase="given up")
        self.do("any", ("account-2", "closed", {}), ("account-2", "deposited", {"amount": 2}))
        self.read("load", "account-1", {"open": True, "owner": "Ann", "balance": 55, "events": 5}, 5)
        self.read("snapshot", "account-2", {"open": False, "owner": None, "balance": 25, "events": 5}, 5)
        self.read("load_at", "account-1", {"open": True, "owner": "Ann", "balance": 70, "events": 3}, 3, at=4)
        self.read("row_at", "account-2", {"owner": None, "balance": 23, "events": 3}, None, at=8)
        self.read("row_at", "account-2", None, None, at=2)
        self.read("load_version", "account-1", {"owner": "Ann", "balance": 70, "events": 3}, 3, at=3)
        self.read("load_version", "account-1", {"owner": "Ann", "balance": 55, "events": 5}, 5, at=9)
        self.read("head", "account-2", None, None, position=13)
        return self

    def beside(self):
        """What has come to the end of a run later: what is said with events, decisions on more than a stream, typed
        reads, and instants."""
        said = {"actor": 'Ann "A"', "correlation": self.id(), "occurred_at": self.t - 7_000_000, "note": "n"}
        self.do("any", ("account-9", "opened", {"owner": "Eve"}), ("account-9", "deposited", {"amount": 50}), said=said)
        self.do("sponsor", ("account-9", "withdrawn", {"amount": 4}), expected=None, course="k", data="decided")
        self.do("ticket", ("ticket-$every", "issued", {"number": 1}), expected=None, data="decided", said=said)
        self.do("ticket", ("ticket-$every", "issued", {"number": 2}), expected=None, data="decided")
        self.rows_of_nine()
        self.t += 60_000_000
        self.read("load_as_of", "account-9", {"open": True, "owner": "Eve", "balance": 50, "events": 2}, 2, at=self.log[14]["recorded"])
        self.read("load_as_of", "account-9", {"open": False, "owner": None, "balance": 0, "events": 0}, 0, at=self.log[12]["recorded"])
        return self

    def transfers(self):
        """One transfer of each kind, and what a saga has made of it."""
        for way, events in (
            ("free", (("purse-a", "taken"), ("purse-b", "given"), (None, "completed"))),
            ("free", (("saga.moves-k", "answered"), (None, "refused"))),
            ("steps", (("purse-a", "taken"), ("purse-a", "returned"), (None, "refused"))),
            ("waits", ((None, "refused"),)),
        ):
            transfer = self.requested(way)
            self.t += 700_000
            for stream, kind in events:
                self.by_a_saga(transfer, stream, kind)
        return self

    def requested(self, way):
        transfer = f"t{len(self.log)}"
        order = {"way": way, "from": "a", "to": "b", "amount": 150}
        self.do("any", (f"transfer-{transfer}", "requested", order))
        return transfer

    def by_a_saga(self, transfer, stream, kind, amount=150, actor="saga:moves"):
        data = {"transfer": transfer, "amount": amount} if stream and stream.startswith("purse") else {}
        self.append(self.id(), self.planned((stream or f"transfer-{transfer}", kind, data)))
        self.log[-1]["metadata"] = {"$commandId": self.log[-1]["command"], "$actor": actor, "$source": "w1"}

    def rows_of_nine(self, after=16, events=3, owner="Eve"):
        row = {"owner": owner, "balance": 46 if events == 3 else 50, "events": events}
        for kind in ("row", "until"):
            self.read(kind, "account-9", row, None, after=after)
        self.read("row_now", "account-9", {"owner": "Eve", "balance": 50, "events": 2}, None)
        self.read("list", "account-9", [["9", row]], None, after=after, at_version=events)

    def refused(self, kind, stream, expected=None, actual=None, why="conflict", name="withdrawn", data=None, **more):
        op = self.id()
        self.invoke("c1", op, kind, self.planned((stream, name, data or {"amount": 1})), expected, **more)
        conflict = {"stream": stream, "expected": expected, "actual": actual} if why == "conflict" else None
        self.say("c1", op=op, phase="rejected", error="no", why=why, conflict=conflict)

    def no_seat(self, course, student):
        seat = {"course": course, "student": student}
        self.refused("reserve", f"course-{course}", why="rule", name="reserved", data=seat, **seat)

    def shards(self, position, epoch=None):
        position = min(position, len(self.log))
        event = self.log[position - 1]["id"] if position else None
        of = lambda name, parts: [
            [
                name,
                1024 * n // parts,
                1024 * (n + 1) // parts,
                position,
                event,
                epoch or self.epoch,
                f"0000000000000000000000000000000{n}",
            ]
            for n in range(parts)
        ]
        return of("balance@1", 3) + of("turnover@1", 2) + of("ledger", 2) + of("activity@1", 1) + of("mailbox", 2)

    def rows(self, until, parked=()):
        models = {}
        for model in MODELS.values():
            rows = {}
            for event in self.log:
                kind, data = event["name"].split(".")[1], event["data"]
                for key in model.keys(event["stream"], kind, data):
                    waits = any(
                        name == model.name and of == model.turn(key) and event["position"] >= first
                        for name, of, first in parked
                    )
                    if event["position"] <= until and not waits:
                        rows[key] = model.fold(rows.get(key), kind, data)
            rows = [[key, *row] for key, row in rows.items() if row is not None]
            whose = "account" if model.name == "ledger" else "key"
            models[model.name] = {"sample": "", "columns": [whose, *model.columns], "rows": rows}
        return models

    def look(self, position, parked=(), **more):
        letters = [
            [name, of, event["position"], event["id"], None]
            for name, of, first in parked
            for event in self.log
            if first <= event["position"] <= position
            and any(
                MODELS[name].turn(key) == of
                for key in MODELS[name].keys(event["stream"], event["name"].split(".")[1], event["data"])
            )
        ]
        seen = {
            "head": len(self.log),
            "checkpoints": self.shards(position),
            "models": self.rows(position, parked),
            "letters": letters,
        }
        return {"t": self.now(), "server": "one", "timeline": "00000001", **seen, **more}

    def seal(self):
        for event in self.log:
            line = {
                "position": event["position"],
                "id": event["id"],
                "stream": event["stream"],
                "version": event["version"],
                "run": 1,
            }
            self.subscribers["w1-follower"].append({"t": self.now(), "subscription": "follower", **line})
            if event["stream"].startswith("account"):
                self.subscribers["w1-mailbox"].append({"t": self.now(), "subscription": "mailbox", **line})
        self.observed = [self.look(3), self.look(9, [("balance@1", "2", 7), ("ledger", "account-2", 7)]), self.look(10)]
        self.last = self.look(len(self.log))
        self.last["models"]["business"] = {"sample": "", "columns": ["op", "amount"], "rows": self.business}
        return self

    def write(self, folder):
        for name in ("clients", "subscribers", "tables"):
            os.mkdir(os.path.join(folder, name))

        def lines(lines, *path):
            with open(os.path.join(folder, *path), "w", encoding="utf-8") as file:
                file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)

        lines([self.run], "run.json")
        lines([self.last], "tables", "last.json")
        for name, kind in (("faults", self.faults), ("observed", self.observed)):
            if kind is not None:
                lines(kind, f"{name}.jsonl")
        for folder_name, files in (("clients", self.clients), ("subscribers", self.subscribers)):
            for name, kind in files.items():
                lines(kind, folder_name, f"{name}.jsonl")
        with open(os.path.join(folder, "tables", "events.tsv"), "w", encoding="utf-8") as file:
            for event in self.log:
                metadata = json.dumps(event["metadata"], separators=(",", ":")).encode().hex()
                row = event["position"], event["version"], event["id"], event["name"], event["stream"], metadata
                row += event["payload"].hex(), json.dumps(event["tags"]), event["recorded"], event["occurred"]
                file.write("\t".join(escaped(str(one)) for one in row) + "\n")

    def found(self):
        with tempfile.TemporaryDirectory() as folder:
            self.write(folder)
            report = check(folder, to=io.StringIO())
            with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
                assert len(json.load(file)["violations"]) == len(report.violations)
            return report


class SelfTest(unittest.TestCase):
    def whole(self):
        return Made().everything().seal()

    def broken(self, made, *promises):
        report = made.found()
        self.assertEqual(sorted({one["id"] for one in report.violations}), sorted(promises), report.text())
        return report

    def test_a_report_is_put_between_its_marks(self):
        for made, said in (
            (self.whole(), "no promise was broken"),
            (self.whole(), "**broken: A2** | of a transaction"),
        ):
            if "A2" in said:
                made.business.clear()
            with tempfile.TemporaryDirectory() as folder:
                made.write(folder)
                check(folder, to=io.StringIO())
                document = os.path.join(folder, "proof.md")
                with open(document, "w", encoding="utf-8") as file:
                    file.write(f"before\n{BEGIN}\nold\n{END}\nafter\n")
                write(folder, document)
                with open(document, encoding="utf-8") as file:
                    text = file.read()
            self.assertTrue(
                text.startswith(f"before\n{BEGIN}\nSeed 7, profile smoke") and text.endswith(f"{END}\nafter\n")
            )
            self.assertIn(said, text)
            self.assertIn("| faults | kill 1 |", text)

    def test_xxh3_is_that_of_the_specification(self):
        golden = {
            0: 0x2D06800538D394C2,
            1: 0xC44BDFF4074EECDB,
            3: 0x5F4299FC161C9CBB,
            4: 0x60DAB036A58211F2,
            8: 0x3A1C2D7C85AF88F8,
            9: 0xE9612598145BB9DC,
            16: 0x8355E3A6F61770DB,
            17: 0x9EF341A99DE37328,
            32: 0x3523581FE96E4C05,
            33: 0xE68C56BA88991E58,
            64: 0x6187EB9089B0ED55,
            65: 0x6928C76CE90422D0,
            96: 0x278A3E12EA046DFB,
            97: 0xE7220282DC4E14F4,
            128: 0x85C6174C7FF4C46B,
            129: 0xEC7642B431BA3E5A,
            160: 0x5BEA9075EC9401B8,
            240: 0x375A384D957FE865,
        }
        self.assertEqual({n: xxh3_64(bytes(range(n))) for n in golden}, golden)
        self.assertEqual(
            [slot(key) for key in ("", "a", "ann", "account-ann", "ACC-42", "ß")], [194, 543, 712, 750, 414, 340]
        )

    def test_the_fold_is_what_a_person_makes_of_it(self):
        rows = {
            name: {row[0]: tuple(row[1:]) for row in table["rows"]}
            for name, table in self.whole().last["models"].items()
        }
        self.assertEqual(rows["balance@1"], {"1": ("Ann", 55, 5), "2": ("", 2, 1)})
        self.assertEqual(rows["ledger"], {"1": (55, 5), "2": (25, 5)})
        self.assertEqual(rows["turnover@1"]["account-2"], (25, 4))
        self.assertEqual(rows["turnover@1"]["amount-5"], (0, 2))

    def test_a_run_that_breaks_nothing(self):
        report = self.broken(self.whole())
        for rule in (
            "A1",
            "A2",
            "A2 transactions",
            "A3",
            "A4",
            "A4 conflicts",
            "A5",
            "A6",
            "A7",
            "A10",
            "A13",
            "A13 refusals",
            "C1",
            "C2",
            "C2 refusals",
            "N1",
            "N1 fresh",
            "P1 balance@1",
            "P1 turnover@1",
            "P1 ledger",
            "E5 activity@1",
            "P2",
            "P3",
            "P6",
            "S1",
            "S1 readers",
            "S5",
            "S5 handed over",
            "S6",
            "T1",
            "liveness",
        ):
            self.assertGreater(report.rules[rule], 0, rule)

    # Nothing is said of what only looks wrong.

    def test_faults_that_break_nothing(self):
        made = Made().everything()
        # Killed in the middle, recorded all the same; another process asks again while the first hangs.
        op, events = made.id(), made.planned(("account-1", "withdrawn", {"amount": 1}))
        made.invoke("c3", op, "command", events, None)
        made.invoke("c2", op, "command", events, None)
        made.say("c2", op=op, phase="rejected", why="rule", error="only 0 left")
        made.clients["c2"].pop()
        made.say("c2", op=op, phase="refused", error="the store is unavailable")
        made.append(op, events)
        # A part of a file that was torn by a kill; a retry that says the same.
        made.seal()
        again = dict(made.subscribers["w1-mailbox"][3], t=made.now(), run=2)
        made.subscribers["w2-mailbox"].append(again)
        made.subscribers["w1-follower"].append(dict(made.subscribers["w1-follower"][-1], run=2))
        # A server that crashed may have lost a checkpoint that the next one was to confirm; shards and names change.
        made.observed.insert(3, made.look(6, server="two"))
        shadow = ["balance@1~shadow", 0, 1024, 4, made.log[3]["id"], 3, None]
        table = made.rows(4)["balance@1"]
        made.observed.append(made.look(12, server="two"))
        made.observed[-1]["checkpoints"].append(shadow)
        made.observed[-1]["models"]["balance@1~shadow"] = table
        made.observed.append(made.look(13, server="two"))
        made.observed[-1]["checkpoints"].append([*shadow[:3], 2, made.log[1]["id"], 9, None])
        made.observed[-1]["models"]["balance@1~shadow"] = made.rows(2)["balance@1"]
        made.last["t"] = made.now()
        made.last["server"] = "two"
        self.broken(made)

    def test_what_a_failover_has_not_kept_was_promised_to_nobody(self):
        made = self.whole()
        gone = made.look(10)
        for shard in gone["checkpoints"]:
            shard[3], shard[4] = 99, made.id()
        gone["head"] = 99
        made.observed.append(gone)
        made.faults.append({"t": made.now(), "fault": "failover", "what": "the standby is promoted"})
        made.observed.append(made.look(11, timeline="00000002", server="three"))
        made.last.update(t=made.now(), timeline="00000002", server="three")
        self.broken(made)

    # Each rule.

    def test_a1_lost(self):
        made = Made().everything()
        op, events = made.id(), made.planned(("account-9", "deposited", {"amount": 1}))
        made.invoke("c1", op, "any", events)
        made.say("c1", op=op, phase="stored", first=14, last=14, streams={"account-9": 1})
        self.broken(made.seal(), "A1")

    def test_a2_half_of_a_multi(self):
        made = Made().everything()
        op, events = (
            made.id(),
            made.planned(("account-8", "deposited", {"amount": 1}), ("account-9", "deposited", {"amount": 1})),
        )
        made.invoke("c1", op, "multi", events)
        made.append(op, events[:1])
        self.broken(made.seal(), "A2")

    def test_a2_half_of_a_transaction(self):
        made = self.whole()
        made.business.clear()
        self.broken(made, "A2")
        made = Made().everything()
        op = made.id()
        made.invoke("c1", op, "transaction", made.planned(("account-9", "deposited", {"amount": 1})), amount=3)
        made.business.append([op, 3])
        self.broken(made.seal(), "A2")

    def test_a3_versions(self):
        made = Made().everything()
        made.versions["account-7"] = 1
        made.do("any", ("account-7", "deposited", {"amount": 1}))
        self.broken(made.seal(), "A3")

    def test_a3_positions(self):
        made = Made().everything()
        op, events = made.id(), made.planned(("account-7", "deposited", {"amount": 1}))
        made.invoke("c1", op, "any", events)
        made.append(op, events)
        made.seal()
        made.log[-1]["position"] = 15
        for lines in made.subscribers.values():
            lines[-1]["position"] = 15
        for shard in made.last["checkpoints"]:
            shard[3] = 15
        made.last["head"] = 15
        self.broken(made, "A3", "S1")

    def test_a3_the_events_of_an_append_in_another_order(self):
        made = Made().everything()
        op, one = made.id(), ("account-7", "deposited", {"amount": 1})
        events = made.planned(one, one)
        made.invoke("c1", op, "any", events)
        made.append(op, events[::-1])
        self.broken(made.seal(), "A3")

    def test_a4_not_as_expected(self):
        made = Made().everything()
        made.do("exact", ("account-1", "deposited", {"amount": 1}), expected=4)
        self.broken(made.seal(), "A4")
        made = Made().everything()
        made.do("none", ("account-1", "deposited", {"amount": 1}), expected="none")
        self.broken(made.seal(), "A4")

    def test_a4_refused_and_in_the_log(self):
        made = Made().everything()
        op, events = made.id(), made.planned(("account-1", "deposited", {"amount": 1}))
        made.invoke("c1", op, "any", events)
        made.append(op, events)
        made.say("c1", op=op, phase="refused", error="the store is busy")
        self.broken(made.seal(), "A4")

    def test_a4_a_conflict_that_was_none(self):
        made = Made().everything()
        made.refused("exact", "account-1", 5, 6)
        self.broken(made.seal(), "A4")
        made = Made().everything()
        made.refused("exact", "account-1", 3, 9)
        self.broken(made.seal(), "A4")

    def test_a5_ghost(self):
        made = Made().everything()
        made.append(made.id(), made.planned(("account-1", "deposited", {"amount": 1})))
        self.broken(made.seal(), "A5")

    def test_a5_twice(self):
        made = Made().everything()
        op, events = made.do("any", ("account-1", "deposited", {"amount": 1}))
        made.append(op, made.planned(("account-1", "deposited", {"amount": 1})))
        self.broken(made.seal(), "A5")
        made = Made().everything()
        op, events = made.do("any", ("account-1", "deposited", {"amount": 1}))
        made.append(op, events)
        made.seal()
        self.assertIn("A5", {one["id"] for one in made.found().violations})

    def test_a5_one_event_of_two_ops(self):
        made = Made().everything()
        _, events = made.do("any", ("account-7", "deposited", {"amount": 1}))
        made.invoke("c2", made.id(), "any", events)
        self.broken(made.seal(), "A10", "A5")

    def test_a5_another_answer(self):
        made = self.whole()
        next(line for line in made.clients["c2"] if line["phase"] == "stored")["last"] += 1
        self.broken(made, "A5")

    def test_a5_a_retry_refused(self):
        made = Made().everything()
        op, events = made.do("any", ("account-1", "deposited", {"amount": 1}))
        made.invoke("c1", op, "any", events, attempt=2)
        made.say("c1", op=op, phase="rejected", why="conflict", error="conflict")
        self.broken(made.seal(), "A5")

    def test_a5_an_op_in_two_places(self):
        made = Made().everything()
        op, one = made.id(), ("account-7", "deposited", {"amount": 1})
        events = made.planned(one, one)
        made.invoke("c1", op, "any", events)
        made.append(op, events[:1])
        made.do("any", ("account-8", "deposited", {"amount": 1}))
        made.append(op, events[1:])
        self.broken(made.seal(), "A5")

    def test_a5_c1_an_op_said_to_be_anothers(self):
        for kind, promise in (("any", "A5"), ("command", "C1")):
            made = Made().everything()
            made.refused(kind, "account-1", why="invalid")
            self.broken(made.seal(), promise)

    def test_a6_unknown_resolved_wrongly(self):
        made = Made().everything()
        op, events = made.id(), made.planned(("account-1", "deposited", {"amount": 1}))
        made.invoke("c1", op, "exact", events, 5)
        made.append(op, events)
        made.say("c1", op=op, phase="unknown", error="the connection broke")
        made.invoke("c1", op, "exact", events, 5, 2)
        made.say("c1", op=op, phase="rejected", why="conflict", error="conflict", conflict=None)
        self.broken(made.seal(), "A6")

    def test_a7_order(self):
        made = Made().everything()
        late, events = made.id(), made.planned(("account-7", "deposited", {"amount": 1}))
        made.append(late, events)
        made.do("any", ("account-8", "deposited", {"amount": 1}))
        made.invoke("c1", late, "any", events)
        made.stored("c1", late, events)
        self.broken(made.seal(), "A7")

    def test_a7_head(self):
        made = Made().everything()
        made.read("head", "account-1", None, None, position=12)
        self.broken(made.seal(), "A7")

    def test_t1_a_load_of_another_position(self):
        made = Made().everything()
        made.read("load", "account-2", {"balance": 25, "events": 5}, 5, position=12)
        self.broken(made.seal(), "T1")

    def test_a10_bytes(self):
        made = self.whole()
        made.log[0]["payload"] = b'{"owner":"Anne"}'
        ids = {one["id"] for one in made.found().violations}
        self.assertIn("A10", ids)

    def test_a6_recorded_by_a_call_that_was_refused(self):
        for phase, broken in (("refused", True), ("unknown", False)):
            made = Made().everything()
            op, events = made.id(), made.planned(("account-7", "deposited", {"amount": 1}))
            made.invoke("c1", op, "transaction", events, amount=3)
            made.append(op, events)
            made.business.append([op, 3])
            made.say("c1", op=op, phase=phase, error="the connection broke")
            made.invoke("c1", op, "transaction", events, attempt=2, amount=3)
            made.stored("c1", op, events, repeated=True)
            made.seal()
            if broken:
                self.broken(made, "A6")
            else:
                self.assertEqual(made.found().violations, [])

    def test_a10_another_stream_type_or_amount(self):
        for change in ({"stream": "account-8"}, {"name": "account.poisoned"}):
            made = Made().everything()
            op, events = made.id(), made.planned(("account-7", "deposited", {"amount": 1}))
            made.invoke("c1", op, "any", events)
            made.append(op, [{**events[0], **change}])
            self.broken(made.seal(), "A10")
        made = self.whole()
        made.business[0][1] += 1
        self.broken(made, "A10")

    def test_a13_seats(self):
        made = Made().everything()
        made.do("reserve", ("course-k", "reserved", {"course": "k", "student": "s5"}), expected=None)
        self.broken(made.seal(), "A13")
        made = Made().everything()
        for student in ("s5", "s5"):
            made.do("reserve", ("course-l", "reserved", {"course": "l", "student": student}), expected=None)
        self.broken(made.seal(), "A13")
        made = Made().everything()
        made.no_seat("l", "s1")
        self.broken(made.seal(), "A13")

    def test_c5_sold_after_it_was_closed(self):
        closed = ("course-l", "closed", {"course": "l"})
        seat = {"course": "l", "student": "s1"}
        for first in (True, False):
            made = Made().everything()
            steps = [("close", closed, {"course": "l"}), ("reserve", ("course-l", "reserved", seat), seat)]
            for kind, event, more in steps if first else reversed(steps):
                made.do(kind, event, expected="any" if kind == "close" else None, **more)
            if first:
                self.broken(made.seal(), "C5")
            else:
                self.assertEqual(made.seal().found().violations, [])

    def test_c5_refused_for_an_event_that_is_not_there(self):
        seat = {"course": "l", "student": "s1"}
        for there in (True, False):
            made = Made().everything()
            if there:
                made.do("close", ("course-l", "closed", {"course": "l"}), course="l")
            made.refused("reserve", "course-l", why="newer", name="reserved", data=seat, **seat)
            if there:
                self.assertEqual(made.seal().found().violations, [])
            else:
                self.broken(made.seal(), "C5")

    def test_c1_two_answers(self):
        made = self.whole()
        line = [line for line in made.clients["c2"] if line["phase"] == "stored"][-1]
        line["streams"] = {"account-1": 4}
        self.broken(made, "C1")

    def test_c1_another_state(self):
        made = self.whole()
        line = [line for line in made.clients["c2"] if line["phase"] == "stored"][-1]
        line["state"] = {"balance": 65, "events": 5}
        self.broken(made, "C1")

    def test_c1_recorded_twice(self):
        made = Made().everything()
        op, events = made.do("command", ("account-1", "withdrawn", {"amount": 1}), expected=None)
        made.invoke("c2", op, "command", events, None)
        again = made.planned(("account-1", "withdrawn", {"amount": 1}))
        made.append(op, again)
        self.broken(made.seal(), "A5")

    def test_c2_below_zero(self):
        made = Made().everything()
        made.do("command", ("account-1", "withdrawn", {"amount": 1_000}), expected=None)
        self.broken(made.seal(), "C2")

    def test_c2_refused_by_an_old_state(self):
        made = Made().everything()
        made.refused("command", "account-1", why="rule", data={"amount": 55})
        self.broken(made.seal(), "C2")

    def test_s1_skipped(self):
        made = self.whole()
        del made.subscribers["w1-follower"][4]
        self.broken(made, "S1")

    def test_s1_again(self):
        made = self.whole()
        made.subscribers["w1-follower"].insert(4, made.subscribers["w1-follower"][3])
        self.broken(made, "S1")

    def test_s1_out_of_order_in_a_stream(self):
        made = self.whole()
        lines = made.subscribers["w1-mailbox"]
        one, two = [line for line in lines if line["stream"] == "account-1"][1:3]
        one["t"], two["t"] = two["t"], one["t"]
        self.broken(made, "S1")

    def test_s1_never_handed_over(self):
        made = self.whole()
        made.subscribers["w1-mailbox"].pop()
        self.broken(made, "S1", "S5")

    def test_s1_what_is_not_in_the_log(self):
        made = self.whole()
        made.subscribers["w1-follower"][2]["id"] = made.id()
        self.broken(made, "S1")

    def test_s5_back(self):
        made = self.whole()
        made.observed.append(made.look(8))
        made.last["t"] = made.now()
        self.broken(made, "S5")

    def test_s5_beyond_the_log(self):
        made = self.whole()
        made.observed[0]["head"] = 2
        self.broken(made, "S5")

    def test_s5_before_it_was_handed_over(self):
        made = self.whole()
        made.subscribers["w1-mailbox"][0]["t"] = made.observed[0]["t"] + 1
        for line in made.subscribers["w1-mailbox"][1:]:
            line["t"] += 1_000
        self.broken(made, "S5")

    def test_s6_fork(self):
        made = self.whole()
        for shard in made.observed[1]["checkpoints"]:
            shard[4] = made.id()
        self.broken(made, "S6")

    def test_p1_a_row_at_a_moment(self):
        made = self.whole()
        made.observed[2]["models"]["balance@1"]["rows"][0][2] += 1
        self.broken(made, "P1")

    def test_p1_counted_twice_at_the_end(self):
        made = self.whole()
        made.last["models"]["ledger"]["rows"][0][2] += 1
        self.broken(made, "P1")

    def test_p1_a_row_too_many_and_one_too_few(self):
        made = self.whole()
        made.last["models"]["turnover@1"]["rows"].append(["account-99", 1, 1])
        self.broken(made, "P1")
        made = self.whole()
        made.last["models"]["turnover@1"]["rows"].pop()
        self.broken(made, "P1")

    def test_n2_an_older_snapshot_in_the_place_of_a_newer_one(self):
        for event, broken in ((self.whole().log[4]["id"], True), ("0" * 32, False)):
            made = self.whole()
            one = {"boundary": "account-1", "same_shape": True, "from_position": 5, "to_position": 3}
            made.last["replaced"] = {"count": 7, "back": [{**one, "from_event": event}]}
            if broken:
                self.broken(made, "N2")
            else:
                self.assertEqual(made.found().violations, [])

    def test_c1_decided_again_though_it_is_recorded(self):
        made = Made().everything()
        op, events = made.id(), made.planned(("account-1", "withdrawn", {"amount": 40}))
        made.invoke("c1", op, "command", events, None)
        made.invoke("c2", op, "command", events, None)
        made.append(op, events)
        made.stored("c1", op, events, state={"balance": 15, "events": 6})
        made.say("c2", op=op, phase="rejected", error="no", why="rule")
        self.broken(made.seal(), "C1")

    def test_p1_rows_without_a_checkpoint(self):
        made = self.whole()
        look = made.observed[2]
        look["checkpoints"] = [shard for shard in look["checkpoints"] if shard[0] != "ledger"]
        self.broken(made, "P1")

    def test_p2_two_owners(self):
        made = self.whole()
        made.observed[2]["checkpoints"][0][6] = "99"
        self.broken(made, "P2")

    def test_p2_epoch_back(self):
        made = self.whole()
        made.last["checkpoints"][0][5] -= 1
        self.broken(made, "P2")

    def test_p2_s5_moves(self):
        of = {"count": 9, "by_two": [], "two_owners": [], "back": []}
        for name, promise in (("by_two", "P2"), ("two_owners", "P2"), ("back", "S5")):
            made = self.whole()
            made.last["moves"] = of
            self.broken(made)
            made.last["moves"] = {**of, name: [{"projection": "ledger", "epoch": 7}]}
            self.broken(made, promise)

    def test_p3_not_all_are_parked(self):
        made = self.whole()
        parked = [("balance@1", "2", 6)]
        made.observed[1] = {**made.look(13, parked), "t": made.observed[1]["t"]}
        del made.observed[1]["letters"][1]
        made.observed[2] = {**made.look(13), "t": made.observed[2]["t"]}
        report = self.broken(made, "P3")
        self.assertEqual(len(report.violations), 1)

    def test_what_sagas_do_breaks_nothing(self):
        report = self.broken(Made().everything().transfers().seal())
        for rule in ("G1", "G1 free", "G1 steps", "G1 waits", "G7", "M1", "C2 purses"):
            self.assertGreater(report.rules[rule], 0, rule)

    def test_g1_twice_for_nobody_or_by_nobody(self):
        for after in (
            lambda made, transfer: [made.by_a_saga(transfer, "purse-a", "taken") for _ in range(2)],
            lambda made, transfer: made.by_a_saga("another", "purse-a", "taken", 1),
        ):
            made = Made().everything().transfers()
            transfer = made.requested("free")
            made.by_a_saga(transfer, None, "refused")
            after(made, transfer)
            ids = {one["id"] for one in made.seal().found().violations}
            self.assertIn("G1", ids)
        made = Made().everything().transfers()
        made.by_a_saga(made.requested("free"), None, "refused", actor="ann")
        self.broken(made.seal(), "G1")
        made = Made().everything().transfers()
        transfer = made.requested("free")
        made.by_a_saga(transfer, "purse-b", "taken")
        made.by_a_saga(transfer, "purse-a", "given")
        made.by_a_saga(transfer, None, "completed")
        self.broken(made.seal(), "G1")

    def test_g7_half_of_a_transfer(self):
        made = Made().everything().transfers()
        made.requested("steps")
        self.broken(made.seal(), "G7")
        made = Made().everything().transfers()
        transfer = made.requested("steps")
        made.by_a_saga(transfer, "purse-a", "taken")
        made.by_a_saga(transfer, None, "refused")
        self.broken(made.seal(), "G7")

    def test_m1_too_early(self):
        made = Made().everything().transfers()
        made.by_a_saga(made.requested("waits"), None, "refused")
        self.broken(made.seal(), "M1")

    def test_c2_a_purse_below_zero(self):
        made = Made().everything().transfers()
        for _ in range(3):
            transfer = made.requested("free")
            for stream, kind in (("purse-a", "taken"), ("purse-b", "given"), (None, "completed")):
                made.by_a_saga(transfer, stream, kind)
        self.broken(made.seal(), "C2")

    def test_p6_shards(self):
        made = self.whole()
        del made.observed[1]["checkpoints"][1]
        ids = {one["id"] for one in made.found().violations}
        self.assertIn("P6", ids)

    def test_what_is_said_beside_typed_reads_and_decisions_break_nothing(self):
        report = self.broken(Made().everything().beside().seal())
        kinds = ("row", "row_now", "until", "list")
        for rule in ("A10 metadata", "A13 sponsors", "A13 tickets", "T3", *(f"P9 {kind}" for kind in kinds)):
            self.assertGreater(report.rules[rule], 0, rule)

    def test_a10_other_tags_or_metadata(self):
        for change in (
            {"tags": ["course:k"]},
            {"metadata": {"$source": "c1"}},
            {"metadata": {"$commandId": None, "$source": "c2", "$request": "r"}},
            {"metadata": {"$commandId": None, "$source": "c1"}},
        ):
            made = Made().everything().beside().seal()
            event = next(event for event in made.log if event["name"] == "course.reserved")
            if change.get("metadata", {}).get("$commandId", "") is None:
                change["metadata"]["$commandId"] = event["command"]
            event.update(change)
            self.broken(made, "A10")
        for name in ("$actor", "$correlationId", "note"):
            made = Made().everything().beside().seal()
            made.log[13]["metadata"].pop(name)
            self.broken(made, "A10")

    def test_t2_another_instant(self):
        made = Made().everything().beside().seal()
        made.log[13]["occurred"] = made.log[13]["recorded"]
        self.broken(made, "T2")
        made = Made().everything().beside().seal()
        made.log[3]["occurred"] += 1
        self.broken(made, "T2")

    def test_t1_stamps(self):
        for event, by in ((5, -3_000), (0, -5_000_001), (0, 1)):
            made = Made().everything().seal()
            for stamp in ("recorded", "occurred"):
                made.log[event][stamp] += by
            self.broken(made, "T1")

    def test_t3_another_state_as_of_an_instant(self):
        for count, balance in ((2, 49), (1, 0)):
            made = Made().everything().beside()
            state = {"open": True, "owner": "Eve", "balance": balance, "events": count}
            made.read("load_as_of", "account-9", state, count, at=made.log[14]["recorded"])
            self.broken(made.seal(), "T3")
        for position, broken in ((15, False), (16, True)):
            made = Made().everything().beside()
            state = {"open": True, "owner": "Eve", "balance": 50, "events": 2}
            made.read("load_as_of", "account-9", state, 2, at=made.log[14]["recorded"], position=position)
            self.broken(made.seal(), *["T3"] * broken)

    def test_p9_a_read_lacks_what_it_was_to_have_seen(self):
        made = Made().everything().beside()
        made.rows_of_nine(events=2)
        self.broken(made.seal(), "P9")
        made = Made().everything().beside()
        made.rows_of_nine(owner="Eva")
        self.broken(made.seal(), "P1", "P9")
        made = Made().everything().beside()
        made.read("list", "account-9", [], None, after=16, at_version=3)
        self.broken(made.seal(), "P9")
        made = Made().everything().beside()
        made.read("row", "account-9", None, None, after=16)
        self.broken(made.seal(), "P9")

    def test_p9_a_row_of_before_a_crash_is_excused(self):
        made = Made().everything().beside()
        made.rows_of_nine(events=2)
        made.faults.append({"t": made.now(), "fault": "restart", "what": "the server"})
        self.assertEqual(made.seal().found().violations, [])

    def test_a13_a_ticket_or_a_sponsor_of_a_state_that_was_not_fresh(self):
        for kind, event in (
            ("ticket", ("ticket-$every", "issued", {"number": 2})),
            ("sponsor", ("account-9", "withdrawn", {"amount": 3})),
        ):
            made = Made().everything().beside()
            made.do(kind, event, expected=None, course="k", data="decided")
            self.broken(made.seal(), "A13")

    def test_c6_what_a_transaction_had_loaded_has_changed(self):
        for amount, broken in ((46, False), (45, True)):
            made = Made().everything().beside()
            made.do("drawn", ("account-9", "withdrawn", {"amount": amount}), expected=None, data="decided")
            if broken:
                self.broken(made.seal(), "C6")
            else:
                self.assertEqual(made.seal().found().violations, [])

    def test_p9_a_row_that_waits_is_not_in_a_list_as_it_is_to_be(self):
        made = Made().everything()
        made.read("list", "account-2", [], None, after=9, at_version=3)
        made.read("list", "account-2", [["2", {"owner": None, "balance": 12, "events": 2}]], None, after=9, at_version=2)
        self.assertEqual(made.seal().found().violations, [])

    def test_c5_sponsored_after_it_was_closed(self):
        made = Made().everything().beside()
        made.do("close", ("course-l", "closed", {"course": "l"}), course="l")
        made.do("sponsor", ("account-9", "withdrawn", {"amount": 1}), expected=None, course="l", data="decided")
        self.broken(made.seal(), "C5")

    def test_a1_a2_a5_what_is_rolled_back_or_refused_leaves_nothing(self):
        made = Made().everything()
        made.append(made.id(), made.planned(("account-1", "deposited", {"amount": 1})))
        self.broken(made.seal(), "A5")
        made = self.whole()
        made.business.append([made.id(), -1])
        self.broken(made, "A2")
        made = Made().everything()
        op, events = made.id(), made.planned(("account-1", "deposited", {"amount": 1}))
        made.invoke("c1", op, "transaction", events, amount=1, aside="failure")
        made.say("c1", op=op, phase="stored", first=14, last=14, streams={"account-1": 6})
        self.broken(made.seal(), "A1")

    def test_n1_snapshots(self):
        made = Made().everything()
        made.read("snapshot", "account-1", {"balance": 56, "events": 5}, 5)
        self.broken(made.seal(), "N1")
        made = Made().everything()
        made.read("load", "account-1", {"balance": 65, "events": 4}, 4)
        self.broken(made.seal(), "N1")

    def test_n1_a_state_of_more_events_than_there_are(self):
        made = Made().everything()
        made.read("load", "account-1", {"balance": 55, "events": 6}, 6)
        self.broken(made.seal(), "N1")

    def test_t1_as_of_a_position(self):
        made = Made().everything()
        made.read("load_at", "account-1", {"balance": 65, "events": 4}, 4, at=4)
        self.broken(made.seal(), "T1")
        for version, balance in ((2, 100), (4, 65)):
            made = Made().everything()
            made.read("load_version", "account-1", {"balance": balance, "events": version}, version, at=3)
            self.broken(made.seal(), "T1")
        made = Made().everything()
        made.read("row_at", "account-2", {"owner": None, "balance": 12, "events": 2}, None, at=8)
        self.broken(made.seal(), "T1")

    def test_liveness(self):
        made = self.whole()
        made.run["settled_ms"] = None
        self.broken(made, "liveness")
        made = self.whole()
        made.run["settled_ms"] = 10_001
        self.broken(made, "liveness")
        made = self.whole()
        made.last = {**made.look(12), "models": {**made.rows(12), "business": made.last["models"]["business"]}}
        self.broken(made, "liveness")

    def test_liveness_of_a_reader_and_of_what_waits(self):
        made = self.whole()
        made.subscribers["w1-follower"].pop()
        self.broken(made, "liveness")
        made = Made().everything().seal()
        business = made.last["models"]["business"]
        made.last = made.look(13, [("ledger", "account-2", 7)])
        made.last["models"]["business"] = business
        self.broken(made, "liveness")

    def test_liveness_after_a_fault(self):
        for fault, what in (("not recovered", "restart"), ("ended", "w1: signal 6")):
            made = self.whole()
            made.faults.append({"t": made.now(), "fault": fault, "what": what})
            self.broken(made, "liveness")

    def test_what_was_not_looked_at_is_not_well(self):
        for name in ("faults", "observed"):
            made = self.whole()
            setattr(made, name, None)
            self.broken(made, "checked")
        made = self.whole()
        made.run.update(started=made.observed[0]["t"] - 9, faults_ended=made.observed[-1]["t"] + 60_000_001)
        self.broken(made, "checked")
        for name in ("clients", "subscribers"):
            made = self.whole()
            setattr(made, name, {"c1": []})
            self.assertIn("checked", {one["id"] for one in made.found().violations})
        with tempfile.TemporaryDirectory() as folder:
            report = check(folder, to=io.StringIO())
            self.assertEqual([one["id"] for one in report.violations], ["checked"])
