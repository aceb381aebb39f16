"""From names to pixels: every source becomes a pair of arrays per split, prepared once, memory-mapped ever after."""
