"""A copy of a whole installation, made while it runs, and an installation made from a copy.

    manifest.json      what the backup holds, with sizes and hashes; written last: without it there is no backup
    database           SQLite's file, or what pg_dump wrote
    home/              files, adapters, jobs

The database is copied first, as it is at one moment. What its rows name is immutable or only grows, so that files which
are copied later fit; what was deleted meanwhile is named in the manifest.
"""
