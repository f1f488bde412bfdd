"""Says whether a file on btrfs is copied on write, and its mode."""

import fcntl
import os
import struct
import sys

fd = os.open(sys.argv[1], os.O_RDONLY)
(flags,) = struct.unpack_from("i", fcntl.ioctl(fd, 2 << 30 | 8 << 16 | 0x6601, bytes(8)))
print("kept" if flags & 0x00800000 else "copied", oct(os.fstat(fd).st_mode & 0o777))
