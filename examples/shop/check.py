#!/usr/bin/env python3
"""Recounts every order of the shop from the logs of its services and the topics of its bus, without the framework.

    check.py FOLDER                       SQLite files, as `shop run` makes them
    check.py postgres://…                 the schemas shop_order, shop_payment, … of a database, read by psql
    check.py … --accepted FILE            the ids of orders that clients got a 202 for, one a line: none may be missing

Each order ends paid, reserved, confirmed and shipped, or cancelled with all that was done for it undone; each step is
there once, with one mail for each step a customer hears of; the stock is what was delivered, less what is reserved.
Prints what does not hold, and exits with 1 if there is anything.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

# The catalogue, written down a second time.
CENTS = {"prod-123": 1999, "prod-456": 500, "prod-refused": 9913, "prod-late": 1066, "prod-scarce": 2500}
PIECES = {"prod-123": 1_000_000, "prod-456": 1_000_000, "prod-refused": 1_000, "prod-late": 1_000, "prod-scarce": 10}
SERVICES = ["gateway", "order", "payment", "inventory", "shipping", "notification", "customer"]
# Own event of a service -> the message that must be in a topic: once, whatever was killed.
MESSAGES = {
    ("order", "order.created"): ("orders", "order.created"),
    ("order", "order.confirmed"): ("orders", "order.confirmed"),
    ("order", "order.cancelled"): ("orders", "order.cancelled"),
    ("payment", "payment.completed"): ("payments", "payment.completed"),
    ("payment", "payment.failed"): ("payments", "payment.failed"),
    ("payment", "payment.refunded"): ("payments", "payment.refunded"),
    ("inventory", "reservation.reserved"): ("inventory", "inventory.reserved"),
    ("inventory", "reservation.rejected"): ("inventory", "inventory.rejected"),
    ("inventory", "reservation.released"): ("inventory", "inventory.released"),
    ("shipping", "shipment.shipped"): ("shipping", "order.shipped"),
    ("notification", "notification.sent"): ("notifications", "notification.sent"),
}
# The topics that each service listens to.
INBOXES = {
    "gateway": ["orders", "payments", "inventory", "shipping", "notifications"],
    "order": ["payments", "inventory", "shipping"],
    "payment": ["orders"],
    "inventory": ["payments", "orders"],
    "shipping": ["orders"],
    "notification": ["orders", "payments", "shipping"],
}


class Logs:
    """Reads a log as rows (stream, event, data, id), in order; and the rows of the read model of stocks."""

    def __init__(self, place):
        self.postgres = place if place.startswith("postgres") else None
        self.folder = Path(place)

    def sql(self, service, statement):
        if self.postgres:
            command = ["psql", self.postgres, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            return [json.loads(line) for line in lines]
        file = self.folder / f"{service}.db"
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def events(self, service):
        if self.postgres:
            schema = "bus" if service == "bus" else f"shop_{service}"
            rows = self.sql(
                service,
                f"SELECT json_build_array(stream, event, data, event_id) FROM {schema}.log ORDER BY position",
            )
        else:
            rows = self.sql(service, "SELECT stream, event, data, event_id FROM eventstore_log ORDER BY position")
        for stream, event, data, id in rows:
            yield stream, event, json.loads(data) if isinstance(data, str) else data, id

    def statuses(self):
        if self.postgres:
            return dict(self.sql("order", 'SELECT json_build_array(key, status) FROM shop_order."orders@current"'))
        rows = dict(self.sql("order", 'SELECT key, status FROM "orders@current"'))
        return {key: json.loads(status) if status.startswith('"') else status for key, status in rows.items()}

    def stock_rows(self):
        if self.postgres:
            rows = self.sql("inventory", 'SELECT json_build_array(key, pieces) FROM shop_inventory."stock@current"')
        else:
            rows = self.sql("inventory", 'SELECT key, pieces FROM "stock@current"')
        return {key: pieces for key, pieces in rows}


def pieces(items):
    count = Counter()
    for item in items:
        count[item["productId"]] += item["quantity"]
    return count


def check(place, accepted=(), topics_in_log=True, orchestrated=False):
    """Returns what does not hold, and how many orders ended in which way."""
    logs, wrong = Logs(place), []
    own = {service: defaultdict(list) for service in SERVICES}  # service -> key -> [(event, data)]
    said = Counter()  # (topic, message, order) that the services must have said
    heard = {service: Counter() for service in SERVICES}
    ids = {service: Counter() for service in SERVICES}
    for service in SERVICES:
        for stream, event, data, id in logs.events(service):
            category, key = stream.split("-", 1)
            ids[service][id] += 1
            if category == "shop" or category.startswith(("service.", "saga.")) or category.endswith(".commands"):
                continue  # how the shop runs; what a saga has asked, and has noted for itself
            if category.startswith("in."):
                heard[service][(category[3:], event.split(":", 1)[1], key)] += 1
                continue
            own[service][key if category != "stock" else f"stock {key}"].append((event, data))
            if (service, event) in MESSAGES:
                order = data["order"] if service == "notification" else key
                said[(*MESSAGES[service, event], order)] += 1
    for service, counted in ids.items():
        wrong += [f"{service}: the event {id} is there {n} times" for id, n in counted.items() if n > 1]

    orders, statuses = own["order"], logs.statuses()
    ends, stock = Counter(), Counter(PIECES)
    wrong += [f"{order}: accepted, and not in the log" for order in accepted if order not in orders]
    for kind, service in [("payment", "payment"), ("shipment", "shipping")]:
        wrong += [f"{order}: a {kind} of no order" for order in own[service] if order not in orders]
    wrong += [f"{key}: a reservation of no order" for key in own["inventory"] if key[:6] != "stock " and key not in orders]
    for product in PIECES:
        delivered = [event for event, _ in own["inventory"][f"stock {product}"]]
        if delivered != ["stock.delivered"]:
            wrong.append(f"{product}: delivered {len(delivered)} times")

    sent = defaultdict(Counter)
    for mail in own["notification"].values():
        for _, data in mail:
            sent[data["order"]][data["about"]] += 1
    for order, events in orders.items():
        names = [event for event, _ in events]
        items, total = events[0][1]["items"], events[0][1]["total_cents"]
        if total != sum(CENTS[item["productId"]] * item["quantity"] for item in items):
            wrong.append(f"{order}: costs {total}")
        payment = [event for event, _ in own["payment"].get(order, [])]
        reservation = [event for event, _ in own["inventory"].get(order, [])]
        shipment = [event for event, _ in own["shipping"].get(order, [])]
        mails = sent.pop(order, Counter())
        reminded = mails.pop("unpaid", 0)  # a customer who pays late is reminded, once
        for event, data in own["payment"].get(order, []):
            if data and data.get("cents", total) != total:
                wrong.append(f"{order}: {event} of {data['cents']}, and it costs {total}")
        for event, data in own["inventory"].get(order, []):
            if event in ("reservation.reserved", "reservation.released"):
                if pieces(data["items"]) != pieces(items):
                    wrong.append(f"{order}: {event} of other items")
                for product, n in pieces(data["items"]).items():
                    stock[product] += -n if event == "reservation.reserved" else n
        state = (names, payment, reservation, shipment, dict(mails))
        refused = payment == ["payment.failed"]
        shipped = (
            names == ["order.created", "order.confirmed", "order.completed"]
            and payment == ["payment.completed"]
            and reservation == ["reservation.reserved"]
            and shipment == ["shipment.shipped"]
            and mails == {"created": 1, "shipped": 1}
            and reminded <= 1
        )
        undone = (
            names == ["order.created", "order.cancelled"]
            and payment in (["payment.failed"], ["payment.withdrawn"], ["payment.completed", "payment.refunded"])
            and reservation
            in ([[]] if orchestrated else [])  # a saga asks only the services that it has come to
            + [["reservation.closed"], ["reservation.rejected"], ["reservation.reserved", "reservation.released"]]
            and shipment == []
            and mails == ({"created": 1, "payment_failed": 1} if refused else {"created": 1})
            and reminded <= 1
        )
        ends["shipped" if shipped else "cancelled" if undone else "wrong"] += 1
        if not shipped and not undone:
            wrong.append(f"{order}: {state}")
        status = {"order.completed": "completed", "order.cancelled": "cancelled"}.get(names[-1])
        if status and statuses.get(order) != status:
            wrong.append(f"{order}: the read model says {statuses.get(order)}")
    wrong += [f"{order}: a mail of no order" for order in sent]

    for product, n in logs.stock_rows().items():
        if n != stock[product] or n < 0:
            wrong.append(f"{product}: the read model has {n} pieces, the log {stock[product]}")

    if topics_in_log:
        published = Counter()
        for stream, event, _, _ in logs.events("bus"):
            topic, key = stream.split("-", 1)
            if topic != "customers" and not topic.endswith(".commands"):
                published[(topic, event, key)] += 1
        wrong += compared("the topics", published, said)
    for service, topics in INBOXES.items():
        if orchestrated and service in ("payment", "inventory", "shipping"):
            topics = []
        want = Counter({message: n for message, n in said.items() if message[0] in topics})
        wrong += compared(service, Counter({m: n for m, n in heard[service].items() if m[0] != "customers"}), want)
    return wrong, ends


def compared(who, have, want):
    return [
        f"{who}: {' '.join(message)} is there {have[message]} times, and was said {want[message]} times"
        for message in have.keys() | want.keys()
        if have[message] != want[message]
    ]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("place", help="a folder, or the URL of a PostgreSQL database")
    arguments.add_argument("--accepted", type=Path, help="ids of accepted orders, one a line")
    arguments.add_argument("--broker", action="store_true", help="the bus is a broker: its topics are not read")
    arguments.add_argument("--orchestrated", action="store_true", help="the shop runs with --saga orchestrated")
    given = arguments.parse_args()
    accepted = given.accepted.read_text().split() if given.accepted else []
    wrong, ends = check(given.place, accepted, not given.broker, given.orchestrated)
    print("\n".join(wrong[:50]))
    print(f"{sum(ends.values())} orders: {ends['shipped']} shipped, {ends['cancelled']} cancelled and undone; {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
