"""What the command line prints: a module a subject, over ``terminal``, which has the two streams."""
