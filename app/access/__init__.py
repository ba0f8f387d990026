"""Who may use the service: keys, the people whom a trusted proxy names, their projects and permissions."""
