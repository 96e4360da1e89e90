"""The detector: encoder, network, loss, training, decision, and the file they are kept in."""
