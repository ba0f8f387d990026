"""What `bench.train` measures with: rivals, their rows and model, meters, arithmetic."""
