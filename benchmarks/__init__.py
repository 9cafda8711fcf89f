"""How fast lmmem is, beside what people use today: `make bench`."""
