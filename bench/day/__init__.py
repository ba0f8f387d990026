"""A day in fast-forward: a service of two hosts that share no folder, five projects, and faults of all that it needs.

__main__ ──> hosts      the API, a checker a host and three training workers, each process restarted when it ends
         ├─> tenants    one user a project: submits, polls, pauses, cancels, and asks for what is another's
         ├─> mishaps    processes killed; database, broker and store cut off and slowed by proxies
         └─> findings   what must hold, asked of the database, of the files and of what the users saw
"""
