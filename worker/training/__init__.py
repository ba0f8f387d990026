"""The trainer: a new process for each attempt, which reads an order, appends events to a file, and exits."""
