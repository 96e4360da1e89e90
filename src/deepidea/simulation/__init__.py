"""Simulated captures: hosts, conversations, applications, attacks and their ground truth."""
