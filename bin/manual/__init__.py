"""Man pages, written from the programs' own help texts."""
