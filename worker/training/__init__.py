"""The trainer: one fresh process an attempt. It reads an order, appends events to a file, and exits."""
