"""What differs between the runtimes: one file each, behind one small protocol."""
