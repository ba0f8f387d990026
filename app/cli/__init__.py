"""The `tunesmith` command: it starts the service, and talks to a running one through the REST API only."""
