//! MemDisk: a disk in memory that tears and forgets.
