"""`GET /metrics` for Prometheus. What happens in this process is counted here; what is stored is read when it is asked.

Nothing here names a job, a project, a prompt or a row. Each label has few values.
"""
