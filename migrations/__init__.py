"""The schema, as Alembic migrations. Nothing else creates a table."""
