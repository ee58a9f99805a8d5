"""Programs for writers of Tame: `tame doctor`, `tame translate`, and views of a live program."""
