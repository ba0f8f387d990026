"""Trainings on several GPUs of one host."""
