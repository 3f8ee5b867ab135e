"""The benchmark: ours, its peers and the machine's limit, each measurement in its own process."""
