"""Tools for tamed programs: `tame doctor`, `tame translate`, and views of a live program."""
