"""Commands under faults: I/O errors, kills, full disks, inputs that change."""
