"""Pure functions on arrays: ranking, gathers, graphs, walks, attention with signals. No Flax, no state."""
