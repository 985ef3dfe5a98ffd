"""Machines that dial out, reached over NATS with JetStream: names, seals, keys, and what a machine runs for it."""
