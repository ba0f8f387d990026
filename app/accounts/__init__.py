"""What administrators see and change: keys, the limits of projects, what was used, and who changed what."""
