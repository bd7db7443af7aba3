"""What belongs to the machine, not to networks: files, memory, compression, torch's private names."""
