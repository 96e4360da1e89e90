"""The commands: a module a subject, one short function a command; ``deepidea.cli`` gives them their names."""
