"""`python -m tests.support.killed_sender DATABASE_URL SECRET_KEY`: sends what is due, as the thread of a checker does.

The receiver kills it, so it does not store what became of the message.
"""

import sys
from pathlib import Path

from app.config import Settings
from app.database.connection import Database, utc_now
from app.public_addresses import read_networks
from app.webhooks.delivering import claim_due, deliver
from app.webhooks.sending import WebhookSender

database = Database.open(sys.argv[1])
settings = Settings(home=Path("/nonexistent"), secret_key=sys.argv[2])
for claimed in claim_due(database, settings, utc_now(), busy=(), of_one=1, limit=1):
    deliver(database, claimed, WebhookSender(read_networks("127.0.0.0/8")).send)
