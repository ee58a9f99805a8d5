"""What a server withstands: `make attack`, `make fuzz`, `make soak` and `make simulate`."""
