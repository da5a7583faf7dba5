"""Generated from coordinator/proto by scripts/gen-proto; never edited."""
