"""Backs up a whole installation while it runs, and restores it.

    manifest.json      the backup's files with sizes and hashes; written last: without it the backup is incomplete
    database           SQLite's file, or the output of pg_dump
    home/              files, adapters, artifacts, jobs

The database is copied first, in a consistent state. The files that its rows name are immutable or only grow, so files
that are copied later fit the rows. Files that were deleted meanwhile are named in the manifest.
"""
