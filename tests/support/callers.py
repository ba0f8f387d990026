"""Callers for tests of services."""

from app.access.caller import LOCAL
from app.access.permissions import Permission

# May do everything, as everyone on loopback.
ANYONE = LOCAL.caller(Permission.ADMIN)
