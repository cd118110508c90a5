"""Pure functions on arrays: ranking, gathers, graphs, walks, and attention with signals, independent of Flax."""
